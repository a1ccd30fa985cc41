"""A name -> generator, CLIP, judge, search and budget. The one table of names: notebook parameters are literals."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glasslib import runs
from glasslib.embedding import ClipEmbedder
from glasslib.generators import gpt2, stylegan2
from glasslib.scoring import ClipScorer, TextScorer
from glasslib.tinyworld import models

SEARCHES = {  # method -> module of glasslib.search and class, imported when asked for: pycma alone takes seconds
    "random": ("random", "RandomSearch"),
    "GA": ("genetic", "GeneticSearch"),
    "NSGA-II": ("genetic", "Nsga2Search"),
    "CMA-ES": ("cmaes", "CmaSearch"),
}


@dataclass(frozen=True, eq=False)
class Preset:
    """Everything a search needs but the target.

    name: its key in PRESETS. generator: a Generator (pictures) or TextGenerator (texts). embedder: the CLIP that
    scores. judge: a CLIP that is never optimised against. popsize, n_generations: CLIP-GLaSS's budget, or the tiny
    world's. prompts: captions (or picture names) to start from. weights: file -> SHA-256.
    """

    name: str
    generator: stylegan2.StyleGAN2Generator | gpt2.Gpt2Generator
    embedder: ClipEmbedder
    judge: ClipEmbedder
    popsize: int
    n_generations: int
    prompts: tuple[str, ...] = ()
    weights: dict[str, str] = field(default_factory=dict)

    def search(self, method: str, *, rng: np.random.Generator, **settings):
        """A new search of the generator's latent space, with the preset's population unless `settings` say otherwise.

        Args:
            method: a key of SEARCHES.
        """
        if method not in SEARCHES:
            raise ValueError(f"method must be one of {tuple(SEARCHES)}, got {method!r}")
        module, name = SEARCHES[method]
        search = getattr(importlib.import_module(f"glasslib.search.{module}"), name)
        return search(self.generator.latent_space, rng=rng, **{"popsize": self.popsize, **settings})

    def scores(self, target: str | Tensor) -> Callable[[np.ndarray], Tensor]:
        """The function a search maximises: x (n, dim) -> (n,) CLIP similarities of what the generator makes of x.

        Args:
            target: a caption for a picture generator, a picture (3, h, w) in [0, 1] for a text generator.
        """
        if isinstance(self.generator, gpt2.Gpt2Generator):
            scorer = TextScorer(self.embedder, target, truncate=True)
        else:
            scorer = ClipScorer(self.embedder, target)

        @torch.inference_mode()
        def evaluate(x: np.ndarray) -> Tensor:
            return scorer(self.make(x))

        return evaluate

    def make(self, x: np.ndarray) -> Tensor | list[str]:
        """What the generator makes of candidates (n, dim): pictures (n, 3, h, w) or n texts."""
        latents = torch.tensor(np.atleast_2d(x))  # a copy: a winner is read-only
        is_text = isinstance(self.generator, gpt2.Gpt2Generator)
        with torch.inference_mode():
            return self.generator(latents.round().long() if is_text else latents)


def _tiny_weights(*names: str) -> dict[str, str]:
    folders = [models.WEIGHTS / name for name in names]
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.safetensors"))]
    return {file.relative_to(models.WEIGHTS).as_posix(): runs.sha256_file(file) for file in files}


def _tiny_stylegan2() -> Preset:
    return Preset(
        name="tiny-stylegan2",
        generator=stylegan2.StyleGAN2Generator.load(models.WEIGHTS / "stylegan2"),
        embedder=models.load_clip(),
        judge=models.load_judge(),
        popsize=16,
        n_generations=100,
        prompts=("a red star on the left", "a large blue ring on a dark background", "a green heart at the top"),
        weights=_tiny_weights("stylegan2", "clip", "judge"),
    )


def _tiny_gpt2() -> Preset:
    return Preset(
        name="tiny-gpt2",
        generator=gpt2.Gpt2Generator(
            *gpt2.load(models.WEIGHTS / "gpt2"), context_length=8, max_characters=None, stop=(".",)
        ),
        embedder=models.load_clip(),
        judge=models.load_judge(),
        popsize=100,
        n_generations=100,
        weights=_tiny_weights("gpt2", "clip", "judge"),
    )


PRESETS: dict[str, Callable[[], Preset]] = {"tiny-stylegan2": _tiny_stylegan2, "tiny-gpt2": _tiny_gpt2}


def load(name: str) -> Preset:
    """Load the models of a preset.

    Raises:
        ValueError: no preset of that name; the message lists those there are.
        FileNotFoundError: its weights are not there; the message says how to get them.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {tuple(PRESETS)}, got {name!r}")
    return PRESETS[name]()


def names() -> Sequence[str]:
    """The presets' names."""
    return tuple(PRESETS)
