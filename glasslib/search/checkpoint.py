"""What a run found, and its file: arrays and JSON without pickle, replaced whole or not at all, kept by one process.

NAME holds the state and says what it is of. Beside it stands NAME.history, a JSON row a generation, which is only ever
added to, so that saving costs the same at the end of a long run as at its start; it is also the lock.
"""

import errno
import json
import os
import secrets
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from glasslib import results
from glasslib.search.candidate import Candidate, differences, fingerprint
from glasslib.search.pareto import pick

FORMAT = "glasslib search checkpoint 2"
TOLERANCE = 1e-3  # how far the stored best may score from its stored score, in units of the score or of 1


@dataclass
class Result:
    """What a run found.

    best: the best candidate, of a ParetoSearch the knee of its front; None before the first generation. front: the
    whole front, best first objective first; empty for one objective. history: a row per generation (generation, best
    so far, median of the generation, evaluations and seconds so far; several objectives give best_0, best_1, ... and
    front_size).
    stopped: why it ended: "finished", "interrupted", "callback", "patience", "failed", or the search's own reason.
    n_bad: scores that were no finite number and counted as the worst (on_bad="worst").
    """

    best: Candidate | None = None
    front: list[Candidate] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    stopped: str = "finished"

    @property
    def n_bad(self) -> int:
        return self.history[-1].get("n_bad", 0) if self.history else 0


def is_pareto(search) -> bool:
    return hasattr(type(search), "front")


def result_of(search, history: list[dict], stopped: str) -> Result:
    if is_pareto(search):
        front = search.front
        return Result(pick(front) if front else None, front, history, stopped)
    return Result(search.best, [], history, stopped)


def load_result(checkpoint: Path | str) -> Result:
    """Read best, front and history out of a checkpoint without the search that made it."""
    path = Path(checkpoint)
    content = load(path)
    history = _read_history(path, content["history"])
    best = None if content["best"] is None else Candidate(**content["best"])
    return Result(best, [Candidate(**packed) for packed in content["front"]], history, "checkpoint")


def identity_of(search, named: Mapping) -> dict:
    """Name -> JSON value: the search, what the caller names (arrays by their fingerprint) and the versions."""
    versions = {f"{name} version": number for name, number in results.versions().items() if name != "python"}
    named = {name: fingerprint(value) if hasattr(value, "shape") else value for name, value in named.items()}
    return json.loads(json.dumps({**getattr(search, "identity", {}), **named, **versions}))


class Checkpoint:
    """The files of one run, from `open` to `close` in the hands of one process; with path None it keeps nothing."""

    def __init__(self, path: Path | str | None, identity: Callable[[], dict]) -> None:
        self.path = None if path is None else Path(path)
        self._identity_of, self._history, self._content = identity, None, None
        self._written = {"rows": 0, "bytes": 0, "crc": 0}

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_) -> None:
        if self._history is not None:
            self._history.close()  # and with it goes the lock

    def open(self) -> None:
        """Take hold of the files and read what is there; a run of something else is refused by name."""
        if self.path is None:
            return
        self._identity = self._identity_of()
        self._history = _claim(self.path, _history_path(self.path))
        with os.scandir(self.path.parent) as entries:
            leftovers = [entry.path for entry in entries if _is_part(entry.name, self.path.name)]
        for leftover in leftovers:  # of a process that was killed while it wrote
            os.unlink(leftover)
        if not self.path.is_file():
            return os.ftruncate(self._history.fileno(), 0)
        self._content = load(self.path)
        if others := differences(self._content["identity"], self._identity):
            raise ValueError(
                f"{self.path} is of another run: {', '.join(others)}. Make the search and its target as they were to "
                "go on with it, or give this run a checkpoint of its own; load_result reads what that one found"
            )

    def check_score(self, evaluate: Callable) -> None:
        """Score the stored best once more: whatever the names say, this must be the same task."""
        if self._content is None or self._content["best"] is None:
            return
        best = Candidate(**self._content["best"])
        stored, now = np.atleast_1d(best.score), np.atleast_1d(evaluate(best.x[None])[0])
        if not (np.abs(now - stored) <= TOLERANCE * np.maximum(1, np.abs(stored))).all():
            raise ValueError(
                f"the best of {self.path} scored {_digits(stored)}, and here it scores {_digits(now)}: another target, "
                "other weights, or an evaluation that draws at random, whose generators belong into rngs="
            )

    def restore(self, search, rngs: Sequence) -> list[dict]:
        """Bring `search` and `rngs` to the stored state; the history."""
        if self._content is None:
            return []
        states, self._written = self._content["rngs"], self._content["history"]
        if len(states) != len(rngs):
            raise ValueError(f"{self.path} was written with {len(states)} rngs, got {len(rngs)}; pass the same ones")
        history = _read_history(self.path, self._written)
        search.restore(self._content["search"])
        for rng, state in zip(rngs, states, strict=True):
            if isinstance(rng, torch.Generator):
                rng.set_state(torch.from_numpy(state))
            else:
                rng.bit_generator.state = state
        return history

    def save(self, search, rngs: Sequence, row: dict) -> None:
        """Write the search's state and the newest row of its history."""
        if self.path is None:
            return
        found = result_of(search, [], "")
        content = {
            "identity": self._identity,
            "search": search.state(),
            "rngs": [_rng_state(rng) for rng in rngs],
            "best": None if found.best is None else vars(found.best),
            "front": [vars(candidate) for candidate in found.front],
            "history": self._append(row),
        }
        save(self.path, content)
        self._written = content["history"]

    def _append(self, row: dict) -> dict:
        """Write `row` behind the last one that counts; it counts from when the state is there that says so."""
        line, file = (json.dumps(row) + "\n").encode(), self._history.fileno()
        place = _history_path(self.path)
        if not place.exists() or os.fstat(file).st_ino != place.stat().st_ino:
            raise RuntimeError(f"{place} was deleted or replaced while a run was writing to it; start the run again")
        if os.pwrite(file, line, self._written["bytes"]) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
        os.fsync(file)
        n_rows, n_bytes = self._written["rows"] + 1, self._written["bytes"] + len(line)
        return {"rows": n_rows, "bytes": n_bytes, "crc": zlib.crc32(line, self._written["crc"])}


