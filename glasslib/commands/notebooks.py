"""Run the notebooks without a browser: `make figures`, `make notebooks` for the committed outputs, the smoke tests."""

import argparse
import ast
import base64
import concurrent.futures
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glasslib.results import REPO, write_json_atomic

NOTEBOOKS = REPO / "notebooks"
EXECUTED = REPO / "runs" / "figures"
HEARTBEAT_S = 60.0
KEEP_OUTPUTS = ("--keep-output", "--keep-count", "--extra-keys", "metadata.papermill cell.metadata.papermill")


@dataclass(frozen=True)
class Job:
    """One notebook to run: where the executed copy goes, what replaces its parameters, seconds allowed to one cell."""

    notebook: Path
    executed: Path
    parameters: Mapping[str, Any]
    cell_timeout_s: int | None = 1800


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
    """Refuse a parameter the notebook does not have; papermill would only warn and run the default."""
    known = parameters_of(notebook)
    if unknown := sorted(set(parameters) - set(known)):
        raise ValueError(f"{notebook.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}")


def run_jobs(jobs: Sequence[Job], *, workers: int) -> list[Outcome]:
    """Run every job, `workers` at a time, and say on stdout what starts and ends; outcomes come in the jobs' order."""
    for job in jobs:
        check_parameters(job.notebook, job.parameters)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_run, job) for job in jobs]
        pending = set(futures)
        while pending:
            done, pending = concurrent.futures.wait(pending, HEARTBEAT_S, concurrent.futures.FIRST_COMPLETED)
            if not done:
                names = [job.notebook.stem for job, future in zip(jobs, futures, strict=True) if not future.done()]
                print(f"  ... still to finish: {', '.join(names)}", flush=True)
    return [future.result() for future in futures]


def _run(job: Job) -> Outcome:
    """Run one notebook in a papermill process of its own; the executed copy appears only once it is complete."""
    name, start = job.notebook.stem, time.perf_counter()
    print(f"  {name}: started", flush=True)
    aside = job.executed.with_name(f"{name}.incomplete.ipynb")
    aside.parent.mkdir(parents=True, exist_ok=True)
    parameters = base64.b64encode(yaml.safe_dump(dict(job.parameters)).encode()).decode()
    command = [sys.executable, "-m", "papermill", str(job.notebook), str(aside), "--no-progress-bar"]
    command += ["-k", "python3", "-l", "python", "--cwd", str(NOTEBOOKS), "--start-timeout", "300"]
    command += ["-b", parameters] if job.parameters else []  # without, papermill injects no cell
    command += ["--execution-timeout", str(job.cell_timeout_s)] if job.cell_timeout_s else []
    environment = {**os.environ, **kernel_environment()}
    environment.pop("MPLBACKEND", None)  # the kernel draws inline
    run = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if run.returncode == 0:
        os.replace(aside, job.executed)
        print(f"  {name}: done in {seconds:.0f} s", flush=True)
        return Outcome(job, seconds, None)
    tail = "\n".join(run.stderr.strip().splitlines()[-25:])
    print(f"  {name}: FAILED after {seconds:.0f} s", flush=True)
    return Outcome(job, seconds, f"{name} failed; open {aside} to see where. The end of its output:\n{tail}")


def figures(notebooks: Sequence[Path], *, preset: str, workers: int) -> list[Outcome]:
    """Run notebooks into results/ (results/<preset>/ unless it is tiny), their executed copies into runs/figures/."""
    jobs = []
    for notebook in notebooks:
        parameters = {"preset": preset}
        if preset != "tiny":
            parameters["results_dir"] = f"results/{preset}/{notebook.stem}"
        jobs.append(Job(notebook, EXECUTED / notebook.name, parameters, 1800 if preset == "tiny" else None))
    start = time.perf_counter()
    outcomes = run_jobs(jobs, workers=workers)
    timings = {outcome.job.notebook.stem: outcome.seconds for outcome in outcomes}
    write_json_atomic(EXECUTED / "timings.json", {**timings, "total": time.perf_counter() - start})
    return outcomes


def refresh(notebooks: Sequence[Path], *, workers: int) -> list[Outcome]:
    """Run notebooks as they stand and put the outputs into them, without a trace of the machine or the clock."""
    outcomes = run_jobs([Job(notebook, EXECUTED / notebook.name, {}) for notebook in notebooks], workers=workers)
    for outcome in outcomes:
        if outcome.error is None:
            executed = str(outcome.job.executed)
            subprocess.run([sys.executable, "-m", "nbstripout", *KEEP_OUTPUTS, "--keep-id", executed], check=True)
            os.replace(executed, outcome.job.notebook)
    return outcomes


def main() -> None:
    """Run the notebooks named, or all; exit with their names if any fails."""
    parser = argparse.ArgumentParser(prog="python -m glasslib.commands.notebooks", description=__doc__)
    parser.add_argument("what", choices=["figures", "refresh"])
    parser.add_argument("names", nargs="*", help="such as 01_clip_space; all of them if none is given")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    found = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    if not found or (unknown := sorted(set(args.names) - set(found))):
        parser.error(f"no notebook {', '.join(unknown) if found else 'at all in notebooks/'}; there is {list(found)}")
    chosen = [found[name] for name in args.names or found]
    print(f"running {len(chosen)} notebooks, {args.workers} at a time", flush=True)
    if args.what == "figures":
        outcomes = figures(chosen, preset=args.preset, workers=args.workers)
    else:
        outcomes = refresh(chosen, workers=args.workers)
    if errors := [outcome.error for outcome in outcomes if outcome.error]:
        sys.exit("\n\n".join(errors) + f"\n\n{len(errors)} of {len(outcomes)} notebooks failed")


if __name__ == "__main__":
    main()
