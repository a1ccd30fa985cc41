"""Sweep jobs of notebooks 02, 03 and 04: a search for each of many held-out targets, all of a job in lock step.

The tiny models are loaded anew in each job, so that what one job leaves in a cache cannot reach another's last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from glasslib import metrics, sweep
from glasslib.presets import truth
from glasslib.presets.search import Preset, load
from glasslib.search import loop
from glasslib.tinyworld import captions, models


def weights_of(*names: str) -> list[Path]:
    """The weights files of tiny models, which a sweep's results depend on."""
    return [path for name in names for path in sorted((models.WEIGHTS / name).glob("*.safetensors"))]


@sweep.job(version=1, seconds=240)
def find_pictures(
    *, preset: str, method: str, seed: int, n_targets: int, n_generations: int, encoding: str | None = None
) -> list[dict]:
    """Find a picture for each held-out caption.

    Args:
        preset: a picture generator's.
        method: a key of SEARCHES. "random" draws once for all captions, as no caption steers it: its pictures are then
            a bank that every caption picks from, which favours it a little.
        seed: search i draws from default_rng([seed, i]).
        n_targets: captions.
        n_generations: of the preset's population.
        encoding: a key of ENCODINGS, of a BigGAN; None: the preset's own.

    Returns:
        A row a caption: the winner's CLIP score; for each attribute whether the oracle finds what is named, where the
        truth is known; with an `encoding`, also the largest class weight of the winner.
    """
    setup = load(preset)
    setup = setup if encoding is None else setup.encoded(encoding)
    world = truth.of(setup.name, setup.prompts)
    texts = world.captions(n_targets)
    draw = _best_of_random if method == "random" else _evolved
    x, scores = draw(setup, texts, method=method, seed=seed, n_generations=n_generations)
    arm, mass = {"method": method}, [{}] * len(texts)
    if encoding is not None:
        arm = {"encoding": encoding}
        weights = setup.generator.classes.weights(setup.generator.latent_space.split(x)[1])
        mass = [{"mass": float(value)} for value in weights.max(axis=1)]
    shown = world.shows(setup.make(x), texts)
    return [
        arm | {"seed": seed, "caption": text, "score": float(scores[i])} | mass[i]
        | {name: bool(hits[i]) for name, hits in shown.items()}
        for i, text in enumerate(texts)
    ]  # fmt: skip


def _evolved(setup: Preset, texts: Sequence[str], *, method: str, seed: int, n_generations: int) -> tuple:
    searches = [setup.search(method, rng=np.random.default_rng([seed, i])) for i in range(len(texts))]
    searched = loop.run_many(searches, setup.scores_many(texts), n_generations=n_generations, progress=False)
    return np.stack([result.best.x for result in searched]), np.array([result.best.score for result in searched])


@torch.inference_mode()
def _best_of_random(setup: Preset, texts: Sequence[str], *, method: str, seed: int, n_generations: int) -> tuple:
    x = setup.generator.latent_space.sample(setup.popsize * n_generations, rng=np.random.default_rng([seed, 0]))
    wanted = setup.embedder.embed_texts(texts)
    similarity = (setup.embedder.embed_images(setup.make(x)) @ wanted.T).cpu()  # (pictures, captions)
    return x[similarity.argmax(dim=0).numpy()], similarity.amax(dim=0).numpy()


@sweep.job(version=1, seconds=100)
def find_captions(*, preset: str, seed: int, first: int, n: int, n_generations: int, n_pictures: int) -> list[dict]:
    """Evolve a caption for each of n held-out pictures of the tiny world, from number `first` on of `n_pictures`.

    Returns:
        A row a picture: its caption, whether it parses, how many attributes it names, and how many of them are true.
    """
    setup, world = load(preset), truth.TinyWorld()
    pictures, scenes = world.pictures(n_pictures)
    chosen = range(first, first + n)
    searches = [setup.search("GA", rng=np.random.default_rng([seed, i])) for i in chosen]
    evaluate = setup.scores_many(pictures[first : first + n])
    searched = loop.run_many(searches, evaluate, n_generations=n_generations, progress=False)
    rows = []
    for i, text in zip(chosen, setup.make(np.stack([result.best.x for result in searched])), strict=True):
        true, named = world.count(text, scenes[i : i + 1])
        rows.append({"seed": seed, "picture": i, "caption": text, "parses": captions.parses(text)})
        rows[-1] |= {"named": named, "true": true}
    return rows


def hits(rows: Sequence[dict], attribute: str, **arm) -> np.ndarray:
    """(seeds, targets) values of one arm of a sweep: the column `attribute` of the rows in which `arm` holds.

    Raises:
        ValueError: no such rows, or seeds with different numbers of targets.
    """
    mine = [row for row in rows if all(row[key] == value for key, value in arm.items())]
    seeds = [
        [float(row[attribute]) for row in mine if row["seed"] == seed] for seed in {row["seed"]: 0 for row in mine}
    ]
    if not seeds or len({len(values) for values in seeds}) > 1:
        raise ValueError(f"an arm needs rows, as many of each seed, got {list(map(len, seeds))} of {arm}")
    return np.array(seeds)


def shares(rows: Sequence[dict], arms: dict[str, dict]) -> dict[str, dict[str, dict]]:
    """For each arm (name -> the columns it is told by) and attribute: the share found, its interval over targets."""
    found = {}
    for name, arm in arms.items():
        rng = np.random.default_rng(0)
        found[name] = {key: metrics.repeated_share(hits(rows, key, **arm), rng=rng) for key in truth.ATTRIBUTES}
    return found
