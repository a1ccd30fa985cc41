"""Run the notebooks without a browser: `make figures`, `make notebooks` for the committed outputs, the smoke tests."""

import argparse
import ast
import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from glasslib.commands import end_on_signals
from glasslib.results import REFRESH, REPO, write_json_atomic

NOTEBOOKS = REPO / "notebooks"
EXECUTED = REPO / "runs" / "figures"
HEARTBEAT_S = 60.0
POLL_S = 0.1
KEEP_OUTPUTS = ("--keep-output", "--keep-count", "--extra-keys", "metadata.papermill cell.metadata.papermill")


@dataclass(frozen=True)
class Job:
    """One notebook to run.

    executed: where the executed copy goes. parameters: what replaces the notebook's. cell_timeout_s: seconds allowed to
    one cell. refresh: whether its parameters may become the committed ones, see `results.write_results`.
    """

    notebook: Path
    executed: Path
    parameters: Mapping[str, Any]
    cell_timeout_s: int | None = 1800
    refresh: bool = False


@dataclass(frozen=True)
class Outcome:
    """How one job ended: `error` is None, or says what went wrong and where the notebook that shows it lies."""

    job: Job
    seconds: float
    error: str | None


def kernel_environment() -> dict[str, str]:
    """Return what is set for every kernel: one thread, a fixed time zone, and this environment's python3 kernel.

    JUPYTER_PATH comes before the user's own folders, where another environment's "python3" may be registered.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    jupyter_path = [str(Path(sys.prefix, "share", "jupyter")), *filter(None, [os.environ.get("JUPYTER_PATH")])]
    fixed = {"TZ": "UTC", "SOURCE_DATE_EPOCH": "0", "PYTHONHASHSEED": "0"}
    return threads | fixed | {"JUPYTER_PATH": os.pathsep.join(jupyter_path)}


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Return the names and default values in the cell tagged `parameters`.

    Raises:
        ValueError: not exactly one such cell, or something in it that is not a name = literal.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1 or tagged[0]["cell_type"] != "code":
        raise ValueError(f"{notebook.name} needs exactly one code cell tagged parameters, got {len(tagged)}")
    values = {}
    for node in ast.parse("".join(tagged[0]["source"])).body:
        if not (isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)):
            raise ValueError(f"{notebook.name}: the parameters cell holds only name = literal, not {ast.unparse(node)}")
        values[node.targets[0].id] = ast.literal_eval(node.value)
    return values


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse a parameter the notebook does not have (papermill would only warn), or one of another type.

    Raises:
        ValueError: an unknown name, a value of another type than the default's, a preset the notebook does not take.
    """
    known = parameters_of(notebook)
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(f"{notebook.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")
    for name, value in parameters.items():
        if not _fits(value, known[name]):
            kind = type(known[name]).__name__
            raise ValueError(f"{notebook.name}: {name} must be {kind} as {known[name]!r} is, got {value!r}")
    preset = parameters.get("preset", "tiny")
    if preset not in ("tiny", "paper") and preset not in (there := presets_of(notebook)):
        raise ValueError(f"{notebook.name}: preset must be one of {', '.join(there)}, got {preset!r}")


def _fits(value: Any, default: Any) -> bool:
    """Whether a value may stand where the default stands; None as default says that nothing is known."""
    if default is None or isinstance(default, bool) or isinstance(value, bool):
        return default is None or type(value) is type(default)
    return isinstance(value, (int, float) if isinstance(default, float) else type(default))


def presets_of(notebook: Path) -> list[str]:
    """Return the presets a notebook takes: tiny, paper, and CLIP-GLaSS's configurations of the family it is about."""
    from glasslib import presets

    families = set(re.findall(r'for_notebook\(preset, \\?"(\w+)\\?"\)', notebook.read_text(encoding="utf-8")))
    ours = [name for name, made in presets.clip_glass.CONFIGURATIONS.items() if {made.family} == families]
    return ["tiny", "paper", *ours]


