"""Do many jobs, here or on a cluster, and gather their results."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from glasslib import results
from glasslib.sweep.jobs import Task, name_of, tasks_of, work

if TYPE_CHECKING:
    from distributed import Client

SECONDS = "seconds.jsonl"  # beside the results: how long each job took, for the next estimate


class SweepFailed(RuntimeError):
    """Some jobs did not succeed; `failures` says which (job, reason). The others' results are kept."""

    def __init__(self, message: str, failures: list[tuple[dict[str, Any], str]]) -> None:
        super().__init__(message)
        self.failures = failures


def run(
    function: Callable[..., Any],
    jobs: Sequence[Mapping[str, Any]],
    *,
    folder: str | Path,
    files: Sequence[str | Path] = (),
    client: Client | None = None,
    time_limit_s: float | None = None,
    progress: bool = True,
) -> list[Any]:
    """Do every job that is not done, and return all results in the jobs' order.

    Args:
        function: of an importable module and marked with `job`; what it returns must be JSON.
        jobs: keyword arguments of each call: numbers, strings, booleans or None.
        folder: where the results are kept, one file a job.
        files: weights and whatever else the results depend on; results made with other bytes are not used.
        client: of `connect`; None works through the jobs in this process. Each job has one torch thread either way.
        time_limit_s: a job that takes longer is ended and counts as failed.
        progress: whether to print the estimate and draw the bar.

    Raises:
        SweepFailed: a job raised, took too long, or its worker died again and again; all others were done first.
        ValueError: a function without a version or outside a module, a job that is not flat JSON, two equal jobs, or a
            file in `folder` that is not what its name says.
        FileNotFoundError: one of `files` is not there.
    """
    tasks = tasks_of(function, jobs, Path(folder), files, time_limit_s)
    todo = [task for task in tasks if not os.path.exists(task.path)]
    if progress:
        print(_estimate(function, tasks, todo, Path(folder), _n_workers(client)), flush=True)
    failures: list[tuple[dict[str, Any], str]] = []
    answers = _here(todo) if client is None else _on_cluster(todo, client)
    with tqdm(answers, initial=len(tasks) - len(todo), total=len(tasks), disable=not progress) as bar:
        bar.set_description(function.__name__)
        for task, seconds, fault in bar:
            if fault is None and not os.path.exists(task.path):
                fault = f"its worker wrote {task.path}, which is not here; workers must see the same folder"
            if fault is None:
                _note_seconds(Path(folder), task, seconds)
            else:
                failures.append((task.job, fault))
    if failures:
        listed = "\n".join(f"  {job}: {fault}" for job, fault in failures)
        raise SweepFailed(
            f"{len(failures)} of {len(tasks)} jobs of {function.__name__} failed; the others are kept in {folder}, and "
            f"running the sweep again tries these alone:\n{listed}",
            failures,
        )
    return _read_all(tasks)


@contextlib.contextmanager
def connect(cluster: str | None) -> Iterator[Client | None]:
    """Give the client of a cluster, and close it afterwards.

    Args:
        cluster: None or "" for none, so that `run` works in this process; "local" or "local:N" for as many processes
            of this machine as it has cores, or N; else a scheduler's address.

    Raises:
        ValueError: N is not a number above 0.
        OSError: no scheduler answers at the address within ten seconds.
    """
    if not cluster:
        yield None
        return
    import distributed

    kept = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with contextlib.ExitStack() as stack:
        if cluster.partition(":")[0] == "local":
            count = cluster.partition(":")[2] or str(os.cpu_count() or 1)
            if not count.isdigit() or int(count) == 0:
                raise ValueError(f"cluster must be local, local:N with N above 0, or an address, got {cluster!r}")
            import dask

            stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 10}))
            options = {"n_workers": int(count), "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
            place = stack.enter_context(distributed.LocalCluster(**options, host="127.0.0.1", silence_logs=50))
        else:
            place = cluster
        for name, value in kept.items():  # Dask sets them for its workers, and leaves them set here
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        yield stack.enter_context(distributed.Client(place, timeout=10, set_as_default=False))


def _n_workers(client: Client | None) -> int:
    return 1 if client is None else max(1, sum(client.nthreads().values()))


def _estimate(function: Callable, tasks: list[Task], todo: list[Task], folder: Path, n_workers: int) -> str:
    head = f"{function.__name__}: {len(tasks)} jobs, {len(tasks) - len(todo)} of them done"
    path, known = folder / SECONDS, []
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        known = [row["seconds"] for row in rows if row["function"] == name_of(function)]
    each = sum(known) / len(known) if known else function.seconds
    if not todo:
        return head
    if each is None:
        return f"{head}; how long the rest takes is known once one has run"
    hours = each * len(todo) / 3600
    return f"{head}; about {hours:.2f} CPU hours to go, {hours / n_workers:.2f} hours on {n_workers} worker(s)"


def _note_seconds(folder: Path, task: Task, seconds: float) -> None:
    with open(folder / SECONDS, "a", encoding="utf-8") as file:
        file.write(json.dumps({"function": task.function, "seconds": round(seconds, 3)}) + "\n")


def _here(todo: Sequence[Task]) -> Iterator[tuple[Task, float, str | None]]:
    for task in todo:
        yield (task, *work(task))


def _on_cluster(todo: Sequence[Task], client: Client) -> Iterator[tuple[Task, float, str | None]]:
    import distributed

    waiting = {client.submit(work, task, key=Path(task.path).name, pure=False): task for task in todo}
    try:
        for future in distributed.as_completed(waiting, loop=client.loop):
            try:
                yield (waiting[future], *future.result())
            except distributed.KilledWorker:
                yield waiting[future], 0.0, "its worker died each time that it was tried"
            except (OSError, ImportError, AttributeError) as error:  # the worker cannot even begin
                yield waiting[future], 0.0, f"the worker could not run it: {type(error).__name__}: {error}"
    finally:
        client.cancel(list(waiting))


def _read_all(tasks: Sequence[Task]) -> list[Any]:
    found, others = [], set()
    for task in tasks:
        try:
            content = json.loads(Path(task.path).read_text(encoding="utf-8"))
            same = {key: content[key] for key in task.identity()} == task.identity()
            found.append(content["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{task.path} must be a job's result; delete it and run the sweep again") from error
        if not same:
            raise ValueError(f"{task.path} must be the result of {task.job}, got that of {content['job']}; delete it")
        others |= {f"{k} {v}" for k, v in content["made_with"].items() if results.versions().get(k) != v}
    if others:
        folder = Path(tasks[0].path).parent
        warnings.warn(
            f"some results in {folder} were made with {', '.join(sorted(others))}; delete them to make them anew",
            stacklevel=3,
        )
    return found
