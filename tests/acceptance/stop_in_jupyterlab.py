"""Seconds from JupyterLab's Stop to the end of Run All, over all search cells: `stop.seconds`, its worst.

Needs chromium and playwright, which are no dependencies of ours, so it runs in an environment of its own:

    python -m venv /some/where && /some/where/bin/pip install playwright
    /some/where/bin/python tests/acceptance/stop_in_jupyterlab.py --python .venv/bin/python [--write] [02_caption...]

Every search cell of every notebook gets a fresh kernel: Run All in a real JupyterLab, wait until that cell runs, let it
run on a little, press Stop, and wait until Run All has ended. A cell counts only if it was stopped while it ran, shows
one error, and no cell after it ran.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

REPO = Path(__file__).resolve().parents[2]
LATER_S = (0.5, 1.5)  # after the cell began: two stops of each
SMALLER = {  # what comes before the searches, and nothing of the searches themselves
    "02_caption_to_image_stylegan2": {"n_samples": 64, "n_training": 500},
    "03_caption_to_image_biggan": {"n_samples": 64, "n_curve": 32},
    "04_image_to_caption_gpt2": {"n_texts": 20},
}
BROWSER = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
OPEN = """async path => {
  const panel = await jupyterapp.commands.execute('docmanager:open', {path});
  await panel.context.ready; await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  jupyterapp.shell.activateById(panel.id);
  window.panel = panel; window.ended = null;
}"""
RUN_ALL = "() => { jupyterapp.commands.execute('notebook:run-all-cells').finally(() => window.ended = Date.now()); }"
STOP = "() => { jupyterapp.commands.execute('notebook:interrupt-kernel'); return Date.now(); }"
STATE = """() => panel.content.widgets.filter(cell => cell.model.type === 'code').map(cell => ({
  count: cell.model.executionCount,
  errors: cell.model.outputs.toJSON().filter(output => output.output_type === 'error').map(output => output.ename)}))"""


def search_cells(notebook: Path) -> list[int]:
    """Which code cells run a search: they call loop.run or loop.run_many, or a function of the notebook that does."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    searching: set[str] = set()
    found = []
    for number, cell in enumerate(cells):
        tree = ast.parse("".join(cell["source"]))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
        searching |= {function.name for function in functions if _searches(function, searching)}
        if any(_searches(node, searching) for node in tree.body if not isinstance(node, ast.FunctionDef)):
            found.append(number)
    return found


def _searches(tree: ast.AST, searching: set[str]) -> bool:
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return bool(called & ({"loop.run", "loop.run_many"} | searching))


def prepared(notebook: Path, folder: Path) -> Path:
    """A copy of a notebook without outputs; its results stay out of results/, and what is slow beforehand is small."""
    content = json.loads(notebook.read_text())
    changed = {**SMALLER.get(notebook.stem, {}), "results_dir": str(folder / "results")}
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = "".join(cell["source"]) + "".join(
                f"\n{name} = {value!r}" for name, value in changed.items()
            )
    path = folder / notebook.name
    path.write_text(json.dumps(content))
    return path


class Lab:
    """A JupyterLab of its own on this machine, over one folder; a context manager that gives its address."""

    def __init__(self, python: Path, folder: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self._port = taken.getsockname()[1]
        self._token = secrets.token_hex(16)
        root = ["--allow-root"] if os.getuid() == 0 else []
        command = [str(python), "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={self._port}"]
        command += ["--port-retries=0", f"--IdentityProvider.token={self._token}", f"--ServerApp.root_dir={folder}"]
        command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly", *root]
        environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(folder / "config"), "PYTHONPATH": str(REPO)}
        environment["JUPYTER_PATH"] = str(python.parents[1] / "share" / "jupyter")
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def __enter__(self) -> str:
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self._port)) == 0:
                    return f"http://127.0.0.1:{self._port}/lab?token={self._token}"
            time.sleep(0.2)
        raise RuntimeError("JupyterLab did not start within 120 s; start it by hand to see why")

    def __exit__(self, *_) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)


