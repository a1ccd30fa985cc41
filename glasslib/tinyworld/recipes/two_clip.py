"""Train CLIPs that know different amounts of two things: `python -m glasslib.tinyworld.recipes.two_clip --kind hard`.

`plain` sees random batches, so that it need not know which colour belongs to which shape to tell their captions apart:
a bag of words. `hard` sees most scenes beside their twins, with colours, shapes or places exchanged, described in the
same words. `judge` learns as `hard` does, of the judge's architecture, other scenes and another seed; no search sees
it. None sees a held-out combination, in pictures or in words.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glasslib.clip.embedder import ClipEmbedder
from glasslib.tinyworld import scenes, two_things
from glasslib.tinyworld.models import WEIGHTS, clip_tokenizer
from glasslib.tinyworld.recipes import checkpoints, clip
from glasslib.tinyworld.recipes.clip import BATCH_SIZE
from glasslib.tinyworld.recipes.painter_vae import render_all

N_SCENES = 16_000  # before their twins
EXCHANGES = ("colours", "shapes", "places")
KINDS = {"plain": ("tiny-clip", 21), "hard": ("tiny-clip", 22), "judge": ("tiny-judge", 23)}  # model and seed
HARD_FROM = 150  # step up to which all batches are random; then every fourth is
N_PAIRS = 100_000
WORDS, BOUND = 16, 16 + 64 + 32 + 32  # tags: shapes and colours; and which belongs to which, and to which side


def tags(world: scenes.Scenes, n_tags: int) -> Tensor:
    """(n, n_tags) zeros and ones: shapes and colours (16); then pairs of both, and of each with its side (128)."""
    n_colours, n_places = len(scenes.COLOURS), 4
    shape, colour, place = world.shape[:, :2], world.colour[:, :2], world.place[:, :2]
    parts = (shape, 8 + colour, 16 + shape * n_colours + colour, 80 + shape * n_places + place)
    index = np.concatenate([*parts, 112 + colour * n_places + place], axis=1)
    hot = np.zeros((len(world), BOUND), dtype=np.float32)
    np.put_along_axis(hot, index, 1.0, axis=1)
    return torch.from_numpy(hot[:, :n_tags])


def with_twins(world: scenes.Scenes) -> tuple[scenes.Scenes, np.ndarray]:
    """The scenes and those of their twins that training may see, and which scene each row belongs to."""
    parts, owner = [world], [np.arange(len(world))]
    for what in EXCHANGES:
        twin = two_things.exchanged(world, what)
        rows = np.flatnonzero(~two_things.is_held_out(twin))
        parts.append(twin[rows])
        owner.append(rows)
    return scenes.concatenate(parts), np.concatenate(owner)


class Pairs:
    """Pictures of two things with captions and tags: random ones, or scenes beside their twins."""

    def __init__(self, seed: int, *, hard: bool) -> None:
        self._seed, self._hard = seed, hard
        self.n_tags = BOUND if hard else WORDS
        world = two_things.sample(N_SCENES, rng=np.random.default_rng(seed))
        self._world, self._owner = with_twins(world) if hard else (world, np.arange(N_SCENES))
        self._families = np.argsort(self._owner, kind="stable")  # rows of one owner side by side
        self._starts = np.searchsorted(self._owner[self._families], np.arange(N_SCENES + 1))
        self._pictures = render_all(self._world, seed=seed)

    def batch(self, step: int, rng: torch.Generator) -> tuple[Tensor, list[str], Tensor]:
        """Pictures (BATCH_SIZE, 3, 32, 32) uint8, a caption each, and tags (BATCH_SIZE, n_tags)."""
        twins = self._hard and step >= HARD_FROM and step % 4 > 0
        rows = self._draw_families(rng) if twins else torch.randint(len(self._world), (BATCH_SIZE,), generator=rng)
        batch = self._world[rows.numpy()]
        if twins:  # described by the same dice
            _, dice = np.unique(self._owner[rows.numpy()], return_inverse=True)
        else:
            dice = np.arange(BATCH_SIZE)
        texts = two_things.describe(batch, rng=np.random.default_rng([self._seed, step]), alike=dice)
        return self._pictures[rows], texts, tags(batch, self.n_tags)

    def _draw_families(self, rng: torch.Generator) -> Tensor:
        """(BATCH_SIZE,) rows: scenes with all their twins; of the last family what still fits."""
        order = torch.randperm(N_SCENES, generator=rng)[:BATCH_SIZE].numpy()
        families = [self._families[self._starts[owner] : self._starts[owner + 1]] for owner in order]
        rows = np.concatenate([family for family in families if len(family) > 1])[:BATCH_SIZE]
        missing = BATCH_SIZE - len(rows)
        return torch.from_numpy(np.concatenate([rows, order[:missing]]))


@torch.inference_mode()
def knows(embedder: ClipEmbedder, *, n: int, seed: int, held_out: bool = False) -> dict:
    """How often a picture is nearer to its caption than to that caption with something exchanged.

    Returns:
        Shares of n renders of fresh scenes: `binding` (colours exchanged), `shapes`, `relation` (reversed); and `any`,
        the share whose caption is nearer than those of all other scenes of a batch of 100.
    """
    rng = np.random.default_rng(seed)
    world = two_things.sample(n, rng=rng, held_out=held_out)
    images = render_all(world, seed=seed).float() / 255
    pictures = embedder.embed_images(images)
    dice = int(rng.integers(2**31))
    told = embedder.embed_texts(two_things.describe(world, rng=np.random.default_rng(dice)))
    report = {}
    for name, what in (("binding", "colours"), ("shapes", "shapes"), ("relation", "places")):
        other = two_things.exchanged(world, what)
        texts = embedder.embed_texts(two_things.describe(other, rng=np.random.default_rng(dice)))
        report[name] = float(((pictures * told).sum(1) > (pictures * texts).sum(1)).float().mean())
    blocks = zip(pictures.split(100), told.split(100), strict=True)
    nearest = [(a @ b.T).argmax(1) == torch.arange(len(a)) for a, b in blocks]
    return report | {"any": float(torch.cat(nearest).float().mean())}


def evaluate(model: nn.Module, tokenizer, *, n: int = 500, seed: int = 34_000) -> dict[str, float]:
    """What the model knows of seen and of held-out combinations."""
    embedder = ClipEmbedder(model, tokenizer)
    report = knows(embedder, n=n, seed=seed)
    report |= {f"unseen_{name}": value for name, value in knows(embedder, n=n, seed=seed, held_out=True).items()}
    model.train().requires_grad_(True)
    return report


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=tuple(KINDS), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=N_PAIRS)
    parser.add_argument("--to", type=Path, help="folder that the weights go to; left out: the shipped model's")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    name, seed = KINDS[args.kind]
    pairs = Pairs(seed, hard=args.kind != "plain")
    options = {"model_name": name, "pairs": pairs, "n_pairs": args.pairs, "seed": seed}
    model, session = clip.train(args.out, **options, evaluate=partial(evaluate, n=300))
    checkpoints.export(
        args.to or WEIGHTS / f"two_{args.kind}",
        model,
        session,
        recipe=f"python -m glasslib.tinyworld.recipes.two_clip --kind {args.kind} --out runs/{args.out.name} "
        f"--pairs {args.pairs}",
        seed=seed,
        data=f"{args.pairs} pairs: {N_SCENES} scenes of two things at 32 pixels, no held-out combination"
        + (", three batches of four with their twins" if args.kind != "plain" else ", random batches"),
        held_out=evaluate(model.half().float(), clip_tokenizer(), n=2000),
        half=True,
    )


if __name__ == "__main__":
    main()
