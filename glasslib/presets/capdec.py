"""CapDec's models and data under one name: the tiny world's, or COCO with RN50x4 and GPT-2, behind the same calls.

Source: Nukrai et al. 2022 (CapDec), https://arxiv.org/abs/2211.00575; its code for what the paper leaves out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glasslib import images, results
from glasslib.captioning import decoding, gap, noise, store, training
from glasslib.captioning.captioner import Captioner
from glasslib.captioning.corpus import Corpus
from glasslib.captioning.decoder import CaptionDecoder
from glasslib.captioning.mapper import TransformerMapper
from glasslib.captioning.targets import Targets
from glasslib.clip.embedder import ClipEmbedder, load_open_clip
from glasslib.generators import gpt2
from glasslib.tinyworld import captions, scenes
from glasslib.tinyworld.models import load_clip
from glasslib.tinyworld.recipes import captioner as recipe
from glasslib.tinyworld.recipes.said import CACHE, ZIPF, said
from glasslib.tinyworld.scenes import Scenes
from glasslib.weights import registry

PRESETS = ("tiny", "paper")
N_ESTIMATE = {"tiny": 200, "paper": 15}  # pictures whose captions say how much noise; the paper took 15
PUBLISHED_MAX_TOKENS = 67
N_TEST = 400  # tiny: held-out scenes
STOP = {"tiny": None, "paper": "."}  # what ends a caption; None: end-of-text


@dataclass(frozen=True, eq=False)
class Task:
    """What a captioner learns from, and the held-out pictures it is asked about.

    Attributes:
        name: of the preset.
        embedder: the frozen CLIP.
        data: training captions with their embeddings.
        references: picture id -> what people say of it, of the held-out pictures.
        image_embeddings: (n, dim) of the held-out pictures, in the order of `references`.
        pictures: the first k held-out pictures, k -> (k, 3, h, w).
        estimates: of the noise, per coordinate, from training captions alone: "linf", CapDec's rule, and "angle", as
            far as another person's caption lies.
        new_decoder: an untrained decoder and its tokenizer, drawn from torch's global state.
        settings: of the training.
        world: the held-out scenes' truth; None where nobody knows it.
    """

    name: str
    embedder: ClipEmbedder
    data: training.Data
    references: dict[str, list[str]]
    image_embeddings: Tensor
    pictures: Callable[[int], Tensor]
    estimates: dict[str, float]
    new_decoder: Callable[[], tuple[CaptionDecoder, object]]
    settings: training.Settings
    world: Scenes | None = None

    @property
    def noise_std(self) -> float:
        """The estimate to train with: the paper's own rule at its size, the matched angle at the tiny CLIP's."""
        return self.estimates["angle" if self.name == "tiny" else "linf"]

    @property
    def max_tokens(self) -> int:
        """Most tokens in a caption."""
        return recipe.MAX_TOKENS if self.name == "tiny" else PUBLISHED_MAX_TOKENS

    @property
    def memory(self) -> gap.TextMemory:
        """The training captions' embeddings, to compare pictures with."""
        return gap.TextMemory(getattr(self.data, "blocks", None) or self.data.embeddings)

    def texts(self, first: int, last: int) -> list[str]:
        """The training captions first..last - 1."""
        return self.data.batch(range(first, last))[1]


def settings(preset: str, *, n_epochs: int | None) -> training.Settings:
    """How a preset trains; `n_epochs` None: the tiny one passes through its captions once, the paper's ten times."""
    if preset == "tiny":
        return dataclasses.replace(recipe.SETTINGS, n_epochs=n_epochs or 1, checkpoint_every=30, validate_every=30)
    return training.Settings(n_epochs=n_epochs or 10)


def load(
    preset: str,
    *,
    n_scenes: int,
    n_test: int | None,
    seed: int,
    data_dir: str | Path = "coco",
    weights_dir: str | Path | None = None,
    device: str = "cpu",
    settings: training.Settings | None = None,
) -> Task:
    """Load models and data.

    Args:
        preset: "tiny", or "paper": COCO's Karpathy split, CLIP RN50x4 and GPT-2.
        n_scenes: tiny: scenes whose captions are learned, five each.
        n_test: held-out pictures; None: tiny: 400; paper: all 5,000 of the test split.
        seed: tiny: of the training scenes. The held-out ones are always the same, and no recipe draws them.
        data_dir: paper: a folder with dataset_coco.json (Karpathy's) and the pictures under their COCO names,
            in it or in train2014/ and val2014/; below the repository unless absolute.
        weights_dir: paper: where `make weights PRESET=CapDec` put the files; None: its default.
        device: paper: where the models run.
        settings: of the training; None: the preset's own.

    Raises:
        ValueError: an unknown preset, or captions that cannot be read.
        FileNotFoundError: data or weights that are not there; the message says how to get them.
    """
    if preset == "tiny":
        return _tiny(n_scenes, n_test or N_TEST, seed=seed, settings=settings or recipe.SETTINGS)
    if preset != "paper":
        raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}")
    folder = results.REPO / data_dir
    return _coco(folder, n_test, weights_dir=weights_dir, device=device, settings=settings or training.Settings())


