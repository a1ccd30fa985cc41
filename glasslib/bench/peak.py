"""Do the notebooks run the papers' models, and in how much memory? `python -m glasslib.bench peak`.

Notebooks 02, 03 and 04 go through papermill with `preset="paper"` on networks of full size with random weights, a
population of 4 and 2 generations. What counts is the kernel's process and all it starts. A notebook that is done is
kept in runs/bench, so that a stop loses one.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glasslib import results
from glasslib.bench.fullsize import machine
from glasslib.bench.tiny_searches import run_jobs, write
from glasslib.commands import notebooks

SMALL = {"preset": "paper", "weights": "random", "popsize": 4, "n_generations": 2}
NOTEBOOKS: dict[str, dict[str, Any]] = {  # the quickest first -> what else makes it small
    "04_image_to_caption_gpt2": {"n_pictures": 2, "n_seeds": 1, "n_texts": 4},
    "03_caption_to_image_biggan": {"n_seeds": 1},
    "02_caption_to_image_stylegan2": {"n_seeds": 1, "n_arm_seeds": 1, "n_samples": 2},
}
EVERY_S = 0.5


def run_full_size(name: str) -> list[dict]:
    """Run a notebook on models of full size.

    Returns:
        One row: the notebook, the largest resident memory of its kernel in GB, and its seconds.

    Raises:
        RuntimeError: a cell failed; the message says which and where to look.
    """
    with tempfile.TemporaryDirectory() as folder:
        known = notebooks.parameters_of(notebooks.NOTEBOOKS / f"{name}.ipynb")
        parameters = {**SMALL, **NOTEBOOKS[name], "results_dir": str(Path(folder, "results"))}
        job = notebooks.Job(
            notebooks.NOTEBOOKS / f"{name}.ipynb",
            results.REPO / "runs" / "bench" / "full_size" / f"{name}.ipynb",
            {key: value for key, value in parameters.items() if key in known or key in SMALL},
            cell_timeout_s=None,
        )
        (outcome,), peak_gb = watched(lambda: notebooks.run_jobs([job], workers=1))
    if outcome.error is not None:
        raise RuntimeError(outcome.error)
    return [{"notebook": name, "peak_gb": peak_gb, "seconds": outcome.seconds}]


def watched(work: Callable) -> tuple:
    """What `work` returns, and the largest resident memory in GB of the kernels it started, sampled every EVERY_S."""
    stop, peak = threading.Event(), [0]

    def look() -> None:
        while not stop.wait(EVERY_S):
            peak[0] = max(peak[0], kernel_bytes())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        return work(), peak[0] / 1e9
    finally:
        stop.set()
        watcher.join()


def kernel_bytes() -> int:
    """Most resident bytes so far of every Jupyter kernel below this process, and of what those started."""
    import psutil

    total, counted = 0, set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.pid in counted or "ipykernel_launcher" not in process.cmdline():
                continue
            for each in (process, *process.children(recursive=True)):
                counted.add(each.pid)
                total += high_water_bytes(each)
        except psutil.NoSuchProcess:
            continue
    return total


def high_water_bytes(process) -> int:
    """Most resident bytes that a process has had so far, where Linux keeps count; elsewhere what it has now."""
    status = Path("/proc", str(process.pid), "status")
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return process.memory_info().rss
    marks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return marks[0] if marks else process.memory_info().rss


def bench_peak() -> None:
    """Measure fullsize.peak_gb and write results/bench_peak/."""
    rows = []
    for name in NOTEBOOKS:
        files = [notebooks.NOTEBOOKS / f"{name}.ipynb"]
        rows += run_jobs(run_full_size, [{"name": name}], name="peak", files=files, n_workers=1)
    found = {"fullsize.peak_gb": results.metric(max(row["peak_gb"] for row in rows), n=len(rows), unit="GB")}
    params = {"parameters": SMALL, "machine": machine(), "threads": 1}
    write("bench_peak", params, found, {"notebooks": rows})
