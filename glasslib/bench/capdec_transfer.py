"""CapDec away from where it learned: pictures of another domain, captions in another register.

`make bench`, part capdec_transfer: CapDec's Tables 1B and 2 on the tiny world, into results/bench_capdec_transfer/.
A job is one training, or one look-up for retrieval, and the captions it then gives held-out pictures. Trainings are
kept in runs/bench and go on where they were stopped. Style follows the protocol of FlickrStyle10K: one
caption a picture and register, six sevenths to learn from, the last seventh to be captioned.
Source: Nukrai et al. 2022 (CapDec), sections 4.2 and 4.3, https://arxiv.org/abs/2211.00575.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glasslib import results
from glasslib.bench import capdec_jobs as home
from glasslib.bench import capdec_transfer_tables as tables
from glasslib.bench import tiny_searches
from glasslib.bench.capdec_transfer_tables import Trial
from glasslib.captioning import captioner as captioners
from glasslib.captioning import gap, training
from glasslib.captioning.captioner import Captioner
from glasslib.captioning.corpus import Corpus
from glasslib.tinyworld import captions, scenes
from glasslib.tinyworld.recipes import captioner as recipe
from glasslib.tinyworld.recipes.said import CACHE, CLIP_FILE, ZIPF, said
from glasslib.tinyworld.scenes import Scenes
from glasslib.tinyworld.wording import REGISTERS

SEEDS = (0, 1, 2)
HELD_OUT = 60_000  # the seed of scenes that no recipe draws
N_STYLED = 3_500  # pictures with one caption in each register; FlickrStyle10K has 7,000
TRAIN_SHARE = 6 / 7
N_HELD_OUT = 500  # pictures of the second domain
ALONE = dataclasses.replace(home.SETTINGS, n_epochs=5, warmup_steps=50)  # on 3,000 captions
FINE_TUNE = dataclasses.replace(home.SETTINGS, n_epochs=2, warmup_steps=30, learning_rate=1e-3)


@dataclass(frozen=True)
class Arm:
    """What a captioner learns from, and which pictures it is tried on.

    Attributes:
        method: "CapDec" learns from texts alone, "ClipCap" from pictures with their texts, "retrieval" answers with
            the nearest of the texts (CLIPRe).
        domain: of the scenes whose texts it reads.
        register: of the texts.
        start: the arm whose captioner is fine-tuned; None: from the tiny GPT-2.
        tried_on: domains of the held-out pictures.
    """

    method: str = "CapDec"
    domain: str = "print"
    register: str = "neutral"
    start: str | None = None
    tried_on: tuple[str, ...] = ("print",)


BOTH = scenes.DOMAINS
ARMS = {
    "print": Arm(tried_on=BOTH),
    "neon": Arm(domain="neon", tried_on=BOTH),
    "clipcap": Arm("ClipCap", tried_on=BOTH),
    "retrieval_print": Arm("retrieval", tried_on=BOTH),
    "retrieval_neon": Arm("retrieval", domain="neon", tried_on=BOTH),
}
for _register in REGISTERS[1:]:
    ARMS[f"{_register}_alone"] = Arm(register=_register)
    ARMS[f"{_register}_after_texts"] = Arm(register=_register, start="print")
    ARMS[f"{_register}_after_pairs"] = Arm(register=_register, start="clipcap")
    ARMS[f"{_register}_retrieval"] = Arm("retrieval", register=_register)


@functools.cache
def variance() -> float:
    """Of the noise, per coordinate: what the angle between paraphrases suggests, from texts alone."""
    return home.estimates()["angle"]


@functools.cache
def styled_scenes() -> Scenes:
    """The N_STYLED scenes that have a caption in every register."""
    return scenes.sample(N_STYLED, rng=np.random.default_rng(HELD_OUT))


def style_split(register: str) -> tuple[Corpus, Corpus]:
    """The captions of one register to learn from and those held out; both name the same scenes for every register."""
    rng = np.random.default_rng([HELD_OUT, REGISTERS.index(register)])
    texts = captions.describe(styled_scenes(), rng=rng, register=register, zipf=ZIPF)
    return Corpus.from_texts(texts, name=register).divide(TRAIN_SHARE, rng=np.random.default_rng(HELD_OUT))


@functools.cache
def held_out(domain: str) -> Scenes:
    """The scenes whose pictures are captioned: of "print" the last seventh of the styled ones."""
    if domain != "print":
        return scenes.sample(N_HELD_OUT, rng=np.random.default_rng(HELD_OUT + 1), domain=domain)
    return styled_scenes()[np.array([int(caption.image_id) for caption in style_split("neutral")[1]])]


def references(domain: str, register: str) -> list[list[str]]:
    """What five people say of each held-out scene."""
    rng = np.random.default_rng([HELD_OUT + 2, scenes.DOMAINS.index(domain), REGISTERS.index(register)])
    return captions.describe_by_all(held_out(domain), rng=rng, register=register, zipf=ZIPF)


def pictures(world: Scenes) -> Tensor:
    """(n, 3, 64, 64) RGB in [0, 1] of held-out scenes."""
    return scenes.render(world, rng=torch.Generator().manual_seed(HELD_OUT))


def lesson(arm: Arm) -> training.Pairs:
    """The texts that an arm reads or looks up, and their embeddings."""
    if arm.register == "neutral":
        options = {"clip": home.clip(), "seed": home.SEED, "domain": arm.domain, "cache": CACHE}
        return said(home.N_SCENES, **options).pairs()
    corpus = style_split(arm.register)[0]
    texts = [caption.text for caption in corpus]
    return training.Pairs(
        home.clip().embed_texts(texts), texts, key=f"{corpus.sha256} {results.sha256_file(CLIP_FILE)}"
    )


def folder() -> Path:
    """Where trainings are kept; other weights or settings get another folder."""
    state = [
        home.folder().name,
        recipe.PREFIX_LENGTH,
        dataclasses.asdict(ALONE),
        dataclasses.asdict(FINE_TUNE),
        N_STYLED,
        variance(),
    ]
    return results.REPO / "runs" / "bench" / f"transfer-{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]}"


def trained(name: str, *, seed: int) -> Captioner:
    """Train the captioner of an arm, or go on with it, or load it.

    Args:
        name: of ARMS.
        seed: of weights, order and noise.
    """
    arm, mine = ARMS[name], folder() / f"{name}-{seed}"
    if (mine / "captioner" / "card.json").is_file():  # written last
        return captioners.load(mine / "captioner")
    if arm.register != "neutral":
        if arm.start is not None:
            trained(arm.start, seed=seed)
        start = None if arm.start is None else folder() / f"{arm.start}-{seed}" / "captioner"
        settings = ALONE if arm.start is None else FINE_TUNE
        captioner, log = _fit(lesson(arm), mine, seed=seed, settings=settings, start=start)
    elif arm.domain == "print":  # those of capdec.py: trained there, or here
        captioner, log = home.trained(*(("clipcap", 0.0) if arm.method == "ClipCap" else ("capdec", variance())), seed)
    else:
        captioner, log = _fit(lesson(arm), mine, seed=seed, settings=home.SETTINGS)
    captioners.save(mine / "captioner", captioner, card={"arm": dataclasses.asdict(arm), "seed": seed, "log": log})
    return captioner


def _fit(data: training.Pairs, mine: Path, *, seed: int, settings: training.Settings, start: Path | None = None):
    noise = recipe.gaussian(variance() ** 0.5)
    return recipe.fit(data, folder=mine, seed=seed, noise=noise, settings=settings, start=start, progress=False)


def caption(name: str, seed: int) -> list[dict]:
    """One job: train an arm and caption the held-out pictures.

    Returns:
        A row a picture: arm, seed, domain, picture, caption.
    """
    arm, rows = ARMS[name], []
    captioner = None if arm.method == "retrieval" else trained(name, seed=seed)
    for domain in arm.tried_on:
        seen = home.clip().embed_images(pictures(held_out(domain)))
        if captioner is None:
            known = lesson(arm)
            nearest, _ = gap.TextMemory(known.embeddings).nearest(seen)
            texts = [known.texts[row] for row in nearest[:, 0].tolist()]
        else:
            texts = captioner(seen, max_tokens=recipe.MAX_TOKENS)
        common = {"arm": name, "seed": seed, "domain": domain}
        rows += [{**common, "picture": i, "caption": text} for i, text in enumerate(texts)]
    return rows


def trials() -> list[Trial]:
    """What is scored against what: each arm against people of its register, the neutral ones against the others too."""
    found = [Trial(name, domain, arm.register) for name, arm in ARMS.items() for domain in arm.tried_on]
    return found + [Trial(name, "print", register) for name in ("print", "clipcap") for register in REGISTERS[1:]]


def scored(rows: list[dict]) -> tuple[dict, dict]:
    """The numbers claimed and the tables, from the rows of all jobs."""
    judge, right = tables.register_judge()
    worlds = {domain: held_out(domain) for domain in scenes.DOMAINS}
    scored = tables.measure(rows, trials(), worlds=worlds, references=references, judge=judge)
    found = {"style.classifier": right, **tables.claims(scored)}
    return found, {"scores": tables.score_rows(scored), "captions": tables.caption_rows(rows, worlds)}


def jobs(*, fine_tuned: bool) -> list[dict]:
    """Arms and seeds, seed by seed; retrieval has nothing that a seed could change."""
    found = []
    for seed in SEEDS:
        for name, arm in ARMS.items():
            if (arm.start is not None) == fine_tuned and (arm.method != "retrieval" or seed == SEEDS[0]):
                found.append({"name": name, "seed": seed})
    return found


def bench_capdec_transfer() -> None:
    """Measure capdec.cross_domain* and style.*, and write results/bench_capdec_transfer/."""
    rows = []
    for fine_tuned in (False, True):  # what others go on from comes first
        wanted = jobs(fine_tuned=fine_tuned)
        rows += tiny_searches.run_jobs(caption, wanted, name=folder().name, weights=("clip", "gpt2"), n_workers=1)
    found, written = scored(rows)
    params = {"seeds": SEEDS, "n_styled": N_STYLED, "train_share": TRAIN_SHARE, "n_held_out": N_HELD_OUT}
    params |= {"n_training": 5 * home.N_SCENES, "variance": variance()}
    params |= {"alone": dataclasses.asdict(ALONE), "fine_tune": dataclasses.asdict(FINE_TUNE)}
    tiny_searches.write("bench_capdec_transfer", params, found, written)
