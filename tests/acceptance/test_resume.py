"""resume.identical: killed with SIGKILL at random instants and resumed in a new process, a search is, bit for bit, the
run that never stopped. RESUME_N=100 python -m pytest -m acceptance tests/acceptance/test_resume.py; 12 runs otherwise.

Each run is a process forked from one that has loaded the presets and has scored nothing, so that no cache is filled.
"""

import hashlib
import itertools
import json
import os
import signal
import time
import traceback
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from glasslib import presets
from glasslib.search import checkpoint, loop

pytestmark = pytest.mark.acceptance
PRESETS = ("tiny-stylegan2", "tiny-biggan", "tiny-gpt2")
METHODS = ("GA", "CMA-ES", "NSGA-II", "random")
# all but CMA-ES of tokens, which are whole numbers and which it refuses
PAIRS = [(name, method) for method in METHODS for name in PRESETS if (name, method) != ("tiny-gpt2", "CMA-ES")]
N_RUNS = int(os.environ.get("RESUME_N", "12"))
N_GENERATIONS, N_KILLS = 6, 2  # kills at most, in one run
SECONDS = 600  # in which a run must do something

load = cache(presets.load)


def evaluation(preset, method):
    """Two targets at once for NSGA-II, one for the others."""
    if preset.writes_text:
        targets = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    else:
        targets = ("a large red star on a dark background", "a blue ring on the left")
    scores = [preset.scores(target) for target in targets]
    return scores[0] if method != "NSGA-II" else lambda x: torch.stack([score(x) for score in scores], dim=1)


def digest(search, result) -> str:
    """Of all that the run found and of the search's last state."""
    arrays: dict = {}
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]
    text = json.dumps([history, checkpoint._pack(search.state(), arrays), result.best.generation], sort_keys=True)
    content = [text.encode(), result.best.x.tobytes(), *(arrays[name].tobytes() for name in sorted(arrays))]
    return hashlib.sha256(b"".join(content)).hexdigest()


def start(pair, path: Path | None, outcome: Path) -> int:
    """Run the search in a new process, which writes the digest to `outcome`; its id."""
    preset = load(pair[0])
    child = os.fork()
    if child:
        return child
    try:
        search = preset.search(pair[1], rng=np.random.default_rng(3))
        settings = {"checkpoint": path, "resume": True, "identity": {"preset": pair[0]}, "progress": False}
        result = loop.run(search, evaluation(preset, pair[1]), n_generations=N_GENERATIONS, **settings)
        outcome.write_text(digest(search, result))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def finish(child: int, outcome: Path) -> str:
    _, status = os.waitpid(child, 0)
    assert status == 0, "the run failed, see above"
    return outcome.read_text()


def kill(child: int, path: Path, wait: float) -> bool:
    """SIGKILL `wait` seconds after the child has written the file anew; whether it was still at work."""

    def stamp():
        return path.stat().st_mtime_ns if path.exists() else 0

    before, end = stamp(), time.monotonic() + SECONDS
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None and stamp() == before:
        assert time.monotonic() < end, "the run does nothing"
        time.sleep(0.002)
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)  # not yet waited for, the id is still the child's
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def resume_identical(n_runs: int, folder: Path, *, rng: np.random.Generator) -> dict[str, list[bool]]:
    """ "preset method" -> for each run whether it ended as the one that was left alone; the pairs take turns."""
    expected: dict[tuple, str] = {}
    seconds: dict[tuple, float] = {}
    same: dict[str, list[bool]] = {}
    outcome, n_kills = folder / "digest", 0
    for k, pair in enumerate(itertools.islice(itertools.cycle(PAIRS), n_runs)):
        if pair not in expected:
            begun = time.monotonic()
            expected[pair], seconds[pair] = finish(start(pair, None, outcome), outcome), time.monotonic() - begun
        path = folder / f"{k}.npz"
        for _ in range(N_KILLS):
            killed = kill(start(pair, path, outcome), path, rng.uniform(0, seconds[pair] / N_KILLS))
            n_kills += killed
            if not killed:
                break
        same.setdefault(" ".join(pair), []).append(finish(start(pair, path, outcome), outcome) == expected[pair])
        print(pair, same[" ".join(pair)][-1], n_kills, flush=True)
    assert n_kills > 0
    return same


def test_resumed_runs_equal_the_run_that_never_stopped(tmp_path):
    torch.set_num_threads(1)
    for name, method in PAIRS:
        load(name).search(method, rng=np.random.default_rng(0))  # imports what the children will need
    same = resume_identical(N_RUNS, tmp_path, rng=np.random.default_rng(0))
    assert sum(map(len, same.values())) == N_RUNS
    assert {pair: runs for pair, runs in same.items() if not all(runs)} == {}
