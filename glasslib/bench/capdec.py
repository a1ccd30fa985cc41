"""What noise does for captioning from text alone, on the tiny world: CapDec's Figs. 3 and 4 and other arms.

Three seeds of each system. The best amount and the best arm are chosen on held-out scenes of their own, and all
numbers are of others. What is done is kept in runs/bench, so that a stop loses one training at most.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from glasslib import metrics, results
from glasslib.bench import capdec_jobs as work
from glasslib.bench import capdec_scores as scoring
from glasslib.bench.capdec_scores import Scores, System
from glasslib.bench.tiny_searches import write
from glasslib.tinyworld import models

SEEDS = (0, 1, 2)
OTHER_ARMS = (
    *(("capdec", source) for source in work.SOURCES if source not in ("image", "text")),
    ("covariance", "image"),
)
GALLERY = 8  # held-out scenes whose captions are kept at every amount of noise


def levels(estimates: dict[str, float]) -> list[float]:
    """Variances to train at: none, what captions suggest, and less and more than the smaller of that."""
    low, high = sorted(estimates.values())
    return [0.0, *sorted(float(f"{v:.3g}") for v in {low / 3, low, high, 10 * low})]


def ten_times(variance: float, variances: Sequence[float]) -> float:
    """Ten times as much noise: the least amount trained at that is no less, or else exactly that."""
    exact = float(f"{10 * variance:.3g}")
    return min((v for v in variances if exact <= v <= 2 * exact), default=exact)


def bench_capdec() -> None:
    """Measure capdec.* and write results/bench_capdec/."""
    torch.set_num_threads(1)  # as in every job of the bench
    estimates = work.estimates()
    rows, best = sweep(levels(estimates))
    given, rng = work.held_out(), np.random.default_rng(0)
    systems = scoring.captions_of(rows)
    options = {"world": given.world, "references": given.references}
    select = scoring.score(systems, **options, first=0, last=work.N_SELECT)
    test = scoring.score(systems, **options, first=work.N_SELECT, last=work.N_SELECT + work.N_TEST)
    arms = [scoring.best(select, arm=arm, source=source) for arm, source in OTHER_ARMS]
    winner = max(arms, key=lambda system: scoring.cider(select, system))
    supervised = max(
        (("clipcap", 0.0, source) for source in ("image", "reranked")), key=lambda s: scoring.cider(select, s)
    )
    found = noise_numbers(test, best, estimates, rng=rng) | published_numbers(test, best, rng=rng)
    found |= arm_numbers(test, best, arms, winner, supervised, rng=rng)
    found["time.captioner_min"] = _training_time()
    tables = {"noise": scoring.table(test, rng=rng), "validation": [row for row in rows if row["source"] == "curve"]}
    shown = {best, winner, ("clipcap", 0.0, "image"), supervised, ("retrieval", 0.0, "image")}
    tables["captions"] = _kept(rows, shown)
    tables["gallery"] = [
        row for row in rows if row["source"] == "image" and row["seed"] == 0
        and work.N_SELECT <= row["scene"] < work.N_SELECT + GALLERY
    ]  # fmt: skip
    params = {
        "seeds": SEEDS,
        "held_out": work.HELD_OUT,
        "n_select": work.N_SELECT,
        "n_test": work.N_TEST,
        "estimates": estimates,
    }
    params |= {"best_variance": best[1], "best_arm": winner, "supervised": supervised, "n_training": 5 * work.N_SCENES}
    params |= {"training": dataclasses.asdict(work.SETTINGS), "stretch": work.STRETCH}
    write("bench_capdec", params, found, tables)


def sweep(variances: list[float]) -> tuple[list[dict], System]:
    """Train everything, or find it trained; rows of `capdec_jobs`, and CapDec's best amount of noise."""

    def jobs(arm: str, wanted: list[float], seeds: Sequence[int] = SEEDS) -> list[dict[str, Any]]:
        return [{"arm": arm, "variance": variance, "seed": seed} for seed in seeds for variance in wanted]

    rows = []
    for seed in SEEDS:  # one after the other, so that a first curve is there early
        rows += run(work.level, jobs("capdec", variances, [seed]))
    given, systems = work.held_out(), scoring.captions_of(rows)
    images = {system: texts for system, texts in systems.items() if system[2] == "image"}
    select = scoring.score(images, world=given.world, references=given.references, first=0, last=work.N_SELECT)
    best = scoring.best(select, arm="capdec", source="image", noisy=True)
    ten = ten_times(best[1], variances)
    rows += run(work.level, jobs("capdec", [] if ten in variances else [ten]))
    rows += run(work.level, jobs("clipcap", [0.0]))
    controls = [("clipcap", best[1]), ("clipcap", ten), ("covariance", best[1]), ("longer", best[1]), ("longer", ten)]
    rows += run(work.level, [job for arm, variance in controls for job in jobs(arm, [variance])])
    return rows + work.retrieved(), best


def run(function: Callable[..., list[dict]], jobs: Sequence[dict]) -> list[dict]:
    """The rows of all jobs, one after the other in this process; what an earlier run finished is not done again."""
    rows = []
    for job in tqdm(jobs, desc=f"capdec {function.__name__}"):
        path = work.folder() / f"{function.__name__}-{'-'.join(str(value) for value in job.values())}.json"
        if not path.is_file():
            results.write_json_atomic(path, function(**job))
        rows += json.loads(path.read_text(encoding="utf-8"))
    return rows