def fit(
    task: Task,
    *,
    noise: Callable[..., Tensor] | None,
    folder: str | Path,
    seed: int,
    validation: training.Data | None = None,
    progress: bool = True,
) -> tuple[Captioner, list[dict]]:
    """Train a captioner on a task's captions, going on from `folder` if something lies there.

    Args:
        task: what to learn.
        noise: on the embeddings, see `training.train`; None for none.
        folder: for checkpoints and the log.
        seed: of weights, order and noise.
        validation: its loss is logged.
        progress: show a progress bar.

    Returns:
        The captioner, which writes greedily in the tiny world and with CapDec's own beams else; and the log.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        decoder, tokenizer = task.new_decoder()
    stop_token = STOP[task.name]
    targets = Targets(tokenizer, stop_token=stop_token, max_tokens=task.max_tokens, truncate=task.name == "paper")
    log = training.train(
        decoder, task.data, targets=targets, folder=folder, rng=torch.Generator().manual_seed(seed),
        settings=task.settings, noise=noise, validation=validation, progress=progress,
    )  # fmt: skip
    decode = decoding.greedy if task.name == "tiny" else decoding.published_beam
    return Captioner(decoder, tokenizer, stop_token=stop_token, decode=decode), log


def _tiny(n_scenes: int, n_test: int, *, seed: int, settings: training.Settings) -> Task:
    clip = load_clip()
    spoken = said(n_scenes, clip=clip, seed=seed, cache=CACHE)
    rng = np.random.default_rng(recipe.HELD_OUT_SEED)
    world = scenes.sample(n_test, rng=rng)
    pictures = scenes.render(world, rng=torch.Generator().manual_seed(recipe.HELD_OUT_SEED))
    references = captions.describe_by_all(world, rng=rng, zipf=ZIPF)
    return Task(
        name="tiny",
        embedder=clip,
        data=spoken.pairs(),
        references={str(i): row for i, row in enumerate(references)},
        image_embeddings=clip.embed_images(pictures),
        pictures=lambda k: pictures[:k],
        estimates=recipe.estimated_noise_std(spoken),
        new_decoder=lambda: recipe.new_decoder(spoken.embeddings[: recipe.N_SPREAD]),
        settings=settings,
        world=world,
    )


def _coco(folder: Path, n_test: int | None, *, weights_dir, device: str, settings: training.Settings) -> Task:
    path = folder / "dataset_coco.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"no captions at {path}; put Karpathy's dataset_coco.json there, with COCO's 2014 pictures beside it"
        )
    files = registry.require("CapDec", weights_dir)
    clip = load_open_clip("RN50x4", "openai", weights=files[registry.RN50X4.path], device=device)
    corpus = Corpus.read(path)
    learned, held_out = corpus.split("train", "restval"), corpus.split("test").by_image(n_test)
    sha256 = registry.sha256_of(registry.RN50X4, weights_dir)
    data = store.embed_corpus(
        learned, clip, root=results.REPO / "runs" / "embeddings", clip_sha256=sha256, truncate=True
    )
    some = [row for rows in learned.by_image(N_ESTIMATE["paper"]).values() for row in rows]
    embedded, shown = clip.embed_texts([row.text for row in some], truncate=True), [row.image_id for row in some]

    def new_decoder() -> tuple[CaptionDecoder, object]:
        language_model, tokenizer = gpt2.load(files["gpt2/config.json"].parent)  # anew: training changes it
        mapper = TransformerMapper(embedding_dim=clip.dim, gpt_dim=language_model.config.n_embd)
        return CaptionDecoder(language_model, mapper).to(device), tokenizer

    names = [rows[0].file_name for rows in held_out.values()]
    return Task(
        name="paper",
        embedder=clip,
        data=data,
        references={image_id: [row.text for row in rows] for image_id, rows in held_out.items()},
        image_embeddings=_embed_files(clip, folder, names),
        pictures=lambda k: torch.stack([images.middle_square(_read(folder, name), size=288) for name in names[:k]]),
        estimates={
            "linf": noise.linf_noise_std(embedded, image_ids=shown),
            "angle": noise.noise_std_for_cosine(noise.paraphrase_cosine(embedded, image_ids=shown), dim=clip.dim),
        },
        new_decoder=new_decoder,
        settings=settings,
    )


def _read(folder: Path, name: str) -> Tensor:
    """A picture of COCO, (3, h, w)."""
    places = [folder / name, *(folder / part / name for part in ("train2014", "val2014"))]
    return images.load_image(next((path for path in places if path.is_file()), places[0]))


def _embed_files(clip, folder: Path, names: Sequence[str]) -> Tensor:
    """(n, dim) embeddings of picture files, one in memory at a time: their sizes differ."""
    return torch.cat([clip.embed_images(_read(folder, name)[None]) for name in names])
