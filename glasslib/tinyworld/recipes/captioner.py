"""Train the tiny captioner, CapDec in miniature: `python -m glasslib.tinyworld.recipes.captioner --out runs/captioner`.

It never sees a picture: captions are embedded by the tiny CLIP, moved by noise, and decoded again by a mapper and a
copy of the tiny GPT-2. Captions end with end-of-text, since people of the tiny world write no full stop.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glasslib import metrics, results
from glasslib.captioning import captioner as captioners
from glasslib.captioning import noise, training
from glasslib.captioning.captioner import Captioner
from glasslib.captioning.decoder import CaptionDecoder
from glasslib.captioning.mapper import MlpMapper
from glasslib.captioning.targets import Targets
from glasslib.generators import gpt2
from glasslib.tinyworld import captions, faithfulness, scenes
from glasslib.tinyworld.models import WEIGHTS, load_clip
from glasslib.tinyworld.recipes.said import CACHE, CLIP_FILE, ZIPF, Said, said

GPT2_FILE = WEIGHTS / "gpt2" / "model.safetensors"
N_SCENES = 4_000  # five captions each
N_HELD_OUT = 500
N_ESTIMATE = 2_400  # scenes whose captions say how much noise
N_SPREAD = 5000  # captions that say how embeddings are spread
HELD_OUT_SEED = 10_000
PREFIX_LENGTH = 4
MAX_TOKENS = 40
SETTINGS = training.Settings(
    n_epochs=12,
    batch_size=32,
    learning_rate=3e-3,
    warmup_steps=100,
    weight_decay=0.01,
    clip_norm=1.0,
    checkpoint_every=500,
    validate_every=500,
)


def new_decoder(embeddings: Tensor, *, seed: int, start: Path | None = None) -> tuple[CaptionDecoder, Targets]:
    """A decoder to train, and what it learns to write.

    A new mapper is ClipCap's MLP, a third faster here than its transformer and no worse. Embeddings keep to a narrow
    cone: its first layer is drawn for what is left once their mean is taken off and their spread brought to 1.

    Args:
        embeddings: (n, dim) of the captions it will read; the first N_SPREAD say how they are spread.
        seed: of the mapper's weights; torch's global state is left as it was.
        start: folder of a captioner to go on from; None: the tiny GPT-2 behind a new mapper.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        if start is not None:
            found = captioners.load(start)
            return found.decoder, Targets(found.tokenizer, max_tokens=MAX_TOKENS)
        language_model, tokenizer = gpt2.load(WEIGHTS / "gpt2")
        mapper = MlpMapper(
            embedding_dim=embeddings.shape[1], gpt_dim=language_model.config.n_embd, prefix_length=PREFIX_LENGTH
        )
        known, first = embeddings[:N_SPREAD], mapper.model[0]
        first.weight.div_((known - known.mean(0)).std())
        first.bias.copy_(-first.weight @ known.mean(0))
        return CaptionDecoder(language_model, mapper), Targets(tokenizer, max_tokens=MAX_TOKENS)


def gaussian(noise_std: float) -> Callable[..., Tensor] | None:
    """CapDec's noise as `training.train` takes it; None for 0."""
    return functools.partial(noise.add_gaussian_noise, noise_std=noise_std) if noise_std else None


def estimated_noise_std(spoken: Said) -> dict[str, float]:
    """What the captions of the first scenes alone say of the noise, per coordinate.

    Returns:
        linf: CapDec's rule, which overshoots in the tiny CLIP's 128 dimensions. angle: the rule of the matched angle,
        as far as another person's caption lies; the recipe's own choice.
    """
    rows = [row for row, scene in enumerate(spoken.scene_of) if scene < N_ESTIMATE]
    embeddings, image_ids = spoken.embeddings[rows], [spoken.scene_of[row] for row in rows]
    cosine = noise.paraphrase_cosine(embeddings, image_ids=image_ids)
    angle = noise.noise_std_for_cosine(cosine, dim=embeddings.shape[1])
    return {"linf": noise.linf_noise_std(embeddings, image_ids=image_ids), "angle": angle}


