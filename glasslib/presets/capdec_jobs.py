"""The trainings of notebooks 07 to 09 as jobs of a sweep: one captioner each, and what it writes of held-out pictures.

A training's checkpoints and captioner lie in runs/captioners and are found again: by a job that was stopped, and by
one that goes on from another's captioner.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glasslib import results, sweep
from glasslib.captioning import captioner as captioners
from glasslib.captioning import decoding, gap, training
from glasslib.captioning.captioner import Captioner
from glasslib.presets import capdec
from glasslib.presets.capdec import Task
from glasslib.tinyworld.models import WEIGHTS
from glasslib.tinyworld.recipes import captioner as recipe
from glasslib.tinyworld.recipes.said import CACHE, CLIP_FILE, said
from glasslib.tinyworld.transfer import Away

FILES = (CLIP_FILE, recipe.GPT2_FILE)  # what the jobs depend on, beside their parameters
SHIPPED = WEIGHTS / "captioner"
N_BEAMS = 20  # of each picture to choose from
# Way -> whose beams are chosen among, and who chooses: CLIP alone, or CLIP and the decoder.
CHOSEN = {"nearest": ("image", "CLIP"), "reranked": ("image", "both"), "stretched_reranked": ("stretched", "both")}
ALONE = dataclasses.replace(recipe.SETTINGS, n_epochs=5, warmup_steps=50)  # on 3,000 styled captions
FINE_TUNE = dataclasses.replace(recipe.SETTINGS, n_epochs=2, warmup_steps=30, learning_rate=1e-3)

load = functools.lru_cache(maxsize=4)(capdec.load)


@sweep.job(version=1, seconds=300)
def captions(*, ways: str = "image", decode: str | None = None, **job: Any) -> dict[str, Any]:
    """Train a captioner and caption the held-out pictures.

    Args:
        ways: how pictures are given to the decoder, words of `Task.crossed` and `CHOSEN` with spaces between.
        decode: a function of decoding.py; None: the preset's own.
        job: of `trained`.

    Returns:
        captions: way -> a caption for each held-out picture. curve: step, train_loss and validation_loss of each look.
    """
    task, captioner, log = trained(**job)
    keys = ("step", "train_loss", "validation_loss")
    curve = [{key: line[key] for key in keys} for line in log if "validation_loss" in line]
    return {"captions": written(captioner, task, ways=ways.split(), decode=decode), "curve": curve}


def trained(
    *,
    learns_from: str = "texts",
    noise: str = "gaussian",
    noise_std: float = 0.0,
    n_epochs: int | None = recipe.SETTINGS.n_epochs,
    seed: int = 0,
    n_looks: int = 0,
    **place: Any,
) -> tuple[Task, Captioner, list[dict]]:
    """Train a captioner on a task's captions, or find it trained.

    Args:
        learns_from: "texts", as CapDec, or "pictures", as the supervised ClipCap.
        noise: "gaussian", or "covariance": as long, and shaped like paraphrases.
        noise_std: per coordinate; 0 for none.
        n_epochs: passes through the captions; None: the preset's own.
        seed: of weights, order and noise.
        n_looks: held-out pictures whose captions' loss is logged every 500 steps.
        place: of `capdec.load`.

    Returns:
        The task, the captioner, and the log of `training.train`.
    """
    task = load(**({"preset": "tiny"} | place))
    data = task.lesson(learns_from)
    decoder, targets = task.new_decoder(seed=seed, learns_from=learns_from)
    settings = dataclasses.replace(task.settings(n_epochs), checkpoint_every=500, validate_every=500)
    key = getattr(data, "key", type(task).__name__)
    log = training.train(
        decoder, data, targets=targets, rng=torch.Generator().manual_seed(seed), settings=settings, progress=False,
        folder=folder(key, learns_from, noise, noise_std, dataclasses.asdict(settings), seed),
        noise=task.noise(noise, noise_std), validation=validation(task, learns_from, n_looks) if n_looks else None,
    )  # fmt: skip
    return task, task.captioner(decoder, targets), log


def validation(task: Task, learns_from: str, n: int) -> training.Pairs:
    """All captions of the first n held-out pictures, with embeddings of themselves or of the pictures."""
    rows = list(task.references.values())[:n]
    texts = [text for told in rows for text in told]
    if learns_from == "texts":
        return training.Pairs(task.embedder.embed_texts(texts), texts)
    counts = torch.tensor([len(told) for told in rows])
    return training.Pairs(task.image_embeddings[:n].repeat_interleave(counts, dim=0), texts)


def written(
    captioner: Captioner, task: Task, *, ways: Sequence[str], decode: str | None = None
) -> dict[str, list[str]]:
    """What a captioner writes of the held-out pictures, way by way; see `captions`."""
    chosen = functools.cache(lambda way: choose(captioner, task.crossed(way), task))
    plain = captioner if decode is None else _decoding(captioner, getattr(decoding, decode))
    found = {}
    for way in ways:
        if way in CHOSEN:
            source, who = CHOSEN[way]
            found[way] = chosen(source)[who]
        else:
            found[way] = plain(task.crossed(way), max_tokens=task.max_tokens)
    return found


def choose(captioner: Captioner, given: Tensor, task: Task) -> dict[str, list[str]]:
    """Of N_BEAMS captions of each held-out picture, the one that "CLIP" prefers, and that CLIP and decoder, "both", do.

    Args:
        captioner: writes them.
        given: (n, dim) what it is given of the pictures.
        task: has the pictures, and the CLIP.
    """
    twenty = _decoding(captioner, functools.partial(decoding.beam, beam_size=N_BEAMS, n_captions=N_BEAMS))
    texts, log_probs = twenty.scored(given, max_tokens=task.max_tokens)
    return {
        who: captioners.nearest_caption(texts, task.image_embeddings, embedder=task.embedder, log_probs=says)
        for who, says in {"CLIP": None, "both": log_probs}.items()
    }


def _decoding(captioner: Captioner, decode: Callable[..., list]) -> Captioner:
    return Captioner(captioner.decoder, captioner.tokenizer, stop_token=captioner.stop_token, decode=decode)


@sweep.job(version=1, seconds=200)
def transfer(
    *,
    learns_from: str = "texts",
    domain: str = "print",
    register: str = "neutral",
    after: str | None = None,
    tried_on: str = "print",
    noise_std: float,
    seed: int = 0,
    n_scenes: int = recipe.N_SCENES,
    n_steps: int | None = None,
    n_test: int | None = None,
) -> dict[str, list[str]]:
    """Train a captioner on one domain's texts, or one register's, and caption held-out pictures greedily.

    Args:
        learns_from: "texts" (CapDec), "pictures" (ClipCap), or "retrieval": nothing is trained, and the answer is the
            nearest of the texts (CLIPRe).
        domain: of the scenes whose texts it reads.
        register: of the texts.
        after: what a styled captioner goes on from: None, the tiny GPT-2; "texts" or "pictures", the neutral captioner
            of the same seed that learned from these; "shipped", the repository's own.
        tried_on: domains of the held-out pictures, with spaces between.
        noise_std: per coordinate; the supervised captioner is trained without.
        seed: of weights, order and noise.
        n_scenes: whose neutral captions are read, five each.
        n_steps: steps of a styled captioner's training, which reads its captions in turn; None: passes through all,
            five alone and two after another captioner.
        n_test: held-out pictures of a domain; None: all.

    Returns:
        Domain -> a caption for each held-out picture.
    """
    task, away = load(preset="tiny", n_scenes=n_scenes), Away()
    seen = {name: task.embedder.embed_images(away.pictures(name, n_test)) for name in tried_on.split()}
    if learns_from == "retrieval":
        known = texts_of(task, domain, register)
        rows = {name: gap.TextMemory(known.embeddings).nearest(x)[0][:, 0].tolist() for name, x in seen.items()}
        return {name: [known.texts[row] for row in nearest] for name, nearest in rows.items()}
    neutral = {
        source: {"learns_from": source, "noise_std": std, "seed": seed, "n_scenes": n_scenes}
        for source, std in {"texts": noise_std, "pictures": 0.0}.items()
    }
    if (domain, register) == ("print", "neutral"):
        captioner = captioners.load(SHIPPED) if after == "shipped" else trained(**neutral[learns_from])[1]
    else:
        start = kept(**neutral[after]) if after in neutral else SHIPPED if after == "shipped" else None
        settings = recipe.SETTINGS if register == "neutral" else ALONE if after is None else FINE_TUNE
        data = texts_of(task, domain, register)
        captioner = reading(data, noise_std=noise_std, settings=settings, seed=seed, start=start, n_steps=n_steps)
    return {name: captioner(x, max_tokens=recipe.MAX_TOKENS) for name, x in seen.items()}


def texts_of(task: Task, domain: str, register: str) -> training.Pairs:
    """The texts of a domain, or of a register, that a captioner reads or looks up."""
    if register == "neutral":
        n_scenes = max(task.spoken.scene_of) + 1
        return said(n_scenes, clip=task.embedder, seed=task.seed, domain=domain, cache=CACHE).pairs()
    corpus = Away().style_split(register)[0]
    texts = [caption.text for caption in corpus]
    return training.Pairs(task.embedder.embed_texts(texts), texts, key=corpus.sha256)


def kept(**job: Any) -> Path:
    """The folder of a captioner of `trained`, trained if need be."""
    _, captioner, _ = trained(**job)
    place = folder("captioner", job)
    if not (place / "card.json").is_file():  # written last
        captioners.save(place, captioner, card=job)
    return place


def reading(
    data: training.Pairs,
    *,
    noise_std: float,
    settings: training.Settings,
    seed: int,
    start: Path | None = None,
    n_steps: int | None = None,
) -> Captioner:
    """Train a tiny captioner on texts, or find it trained.

    Args:
        data: texts and embeddings; its key names them.
        noise_std: per coordinate.
        settings: of the training.
        seed: of weights, order and noise.
        start: folder of a captioner to go on from; None: the tiny GPT-2.
        n_steps: read the texts in turn, for so many steps; None: `settings.n_epochs` times.
    """
    if data.key is None:
        raise ValueError(
            "data must have a key that names texts and embeddings, or another training would be taken for it"
        )
    if n_steps is not None:
        rows = [row % len(data) for row in range(settings.batch_size * n_steps)]
        data = training.Pairs(data.embeddings[rows], [data.texts[row] for row in rows], key=data.key)
        settings = dataclasses.replace(settings, n_epochs=1)
    decoder, targets = recipe.new_decoder(data.embeddings, seed=seed, start=start)
    begun = None if start is None else results.sha256_file(start / "model.safetensors")
    place = folder(data.key, len(data), begun, noise_std, dataclasses.asdict(settings), seed)
    training.train(
        decoder, data, targets=targets, folder=place, rng=torch.Generator().manual_seed(seed), settings=settings,
        noise=recipe.gaussian(noise_std), progress=False,
    )  # fmt: skip
    return Captioner(decoder, targets.tokenizer)


def folder(*what: Any) -> Path:
    """Where one training lies: other data, settings, weights or versions get another folder."""
    state = [*what, [results.sha256_file(path) for path in FILES], results.versions()]
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]
    return results.REPO / "runs" / "captioners" / digest