def stop(page: Page, address: str, notebook: Path, cell: int, later_s: float) -> dict:
    """Stop one cell of one notebook and say how that went."""
    page.goto(address)
    page.wait_for_function("() => window.jupyterapp && jupyterapp.started.then(() => true)", timeout=120_000)
    page.evaluate(OPEN, notebook.name)
    page.evaluate(RUN_ALL)
    end = time.monotonic() + 900
    while not _is_running(state := page.evaluate(STATE), cell):
        if page.evaluate("() => window.ended") or time.monotonic() > end:
            errors = [error for each in state for error in each["errors"]]
            raise RuntimeError(f"{notebook.name}: code cell {cell} never ran; errors before it: {errors}")
        page.wait_for_timeout(50)
    page.wait_for_timeout(1000 * later_s)
    was_running = _is_running(page.evaluate(STATE), cell)
    pressed = page.evaluate(STOP)
    page.wait_for_function("() => window.ended", timeout=600_000)
    seconds = (page.evaluate("() => window.ended") - pressed) / 1000
    page.wait_for_timeout(1000)  # outputs travel another way than the reply that ends Run All
    after = page.evaluate(STATE)
    page.evaluate("async () => { await panel.sessionContext.shutdown(); await panel.context.save(); panel.close(); }")
    row = {"notebook": notebook.stem, "cell": cell, "later_s": later_s, "seconds": seconds, "was_running": was_running}
    ran_on = [number for number, each in enumerate(after) if number > cell and each["count"]]
    return row | {"errors": after[cell]["errors"], "ran_on": ran_on}


def _is_running(state: list[dict], cell: int) -> bool:
    """Whether a cell runs now: the one before it has ended, it has not (JupyterLab calls queued cells running too)."""
    return bool(state[cell - 1]["count"]) and not state[cell]["count"]


def measure(python: Path, notebooks: list[Path]) -> list[dict]:
    """Stop every search cell of the notebooks, at each of LATER_S; prints a row as it comes."""
    rows = []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=chromium, headless=True, args=list(BROWSER))
        with Lab(python, Path(folder)) as address:
            for original in notebooks:
                for cell in search_cells(original):
                    for later_s in LATER_S:
                        page = browser.new_page()
                        rows.append(stop(page, address, prepared(original, Path(folder)), cell, later_s))
                        page.close()
                        print(rows[-1], flush=True)
        browser.close()
    return rows


def write(python: Path, rows: list[dict]) -> None:
    """Write results/bench_stop/, by the environment that has glasslib."""
    worst = max(row["seconds"] for row in rows)
    code = (
        "import json, sys; from glasslib import results; rows, worst = json.loads(sys.argv[1]); results.write_results("
        "'results/bench_stop', source='make bench', params={'versions': results.versions()}, "
        "metrics={'stop.seconds': results.metric(worst, n=len(rows), unit='s')}, tables={'stops': rows})"
    )
    table = [{name: row[name] for name in ("notebook", "cell", "later_s", "seconds")} for row in rows]
    subprocess.run([python, "-c", code, json.dumps([table, worst])], cwd=REPO, check=True)


def main() -> int:
    """Measure, and write if asked; returns 1 if a stop did not stop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="notebooks, such as 02_caption_to_image_stylegan2; all if none")
    parser.add_argument("--python", type=Path, default=REPO / ".venv" / "bin" / "python", help="that has glasslib")
    parser.add_argument("--write", action="store_true", help="write results/bench_stop/")
    args = parser.parse_args()
    found = [path for path in sorted((REPO / "notebooks").glob("*.ipynb")) if not args.names or path.stem in args.names]
    rows = measure(args.python.absolute(), found)
    counted = [row for row in rows if row["was_running"]]
    wrong = [row for row in counted if len(row["errors"]) != 1 or row["ran_on"]]
    print(f"{len(counted)} stops of {len(rows)}, worst {max(row['seconds'] for row in counted):.2f} s; wrong: {wrong}")
    if args.write and not wrong:
        write(args.python.absolute(), counted)
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