@torch.inference_mode()
def evaluate(captioner: Captioner, clip, *, n: int) -> dict[str, float]:
    """Measure captions of held-out pictures, and of their captions' own embeddings.

    Args:
        captioner: reads the tiny CLIP's embeddings.
        clip: that CLIP.
        n: scenes, at least two.

    Returns:
        For pictures (`image_`) and for one caption of each scene (`text_`): CIDEr against what five people say, the
        share of captions that parse, of the attributes they name the share that is true of the scene (precision), and
        of what can be said of the scene the share that they name and that is true (recall).
    """
    rng = np.random.default_rng(HELD_OUT_SEED)
    world = scenes.sample(n, rng=rng)
    pictures = scenes.render(world, rng=torch.Generator().manual_seed(HELD_OUT_SEED))
    references = captions.describe_by_all(world, rng=rng, zipf=ZIPF)
    sources = {"image": clip.embed_images(pictures), "text": clip.embed_texts([row[3] for row in references])}
    report = {}
    for name, embeddings in sources.items():
        texts = captioner(embeddings, max_tokens=MAX_TOKENS)
        scored = metrics.evaluate(dict(enumerate(texts)), dict(enumerate(references)), java_runtime=None)
        found = faithfulness.attribute_metrics(texts, world, references=references)
        report[f"{name}_cider"] = scored.metrics["CIDEr"].value
        report |= {f"{name}_{key}": found[key].value for key in ("parses", "precision", "recall")}
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
    """Train on the tiny world's captions, resuming from `folder` if something lies there.

    Args:
        folder: for checkpoints and the log.
        noise_std: per coordinate; None: the matched angle's estimate from captions alone.
        seed: of captions, weights and training.
        n_scenes: scenes described.
        settings: of the training.
        progress: show a progress bar.

    Returns:
        The captioner, the log, and the noise used.
    """
    clip = load_clip()
    spoken = said(n_scenes, clip=clip, seed=seed, cache=CACHE)
    held_out = said(N_HELD_OUT // 5, clip=clip, seed=HELD_OUT_SEED)
    if noise_std is None:
        noise_std = estimated_noise_std(spoken)["angle"]
    data = dataclasses.replace(spoken.pairs(), key=f"{spoken.key} {results.sha256_file(GPT2_FILE)}")
    decoder, targets = new_decoder(data.embeddings, seed=seed)
    log = training.train(
        decoder, data, targets=targets, folder=folder, rng=torch.Generator().manual_seed(seed), settings=settings,
        noise=gaussian(noise_std), validation=held_out.pairs(), look_at=held_out.embeddings[:5], progress=progress,
    )  # fmt: skip
    return Captioner(decoder, targets.tokenizer), log, noise_std


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--export", type=Path, default=WEIGHTS / "captioner")
    parser.add_argument("--epochs", type=int, default=SETTINGS.n_epochs)
    parser.add_argument("--scenes", type=int, default=N_SCENES)
    parser.add_argument("--noise-variance", type=float, help="per coordinate; left out: estimated from texts")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from_nothing = not (args.out / "checkpoint.pt").exists()
    noise_std = None if args.noise_variance is None else math.sqrt(args.noise_variance)
    settings = dataclasses.replace(SETTINGS, n_epochs=args.epochs)
    captioner, log, noise_std = train(
        args.out, noise_std=noise_std, seed=args.seed, n_scenes=args.scenes, settings=settings
    )
    recipe = f"python -m glasslib.tinyworld.recipes.captioner --out runs/{args.out.name} --epochs {args.epochs}"
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
            "clip_sha256": results.sha256_file(CLIP_FILE),
            "wall_time_s": round(log[-1]["seconds"]),
            **({"cpu_time_s": round(time.process_time())} if from_nothing else {}),
            "held_out": {name: round(value, 5) for name, value in measured.items()},
        },
    )


if __name__ == "__main__":
    main()
