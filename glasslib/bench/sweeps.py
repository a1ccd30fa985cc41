"""Whether sweeps keep what they promise: the same bytes on any number of workers, and nothing lost when workers die.

`python -m glasslib.bench sweeps` writes sweep.identical, sweep.survives and sweep.efficiency.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from glasslib import metrics, presets, results, sweep
from glasslib.bench.tiny_searches import write
from glasslib.search import loop

N_SWEEPS, N_JOBS, N_KILLS = 20, 40, 3
CLUSTERS = (None, "local:1", "local:2", "local:4")


@sweep.job(version=1, seconds=1)
def toy_search(*, seed: int, n_generations: int) -> dict[str, Any]:
    """Search a picture for one caption with the tiny StyleGAN2: a job like those of the notebooks, but short."""
    preset = presets.load("tiny-stylegan2")
    search = preset.search("GA", rng=np.random.default_rng(seed))
    found = loop.run(search, preset.scores("a red star"), n_generations=n_generations, progress=False)
    return {"seed": seed, "score": float(found.best.score), "x": found.best.x}


@sweep.job(version=1, seconds=0.1)
def noted(*, seed: int, log: str) -> int:
    """Work for a tenth of a second, and note in `log` that the job was finished."""
    until = time.monotonic() + 0.1
    while time.monotonic() < until:
        pass
    with open(log, "a", encoding="utf-8") as file:  # one short line: whole or not at all
        file.write(f"{seed}\n")
    return seed


def _bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def identical(folder: Path, *, n_jobs: int = 8, n_generations: int = 5) -> list[bool]:
    """Whether each job's file is the same byte for byte from this process and from one, two and four workers."""
    jobs, made = [{"seed": seed, "n_generations": n_generations} for seed in range(n_jobs)], []
    for number, cluster in enumerate(CLUSTERS):
        with sweep.connect(cluster) as client:
            sweep.run(toy_search, jobs, folder=folder / str(number), client=client, progress=False)
        made.append(_bytes_in(folder / str(number)))
    return [all(other.get(name) == content for other in made[1:]) for name, content in made[0].items()]


def survived(folder: Path, *, rng: np.random.Generator, n_jobs: int = N_JOBS) -> bool:
    """Kill one of two workers at up to three random instants of a sweep; whether it ended complete, nothing done twice.

    "Twice" is of finished jobs: one that was in hand when its worker died, or was done and not yet kept, runs again.
    """
    log, over, killed = folder / "log", threading.Event(), []

    def kill(client) -> None:
        while len(killed) < N_KILLS and not over.wait(rng.uniform(0.2, 2.0)):
            pids = [pid for pid in client.run(os.getpid, on_error="return").values() if isinstance(pid, int)]
            if pids:
                os.kill(pids[int(rng.integers(len(pids)))], signal.SIGKILL)
                killed.append(time.monotonic())

    jobs = [{"seed": seed, "log": str(log)} for seed in range(n_jobs)]
    with sweep.connect("local:2") as client:
        killer = threading.Thread(target=kill, args=(client,), daemon=True)
        killer.start()
        try:
            done = sweep.run(noted, jobs, folder=folder, client=client, progress=False)
        finally:
            over.set()
            killer.join()
    times = Counter(map(int, log.read_text(encoding="utf-8").split()))
    return bool(killed) and done == list(range(n_jobs)) and sum(times.values()) <= n_jobs + len(killed)


def efficiency(folder: Path, *, n_jobs: int = 12, n_generations: int = 60) -> float:
    """Serial seconds over twice the seconds with two workers, models loaded and workers started in both."""
    seconds = {}
    for cluster in (None, "local:2"):
        place = folder / str(cluster).replace(":", "")
        with sweep.connect(cluster) as client:
            for part, seeds in (("warm", range(100, 104)), ("timed", range(n_jobs))):
                jobs = [{"seed": seed, "n_generations": n_generations} for seed in seeds]
                start = time.perf_counter()
                sweep.run(toy_search, jobs, folder=place / part, client=client, progress=False)
                seconds[cluster] = time.perf_counter() - start
    return seconds[None] / (2 * seconds["local:2"])


def bench_sweeps() -> None:
    """Measure sweep.* and write results/bench_sweeps/."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        same = identical(folder / "identical")
        whole = []
        for number in range(N_SWEEPS):
            (folder / f"survives{number}").mkdir()
            whole.append(survived(folder / f"survives{number}", rng=rng))
        share = efficiency(folder / "efficiency")
    found = {
        "sweep.identical": metrics.share(np.array(same)),
        "sweep.survives": metrics.share(np.array(whole)),
        "sweep.efficiency": results.metric(share, n=1, unit="ratio"),
    }
    write("bench_sweeps", {"clusters": CLUSTERS, "n_sweeps": N_SWEEPS, "n_jobs": N_JOBS, "n_kills": N_KILLS}, found)