def check_writable(*folders: Path) -> None:
    """Refuse a folder in which no file can be made, such as one of a read-only checkout, with OSError."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            where = folder.relative_to(REPO) if folder.is_relative_to(REPO) else folder
            raise OSError(f"cannot write in {where}/ ({error.strerror}); run in a checkout that is yours") from error


class _Run:
    """One notebook in a papermill process of its own; the executed copy appears only once it is complete."""

    def __init__(self, job: Job) -> None:
        self.job, self._start, self._errors = job, time.perf_counter(), tempfile.TemporaryFile()
        job.executed.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(prefix=f".{job.notebook.stem}.", suffix=".ipynb", dir=job.executed.parent)
        os.close(handle)
        self._aside = Path(aside)  # this run's alone: another runner may be at the same notebook
        print(f"  {job.notebook.stem}: started", flush=True)
        parameters = base64.b64encode(yaml.safe_dump(dict(job.parameters)).encode()).decode()
        command = [sys.executable, "-m", "papermill", str(job.notebook), aside, "--no-progress-bar"]
        command += ["-k", "python3", "-l", "python", "--cwd", str(NOTEBOOKS), "--start-timeout", "300"]
        command += ["-b", parameters] if job.parameters else []  # without, papermill injects no cell
        command += ["--execution-timeout", str(job.cell_timeout_s)] if job.cell_timeout_s else []
        environment = {**os.environ, **kernel_environment(), REFRESH: "1" if job.refresh else "0"}
        environment.pop("MPLBACKEND", None)  # the kernel draws inline
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors,
            start_new_session=True,
        )  # fmt: skip  # a session of its own: Ctrl-C reaches this runner alone, which then ends it

    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs."""
        if self._process.poll() is None:
            return None
        name, seconds = self.job.notebook.stem, time.perf_counter() - self._start
        self._errors.seek(0)
        tail = "\n".join(self._errors.read().decode(errors="replace").strip().splitlines()[-25:])
        self._errors.close()
        if self._process.returncode == 0:
            os.replace(self._aside, self.job.executed)
            print(f"  {name}: done in {seconds:.0f} s", flush=True)
            return Outcome(self.job, seconds, None)
        shown = self.job.executed.with_name(f"{name}.incomplete.ipynb")
        os.replace(self._aside, shown)
        print(f"  {name}: FAILED after {seconds:.0f} s", flush=True)
        return Outcome(self.job, seconds, f"{name} failed; open {shown} to see where. The end of its output:\n{tail}")

    def kill(self) -> None:
        """End the process, its kernel and all they started, at once, and leave no half-run copy."""
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            papermill = psutil.Process(self._process.pid)
            papermill.suspend()  # so that it starts nothing between the listing and its end
            for process in [*papermill.children(recursive=True), papermill]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait()
        self._errors.close()
        self._aside.unlink(missing_ok=True)


def run_jobs(jobs: Sequence[Job], *, workers: int) -> list[Outcome]:
    """Run every job, `workers` at a time, and say on stdout what starts and ends; outcomes come in the jobs' order.

    An interrupt ends the running ones at once, begins no other, and passes through.
    """
    for job in jobs:
        check_parameters(job.notebook, job.parameters)
    waiting, running, outcomes = list(enumerate(jobs)), {}, {}
    said = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number, job = waiting.pop(0)
                running[number] = _Run(job)
            time.sleep(POLL_S)
            ended = {number: outcome for number, run in running.items() if (outcome := run.outcome())}
            outcomes |= ended
            running = {number: run for number, run in running.items() if number not in ended}
            said = time.monotonic() if ended else said
            if time.monotonic() - said > HEARTBEAT_S:
                said = time.monotonic()
                names = [jobs[number].notebook.stem for number in [*running, *(number for number, _ in waiting)]]
                print(f"  ... still to finish: {', '.join(names)}", flush=True)
    finally:
        for run in running.values():
            run.kill()
    return [outcomes[number] for number in range(len(jobs))]


