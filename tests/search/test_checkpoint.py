import json
import os

import numpy as np
import pytest

from glasslib.latents import Normal
from glasslib.search import checkpoint
from glasslib.search.loop import run
from glasslib.search.random import RandomSearch

CONTENT = {
    "generation": 3,
    "big": 2**127 + 1,
    "score": 0.1 + 0.2,
    "best": None,
    "names": ["a", "ü", ("nested", np.arange(3))],
    "deep": {"x": np.random.default_rng(0).random((4, 5)), "flags": np.array([True, False]), "empty": np.zeros((0, 8))},
    "scalar": np.float64(1 / 3),
}


def test_everything_comes_back_exactly(tmp_path):
    path = tmp_path / "new" / "folder" / "run.npz"
    checkpoint.save(path, CONTENT)
    back = checkpoint.load(path)
    assert (back["generation"], back["big"], back["score"], back["best"]) == (3, 2**127 + 1, 0.1 + 0.2, None)
    assert back["scalar"] == 1 / 3
    assert back["names"][:2] == ["a", "ü"]
    assert np.array_equal(back["names"][2][1], np.arange(3))
    for name, array in CONTENT["deep"].items():
        assert np.array_equal(back["deep"][name], array)
        assert back["deep"][name].dtype == array.dtype
    assert [p.name for p in path.parent.iterdir()] == ["run.npz"]


def test_no_pickle_is_written_or_read(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoint.save(tmp_path / "run.npz", {"x": object()})
    np.savez(tmp_path / "evil.npz", json=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="damaged or no search checkpoint"):
        checkpoint.load(tmp_path / "evil.npz")


@pytest.mark.parametrize("step", ["write", "replace"])
def test_failing_at_any_step_leaves_the_last_complete_file(tmp_path, monkeypatch, step):
    path = tmp_path / "run.npz"
    checkpoint.save(path, {"generation": 1})

    def fail(*args, **kwargs):
        raise OSError("no space left on device")

    if step == "write":
        monkeypatch.setattr(np, "savez", lambda file, **arrays: (file.write(b"half"), fail()))
    else:
        monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, {"generation": 2})
    assert checkpoint.load(path) == {"generation": 1}
    monkeypatch.undo()
    checkpoint.save(path, {"generation": 3})
    assert checkpoint.load(path) == {"generation": 3}


def test_damaged_files_are_refused_by_name(tmp_path):
    whole = tmp_path / "run.npz"
    checkpoint.save(whole, CONTENT)
    raw = whole.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"hello",
        "half": raw[: len(raw) // 2],
        "flipped": raw[:200] + b"\0\1\2" + raw[203:],
    }
    for name, content in damaged.items():
        path = tmp_path / f"{name}.npz"
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=f"{name}.npz is damaged or no search checkpoint .*delete it to start again"
        ):
            checkpoint.load(path)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(ValueError, match="no search checkpoint"):
        checkpoint.load(tmp_path / "other.npz")
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*missing.npz; run the search with checkpoint="):
        checkpoint.load(tmp_path / "missing.npz")


def test_planted_links_are_not_followed_and_leftovers_are_swept(tmp_path):
    victim = tmp_path / "victim.txt"
    victim.write_text("mine")
    folder = tmp_path / "runs"
    folder.mkdir()
    for name in ("run.npz.tmp", "run.npz", ".run.npz.0123456789abcdef.part"):
        (folder / name).symlink_to(victim)
    checkpoint.save(folder / "run.npz", {"generation": 1})
    assert checkpoint.load(folder / "run.npz") == {"generation": 1}
    assert not (folder / "run.npz").is_symlink()
    (folder / "run.npz").unlink()
    (folder / ".run.npz.feedfeedfeedfeed.part").write_bytes(b"half")
    with checkpoint.Checkpoint(folder / "run.npz", dict) as kept:
        kept.open()
    assert sorted(path.name for path in folder.iterdir()) == ["run.npz.history", "run.npz.tmp"]
    (folder / "run.npz.history").unlink()
    (folder / "run.npz.history").symlink_to(victim)
    with pytest.raises(ValueError, match="run.npz.history is a symbolic link, which is not followed; remove it"):
        with checkpoint.Checkpoint(folder / "run.npz", dict) as kept:
            kept.open()
    assert victim.read_text() == "mine"


def test_history_belongs_to_its_state(tmp_path):
    path, place = tmp_path / "run.npz", tmp_path / "run.npz.history"
    search = RandomSearch(Normal(3), popsize=4, rng=np.random.default_rng(0))
    run(search, lambda x: x.sum(axis=1), n_generations=3, checkpoint=path, progress=False)
    whole = place.read_bytes()
    place.write_bytes(whole + b'{"generation": 3')  # killed between the row and the state
    assert checkpoint.load_result(path).history == [json.loads(line) for line in whole.splitlines()]
    for damaged in (whole[:-5], whole.replace(b"4", b"5"), None):
        place.unlink() if damaged is None else place.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"history is missing or damaged: it belongs to .*run.npz; copy both"):
            checkpoint.load_result(path)

    def deleted(x):
        if len(x) == 4:  # not when the stored best is scored once more
            place.unlink()
        return x.sum(axis=1)

    place.write_bytes(whole)
    search = RandomSearch(Normal(3), popsize=4, rng=np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="history was deleted or replaced while a run was writing to it"):
        run(search, deleted, n_generations=5, checkpoint=path, resume=True, rngs=[], callback=None, progress=False)
