"""One job of a sweep: what it is called, what it depends on, and how a process does it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glasslib import results


def job(*, version: int, seconds: float | None = None) -> Callable[[Callable], Callable]:
    """Mark a module's function as one whose calls can be jobs of a sweep.

    Args:
        version: raised by hand whenever the function's results change.
        seconds: what one call takes on one core, for the first estimate; later ones come from the calls themselves.
    """

    def mark(function: Callable) -> Callable:
        function.version, function.seconds = version, seconds
        return function

    return mark


@dataclass(frozen=True)
class Task:
    """One job as it travels to a worker: plain values only."""

    function: str  # module:name
    version: int
    job: dict[str, Any]
    files: dict[str, str]  # what the result depends on: path, from the repository's root where it lies there -> SHA-256
    path: str
    time_limit_s: float | None

    def identity(self) -> dict[str, Any]:
        """Return what the result depends on."""
        return {"function": self.function, "version": self.version, "job": self.job, "files": self.files}


def provenance(function: Callable, files: Sequence[str | Path] = ()) -> dict[str, Any]:
    """Return what a table of this function's results depends on, to keep in its params.json."""
    return {"function": name_of(function), "version": function.version, "files": _hashes(files)}


def stale(made: Mapping[str, Any]) -> list[str]:
    """Say in what a table's `provenance` differs from the code and files of today; empty where it does not."""
    module, name = made["function"].split(":")
    version = getattr(importlib.import_module(module), name).version
    found = [f"{made['function']} is version {version}, the table of {made['version']}"] * (version != made["version"])
    for path, sha256 in made["files"].items():
        here = results.REPO / path
        if not here.is_file():
            found.append(f"{path} is gone")
        elif _sha256(here) != sha256:
            found.append(f"{path} is another file than the table was made with")
    return found


def name_of(function: Callable) -> str:
    """Return "module:name" of a function that a worker can import, or refuse it with ValueError."""
    module, name = getattr(function, "__module__", "__main__"), getattr(function, "__qualname__", "")
    if module == "__main__" or "<" in name or not name:
        raise ValueError(f"a sweep's function must stand in an importable module, got {module}.{name or function}")
    if not isinstance(getattr(function, "version", None), int):
        raise ValueError(f"{module}.{name} must have a version; mark it with @sweep.job(version=1)")
    return f"{module}:{name}"


def _hashes(files: Sequence[str | Path]) -> dict[str, str]:
    found = {}
    for path in map(Path, files):
        if not path.is_file():
            raise FileNotFoundError(f"no {path}, which the sweep's results depend on")
        inside = path.resolve().is_relative_to(results.REPO)
        found[path.resolve().relative_to(results.REPO).as_posix() if inside else str(path)] = _sha256(path)
    return found


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _sha256_of(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256_of(path: Path, n_bytes: int, mtime_ns: int) -> str:
    """Hash a file once for all jobs, as long as it stays as it is."""
    return results.sha256_file(path)


def tasks_of(function: Callable, jobs: Sequence[Mapping[str, Any]], folder: Path, files, time_limit_s) -> list[Task]:
    """Return the jobs as tasks, each with the file that its result goes to; see `engine.run` for what is refused."""
    name, hashes, tasks = name_of(function), _hashes(files), []
    for given in jobs:
        if bad := {k: v for k, v in given.items() if not isinstance(v, str | int | float | bool | None)}:
            raise ValueError(f"a job must be numbers, strings, booleans or None, got {bad} in {dict(given)}")
        plain = json.loads(json.dumps(dict(given), allow_nan=False))
        identity = {"function": name, "version": function.version, "job": plain, "files": hashes}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        path = folder / f"{function.__name__}-v{function.version}-{digest}.json"
        tasks.append(Task(name, function.version, plain, hashes, str(path), time_limit_s))
    if len({task.path for task in tasks}) < len(tasks):
        twice = next(task.job for i, task in enumerate(tasks) if task.path in {other.path for other in tasks[:i]})
        raise ValueError(f"every job must differ from the others, got {twice} twice")
    return tasks


def work(task: Task) -> tuple[float, str | None]:
    """Do one job and write its file, unless it is there already; return the seconds it took, and what went wrong."""
    if os.path.exists(task.path):  # another worker finished it before it died
        return 0.0, None
    start = time.perf_counter()
    try:
        for path, sha256 in task.files.items():
            if not (results.REPO / path).is_file() or _sha256(results.REPO / path) != sha256:
                raise FileNotFoundError(f"no {path} of SHA-256 {sha256[:12]}... where it ran; put the same file there")
        if task.time_limit_s is None:
            result = call(task.function, task.job)
        else:
            result, fault = _child().ask(task)
            if fault is not None:
                return time.perf_counter() - start, fault
        content = task.identity() | {"made_with": results.versions(), "result": result}
        results.write_json_atomic(task.path, content)
    except Exception as error:  # named, and the rest goes on
        return time.perf_counter() - start, f"{type(error).__name__}: {error}"
    return time.perf_counter() - start, None


def call(function: str, job: Mapping[str, Any]) -> Any:
    """Call "module:name" with a job on one torch thread."""
    import torch

    module, name = function.split(":")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return getattr(importlib.import_module(module), name)(**job)
    finally:
        torch.set_num_threads(threads)


class _Child:
    """A process that does jobs one by one, keeps what they load, and can be ended when one takes too long."""

    def __init__(self) -> None:
        paths = os.pathsep.join(filter(None, [str(results.REPO), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-c", "from glasslib.sweep import jobs; jobs.serve()"]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        self.process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, **streams)
        self.answers: queue.Queue[str] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put("")

    def ask(self, task: Task) -> tuple[Any, str | None]:
        """Return a job's result, or why there is none."""
        with contextlib.suppress(BrokenPipeError):  # it died: the empty answer below says so
            self.process.stdin.write(json.dumps({"function": task.function, "job": task.job}) + "\n")
            self.process.stdin.flush()
        try:
            line = self.answers.get(timeout=task.time_limit_s)
        except queue.Empty:
            self.end()
            return None, f"took longer than {task.time_limit_s:g} s and was ended"
        if not line:
            return None, f"its process died with exit code {self.end()}"
        answer = json.loads(line)
        return answer.get("result"), answer.get("fault")

    def end(self) -> int:
        """Kill the process unless it has died, and return its exit code."""
        self.process.kill()
        code = self.process.wait()
        self._listener.join()
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):  # what it was told and never read
            self.process.stdin.close()
        return code


_children: list[_Child] = []


def _child() -> _Child:
    if not _children or _children[0].process.poll() is not None:
        _children[:] = [_Child()]
    return _children[0]


def serve() -> None:
    """Do the jobs that come in on stdin, a line each, and answer on stdout; what a job prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            text = json.dumps({"result": call(**json.loads(line))}, default=results.plain, allow_nan=False)
        except Exception as error:  # the asker names it
            text = json.dumps({"fault": f"{type(error).__name__}: {error}"})
        out.write(text + "\n")
        out.flush()
