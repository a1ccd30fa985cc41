"""What the clock says: the make targets, the search's own overhead, and whether figures repeat byte for byte."""

from __future__ import annotations

import os
import subprocess
import time

import numpy as np
import torch

from glasslib import metrics, presets, results
from glasslib.bench.tiny_searches import write
from glasslib.search import loop


def overhead(n_generations: int = 200) -> dict:
    """Share of a tiny StyleGAN2 generation (population 16) spent outside the models' forward passes."""
    preset = presets.load("tiny-stylegan2")
    wanted = preset.embedder.embed_texts(["a red star on the left"])[0]
    inside = []

    @torch.inference_mode()
    def evaluate(x: np.ndarray) -> torch.Tensor:
        started = time.perf_counter()
        scores = preset.embedder.embed_images(preset.make(x)) @ wanted
        inside.append(time.perf_counter() - started)
        return scores

    search = preset.search("GA", rng=np.random.default_rng(0))
    totals, before = [], time.perf_counter()

    def clock(*_) -> None:
        nonlocal before
        now = time.perf_counter()
        totals.append(now - before)
        before = now

    loop.run(search, evaluate, n_generations=n_generations, callback=clock, progress=False)
    shares = 1 - np.array(inside[10:]) / np.array(totals[10:])
    return metrics.mean(shares, unit="share", rng=np.random.default_rng(0))


def seconds(command: list[str]) -> float:
    """Wall seconds of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, cwd=results.REPO, check=True)
    return time.perf_counter() - started


def tables() -> dict[str, bytes]:
    """Every table and number the notebooks wrote: path -> bytes."""
    folders = [path for path in sorted((results.REPO / "results").iterdir()) if path.name[:2].isdigit()]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in (".csv", ".json")]
    return {str(file): file.read_bytes() for file in files if file.name != "timings.json"}


def bench_overhead() -> None:
    """Measure time.overhead, on all cores and on the one that make figures gives a notebook; results/bench_overhead/.

    The faster the models, the larger the share of what is not theirs.
    """
    found, before = {}, torch.get_num_threads()
    for name, n_threads in {"time.overhead": os.cpu_count(), "time.overhead_one_thread": 1}.items():
        torch.set_num_threads(n_threads)
        found[name] = overhead()
    torch.set_num_threads(before)
    write("bench_overhead", {"cores": os.cpu_count()}, found)


def bench_time() -> None:
    """Time the make targets, compare the figures' run with the one before it, and write results/bench_time/."""
    found = {"time.demo_s": results.metric(seconds(["make", "demo"]), n=1, unit="s")}
    found["time.test_min"] = results.metric(seconds(["make", "test"]) / 60, n=1, unit="min")
    before = tables()
    if not before:
        raise FileNotFoundError("results/ holds no notebook's tables to compare with; run: make figures")
    found["time.figures_min"] = results.metric(seconds(["make", "figures"]) / 60, n=1, unit="min")
    again = tables()
    found["repeat.figures"] = metrics.share([again.get(path) == content for path, content in before.items()])
    write("bench_time", {"cores": os.cpu_count()}, found)
