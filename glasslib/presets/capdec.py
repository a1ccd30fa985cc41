"""CapDec's models and data under one name: the tiny world's, or COCO with RN50x4 and GPT-2, behind the same calls.

Source: Nukrai et al. 2022 (CapDec), https://arxiv.org/abs/2211.00575; its code for what the paper leaves out.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from glasslib import metrics, results
from glasslib.captioning import captioner as captioners
from glasslib.captioning import gap, noise, training
from glasslib.captioning.captioner import Captioner
from glasslib.captioning.decoder import CaptionDecoder
from glasslib.captioning.targets import Targets
from glasslib.clip.embedder import ClipEmbedder
from glasslib.metrics import CorpusMetric
from glasslib.presets import coco
from glasslib.tinyworld import captions, faithfulness, models, scenes
from glasslib.tinyworld.recipes import captioner as recipe
from glasslib.tinyworld.recipes.said import CACHE, ZIPF, Said, picture_embeddings, said
from glasslib.tinyworld.scenes import Scenes

PRESETS = ("tiny", "paper")
N_TEST = 400  # tiny: held-out scenes
STRETCH = 1.5  # chosen on other pictures than any number is reported of
TEMPERATURE = 0.01  # of the projection, as DeCap's


class Task(Protocol):
    """What a captioner learns from, and the held-out pictures it is asked about."""

    embedder: ClipEmbedder  # the frozen CLIP
    data: training.Data  # training captions with their embeddings
    text_memory: gap.TextMemory  # those embeddings, to compare pictures with
    references: dict[str, list[str]]  # picture id -> what people say of it, of the held-out pictures
    image_embeddings: Tensor  # (n, dim) of the held-out pictures, in the order of `references`
    estimates: dict[str, float]  # noise per coordinate, from captions alone: CapDec's "linf" rule, the matched "angle"
    max_tokens: int  # most tokens in a caption
    noise_std: float  # the estimate to train with: the paper's rule at its size, the matched angle at the tiny CLIP's

    def pictures(self, n: int) -> Tensor: ...  # the first n held-out pictures, (n, 3, h, w)
    def settings(self, n_epochs: int | None) -> training.Settings: ...  # of a training; None: the preset's own length
    def lesson(self, learns_from: str) -> training.Data: ...  # captions with embeddings of "texts" or of "pictures"
    def new_decoder(self, *, seed: int) -> tuple[CaptionDecoder, Targets]: ...  # untrained, and what it learns to write
    def captioner(self, decoder: CaptionDecoder, targets: Targets) -> Captioner: ...  # with the preset's own decoding
    def shipped(self, train: Callable[[], Captioner]) -> Captioner: ...  # the repository's, or what `train` gives
    def noise(self, kind: str, noise_std: float) -> Callable[..., Tensor] | None: ...  # "gaussian" or "covariance"
    def crossed(self, way: str) -> Tensor: ...  # (n, dim) what a decoder is given of the held-out pictures
    def exact(self, texts: Sequence[str], *, first: int = 0) -> dict[str, CorpusMetric]: ...  # of `first` onwards
    def by_n_objects(self) -> dict[int, np.ndarray]: ...  # rows of the pictures of 1, 2, 3 objects, where known


@dataclass(frozen=True, eq=False)
class TinyTask:
    """`Task` of the tiny world, where what is true of a picture is known: `world`, the held-out scenes."""

    embedder: ClipEmbedder
    world: Scenes
    shots: Tensor
    references: dict[str, list[str]]
    n_scenes: int
    seed: int
    zipf: float

    max_tokens = recipe.MAX_TOKENS
    data = property(lambda self: self.spoken.pairs())
    text_memory = property(lambda self: gap.TextMemory(self.spoken.embeddings))
    noise_std = property(lambda self: self.estimates["angle"])

    @functools.cached_property
    def spoken(self) -> Said:
        """The training captions with their embeddings."""
        return said(self.n_scenes, clip=self.embedder, seed=self.seed, zipf=self.zipf, cache=CACHE)

    @functools.cached_property
    def image_embeddings(self) -> Tensor:
        return self.embedder.embed_images(self.shots)

    @functools.cached_property
    def estimates(self) -> dict[str, float]:
        return recipe.estimated_noise_std(self.spoken)

    @functools.cached_property
    def training_pictures(self) -> Tensor:
        """(n_scenes, dim) embeddings of the training scenes' own pictures, made once and kept."""
        return picture_embeddings(self.spoken, clip=self.embedder, seed=self.seed, cache=CACHE)

    def pictures(self, n: int) -> Tensor:
        return self.shots[:n]

    def settings(self, n_epochs: int | None) -> training.Settings:
        return dataclasses.replace(recipe.SETTINGS, n_epochs=n_epochs or 1, checkpoint_every=30, validate_every=30)

    def lesson(self, learns_from: str) -> training.Pairs:
        if learns_from == "texts":
            return self.data
        return self.spoken.pairs_with(self.training_pictures, key="pictures")

    def new_decoder(self, *, seed: int, learns_from: str = "texts") -> tuple[CaptionDecoder, Targets]:
        return recipe.new_decoder(self.lesson(learns_from).embeddings, seed=seed)

    def captioner(self, decoder: CaptionDecoder, targets: Targets) -> Captioner:
        return Captioner(decoder, targets.tokenizer)

    def shipped(self, train: Callable[[], Captioner]) -> Captioner:
        return captioners.load(models.WEIGHTS / "captioner")

    def noise(self, kind: str, noise_std: float) -> Callable[..., Tensor] | None:
        if kind == "gaussian":
            return recipe.gaussian(noise_std)
        covariance = noise.paraphrase_covariance(self.spoken.embeddings, image_ids=self.spoken.scene_of)
        factor = noise.covariance_factor(covariance, noise_std=noise_std)
        return functools.partial(noise.add_covariance_noise, factor=factor)

    def crossed(self, way: str) -> Tensor:
        x, texts = self.image_embeddings, self.spoken.embeddings
        if way == "text":  # one caption of each picture, the next person's each time
            return self.embedder.embed_texts(coco.own(self.references))
        if way == "offset":
            return gap.mean_offset(x, offset=texts.mean(0) - self.training_pictures.mean(0))
        if way == "stretched":
            means = {"image_mean": self.training_pictures.mean(0), "text_mean": texts.mean(0)}
            return gap.stretched_offset(x, **means, stretch=STRETCH)
        return self.text_memory.project(x, temperature=TEMPERATURE) if way == "projection" else x

    def exact(self, texts: Sequence[str], *, first: int = 0) -> dict[str, CorpusMetric]:
        rows = np.arange(first, first + len(texts))
        told = list(self.references.values())[first : first + len(texts)]
        return faithfulness.attribute_metrics(texts, self.world[rows], references=told)

    def by_n_objects(self) -> dict[int, np.ndarray]:
        return {k: np.flatnonzero(self.world.n_objects == k) for k in (1, 2, 3)}


