"""One training of a tiny captioner a job, at one amount of noise and one seed, and its captions of held-out scenes.

Every amount of noise is trained on the same captions, for equally many steps, by the recipe of the shipped captioner;
`longer` for twice as many. Text and picture embeddings, and trainings, are kept in runs/ and found again. Captions are
written by beams of five, as CapDec's, or chosen among twenty.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glasslib import results
from glasslib.captioning import captioner as captioners
from glasslib.captioning import decoding, gap, noise, training
from glasslib.captioning.captioner import Captioner
from glasslib.tinyworld import captions, models, scenes
from glasslib.tinyworld.recipes import captioner as recipe
from glasslib.tinyworld.recipes.said import CACHE, ZIPF, Said, said

SEED = 0  # of the training captions, the same for all; seeds of training differ
N_SCENES = recipe.N_SCENES  # five captions each
HELD_OUT = 40_000  # the seed of scenes that no recipe draws
N_SELECT, N_TEST = 200, 1_000  # held-out scenes to choose the best level and arm by, and to report on
SETTINGS = recipe.SETTINGS
# What a captioner is given, and how that crossed the gap. "nearest": CLIP chooses among the beams of "image";
# "reranked": CLIP and the decoder do; "stretched_reranked": the same of "stretched".
SOURCES = ("image", "text", "offset", "stretched", "projection", "nearest", "reranked", "stretched_reranked")
TEMPERATURE = 0.01  # of the projection, as DeCap's
STRETCH = 1.5  # chosen on pictures of another seed than HELD_OUT, which no number is reported of
N_CANDIDATES = 20  # beams of each picture to choose from
BATCH_SIZE = 64  # pictures captioned at once: the cache of 20 beams each stays small
CHOSEN = ("nearest", "reranked", "stretched_reranked")


@dataclass(frozen=True)
class HeldOut:
    """Scenes that no training sees: n of them, five captions each, and embeddings (n, dim).

    `texts` has one caption of each scene, the next person's each time.
    """

    world: scenes.Scenes
    pictures: Tensor
    references: list[list[str]]
    images: Tensor
    texts: Tensor


@functools.cache
def clip():
    """The tiny CLIP, loaded once a process."""
    return models.load_clip()


@functools.cache
def held_out(zipf: float = ZIPF) -> HeldOut:
    """The scenes that every captioner is measured on, described in words of that exponent."""
    rng = np.random.default_rng(HELD_OUT)
    world = scenes.sample(N_SELECT + N_TEST, rng=rng)
    pictures = scenes.render(world, rng=torch.Generator().manual_seed(HELD_OUT))
    references = captions.describe_by_all(world, rng=rng, zipf=zipf)
    own = [row[i % len(row)] for i, row in enumerate(references)]
    return HeldOut(world, pictures, references, clip().embed_images(pictures), clip().embed_texts(own))


@functools.cache
def spoken(zipf: float = ZIPF) -> Said:
    """Captions of the training scenes, in words of that exponent."""
    return said(N_SCENES, clip=clip(), seed=SEED, zipf=zipf, cache=CACHE)


@functools.cache
def pictures() -> Tensor:
    """(n_scenes, dim) embeddings of the training scenes' own pictures, made once and kept."""
    from safetensors.torch import load_file, save

    path = CACHE / f"{spoken().key[:16]}-pictures.safetensors"
    if not path.is_file():
        world = scenes.sample(N_SCENES, rng=np.random.default_rng(SEED))
        rng = torch.Generator().manual_seed(SEED)
        parts = [clip().embed_images(scenes.render(world[i : i + 500], rng=rng)) for i in range(0, len(world), 500)]
        results.write_bytes_atomic(path, save({"pictures": torch.cat(parts)}))
    return load_file(path)["pictures"]


def folder() -> Path:
    """Where trainings lie: a folder for these captions, weights and settings."""
    state = [spoken().key, results.sha256_file(recipe.GPT2_FILE), repr((N_SCENES, SETTINGS)), results.versions()]
    return results.REPO / "runs" / "bench" / f"captioners-{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]}"


def _pairs(modality: str, zipf: float) -> training.Pairs:
    """All captions with the embeddings of themselves, or of the scenes' pictures."""
    return spoken(zipf).pairs() if modality == "text" else spoken(zipf).pairs_with(pictures(), key="pictures")


def trained(arm: str, variance: float, seed: int, *, zipf: float = ZIPF) -> tuple[captioners.Captioner, list[dict]]:
    """The captioner of `level` and its log, trained on captions in words of that exponent or found finished."""
    modality = "image" if arm == "clipcap" else "text"
    return recipe.fit(
        _pairs(modality, zipf),
        folder=folder() / f"{arm}-{variance:g}-{seed}{'' if zipf == ZIPF else f'-zipf{zipf:g}'}",
        seed=seed,
        noise=_noise(arm, variance),
        settings=dataclasses.replace(SETTINGS, n_epochs=2 * SETTINGS.n_epochs) if arm == "longer" else SETTINGS,
        validation=_validation(modality, zipf),
        progress=False,
    )


