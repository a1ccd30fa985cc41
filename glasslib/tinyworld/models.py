"""The tiny world's models, through the same loaders as the real ones."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

from torch import nn

from glasslib.clip.embedder import ClipEmbedder
from glasslib.generators import diffusion
from glasslib.tinyworld import wording

WEIGHTS = Path(__file__).parent / "weights"


@cache
def _register_configs() -> None:
    """Make the tiny CLIPs known to open_clip by name, once a process."""
    import open_clip

    for name in ("clip", "judge"):
        open_clip.add_model_config(WEIGHTS / name)


def clip_tokenizer():
    """open_clip's byte-pair tokenizer over the tiny vocabulary; both CLIPs use it."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(WEIGHTS / "clip" / "bpe.txt.gz"), context_length=40)


def new_clip(name: str, weights: Path | None = None) -> tuple[nn.Module, object]:
    """A tiny CLIP and its tokenizer; random weights, for training, unless a file is given."""
    import open_clip

    _register_configs()
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # open_clip warns of random weights on the root logger; here they are asked for
    try:
        model, _, _ = open_clip.create_model_and_transforms(
            name, pretrained=str(weights) if weights else None, require_pretrained=weights is not None
        )
    finally:
        quiet.setLevel(level)
    return model, clip_tokenizer()


def load_clip(*, normalize: bool = True) -> ClipEmbedder:
    """The tiny CLIP that searches are scored by."""
    model, tokenizer = new_clip("tiny-clip", WEIGHTS / "clip" / "model.safetensors")
    return ClipEmbedder(model, tokenizer, vocabulary=wording.vocabulary(), normalize=normalize)


def load_two_clip(kind: str) -> ClipEmbedder:
    """A CLIP of two things: "plain" or "hard", which score searches, or "judge", which no search sees."""
    kinds = {"plain": "tiny-clip", "hard": "tiny-clip", "judge": "tiny-judge"}
    if kind not in kinds:
        raise ValueError(f"kind must be one of {tuple(kinds)}, got {kind!r}")
    model, tokenizer = new_clip(kinds[kind], WEIGHTS / f"two_{kind}" / "model.safetensors")
    return ClipEmbedder(model, tokenizer, vocabulary=wording.vocabulary())


def load_painter():
    """The painter of two things, as diffusers' pipeline, for `DiffusionGenerator`."""
    return diffusion.load(WEIGHTS / "painter")


def load_judge() -> ClipEmbedder:
    """The held-out CLIP, of another architecture and seed: it measures, and nothing is ever optimised against it."""
    model, tokenizer = new_clip("tiny-judge", WEIGHTS / "judge" / "model.safetensors")
    return ClipEmbedder(model, tokenizer, vocabulary=wording.vocabulary())
