"""resume.identical: killed with SIGKILL at random instants and resumed in a new process, a search is, bit for bit, the
run that never stopped. RESUME_N=100 python -m pytest -m acceptance tests/acceptance/test_resume.py; 12 runs otherwise.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from glasslib.results import REPO

pytestmark = pytest.mark.acceptance
CHILD = Path(__file__).with_name("resume_child.py")
METHODS = ("random", "GA", "NSGA-II", "CMA-ES")
PAIRS = [(f"tiny-{name}", method) for name in ("stylegan2", "biggan", "gpt2") for method in METHODS]
PAIRS.remove(("tiny-gpt2", "CMA-ES"))  # tokens are whole numbers, which CMA-ES refuses
N_RUNS = int(os.environ.get("RESUME_N", "12"))
N_KILLS = 2  # at most, in one run
SECONDS = 300  # in which a child must do something


def start(*arguments) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, CHILD, *arguments], stdout=subprocess.PIPE, text=True, env=environment)


def finish(child: subprocess.Popen) -> dict:
    output, _ = child.communicate(timeout=SECONDS)
    assert child.returncode == 0, output
    return json.loads(output.splitlines()[-1])


def kill(child: subprocess.Popen, path: Path, wait: float) -> bool:
    """SIGKILL `wait` seconds after the child has written the file anew; whether it was still at work."""

    def stamp():
        return path.stat().st_mtime_ns if path.exists() else 0

    before, end = stamp(), time.monotonic() + SECONDS
    while child.poll() is None and stamp() == before and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(wait)
    is_alive = child.poll() is None
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return is_alive


def resume_identical(n_runs: int, folder: Path, *, rng: np.random.Generator) -> dict[str, list[bool]]:
    """ "preset method" -> for each run whether it ended as the one that was left alone; the pairs take turns."""
    expected: dict[tuple, dict] = {}
    same: dict[str, list[bool]] = {}
    for k, pair in enumerate(itertools.islice(itertools.cycle(PAIRS), n_runs)):
        expected[pair] = expected.get(pair) or finish(start(*pair))
        path = folder / f"{k}.npz"
        for _ in range(N_KILLS):
            if not kill(start(*pair, path), path, rng.uniform(0, expected[pair]["seconds"] / N_KILLS)):
                break
        same.setdefault(" ".join(pair), []).append(finish(start(*pair, path))["digest"] == expected[pair]["digest"])
    return same


def test_resumed_runs_equal_the_run_that_never_stopped(tmp_path):
    same = resume_identical(N_RUNS, tmp_path, rng=np.random.default_rng(0))
    print(json.dumps(same, indent=1))
    assert sum(map(len, same.values())) == N_RUNS
    assert {pair: runs for pair, runs in same.items() if not all(runs)} == {}
