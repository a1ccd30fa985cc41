"""Stop in a notebook: one line, the cells after it do not run, and running the cell again goes on."""

import nbformat
import pytest

from glasslib.results import REPO

pytestmark = pytest.mark.acceptance

SETUP = """
import os, signal, time
import numpy as np
from glasslib.latents import Normal
from glasslib.search import loop
from glasslib.search.genetic import GeneticSearch
presses = [17]

def evaluate(x):
    if search.generation in presses:
        presses.remove(search.generation)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
    return x.sum(axis=1)
"""
SEARCH = """
search = GeneticSearch(Normal(4), popsize=6, rng=np.random.default_rng(0))
result = loop.run(search, evaluate, n_generations=60, checkpoint="run.npz", resume=True, progress=False)
len(result.history)
"""


def test_stop_ends_run_all_in_one_line_and_the_cell_goes_on(tmp_path):
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    cells = [nbformat.v4.new_code_cell(source) for source in (f"import sys; sys.path.insert(0, {str(REPO)!r})" + SETUP,
             SEARCH, "print('never')", "import sys; len(sys.last_value.result.history)")]  # fmt: skip
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    with client.setup_kernel():
        client.execute_cell(cells[0], 0)
        with pytest.raises(CellExecutionError):
            client.execute_cell(cells[1], 1)
        (shown,) = cells[1].outputs
        assert shown["ename"] == "Interrupted"
        assert shown["traceback"] == [
            "stopped after generation 17 of 60; the best so far is in error.result, or run the cell again to go on "
            "(error is sys.last_value)"
        ]
        assert client.execute_cell(cells[3], 3).outputs[0]["data"]["text/plain"] == "17"
        assert client.execute_cell(cells[1], 1).outputs[0]["data"]["text/plain"] == "60"
    fresh = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.source) for cell in cells[:3]])
    (tmp_path / "run.npz").unlink()
    with pytest.raises(CellExecutionError, match="stopped after generation 17"):
        NotebookClient(fresh, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [len(cell.outputs) for cell in fresh.cells] == [0, 1, 0]  # Run All went no further