def figures(notebooks: Sequence[Path], *, parameters: Mapping[str, Any], workers: int) -> list[Outcome]:
    """Run notebooks, their executed copies into runs/figures/ (runs/figures/<preset>/ unless it is tiny)."""
    preset = parameters["preset"]
    folder, timeout_s = (EXECUTED, 1800) if preset == "tiny" else (EXECUTED / preset, None)
    jobs = [Job(notebook, folder / notebook.name, parameters, timeout_s) for notebook in notebooks]
    start = time.perf_counter()
    outcomes = run_jobs(jobs, workers=workers)
    timings = {outcome.job.notebook.stem: outcome.seconds for outcome in outcomes}
    write_json_atomic(folder / "timings.json", {**timings, "total": time.perf_counter() - start})
    return outcomes


def refresh(notebooks: Sequence[Path], *, workers: int) -> list[Outcome]:
    """Run notebooks as they stand and put the outputs into them, without a trace of the machine or the clock.

    Their parameters become those of results/NN_topic/params.json.
    """
    EXECUTED.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".refresh.", dir=EXECUTED) as folder:  # another runner has its own
        jobs = [Job(notebook, Path(folder, notebook.name), {}, refresh=True) for notebook in notebooks]
        outcomes = run_jobs(jobs, workers=workers)
        for number, outcome in enumerate(outcomes):
            if outcome.error is None:
                executed = str(outcome.job.executed)
                subprocess.run([sys.executable, "-m", "nbstripout", *KEEP_OUTPUTS, "--keep-id", executed], check=True)
                os.replace(executed, outcome.job.notebook)
            else:
                kept = EXECUTED / f"{outcome.job.notebook.stem}.incomplete.ipynb"
                os.replace(Path(folder, kept.name), kept)
                outcomes[number] = replace(
                    outcome, error=outcome.error.replace(str(Path(folder, kept.name)), str(kept))
                )
    return outcomes


def chosen(only: Sequence[str]) -> list[Path]:
    """Return the notebooks whose names begin with one of `only` (a whole name stands for itself); all for none.

    Raises:
        ValueError: nothing begins so.
    """
    found = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    fitting = {start: [start] if start in found else [n for n in found if n.startswith(start)] for start in only}
    if not found or (unknown := [start for start, names in fitting.items() if not names]):
        missing = f"no notebook begins with {', '.join(unknown)}" if found else "no notebook at all in notebooks/"
        raise ValueError(f"{missing}; there is {', '.join(found) or 'none'}")
    names = [name for name in found if not only or any(name in names for names in fitting.values())]
    return [found[name] for name in names]


def main() -> int:
    """Run the notebooks named, or all; returns the exit status."""
    end_on_signals()
    parser = argparse.ArgumentParser(prog="python -m glasslib.commands.notebooks", description=__doc__)
    parser.add_argument("what", choices=["figures", "refresh"])
    parser.add_argument("only", nargs="*", help="such as 01_clip_space, or 01; all of them if none is given")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    args = parser.parse_args()
    try:
        notebooks = chosen(args.only)
        parameters = {"preset": args.preset} | {name: yaml.safe_load(value) for name, value in args.parameter}
        check_writable(EXECUTED, REPO / "results", *([NOTEBOOKS] if args.what == "refresh" else []))
        if args.what == "figures":
            for notebook in notebooks:
                check_parameters(notebook, parameters)
        print(f"running {len(notebooks)} notebooks, {args.workers} at a time", flush=True)
        if args.what == "figures":
            outcomes = figures(notebooks, parameters=parameters, workers=args.workers)
        else:
            outcomes = refresh(notebooks, workers=args.workers)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the notebooks that had ended keep their results, the others changed nothing", file=sys.stderr)
        return 130
    if errors := [outcome.error for outcome in outcomes if outcome.error]:
        print("\n\n".join(errors) + f"\n\n{len(errors)} of {len(outcomes)} notebooks failed", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
