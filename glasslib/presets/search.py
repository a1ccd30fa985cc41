"""A name -> generator, CLIP, judge, search and budget. The one table of names: notebook parameters are literals."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glasslib import results
from glasslib.clip.embedder import ClipEmbedder
from glasslib.generators import gpt2
from glasslib.generators.biggan.generator import BigGANGenerator
from glasslib.generators.stylegan2.generator import StyleGAN2Generator
from glasslib.presets import clip_glass
from glasslib.scoring import ClipScorer, JointScorer, RealismScorer, TextScorer
from glasslib.search import pareto
from glasslib.search.candidate import Candidate
from glasslib.search.operators import Operators
from glasslib.tinyworld import models

SEARCHES = {  # method -> module of glasslib.search and class, imported when asked for: pycma alone takes seconds
    "random": ("random", "RandomSearch"),
    "GA": ("genetic", "GeneticSearch"),
    "NSGA-II": ("genetic", "Nsga2Search"),
    "CMA-ES": ("cmaes", "CmaSearch"),
}
ENCODINGS: dict[str, dict] = {  # of BigGAN's classes -> arguments of `with_classes`
    "softmax bits": {"encoding": "softmax_bits"},
    "sparse mixture": {"encoding": "simplex"},
    "single class": {"encoding": "simplex", "n_active": 1},
}


@dataclass(frozen=True, eq=False)
class Preset:
    """Everything a search needs but the target.

    name: its key in `names()`. generator: a Generator (pictures) or TextGenerator (texts). embedder: the CLIP that
    scores. load_judge: gives the `judge`. popsize, n_generations, method: CLIP-GLaSS's budget and search, or the tiny
    world's. prompts: captions (or picture names) to start from. weights: file -> SHA-256. arm: "fixed", or "faithful"
    to CLIP-GLaSS's code, see clip_glass.py. pick_weights: for `pick`. operators: of a genetic search; None: its own.
    """

    name: str
    generator: Callable
    embedder: ClipEmbedder
    load_judge: Callable[[], ClipEmbedder]
    popsize: int
    n_generations: int
    method: str = "GA"
    prompts: tuple[str, ...] = ()
    weights: dict[str, str] = field(default_factory=dict)
    arm: str = "fixed"
    pick_weights: tuple[float, float] | None = None
    operators: Operators | None = None

    @cached_property
    def judge(self) -> ClipEmbedder:
        """A CLIP that is never optimised against; loaded when first asked for."""
        return self.load_judge()

    @property
    def writes_text(self) -> bool:
        """Whether the generator makes texts, so that the target is a picture."""
        return isinstance(self.generator, gpt2.Gpt2Generator)

    def encoded(self, name: str) -> Preset:
        """The same preset with the classes of its BigGAN encoded another way.

        Args:
            name: a key of ENCODINGS: CLIP-GLaSS's softmax over bits; a mixture of a few classes, ours; one class alone.

        Raises:
            ValueError: no such encoding, or a generator without classes.
        """
        if name not in ENCODINGS or not isinstance(self.generator, BigGANGenerator):
            generator = type(self.generator).__name__
            raise ValueError(f"an encoding must be one of {tuple(ENCODINGS)}, of a BigGAN, got {name!r} of {generator}")
        return dataclasses.replace(self, generator=self.generator.with_classes(**ENCODINGS[name]))

    def search(self, method: str | None = None, *, rng: np.random.Generator, **settings):
        """A new search of the generator's latent space, with the preset's population unless `settings` say otherwise.

        Args:
            method: a key of SEARCHES; None: the preset's own.
        """
        method = method or self.method
        if method not in SEARCHES:
            raise ValueError(f"method must be one of {tuple(SEARCHES)}, got {method!r}")
        module, name = SEARCHES[method]
        search = getattr(importlib.import_module(f"glasslib.search.{module}"), name)
        own = {"operators": self.operators} if module == "genetic" and self.operators is not None else {}
        if method == "NSGA-II" and self.arm == "faithful":
            own["faithful"] = True  # crowding as its pymoo computed it
        return search(self.generator.latent_space, rng=rng, **{"popsize": self.popsize, **own, **settings})

    def scores(self, target: str | Tensor) -> Callable[[np.ndarray], Tensor]:
        """CLIP similarity alone: x (n, dim) -> (n,), of what the generator makes of x.

        Args:
            target: a caption for a picture generator, a picture (3, h, w) in [0, 1] for a text generator.
        """
        return self._evaluation(self._similarity(target), target)

    def scores_many(
        self, targets: Sequence[str] | Tensor, *, truncate: bool = False
    ) -> Callable[[np.ndarray, np.ndarray], Tensor]:
        """What `loop.run_many` asks for: (x (n, dim), owner (n,)) -> (n,), `scores` of row i for targets[owner[i]].

        Args:
            targets: captions for a picture generator, pictures (m, 3, h, w) in [0, 1] for a text generator.
            truncate: cut captions that are longer than CLIP's context instead of refusing them.
        """
        clip = self.embedder
        with torch.inference_mode():
            wanted = clip.embed_images(targets) if self.writes_text else clip.embed_texts(targets, truncate=truncate)

        @torch.inference_mode()
        def evaluate(x: np.ndarray, owner: np.ndarray) -> Tensor:
            made = self.make(x)
            embedded = clip.embed_texts(made, truncate=True) if self.writes_text else clip.embed_images(made)
            scores = (embedded * wanted[owner]).sum(dim=1).clamp(-1, 1).cpu()
            if self.writes_text and self.arm == "faithful":  # one sentence too long, and its whole population scores 0
                too_long = set(clip.too_long(made))
                scores[np.isin(owner, owner[[text in too_long for text in made]])] = 0.0
            return scores

        return evaluate

    def objectives(self, target: str | Tensor, method: str | None = None) -> Callable[[np.ndarray], Tensor]:
        """What a method maximises: `scores`, or with realism beside it, (n, 2), for NSGA-II.

        Args:
            target: as in `scores`.
            method: a key of SEARCHES; None: the preset's own.
        """
        similarity = self._similarity(target)
        if (method or self.method) != "NSGA-II":
            return self._evaluation(similarity, target)
        return self._evaluation(JointScorer([similarity, RealismScorer(self.generator)]), target)

    def make(self, x: np.ndarray) -> Tensor | list[str]:
        """What the generator makes of candidates (n, dim): pictures (n, 3, h, w) or n texts."""
        latents = torch.tensor(np.atleast_2d(x))  # a copy: a winner is read-only
        with torch.inference_mode():
            return self.generator(latents.round().long() if self.writes_text else latents)

    def pick(self, front: Sequence[Candidate]) -> Candidate:
        """The candidate of a front that the preset's arm would show: the knee, or the faithful arm's most realistic."""
        return pareto.pick(front, self.pick_weights)

    def _similarity(self, target: str | Tensor) -> ClipScorer | TextScorer:
        if not self.writes_text:
            return ClipScorer(self.embedder, target)
        faithful = self.arm == "faithful"
        return TextScorer(self.embedder, target, truncate=not faithful, faithful=faithful)

    def _evaluation(self, scorer: Callable, target: str | Tensor) -> Callable[[np.ndarray], Tensor]:
        @torch.inference_mode()
        def evaluate(x: np.ndarray) -> Tensor:
            return scorer(self.make(x)).cpu()

        names = {"target": target, "preset": self.name, "arm": self.arm, "weights": self.weights}
        evaluate.identity = names | {"scorer": type(scorer).__name__}  # what a checkpoint compares
        return evaluate


def _tiny_weights(*names: str) -> dict[str, str]:
    folders = [models.WEIGHTS / name for name in names]
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.safetensors"))]
    return {file.relative_to(models.WEIGHTS).as_posix(): results.sha256_file(file) for file in files}


def _tiny_stylegan2(**options) -> Preset:
    return Preset(
        name="tiny-stylegan2",
        generator=StyleGAN2Generator.load(models.WEIGHTS / "stylegan2", **options),
        embedder=models.load_clip(),
        load_judge=models.load_judge,
        popsize=16,
        n_generations=100,
        prompts=(
            "a large red star on a dark background",
            "a large blue ring on a dark background",
            "a green heart at the top",
        ),
        weights=_tiny_weights("stylegan2", "clip", "judge"),
    )


def _tiny_biggan() -> Preset:
    return Preset(
        name="tiny-biggan",
        generator=BigGANGenerator.load(models.WEIGHTS / "biggan", truncation=1.0, n_active=2, batch_size=32),
        embedder=models.load_clip(),
        load_judge=models.load_judge,
        popsize=32,
        n_generations=50,
        prompts=(
            "a blue star on the left",
            "a red heart at the top",
            "a yellow ring on a dark background",
        ),
        weights=_tiny_weights("biggan", "clip", "judge"),
    )


def _tiny_gpt2() -> Preset:
    return Preset(
        name="tiny-gpt2",
        generator=gpt2.Gpt2Generator(
            *gpt2.load(models.WEIGHTS / "gpt2"), context_length=8, max_characters=None, stop=(".",)
        ),
        embedder=models.load_clip(),
        load_judge=models.load_judge,
        popsize=100,
        n_generations=100,
        weights=_tiny_weights("gpt2", "clip", "judge"),
    )


PRESETS: dict[str, Callable[..., Preset]] = {
    "tiny-stylegan2": _tiny_stylegan2,
    "tiny-biggan": _tiny_biggan,
    "tiny-gpt2": _tiny_gpt2,
}
# what the notebooks ask for with `-p preset paper`
PAPER = {"paper-stylegan2": "StyleGAN2_ffhq_d", "paper-biggan": "DeepMindBigGAN256", "paper-gpt2": "GPT2"}


def load(
    name: str,
    arm: str = "fixed",
    *,
    weights: str | Path | None = None,
    rng: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    popsize: int | None = None,
    n_generations: int | None = None,
    render_size: int | None = None,
) -> Preset:
    """Load the models of a preset.

    Args:
        name: one of `names()`: a tiny one, or one of CLIP-GLaSS's nine configurations by its name there.
        arm: "fixed", or "faithful" to CLIP-GLaSS's code (see clip_glass.py); the tiny ones have the first alone.
        weights: folder of the real models' files; None: where `make weights` puts them. "random": networks of full
            size with random weights, which need no files and make noise.
        rng: on the CPU; for random weights, and for the fresh synthesis noise of StyleGAN2's faithful arm.
        device: where to put the real models.
        popsize: candidates a generation; None: the preset's own.
        n_generations: the search's budget; None: the preset's own.
        render_size: pixels at which a StyleGAN2 is scored, see `StyleGAN2Generator`; 256 of 1024 take half the time.
            For similarity alone, in the fixed arm. None: the network's own.

    Raises:
        ValueError: no preset of that name, the message lists those there are; or files that are not what they must be.
        FileNotFoundError: its weights are not there; the message says how to get them.
    """
    name = PAPER.get(name, name)
    small = {} if render_size is None else {"render_size": render_size}
    if small and "stylegan2" not in name.lower():
        raise ValueError(f"render_size is for a StyleGAN2, got {render_size} with {name!r}; leave it out")
    if name in PRESETS and arm == "fixed" and weights is None:
        preset = PRESETS[name](**small)
    elif name in clip_glass.CONFIGURATIONS:
        made = clip_glass.build(name, arm, weights=weights, rng=rng, device=device, **small)
        preset = Preset(name=name, arm=arm, **made)
    else:
        expected = "have the arm 'fixed' alone, with their own weights" if name in PRESETS else f"be one of {names()}"
        raise ValueError(f"preset must {expected}, got {name!r} with arm {arm!r} and weights {weights!r}")
    budget = {"popsize": popsize, "n_generations": n_generations}
    return dataclasses.replace(preset, **{key: value for key, value in budget.items() if value is not None})


def names() -> Sequence[str]:
    """The presets' names."""
    return (*PRESETS, *clip_glass.CONFIGURATIONS, *PAPER)