def noise_numbers(test: Scores, best: System, estimates: dict[str, float], *, rng: np.random.Generator) -> dict:
    """What noise does: the rising and the falling arm, the estimates from captions, reconstruction, supervision."""
    at = {
        system[1]: scores["CIDEr"] for system, scores in test.items() if system[0] == "capdec" and system[2] == "image"
    }
    gain = metrics.ratio(at[best[1]], at[0.0], rng=rng)
    found = {
        "capdec.noise_gain": results.metric(
            gain["value"] - 1, n=gain["n"], unit="ratio - 1", ci=[end - 1 for end in gain["ci"]]
        ),
        "capdec.noise_fall": metrics.ratio(at[ten_times(best[1], sorted(at))], at[best[1]], rng=rng),
        "capdec.estimate_linf": metrics.ratio(at[estimates["linf"]], at[best[1]], rng=rng),
        "capdec.estimate": metrics.ratio(at[estimates["angle"]], at[best[1]], rng=rng),
        "capdec.reconstruction": scoring.slope(test, arm="capdec", source="text", rng=rng),
        "capdec.clipcap_noise": scoring.slope(test, arm="clipcap", source="image", rng=rng),
    }
    ten = ten_times(best[1], sorted(at))
    longer = {variance: test["longer", variance, "image"]["CIDEr"] for variance in (best[1], ten)}
    found["capdec.noise_fall_longer"] = metrics.ratio(longer[ten], longer[best[1]], rng=rng)
    found["capdec.longer_at_best"] = metrics.ratio(longer[best[1]], at[best[1]], rng=rng)
    found["capdec.longer_at_ten"] = metrics.ratio(longer[ten], at[ten], rng=rng)
    return found


def published_numbers(test: Scores, best: System, *, rng: np.random.Generator) -> dict:
    """CapDec as published at its best noise, beside the supervised captioner, retrieval, and people."""
    nearest, supervised = test["retrieval", 0.0, "image"], test["clipcap", 0.0, "image"]
    return {
        "capdec.reference_recall": metrics.corpus(nearest["reference_recall"], rng=rng),
        "capdec.retrieval_cider": metrics.corpus(nearest["CIDEr"], rng=rng),
        "capdec.retrieval_precision": metrics.corpus(nearest["precision"], rng=rng),
        "capdec.clipcap_cider": metrics.corpus(supervised["CIDEr"], rng=rng),
        "capdec.clipcap_precision": metrics.corpus(supervised["precision"], rng=rng),
        **_against("capdec.", test[best], supervised, nearest, rng=rng),
    }


def arm_numbers(
    test: Scores, best: System, arms: Sequence[System], winner: System, supervised: System, *, rng: np.random.Generator
) -> dict:
    """Other ways across the gap and out of the beams, relative to CapDec as published; and all numbers of the winner.

    Args:
        test: of all systems.
        best: CapDec as published.
        arms: each at its best noise.
        winner: of the arms, by the scenes for choosing.
        supervised: the captioner the winner is compared with, its own way out of the beams chosen likewise.
        rng: of the intervals.
    """
    plain = test[best]["CIDEr"]
    found = {"capdec.best_arm": metrics.ratio(test[winner]["CIDEr"], plain, rng=rng)}
    found |= _against("capdec.best_arm_", test[winner], test[supervised], test["retrieval", 0.0, "image"], rng=rng)
    for system in arms:
        name = system[2] if system[0] == "capdec" else system[0]
        found[f"capdec.arm.{name}"] = metrics.ratio(test[system]["CIDEr"], plain, rng=rng)
    return found


def _against(prefix: str, mine: dict, supervised: dict, nearest: dict, *, rng: np.random.Generator) -> dict:
    """A system's own numbers, and beside the supervised captioner and retrieval."""
    return {
        f"{prefix}cider": metrics.corpus(mine["CIDEr"], rng=rng),
        f"{prefix}precision": metrics.corpus(mine["precision"], rng=rng),
        f"{prefix}recall": metrics.corpus(mine["recall"], rng=rng),
        f"{prefix}vs_clipcap": metrics.ratio(mine["CIDEr"], supervised["CIDEr"], rng=rng),
        f"{prefix}vs_retrieval": metrics.difference(mine["CIDEr"], nearest["CIDEr"], rng=rng),
        f"{prefix}precision_vs_retrieval": metrics.difference(mine["precision"], nearest["precision"], rng=rng),
    }


def _training_time() -> dict[str, Any]:
    """Minutes of one core that the shipped captioner's recipe took from nothing, as its card has them."""
    card = json.loads((models.WEIGHTS / "captioner" / "card.json").read_text(encoding="utf-8"))
    return results.metric(card["cpu_time_s"] / 60, n=1, unit="min of one core")


def _kept(rows: list[dict], systems: set[System]) -> list[dict]:
    """The test captions of these systems; the arm of a source other than the picture as it is names that too."""
    return [
        row | {"arm": row["arm"] if row["source"] == "image" else f"{row['arm']} {row['source']}"} for row in rows
        if row["source"] != "curve" and (row["arm"], row["variance"], row["source"]) in systems
        and row["scene"] >= work.N_SELECT
    ]  # fmt: skip
