"""Train a tiny CLIP contrastively on rendered scenes: `python -m glasslib.tinyworld.recipes.clip --model tiny-clip`.

The logit scale is held high and captions name little: together they leave a modality gap. At 100, where real CLIPs
end, the gap stays at 1.1; the tiny captions need fewer digits than real ones, and 50 brings it to what real CLIPs have.
Three aids make minutes of a laptop do for shape and place what days of a cluster do for real CLIPs. Some batches are of
scenes alike in colour and background (`alike`). Some hold each scene with its twin, which differs in what belongs to
what (`twins_of`): a red star beside a blue ring, and a blue star beside a red ring, described in the same words. And,
while training only, a linear head on the picture's embedding lists the scene's tags (`tags`): by captions alone, shapes
stood at .53 after 205,000 pairs.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from glasslib.clip.embedder import ClipEmbedder
from glasslib.clip.fast import encode_text_trimmed
from glasslib.tinyworld import captions, scenes, wording, zeroshot
from glasslib.tinyworld.models import WEIGHTS, clip_tokenizer, new_clip
from glasslib.tinyworld.recipes import checkpoints
from glasslib.tinyworld.recipes.checkpoints import Session

N_SCENES = 60_000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WARMUP = 200
STYLED = 0.1  # share of captions that are romantic or humorous
NEON = 0.2  # share of scenes of the second domain
HARD_FROM = 300  # step up to which batches are random; then they take turns
TURNS = ("alike", "twins", "random", "twins")
PAIRS = {"tiny-clip": 800_000, "tiny-judge": 500_000}
TAGS_WEIGHT, N_TAGS = 20.0, 188
FIRST_SCALE, SCALE, LOWERED_AT = 100.0, 50.0, 900  # the logit scale, held fixed, and the step that lowers it


def training_pictures(seed: int, n: int) -> tuple[scenes.Scenes, Tensor]:
    """n scenes of both domains and their pictures, (n, 3, 64, 64) uint8; the second half are twins of the first."""
    rng = np.random.default_rng(seed)
    n_own = n // 2
    n_neon = int(n_own * NEON)
    parts = [scenes.sample(n_own - n_neon, rng=rng), scenes.sample(n_neon, rng=rng, domain="neon")]
    world = scenes.concatenate(parts)[rng.permutation(n_own)]
    world = scenes.concatenate([world, twins_of(world, rng=rng)])
    noise = torch.Generator().manual_seed(seed)
    chunks = [scenes.render(world[i : i + 1000], rng=noise) for i in range(0, n, 1000)]
    return world, torch.cat([(chunk * 255).round().to(torch.uint8) for chunk in chunks])


def write_captions(batch: scenes.Scenes, rng: np.random.Generator) -> list[str]:
    """One caption a scene, mostly neutral."""
    texts = captions.describe(batch, rng=rng)
    styled = np.flatnonzero(rng.random(len(batch)) < STYLED)
    for register, rows in zip(wording.REGISTERS[1:], np.array_split(styled, 2), strict=True):
        for row, text in zip(rows, captions.describe(batch[rows], rng=rng, register=register), strict=True):
            texts[row] = text
    return texts


def twins_of(world: scenes.Scenes, *, rng: np.random.Generator) -> scenes.Scenes:
    """Each scene again with its objects' shapes, or their colours, moved round among them.

    All stands where it stood. A single object has another shape.
    """
    n, slots = len(world), np.arange(scenes.MAX_OBJECTS)
    count = world.n_objects[:, None]
    source = np.where(slots < count, (slots + rng.integers(1, np.maximum(count, 2))) % count, slots)
    by_shape = rng.random((n, 1)) < 0.5
    shape, colour = (np.take_along_axis(each, source, axis=1) for each in (world.shape, world.colour))
    other = (world.shape + rng.integers(1, len(scenes.SHAPES), (n, 1))) % len(scenes.SHAPES)
    alone = (count == 1) & (slots == 0)
    return dataclasses.replace(
        world,
        shape=np.where(alone, other, np.where(by_shape, shape, world.shape)),
        colour=np.where(by_shape, world.colour, colour),
    )


def alike(world: scenes.Scenes) -> list[Tensor]:
    """Row numbers of the scenes that share background and first object's colour, one tensor a group.

    CLIP learns these two within minutes, and they then tell most pictures of a batch apart. A batch in which they are
    the same for all makes it look at shape, place, size and texture: shapes rose from .31 to .50 in 51,000 pairs, where
    the 51,000 before had brought .04.
    """
    group = world.background * len(scenes.COLOURS) + world.colour[:, 0]
    return [torch.as_tensor(np.flatnonzero(group == value)) for value in np.unique(group)]


def tags(world: scenes.Scenes) -> Tensor:
    """(n, 188) zeros and ones: which shapes, colours, sizes and pairs of them with each other and with places there
    are, which background, which texture, and how many objects."""
    n_colours, n_places = len(scenes.COLOURS), len(scenes.PLACES)
    shape, colour, size, place = world.shape, world.colour, world.size, world.place  # (n, 3), -1 where there is none
    columns, offset = [], 0
    for index, total in (
        (shape, len(scenes.SHAPES)),
        (colour, n_colours),
        (shape * n_colours + colour, len(scenes.SHAPES) * n_colours),
        (shape * n_places + place, len(scenes.SHAPES) * n_places),
        (colour * n_places + place, n_colours * n_places),
        (size * n_places + place, len(scenes.SIZES) * n_places),
        (world.background[:, None], len(scenes.BACKGROUNDS)),
        (world.texture[:, None], len(scenes.TEXTURES)),
        (world.n_objects[:, None] - 1, scenes.MAX_OBJECTS),
    ):
        columns.append(np.where(index >= 0, index + offset, -1))
        offset += total
    hot = np.zeros((len(world), offset + 1), dtype=np.float32)
    np.put_along_axis(hot, np.concatenate(columns, axis=1), 1.0, axis=1)  # -1 lands in the last column, cut off below
    return torch.from_numpy(hot[:, :-1])


def kind_of_batch(step: int) -> str:
    """What a step's batch is of: "random" scenes, scenes "alike", or "twins"."""
    return "random" if step < HARD_FROM else TURNS[step % len(TURNS)]


