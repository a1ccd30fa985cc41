"""CapDec's own task: COCO's Karpathy split, CLIP RN50x4 and GPT-2, behind the calls of `presets.capdec.Task`.

Source: Nukrai et al. 2022 (CapDec), https://arxiv.org/abs/2211.00575; its code for what the paper leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from glasslib.metrics import CorpusMetric
from glasslib.tinyworld.recipes.captioner import gaussian
from glasslib.weights import registry

N_ESTIMATE = 15  # pictures whose captions say how much noise, as the paper took
MAX_TOKENS = 67
STOP = "."


@dataclass(frozen=True, eq=False)
class CocoTask:
    """`Task` of the paper: COCO's Karpathy split, CLIP RN50x4 and GPT-2. What is true of a picture nobody knows."""

    embedder: ClipEmbedder
    data: training.Data
    references: dict[str, list[str]]
    image_embeddings: Tensor
    estimates: dict[str, float]
    folder: Path
    names: list[str]
    gpt2_folder: Path
    device: str

    max_tokens = MAX_TOKENS
    text_memory = property(lambda self: gap.TextMemory(self.data.blocks))
    noise_std = property(lambda self: self.estimates["linf"])

    def pictures(self, n: int) -> Tensor:
        return torch.stack([images.middle_square(_read(self.folder, name), size=288) for name in self.names[:n]])

    def settings(self, n_epochs: int | None) -> training.Settings:
        return training.Settings(n_epochs=n_epochs or 10)

    def lesson(self, learns_from: str) -> training.Data:
        _only(learns_from, "texts")
        return self.data

    def new_decoder(self, *, seed: int, learns_from: str = "texts") -> tuple[CaptionDecoder, Targets]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            language_model, tokenizer = gpt2.load(self.gpt2_folder)  # anew: training changes it
            mapper = TransformerMapper(embedding_dim=self.embedder.dim, gpt_dim=language_model.config.n_embd)
            decoder = CaptionDecoder(language_model, mapper).to(self.device)
        options = {"stop_token": STOP, "max_tokens": MAX_TOKENS}
        return decoder, Targets(tokenizer, truncate=True, **options)

    def captioner(self, decoder: CaptionDecoder, targets: Targets) -> Captioner:
        return Captioner(decoder, targets.tokenizer, stop_token=targets.stop_token, decode=decoding.published_beam)

    def shipped(self, train: Callable[[], Captioner]) -> Captioner:
        return train()

    def noise(self, kind: str, noise_std: float) -> Callable[..., Tensor] | None:
        _only(kind, "gaussian")
        return gaussian(noise_std)

    def crossed(self, way: str) -> Tensor:
        _only(way, "image", "text", "nearest", "reranked")
        if way == "text":
            return self.embedder.embed_texts(own(self.references), truncate=True)
        return self.image_embeddings

    def exact(self, texts: Sequence[str], *, first: int = 0) -> dict[str, CorpusMetric]:
        return {}

    def by_n_objects(self) -> dict[int, np.ndarray]:
        return {}


def load(folder: Path, n_test: int | None, *, weights_dir, device: str) -> CocoTask:
    """Read a folder with dataset_coco.json and the pictures, see `presets.capdec.load`."""
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
    some = [row for rows in learned.by_image(N_ESTIMATE).values() for row in rows]
    embedded, shown = clip.embed_texts([row.text for row in some], truncate=True), [row.image_id for row in some]
    names = [rows[0].file_name for rows in held_out.values()]
    return CocoTask(
        embedder=clip,
        data=data,
        references={image_id: [row.text for row in rows] for image_id, rows in held_out.items()},
        image_embeddings=torch.cat([clip.embed_images(_read(folder, name)[None]) for name in names]),  # sizes differ
        estimates={
            "linf": noise.linf_noise_std(embedded, image_ids=shown),
            "angle": noise.noise_std_for_cosine(noise.paraphrase_cosine(embedded, image_ids=shown), dim=clip.dim),
        },
        folder=folder,
        names=names,
        gpt2_folder=files["gpt2/config.json"].parent,
        device=device,
    )


def own(references: Mapping[str, Sequence[str]]) -> list[str]:
    """One caption of each picture, the next person's each time."""
    return [rows[i % len(rows)] for i, rows in enumerate(references.values())]


def _only(given: str, *known: str) -> None:
    if given not in known:
        raise ValueError(f"with COCO it must be one of {known}, got {given!r}; preset='tiny' has the others")


def _read(folder: Path, name: str) -> Tensor:
    """A picture of COCO, (3, h, w)."""
    places = [folder / name, *(folder / part / name for part in ("train2014", "val2014"))]
    return images.load_image(next((path for path in places if path.is_file()), places[0]))