def load(
    preset: str,
    *,
    n_scenes: int = recipe.N_SCENES,
    n_test: int | None = None,
    seed: int = 0,
    zipf: float = ZIPF,
    held_out: int = recipe.HELD_OUT_SEED,
    data_dir: str | Path = "coco",
    weights_dir: str | Path | None = None,
    device: str = "cpu",
) -> Task:
    """Load models and data.

    Args:
        preset: "tiny", or "paper": COCO's Karpathy split, CLIP RN50x4 and GPT-2.
        n_scenes: tiny: scenes whose captions are learned, five each.
        n_test: held-out pictures; None: tiny: 400; paper: all 5,000 of the test split.
        seed: tiny: of the training scenes.
        zipf: tiny: the exponent by which people choose words, see `captions.describe`.
        held_out: tiny: the seed of the held-out scenes, one that no recipe draws.
        data_dir: paper: a folder with dataset_coco.json (Karpathy's) and the pictures under their COCO names,
            in it or in train2014/ and val2014/; below the repository unless absolute.
        weights_dir: paper: where `make weights PRESET=CapDec` put the files; None: its default.
        device: paper: where the models run.

    Raises:
        ValueError: an unknown preset, or captions that cannot be read.
        FileNotFoundError: data or weights that are not there; the message says how to get them.
    """
    if preset == "paper":
        return coco.load(results.REPO / data_dir, n_test, weights_dir=weights_dir, device=device)
    if preset != "tiny":
        raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}")
    clip, rng = models.load_clip(), np.random.default_rng(held_out)
    world = scenes.sample(n_test or N_TEST, rng=rng)
    shots = scenes.render(world, rng=torch.Generator().manual_seed(held_out))
    references = {str(i): row for i, row in enumerate(captions.describe_by_all(world, rng=rng, zipf=zipf))}
    return TinyTask(clip, world, shots, references, n_scenes, seed, zipf)


def scores(
    task: Task, written: Mapping[Hashable, Sequence[str]], *, first: int = 0, last: int | None = None
) -> dict[Hashable, dict[str, CorpusMetric]]:
    """Score captions of the held-out pictures first..last - 1: text metrics without Java, and what is exactly known.

    Args:
        task: what was asked about.
        written: system -> its captions of all held-out pictures, in order.
        first, last: which pictures count; CIDEr's word weights come from these alone.
    """
    ids = list(task.references)[first:last]
    mine = {system: list(texts[first:last]) for system, texts in written.items()}
    predictions = {system: dict(zip(ids, texts, strict=True)) for system, texts in mine.items()}
    scored = metrics.evaluate_many(predictions, {key: task.references[key] for key in ids}, java_runtime=None)
    return {system: scored[system].metrics | task.exact(texts, first=first) for system, texts in mine.items()}
