"""Train the tiny captioner, CapDec in miniature: `python -m glasslib.tinyworld.train.captioner --out runs/captioner`.

It never sees a picture: captions are embedded by the tiny CLIP, moved by noise, and decoded again by a mapper and a
copy of the tiny GPT-2. Captions end with end-of-text, since people of the tiny world write no full stop.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
from pathlib import Path

import numpy as np
import torch

from glasslib import runs
from glasslib.captioning import captioner as captioners
from glasslib.captioning import noise, training
from glasslib.captioning.captioner import Captioner
from glasslib.captioning.decoder import CaptionDecoder
from glasslib.captioning.mapper import TransformerMapper
from glasslib.captioning.targets import Targets
from glasslib.generators import gpt2
from glasslib.tinyworld import captions, scenes
from glasslib.tinyworld.models import WEIGHTS, load_clip

CLIP_FILE, GPT2_FILE = (WEIGHTS / name / "model.safetensors" for name in ("clip", "gpt2"))
N_SCENES = 20_000  # five captions each
N_HELD_OUT = 500
N_ESTIMATE = 200  # scenes whose captions say how much noise
HELD_OUT_SEED = 10_000
PREFIX_LENGTH = CLIP_LENGTH = 8
LAYERS, HEADS, MLP_RATIO = 3, 4, 2.0
MAX_TOKENS = 40
SETTINGS = training.Settings(
    n_epochs=2,
    batch_size=64,
    learning_rate=1e-3,
    warmup_steps=100,
    weight_decay=0.01,
    clip_norm=1.0,
    checkpoint_every=200,
    validate_every=1000,
)


def corpus(n_scenes: int, *, rng: np.random.Generator) -> tuple[list[str], list[int]]:
    """What five people say of each of `n_scenes` scenes, and which scene each caption describes."""
    described = captions.describe_by_all(scenes.sample(n_scenes, rng=rng), rng=rng)
    return [text for row in described for text in row], [i for i, row in enumerate(described) for _ in row]


def new_decoder(*, embedding_dim: int) -> tuple[CaptionDecoder, object]:
    """The tiny GPT-2 behind a mapper of random weights, drawn from torch's global state; and its tokenizer."""
    language_model, tokenizer = gpt2.load(WEIGHTS / "gpt2")
    mapper = TransformerMapper(
        embedding_dim=embedding_dim,
        gpt_dim=language_model.config.n_embd,
        prefix_length=PREFIX_LENGTH,
        clip_length=CLIP_LENGTH,
        n_layers=LAYERS,
        n_heads=HEADS,
        mlp_ratio=MLP_RATIO,
    )
    return CaptionDecoder(language_model, mapper), tokenizer


@torch.inference_mode()
def evaluate(captioner: Captioner, clip, *, n: int) -> dict[str, float]:
    """Measure captions of held-out pictures, and of their captions' own embeddings.

    Args:
        captioner: reads the tiny CLIP's embeddings.
        clip: that CLIP.
        n: scenes.

    Returns:
        For pictures (`image_`) and for one caption of each scene (`text_`): the share of captions that parse, the
        share of the attributes they name that are true of the scene (precision), and how many they name on average.
    """
    rng = np.random.default_rng(HELD_OUT_SEED)
    world = scenes.sample(n, rng=rng)
    pictures = scenes.render(world, rng=torch.Generator().manual_seed(HELD_OUT_SEED))
    sources = {"image": clip.embed_images(pictures), "text": clip.embed_texts(captions.describe(world, rng=rng))}
    report = {}
    for name, embeddings in sources.items():
        texts = captioner(embeddings, max_tokens=MAX_TOKENS)
        facts = {row: captions.parse(text) for row, text in enumerate(texts) if captions.parses(text)}
        named = sum(fact.n_named for fact in facts.values())
        held = sum(int(captions.count_true(fact, world[row : row + 1])[0]) for row, fact in facts.items())
        report[f"{name}_parse"] = len(facts) / n
        report[f"{name}_precision"] = held / max(1, named)
        report[f"{name}_named"] = named / max(1, len(facts))
    return report


def train(
    folder: Path,
    *,
    noise_std: float | None,
    seed: int,
    n_scenes: int = N_SCENES,
    settings: training.Settings = SETTINGS,
    progress: bool = True,
) -> tuple[Captioner, list[dict], float]:
    """Train, resuming from `folder` if something lies there.

    Args:
        folder: for checkpoints and the log.
        noise_std: per coordinate; None: CapDec's estimate from captions alone.
        seed: of captions, weights and training.
        n_scenes: scenes described.
        settings: of the training.
        progress: show a progress bar.

    Returns:
        The captioner, the log, and the noise used.
    """
    clip = load_clip()
    texts, image_ids = corpus(n_scenes, rng=np.random.default_rng(seed))
    held_out, _ = corpus(N_HELD_OUT // 5, rng=np.random.default_rng(HELD_OUT_SEED))
    embeddings = clip.embed_texts(texts)
    if noise_std is None:
        some = 5 * min(N_ESTIMATE, n_scenes)
        noise_std = noise.linf_noise_std(embeddings[:some], image_ids=image_ids[:some])
    torch.manual_seed(seed)  # weights are drawn from the global state; a recipe owns its process
    decoder, tokenizer = new_decoder(embedding_dim=clip.dim)
    log = training.train(
        decoder,
        training.Pairs(embeddings, texts, key=" ".join(map(runs.sha256_file, (CLIP_FILE, GPT2_FILE)))),
        targets=Targets(tokenizer, max_tokens=MAX_TOKENS),
        folder=folder,
        rng=torch.Generator().manual_seed(seed),
        settings=settings,
        noise=functools.partial(noise.add_gaussian_noise, noise_std=noise_std),
        validation=training.Pairs(clip.embed_texts(held_out), held_out),
        look_at=clip.embed_texts(held_out[:5]),
        progress=progress,
    )
    return Captioner(decoder, tokenizer), log, noise_std


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--export", type=Path, default=WEIGHTS / "captioner")
    parser.add_argument("--epochs", type=int, default=SETTINGS.n_epochs)
    parser.add_argument("--scenes", type=int, default=N_SCENES)
    parser.add_argument("--noise-variance", type=float, help="per coordinate; left out: CapDec's estimate from texts")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    noise_std = None if args.noise_variance is None else math.sqrt(args.noise_variance)
    settings = dataclasses.replace(SETTINGS, n_epochs=args.epochs)
    captioner, log, noise_std = train(
        args.out, noise_std=noise_std, seed=args.seed, n_scenes=args.scenes, settings=settings
    )
    recipe = f"python -m glasslib.tinyworld.train.captioner --out runs/{args.out.name} --epochs {args.epochs}"
    recipe += f" --scenes {args.scenes} --seed {args.seed}"
    recipe += "" if args.noise_variance is None else f" --noise-variance {args.noise_variance:g}"
    measured = evaluate(captioner, load_clip(), n=N_HELD_OUT)
    captioners.save(
        args.export,
        captioner,
        card={
            "recipe": recipe,
            "seed": args.seed,
            "steps": log[-1]["step"],
            "data": f"{5 * args.scenes} captions of {args.scenes} scenes, embedded by the tiny CLIP; no picture",
            "noise_variance": round(noise_std**2, 6),
            "clip_sha256": runs.sha256_file(CLIP_FILE),
            "wall_time_s": round(log[-1]["seconds"]),
            "held_out": {name: round(value, 5) for name, value in measured.items()},
        },
    )


if __name__ == "__main__":
    main()