def draw_rows(kind: str, groups: list[Tensor], n: int, rng: torch.Generator) -> Tensor:
    """(BATCH_SIZE,) scenes for a step: of all n, of one group of scenes alike, or some and then their twins."""
    if kind == "random":
        return torch.randint(n, (BATCH_SIZE,), generator=rng)
    if kind == "twins":
        rows = torch.randint(n // 2, (BATCH_SIZE // 2,), generator=rng)
        return torch.cat([rows, rows + n // 2])
    members = groups[int(torch.randint(len(groups), (), generator=rng))]
    return members[torch.randint(len(members), (BATCH_SIZE,), generator=rng)]


def contrastive_loss(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    """Symmetric InfoNCE over a batch of unit embeddings (n, dim). Source: Radford et al. 2021, Figure 3."""
    logits = scale * images @ texts.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@torch.inference_mode()
def evaluate(model: nn.Module, tokenizer, n: int = 1000) -> dict[str, float]:
    """Zero-shot accuracies, modality gap and matched cosine on fresh scenes."""
    rng, noise = np.random.default_rng(10_000), torch.Generator().manual_seed(10_000)
    embedder = ClipEmbedder(model, tokenizer)
    world = scenes.sample(n, rng=rng, n_objects=(1, 1))
    images = embedder.embed_images(scenes.render(world, rng=noise))
    report = {name: hit.mean() for name, hit in zeroshot.correct(embedder, images, world).items()}
    mixed = scenes.sample(n, rng=rng)
    images = embedder.embed_images(scenes.render(mixed, rng=noise))
    texts = embedder.embed_texts(captions.describe(mixed, rng=rng))
    report["gap"] = float((images.mean(0) - texts.mean(0)).norm())
    report["matched"] = float((images * texts).sum(1).mean())
    report["unmatched"] = float((images @ texts.T).mean())
    model.train().requires_grad_(True)
    return report


def learning_rate(step: int, n_steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / WARMUP
    share = (step - WARMUP) / max(1, n_steps - WARMUP)
    return LEARNING_RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, share))) / 2)


class Pairs:
    """Pictures with captions and tags, a batch a step: what `train` learns from.

    Another world's pairs have the same two members, `n_tags` and `batch`.
    """

    n_tags = N_TAGS

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._world, self._pictures = training_pictures(seed, N_SCENES)
        self._groups = alike(self._world)

    def batch(self, step: int, rng: torch.Generator) -> tuple[Tensor, list[str], Tensor]:
        """Pictures (BATCH_SIZE, 3, h, w) uint8, a caption each, and tags (BATCH_SIZE, n_tags) of zeros and ones."""
        kind = kind_of_batch(step)
        rows = draw_rows(kind, self._groups, N_SCENES, rng)
        parts = rows.chunk(2) if kind == "twins" else (rows,)  # twins are described by the same dice
        dice = [np.random.default_rng([self._seed, step]) for _ in parts]
        texts = [
            t for part, die in zip(parts, dice, strict=True) for t in write_captions(self._world[part.numpy()], die)
        ]
        return self._pictures[rows], texts, tags(self._world[rows.numpy()])


def pixels_of(pictures: Tensor, visual: nn.Module) -> Tensor:
    """uint8 pictures -> what a picture tower reads: its size, its mean and standard deviation."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (visual.image_mean, visual.image_std))
    pixels = pictures / 255
    size = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
    if pixels.shape[-2:] != size:
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True).clamp(0, 1)
    return ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)


def train(
    folder: Path, *, model_name: str, pairs: Pairs, n_pairs: int, seed: int, evaluate: Callable = evaluate
) -> tuple[nn.Module, Session]:
    """Train to `n_pairs` image-text pairs, resuming from `folder` if something lies there.

    Args:
        pairs: gives the batches.
        evaluate: (model, tokenizer) -> what the log says of the model at each checkpoint.
    """
    torch.manual_seed(seed)  # open_clip initialises from the global state; a recipe owns its process
    model, tokenizer = new_clip(model_name)
    model.train()
    model.visual.to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 and name != "logit_scale"]
    head = nn.Linear(model.text_projection.shape[1], pairs.n_tags)
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": [*others, *head.parameters()], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    rng = torch.Generator().manual_seed(seed)
    both = nn.ModuleDict({"clip": model, "head": head})
    session = Session(folder, model=both, optimizer=optimizer, rng=rng)
    model.logit_scale.data.fill_(math.log(SCALE))
    n_steps = n_pairs // BATCH_SIZE
    for step in trange(session.step, n_steps, initial=session.step, total=n_steps, desc=model_name, mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps)
        pictures, texts, listed = pairs.batch(step, rng)
        images = model.encode_image(pixels_of(pictures, model.visual))
        listing = F.binary_cross_entropy_with_logits(head(images), listed)
        texts = F.normalize(encode_text_trimmed(model, tokenizer(texts)), dim=1)
        scale = FIRST_SCALE if step < LOWERED_AT else SCALE
        loss = contrastive_loss(F.normalize(images, dim=1), texts, scale) + TAGS_WEIGHT * listing
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 300 == 0 or step + 1 == n_steps:
            session.save(step + 1, loss=loss.item(), listing=listing.item(), **evaluate(model, tokenizer))
    return model, session


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-clip")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, help="left out: as many as the shipped model saw")
    parser.add_argument("--to", type=Path, help="folder that the weights go to; left out: the shipped model's")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    n_pairs = args.pairs or PAIRS[args.model]
    pairs = Pairs(args.seed)
    model, session = train(args.out, model_name=args.model, pairs=pairs, n_pairs=n_pairs, seed=args.seed)
    checkpoints.export(
        args.to or WEIGHTS / args.model.removeprefix("tiny-"),
        model,
        session,
        recipe=f"python -m glasslib.tinyworld.recipes.clip --model {args.model} --out runs/{args.out.name} "
        f"--pairs {n_pairs} --seed {args.seed}",
        seed=args.seed,
        data=f"{n_pairs} pairs: {N_SCENES} rendered scenes ({NEON:.0%} neon), half of them the others' twins, a fresh "
        "caption at each draw; besides the contrastive loss, a linear head listing each scene's tags supervised the "
        "picture tower and was thrown away",
        held_out=evaluate(model, clip_tokenizer(), n=2000),
    )


if __name__ == "__main__":
    main()
