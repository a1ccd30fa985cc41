"""From captions of held-out scenes to numbers: what each system scored, which is best, and how they compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glasslib import metrics
from glasslib.metrics import CorpusMetric
from glasslib.tinyworld import faithfulness, scenes

System = tuple[str, float, str]  # arm, noise variance, source: what was trained, and what it was given
Scores = dict[System, dict[str, list[CorpusMetric]]]  # name -> one metric a seed
KEPT = ("CIDEr", "BLEU-4", "ROUGE-L")


def captions_of(rows: Sequence[Mapping[str, Any]]) -> dict[System, dict[int, list[str]]]:
    """Each system's captions by seed, in the scenes' order."""
    found: dict[System, dict[int, dict[int, str]]] = {}
    for row in rows:
        if row["source"] != "curve":
            system = (row["arm"], row["variance"], row["source"])
            found.setdefault(system, {}).setdefault(row["seed"], {})[row["scene"]] = row["caption"]
    return {
        system: {seed: [texts[i] for i in sorted(texts)] for seed, texts in seeds.items()}
        for system, seeds in found.items()
    }


def score(
    systems: Mapping[System, Mapping[int, Sequence[str]]],
    *,
    world: scenes.Scenes,
    references: Sequence[Sequence[str]],
    first: int,
    last: int,
) -> Scores:
    """Score the captions of the scenes first..last - 1: text metrics without Java, attributes exactly.

    Args:
        systems: as `captions_of` gives.
        world: all held-out scenes.
        references: what five people say of each.
        first, last: which of them count; CIDEr's word weights come from these alone.

    Returns:
        For each system, by name, a metric for each seed, a row a scene.
    """
    named = {
        (system, seed): list(texts[first:last]) for system, seeds in systems.items() for seed, texts in seeds.items()
    }
    truths, part = list(references[first:last]), world[np.arange(first, last)]
    ids = {f"{i}": key for i, key in enumerate(named)}
    predictions = {i: dict(enumerate(named[key])) for i, key in ids.items()}
    written = metrics.evaluate_many(predictions, dict(enumerate(truths)), java_runtime=None)
    found: Scores = {}
    for i, (system, _) in ids.items():
        attributes = faithfulness.attribute_metrics(named[ids[i]], part, references=truths)
        both = {name: written[i].metrics[name] for name in KEPT} | attributes
        for name, metric in both.items():
            found.setdefault(system, {}).setdefault(name, []).append(metric)
    return found


def cider(scores: Scores, system: System) -> float:
    """A system's CIDEr, averaged over its seeds."""
    return float(np.mean([metric.value for metric in scores[system]["CIDEr"]]))


def best(scores: Scores, *, arm: str, source: str, noisy: bool = False) -> System:
    """The amount of noise at which an arm has the highest CIDEr; `noisy`: of those above 0."""
    mine = [system for system in scores if system[0] == arm and system[2] == source and (system[1] or not noisy)]
    return max(mine, key=lambda system: cider(scores, system))


def slope(scores: Scores, *, arm: str, source: str, rng: np.random.Generator) -> dict[str, Any]:
    """How CIDEr changes with the noise: the least-squares slope over all levels, in CIDEr per unit of noise_std.

    The slope of mean CIDErs is the mean of each scene's own slope, and the interval is over scenes.
    """
    levels = sorted(system for system in scores if system[0] == arm and system[2] == source)
    std = np.sqrt([variance for _, variance, _ in levels])
    centred = std - std.mean()
    of_scene = [np.mean([seed.per_image for seed in scores[system]["CIDEr"]], axis=0) for system in levels]
    return metrics.mean(centred @ np.stack(of_scene) / (centred @ centred), unit="CIDEr per noise_std", rng=rng)


def table(scores: Scores, *, rng: np.random.Generator) -> list[dict[str, Any]]:
    """A row a system: CIDEr with its interval and each seed's own, and what share of its attributes is true."""
    rows = []
    for system in sorted(scores):
        mine = scores[system]
        found = {name: metrics.corpus(mine[name], rng=rng) for name in ("CIDEr", "precision", "recall")}
        row = dict(zip(("arm", "variance", "source"), system, strict=True))
        row |= {"n": found["CIDEr"]["n"], "n_seeds": len(mine["CIDEr"])}
        for name, entry in found.items():
            low, high = entry["ci"] or (entry["value"],) * 2
            row |= {name.lower(): entry["value"], f"{name.lower()}_low": low, f"{name.lower()}_high": high}
        row["parses"] = float(np.mean([metric.value for metric in mine["parses"]]))
        row["cider_of_seeds"] = " ".join(f"{metric.value:.4f}" for metric in mine["CIDEr"])
        rows.append(row)
    return rows
