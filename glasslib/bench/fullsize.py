"""How much faster ours is than the plain way, at full size with random weights: `python -m glasslib.bench fullsize`.

Both run in one process and on one thread, turn about, and the clock is that process's CPU time, so that other work on
the machine disturbs a ratio little. No part counts unless both ways gave the same. A part that is done is kept in
runs/bench, so that a stop loses one part; results/ is written after every part.
"""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from glasslib import results
from glasslib.bench import contests
from glasslib.bench.tiny_searches import run_jobs, write
from glasslib.checks import check_shape

FOLDER = "bench_fullsize"
REPETITIONS = 5
TOLERANCE = 1e-3  # of the plain way's standard deviation; float32 through a whole network
PARTS = tuple(contests.CONTESTS)
TIMED = (  # a change of these is measured anew
    *("generators/*/layers.py", "generators/*/networks.py", "generators/gpt2.py", "clip/embedder.py", "clip/fast.py"),
    *("bench/contests.py", "bench/published_*.py"),
)


def measure(part: str, *, repetitions: int = REPETITIONS) -> list[dict]:
    """Time a contest.

    Returns:
        A row a way and repetition: CPU seconds, and how far ours is from what it must equal (None for the reference).

    Raises:
        ValueError: ours is not the function that the plain way computes.
    """
    contest = contests.CONTESTS[part]()
    rows = []
    with torch.inference_mode():
        wanted = {name: way() for name, way in contest.wanted.items()}
        for repetition in range(repetitions):
            result, seconds = timed(contest.reference)
            same = {"part": part, "repetition": repetition}
            rows.append({**same, "way": "reference", "cpu_s": seconds, "deviation": None})
            for name, way in contest.ours.items():
                found, seconds = timed(way)
                apart = max(map(contests.deviation, found, wanted.get(name, result)))
                if not apart <= TOLERANCE:
                    raise ValueError(
                        f"{name} must equal the reference within {TOLERANCE} of its deviation, got {apart}"
                    )
                rows.append({**same, "way": name, "cpu_s": seconds, "deviation": apart})
    return rows


def timed(work: Callable) -> tuple:
    """What `work` returns, and the CPU seconds that this process spent on it."""
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def ratio_of_medians(ours: np.ndarray, reference: np.ndarray, *, rng: np.random.Generator) -> dict:
    """median(ours) / median(reference) as a metric, with its 95 % interval over resampled repetitions.

    Args:
        ours: (n,) seconds.
        reference: (n,) seconds of the same repetitions, which are drawn together.
        rng: draws the resamples.
    """
    check_shape(ours, "ours", "n")
    check_shape(reference, "reference", str(len(ours)))
    drawn = rng.integers(len(ours), size=(2000, len(ours)))
    ratios = np.median(ours[drawn], axis=1) / np.median(reference[drawn], axis=1)
    value = np.median(ours) / np.median(reference)
    return results.metric(value, n=len(ours), unit="ratio", ci=np.percentile(ratios, [2.5, 97.5]))


def ratios(rows: list[dict]) -> dict:
    """Every way of ours over the reference of its part: id -> metric."""
    found = {}
    for name in dict.fromkeys(row["way"] for row in rows if row["way"] != "reference"):
        ours = [row for row in rows if row["way"] == name]
        reference = [row for row in rows if row["way"] == "reference" and row["part"] == ours[0]["part"]]
        seconds = (np.array([row["cpu_s"] for row in way]) for way in (ours, reference))
        found[name] = ratio_of_medians(*seconds, rng=np.random.default_rng(0))
    return found


def machine() -> dict:
    """What the clock depends on: the processor and how many cores there are."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": named[0] if named else platform.machine(), "cores": os.cpu_count(), "threads_used": 1}


def earlier_rows() -> dict[str, list[dict]]:
    """What results/bench_fullsize/ holds from earlier runs: part -> rows as `measure` gives them."""
    path = results.REPO / "results" / FOLDER / "seconds.csv"
    found: dict[str, list[dict]] = {}
    if path.is_file():
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            deviation = float(row["deviation"]) if row["deviation"] else None
            numbers = {"repetition": int(row["repetition"]), "cpu_s": float(row["cpu_s"]), "deviation": deviation}
            found.setdefault(row["part"], []).append({**row, **numbers})
    return found


def bench_fullsize(parts: Sequence[str] = PARTS) -> None:
    """Measure bench.* part by part, the quickest first, and write results/bench_fullsize/ after each.

    Parts whose turn has not come, or that are not among `parts`, keep what an earlier run wrote.
    """
    package = Path(__file__).parents[1]
    sources = sorted(path for pattern in TIMED for path in package.glob(pattern))
    for part in parts:
        job = {"part": part, "repetitions": REPETITIONS}
        new = run_jobs(measure, [job], name="fullsize", files=sources, n_workers=1)
        known = earlier_rows() | {part: new}
        rows = [row for each in PARTS for row in known.get(each, [])]
        params = {"repetitions": REPETITIONS, "population": contests.POPULATION, "machine": machine()}
        params |= {"clock": "CPU seconds of one thread", "tolerance": TOLERANCE, "weights": "random"}
        write(FOLDER, params, ratios(rows), {"seconds": rows})
