"""How the parts of `make bench` run their jobs, and where they write: until each of them goes through `sweep.run`.

What is done is kept in runs/bench until all is done, so that a stop loses one job.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from tqdm import tqdm

from glasslib import results
from glasslib.tinyworld import models


def run_jobs(
    work: Callable[..., list[dict]], jobs: Sequence[dict], *, name: str, weights: Sequence[str] = (),
    files: Sequence[Path] = (), n_workers: int | None = None,
) -> list[dict]:  # fmt: skip
    """The rows of all jobs, in their order, computed in parallel; what an earlier run finished is not done again.

    Args:
        work: a function of a module.
        jobs: its keyword arguments.
        name: of the bar, and of the folder where results are kept.
        weights: folders of tiny models that `work` reads. Results kept for other weights are not used.
        files: whatever else the result depends on, such as the source that is timed.
        n_workers: processes; None: as many as there are cores.
    """
    files = [path for each in weights for path in sorted((models.WEIGHTS / each).glob("*.safetensors"))] + list(files)
    state = json.dumps([[results.sha256_file(path) for path in files], results.versions()], sort_keys=True)
    folder = results.REPO / "runs" / "bench" / f"{name}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
    paths = [folder / f"{'-'.join(str(value) for value in job.values())}.json" for job in jobs]
    open_jobs = [i for i, path in enumerate(paths) if not path.is_file()]
    spawn = multiprocessing.get_context("spawn")
    n_workers = n_workers or os.cpu_count() or 1
    with ProcessPoolExecutor(n_workers, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {pool.submit(work, **jobs[i]): paths[i] for i in open_jobs}
        try:
            done = tqdm(as_completed(waiting), initial=len(jobs) - len(open_jobs), total=len(jobs), desc=name)
            for job in done:
                results.write_json_atomic(waiting[job], job.result())
        finally:  # a stop waits for no job that has not begun
            pool.shutdown(cancel_futures=True, wait=False)
    return [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))]


def write(folder: str, params: dict, found: dict, tables: dict | None = None) -> None:
    """Write results/`folder` as measured by `make bench`."""
    params = params | {"versions": results.versions()}
    results.write_results(f"results/{folder}", source="make bench", params=params, metrics=found, tables=tables)
