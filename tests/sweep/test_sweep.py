"""Sweeps: done jobs are kept, failed ones named, and every way of working gives the same bytes."""

import importlib
import json
import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from glasslib import results, sweep
from glasslib.sweep import engine

TOY = """
import os, pathlib, time
import numpy as np
from glasslib import sweep

@sweep.job(version=1, seconds=36)
def draw(*, seed, n, log=None, wait=0.0):
    time.sleep(wait)
    if log:
        with open(log, "a") as file:
            file.write(f"{seed}\\n")
    return [{"seed": seed, "x": x} for x in np.random.default_rng(seed).normal(size=n).tolist()]

@sweep.job(version=1)
def picky(*, seed):
    if seed == 1:
        raise ValueError("seed 1 is unlucky")
    if seed == 2:
        time.sleep(60)
    if seed == 3:
        os._exit(7)
    print("a job may print")
    return {"seed": np.int64(seed)}

@sweep.job(version=1)
def threads():
    import torch
    return torch.get_num_threads()

def unmarked():
    return 1
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A module of jobs that other processes can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "toyjobs.py").write_text(TOY)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(results.REPO)]))
    monkeypatch.delitem(sys.modules, "toyjobs", raising=False)
    return importlib.import_module("toyjobs")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.json")}


def run(function, jobs, folder, **options):
    return sweep.run(function, jobs, folder=folder, progress=False, **options)


def test_results_come_in_the_jobs_order_and_are_not_made_twice(toy, tmp_path):
    log = str(tmp_path / "log")
    jobs = [{"seed": seed, "n": 2, "log": log} for seed in (3, 1)]
    first = run(toy.draw, jobs, tmp_path / "kept")
    assert first[1] == [{"seed": 1, "x": x} for x in np.random.default_rng(1).normal(size=2).tolist()]
    again = run(toy.draw, [{"seed": 2, "n": 2, "log": log}, *jobs], tmp_path / "kept")
    assert again[1:] == first and Path(log).read_text().split() == ["3", "1", "2"]


def test_the_name_of_a_file_holds_all_that_its_result_depends_on(toy, tmp_path, monkeypatch):
    weights, log = tmp_path / "weights", str(tmp_path / "log")
    weights.write_bytes(b"one")
    job = {"seed": 1, "n": 1, "log": log}
    run(toy.draw, [job], tmp_path, files=[weights])
    weights.write_bytes(b"other")
    run(toy.draw, [job], tmp_path, files=[weights])
    monkeypatch.setattr(toy.draw, "version", 2)
    run(toy.draw, [job], tmp_path, files=[weights])
    run(toy.draw, [job], tmp_path, files=[weights])
    assert Path(log).read_text().split() == ["1"] * 3


def test_each_job_has_one_torch_thread(toy, tmp_path):
    assert run(toy.threads, [{}], tmp_path) == [1]


def test_failed_jobs_are_named_and_the_rest_goes_on(toy, tmp_path):
    jobs = [{"seed": seed} for seed in range(5)]
    with pytest.raises(sweep.SweepFailed, match="3 of 5 jobs of picky failed; the others are kept in") as failed:
        run(toy.picky, jobs, tmp_path, time_limit_s=20.0 if os.environ.get("CI") else 10.0)
    reasons = {job["seed"]: why for job, why in failed.value.failures}
    assert reasons[1] == "ValueError: seed 1 is unlucky"
    assert reasons[2].startswith("took longer than") and reasons[3] == "its process died with exit code 7"
    assert run(toy.picky, [jobs[0], jobs[4]], tmp_path) == [{"seed": 0}, {"seed": 4}]
    with pytest.raises(sweep.SweepFailed, match=r"1 of 1 jobs .*\n  {'seed': 1}: ValueError: seed 1 is unlucky"):
        run(toy.picky, jobs[1:2], tmp_path)


def test_a_full_disk_is_named_and_costs_nothing_finished(toy, tmp_path):
    run(toy.draw, [{"seed": 0, "n": 1}], tmp_path / "kept")
    before = contents(tmp_path / "kept")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limit[1]))
    try:
        with pytest.raises(sweep.SweepFailed, match="'seed': 1.*OSError: .*File too large"):
            run(toy.draw, [{"seed": seed, "n": 1000 * seed + 1} for seed in range(3)], tmp_path / "kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(tmp_path / "kept") == before


def test_a_worker_without_the_weights_says_so(toy, tmp_path, monkeypatch):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    original = engine.tasks_of

    def then_lose_them(*given):
        tasks = original(*given)
        weights.unlink()
        return tasks

    monkeypatch.setattr(engine, "tasks_of", then_lose_them)
    with pytest.raises(sweep.SweepFailed, match=r"no .*model.safetensors of SHA-256 7692c3ad3540... where it ran"):
        run(toy.draw, [{"seed": 0, "n": 1}], tmp_path, files=[weights])


def test_results_of_other_versions_are_named(toy, tmp_path):
    run(toy.draw, [{"seed": 0, "n": 1}], tmp_path)
    path = next(tmp_path.glob("*.json"))
    content = json.loads(path.read_text())
    content["made_with"]["torch"] = "1.7.1"
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"were made with torch 1.7.1; delete them to make them anew"):
        run(toy.draw, [{"seed": 0, "n": 1}], tmp_path)


@pytest.mark.parametrize("damage", ["", "{}", "[1]", '{"result": 1', None])
def test_a_file_that_is_no_result_is_named(toy, tmp_path, damage):
    run(toy.draw, [{"seed": 0, "n": 1}], tmp_path)
    path = next(tmp_path.glob("*.json"))
    other = path.read_text().replace('"seed": 0', '"seed": 5')
    path.write_text(other if damage is None else damage)
    with pytest.raises(ValueError, match=r"draw-v1-.*json must be (a job's result|the result of)"):
        run(toy.draw, [{"seed": 0, "n": 1}], tmp_path)


def test_what_cannot_be_swept_is_refused(toy, tmp_path):
    with pytest.raises(ValueError, match=r"toyjobs.unmarked must have a version; mark it with @sweep.job\(version=1\)"):
        run(toy.unmarked, [{}], tmp_path)
    with pytest.raises(ValueError, match="must stand in an importable module, got .*<lambda>"):
        run(lambda: 1, [{}], tmp_path)
    with pytest.raises(ValueError, match=r"numbers, strings, booleans or None, got {'n': \[1\]}"):
        run(toy.draw, [{"seed": 0, "n": [1]}], tmp_path)
    with pytest.raises(ValueError, match="Out of range float values"):
        run(toy.draw, [{"seed": float("nan"), "n": 1}], tmp_path)
    with pytest.raises(ValueError, match=r"every job must differ from the others, got {'seed': 0, 'n': 1} twice"):
        run(toy.draw, [{"seed": 0, "n": 1}] * 2, tmp_path)
    with pytest.raises(FileNotFoundError, match="no .*nothing.bin, which the sweep's results depend on"):
        run(toy.draw, [{"seed": 0, "n": 1}], tmp_path, files=[tmp_path / "nothing.bin"])


def test_the_estimate_is_printed_first(toy, tmp_path, capsys):
    sweep.run(toy.draw, [{"seed": s, "n": 1} for s in range(100)], folder=tmp_path / "a")
    out = capsys.readouterr().out
    assert out.startswith("draw: 100 jobs, 0 of them done; about 1.00 CPU hours to go, 1.00 hours on 1 worker(s)")
    (tmp_path / "a" / "seconds.jsonl").write_text('{"function": "toyjobs:draw", "seconds": 360}\n')
    sweep.run(toy.draw, [{"seed": s, "n": 1} for s in range(105)], folder=tmp_path / "a")
    assert "105 jobs, 100 of them done; about 0.50 CPU hours to go" in capsys.readouterr().out


def test_provenance_says_when_a_table_is_stale(toy, tmp_path, monkeypatch):
    weights = tmp_path / "w"
    weights.write_bytes(b"one")
    made = json.loads(json.dumps(sweep.provenance(toy.draw, [weights])))
    assert sweep.stale(made) == []
    weights.write_bytes(b"two!")
    monkeypatch.setattr(toy.draw, "version", 3)
    assert sweep.stale(made) == [
        "toyjobs:draw is version 3, the table of 1",
        f"{weights} is another file than the table was made with",
    ]


def test_a_cluster_gives_the_same_bytes_and_survives_a_killed_worker(toy, tmp_path):
    log = str(tmp_path / "log")
    jobs = [{"seed": seed, "n": 3, "log": log, "wait": 0.2} for seed in range(12)]
    names = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    with sweep.connect("local:2") as client:
        assert {name: os.environ.get(name) for name in names} == names  # Dask would have set them
        killed: list[int] = []
        killer = threading.Thread(target=kill_one, args=(client, 0.7, killed), daemon=True)
        killer.start()
        made = run(toy.draw, jobs, tmp_path / "cluster", client=client)
        killer.join()
        assert len(killed) == 1 and 12 <= len(Path(log).read_text().split()) <= 13  # at most the one in hand again
        with pytest.raises(sweep.SweepFailed, match="seed 1 is unlucky"):
            run(toy.picky, [{"seed": 0}, {"seed": 1}], tmp_path / "picky", client=client)
    assert run(toy.draw, jobs, tmp_path / "here") == made
    assert contents(tmp_path / "cluster") == contents(tmp_path / "here")
    assert run(toy.picky, [{"seed": 0}], tmp_path / "picky") == [{"seed": 0}]


def kill_one(client, after_s: float, killed: list[int]) -> None:
    """Kill a worker of the cluster while it works."""
    workers = list(client.run(os.getpid).values())
    time.sleep(after_s)
    os.kill(random.Random(0).choice(workers), signal.SIGKILL)
    killed.append(1)


@pytest.mark.parametrize("cluster", ["local:0", "local:two"])
def test_a_cluster_of_no_workers_is_refused(cluster):
    with pytest.raises(ValueError, match="local:N with N above 0"), sweep.connect(cluster):
        pass


def test_no_cluster_is_no_client():
    for none in (None, ""):
        with sweep.connect(none) as client:
            assert client is None