def save(path: Path, content: dict) -> None:
    """Write `content` so that a kill, or a loss of power, at any instant leaves the last complete file.

    Args:
        path: where; the folder is made, and a temporary file of a new name beside it is used.
        content: JSON values and NumPy arrays, nested in dicts and lists.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps({"format": FORMAT, "content": _pack(content, arrays)})
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        with open(part, "xb") as file:  # a new file: nothing that is there, a link least of all, is opened
            np.savez(file, json=np.frombuffer(text.encode(), dtype=np.uint8), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def load(path: Path) -> dict:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a damaged file, or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; run the search with checkpoint= first")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        content = json.loads(arrays["json"].tobytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        return _unpack(content["content"], arrays)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or no search checkpoint ({error}); delete it to start again") from error


def _history_path(path: Path) -> Path:
    return path.with_name(path.name + ".history")


def _is_part(name: str, of: str) -> bool:
    return name.startswith(f".{of}.") and name.endswith(".part")


def _read_history(path: Path, written: dict) -> list[dict]:
    place = _history_path(path)
    content = b""
    if place.is_file():
        with open(place, "rb") as file:
            content = file.read(written["bytes"])
    if len(content) != written["bytes"] or zlib.crc32(content) != written["crc"]:
        raise ValueError(
            f"{place} is missing or damaged: it belongs to {path}; copy both, or delete both to start again"
        )
    return [json.loads(line) for line in content.splitlines()]


def _claim(path: Path, place: Path):
    """Open the history for this process alone. The lock goes with the process, however it ends."""
    import fcntl

    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = os.fdopen(os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b", buffering=0)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"{place} is a symbolic link, which is not followed; remove it") from error
        raise
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise ValueError(f"{place} is no plain file; remove it, or give the run another checkpoint")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        message = f"{path} belongs to a run that is going on, here or in another process"
        raise RuntimeError(f"{message}; wait for it or stop it, or give this run a checkpoint of its own") from None
    except OSError as error:  # a file system without locks
        warnings.warn(f"{path} cannot be locked ({error}): take care that no second run uses it", stacklevel=2)
    return file


def _digits(scores: np.ndarray) -> str:
    return ", ".join(f"{score:.4f}" for score in scores)


def _rng_state(rng: np.random.Generator | torch.Generator):
    return rng.get_state().numpy() if isinstance(rng, torch.Generator) else rng.bit_generator.state


def _pack(value, arrays: dict):
    if isinstance(value, np.ndarray):
        name = f"array_{len(arrays)}"
        arrays[name] = value
        return {"__array__": name}
    if isinstance(value, dict):
        return {key: _pack(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _unpack(value, arrays: dict):
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return arrays[value["__array__"]]
        return {key: _unpack(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    return value