def level(arm: str, variance: float, seed: int) -> list[dict]:
    """Train at one amount of noise, and caption the held-out scenes.

    Args:
        arm: "capdec" (Gaussian noise), "longer" (the same for twice as many steps), "covariance" (noise as long,
            shaped like paraphrases), or "clipcap" (supervised: Gaussian noise on pictures' embeddings).
        variance: of the noise, per coordinate.
        seed: of weights, order and noise.

    Returns:
        A row a scene and source with its caption, and a row each look at the validation data.
    """
    captioner, log = trained(arm, variance, seed)
    common = {"arm": arm, "variance": variance, "seed": seed}
    rows = _curve(log, common)
    for source, texts in written(captioner, sources=SOURCES if arm == "capdec" else ("image", "reranked")).items():
        rows += [{**common, "source": source, "scene": i, "caption": text} for i, text in enumerate(texts)]
    return rows


def written(captioner: Captioner, *, sources: Sequence[str]) -> dict[str, list[str]]:
    """What a captioner writes about the held-out scenes, source by source."""

    def reader(decode: Callable[..., list]) -> Captioner:
        return Captioner(captioner.decoder, captioner.tokenizer, decode=decode, batch_size=BATCH_SIZE)

    @functools.cache
    def candidates(source: str) -> tuple[list[list[str]], list[list[float]]]:
        decode = functools.partial(decoding.beam, beam_size=N_CANDIDATES, n_captions=N_CANDIDATES)
        return reader(decode).scored(crossed(source), max_tokens=recipe.MAX_TOKENS)

    found = {}
    for source in sources:
        if source in CHOSEN:
            texts, log_probs = candidates("stretched" if source == "stretched_reranked" else "image")
            found[source] = captioners.nearest_caption(
                texts, held_out().images, embedder=clip(), log_probs=None if source == "nearest" else log_probs
            )
        else:
            found[source] = reader(decoding.beam)(crossed(source), max_tokens=recipe.MAX_TOKENS)
    return found


def _noise(arm: str, variance: float):
    if arm == "covariance":
        covariance = noise.paraphrase_covariance(spoken().embeddings, image_ids=spoken().scene_of)
        factor = noise.covariance_factor(covariance, noise_std=variance**0.5)
        return functools.partial(noise.add_covariance_noise, factor=factor)
    return recipe.gaussian(variance**0.5)


def crossed(source: str) -> Tensor:
    """(n, dim) what a captioner is given of the held-out scenes: their pictures, moved or not, or a caption."""
    given = held_out()
    if source == "text":
        return given.texts
    if source == "offset":
        return gap.mean_offset(given.images, offset=spoken().embeddings.mean(0) - pictures().mean(0))
    if source == "stretched":
        means = {"image_mean": pictures().mean(0), "text_mean": spoken().embeddings.mean(0)}
        return gap.stretched_offset(given.images, **means, stretch=STRETCH)
    if source == "projection":
        return gap.TextMemory(spoken().embeddings).project(given.images, temperature=TEMPERATURE)
    return given.images


def retrieved(zipf: float = ZIPF) -> list[dict]:
    """The training caption nearest to each held-out picture, CLIPRe's answer in words of that exponent."""
    rows, _ = gap.TextMemory(spoken(zipf).embeddings).nearest(held_out().images)
    common = {"arm": "retrieval", "variance": 0.0, "seed": 0, "source": "image"}
    return [{**common, "scene": i, "caption": spoken(zipf).texts[row]} for i, row in enumerate(rows[:, 0].tolist())]


def estimates(zipf: float = ZIPF) -> dict[str, float]:
    """How much noise captions alone suggest, as variances to three digits: CapDec's rule, and the matched angle's."""
    found = recipe.estimated_noise_std(spoken(zipf))
    return {name: float(f"{std**2:.3g}") for name, std in found.items()}


def _validation(modality: str, zipf: float) -> training.Pairs:
    """A quarter of the scenes for choosing, with all their captions."""
    given = held_out(zipf)
    texts = [text for row in given.references[: N_SELECT // 4] for text in row]
    if modality == "text":
        return training.Pairs(clip().embed_texts(texts), texts)
    return training.Pairs(given.images[: N_SELECT // 4].repeat_interleave(5, dim=0), texts)


def _curve(log: list[dict], common: dict) -> list[dict]:
    keys = ("step", "train_loss", "validation_loss")
    looks = [line for line in log if "validation_loss" in line]
    return [{**common, "source": "curve"} | {key: line[key] for key in keys} for line in looks]
