"""The committed notebooks read well and really run: SMOKE names every one and what makes it small.

Two passes: the file as committed (cells, outputs, no trace of a machine), then papermill with the parameters of SMOKE.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest

from glasslib.commands import notebooks

# Every override must make the notebook smaller; `results_dir` is set to a temporary folder below.
SMOKE = {
    "00_start_here": {"n_generations": 3},
    "01_clip_space": {"n_scenes": 60},
    # with every size given, the full scale is as small: its own branch is what this runs
    "02_caption_to_image_stylegan2": {
        "scale": "full", "n_generations": 3, "n_seeds": 2, "n_arm_seeds": 1, "n_samples": 64, "n_training": 500,
        "n_targets": 2, "n_target_seeds": 1, "n_target_generations": 2,
    },
    "03_caption_to_image_biggan": {
        "scale": "full", "n_generations": 2, "n_seeds": 2, "n_captions": 4, "n_samples": 64, "n_curve": 32,
        "n_targets": 2, "n_target_seeds": 1, "n_target_generations": 2,
    },
    "04_image_to_caption_gpt2": {
        "scale": "full", "n_generations": 2, "n_pictures": 2, "n_seeds": 2, "n_texts": 20,
        "n_targets": 2, "n_target_seeds": 1, "n_target_generations": 2,
    },
    "07_capdec_train": {"n_scenes": 100, "n_test": 20},
    "08_capdec_noise": {"n_scenes": 100, "n_test": 20},
    "09_capdec_transfer": {"n_scenes": 40, "n_live": 20, "n_steps": 3, "n_skewed": 100},
    "10_round_trip": {"scale": "full", "n_captions": 2, "n_generations": 3, "n_writing": 2, "n_pictures": 2},
}  # fmt: skip
NAMES = sorted(SMOKE)
MACHINE = re.compile(r"(?<![\w.:/])/(?:home|root|Users|tmp|work|opt|usr|mnt|var|private)/|\b[A-Z]:\\\\?Users|\.venv/")
FORBIDDEN = re.compile(r"^\s*[%!]|import \*|os\.chdir|sys\.path|hf_hub_download|urlretrieve", re.M)


def load(name):
    return nbformat.read(notebooks.NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


def test_smoke_covers_every_notebook():
    assert {path.stem for path in notebooks.NOTEBOOKS.glob("*.ipynb")} == set(SMOKE)


@pytest.mark.parametrize("name", NAMES)
def test_parameters(name):
    defaults = notebooks.parameters_of(notebooks.NOTEBOOKS / f"{name}.ipynb")
    assert SMOKE[name], "say what makes it small"
    assert set(SMOKE[name]) <= set(defaults)
    assert {key for key, value in SMOKE[name].items() if defaults[key] == value} == set(), (
        "overrides that change nothing"
    )
    assert defaults["preset"] == "tiny"
    assert defaults["results_dir"] == f"results/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_narrative(name):
    notebook = load(name)
    texts = markdown(notebook)
    headings = [
        line
        for text in texts
        for line in re.sub(r"```.*?```", "", text, flags=re.S).splitlines()
        if line.startswith("#")
    ]
    assert [heading for heading in headings if heading.startswith("# ")] == [headings[0]]
    assert re.match(rf"# {name[:2]} · \S", headings[0])
    assert re.search(r"^> .+\?", texts[0], re.M), "the first cell asks the question, as a quote"
    assert notebook.cells[0].cell_type == "markdown"
    assert headings[-2:] == ["## What this does not show", "## Exercises"]
    exercises = "\n".join(texts).split("## Exercises")[1]
    assert len(re.findall(r"^\d\. ", exercises, re.M)) == 3
    assert len(texts) >= len(code(notebook)) / 2, "more prose: one idea a cell, and what we see"


@pytest.mark.parametrize("name", NAMES)
def test_cells(name):
    for number, cell in enumerate(code(load(name)), start=1):
        assert len(cell.source.splitlines()) <= 25, f"code cell {number} is too long"
        assert not FORBIDDEN.search(cell.source), f"code cell {number}: {FORBIDDEN.search(cell.source)[0]!r}"


@pytest.mark.parametrize("name", NAMES)
def test_outputs_come_from_one_full_run(name):
    cells = code(load(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run: make notebooks"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output.ename for output in outputs if output.output_type == "error"]
    assert not ["".join(output.text) for output in outputs if output.get("name") == "stderr"], (
        "warnings or progress bars"
    )
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure"


@pytest.mark.parametrize("name", NAMES)
def test_no_trace_of_a_machine(name):
    notebook = load(name)
    assert notebook.metadata.kernelspec.name == "python3"
    assert not {"papermill", "widgets"} & set(notebook.metadata)
    assert not [cell.metadata for cell in notebook.cells if {"papermill", "execution"} & set(cell.metadata)]
    assert not [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            output["data"] = {
                kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")
            }
        found = MACHINE.search(json.dumps(cell))
        assert not found, f"{json.dumps(cell)[max(found.start() - 40, 0) : found.end() + 40]}"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Every notebook run small, two at a time, as `make figures` does: name -> (outcome, its results folder)."""
    folder = tmp_path_factory.mktemp("smoke")
    jobs = [
        notebooks.Job(
            notebooks.NOTEBOOKS / f"{name}.ipynb",
            folder / f"{name}.ipynb",
            {**SMOKE[name], "results_dir": str(folder / name)},
            cell_timeout_s=240,
        )
        for name in NAMES
    ]
    return {outcome.job.notebook.stem: outcome for outcome in notebooks.run_jobs(jobs, workers=2)}


@pytest.mark.parametrize("name", NAMES)
def test_runs_small(name, outcomes):
    outcome = outcomes[name]
    assert outcome.error is None, outcome.error
    small = json.loads(Path(outcome.job.parameters["results_dir"], "metrics.json").read_text())
    full = json.loads((notebooks.REPO / "results" / name / "metrics.json").read_text())
    assert small["source"] == full["source"] == f"notebooks/{name}.ipynb"
    assert small["metrics"].keys() == full["metrics"].keys()
    assert small["files"] == full["files"]


def toy(path, *sources, tags=("parameters",)):
    """Write a notebook whose first code cell is tagged."""
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = list(tags)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_failing_notebook_is_named_and_leaves_no_executed_copy(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    good = toy(tmp_path / "good.ipynb", "rate = 1.0", "assert rate == 1e-05 and type(rate) is float")
    bad = toy(tmp_path / "bad.ipynb", "n = 1", "1 / (n - 3)")
    executed = tmp_path / "executed"
    jobs = [
        notebooks.Job(good, executed / "good.ipynb", {"rate": 1e-05}),
        notebooks.Job(bad, executed / "bad.ipynb", {"n": 3}),
    ]
    fine, failed = notebooks.run_jobs(jobs, workers=2)
    assert fine.error is None, fine.error
    assert re.search(r"(?s)bad failed; open .*bad\.incomplete\.ipynb.*ZeroDivisionError", failed.error)
    assert {path.name for path in executed.iterdir()} == {"good.ipynb", "bad.incomplete.ipynb"}
    assert "bad: FAILED" in capfd.readouterr().out


def test_misspelt_parameter_is_refused_before_anything_runs(tmp_path):
    path = toy(tmp_path / "x.ipynb", "seed = 1\nn = 2")
    with pytest.raises(ValueError, match="x.ipynb has no parameter sede; it has seed, n"):
        notebooks.run_jobs([notebooks.Job(path, tmp_path / "out.ipynb", {"sede": 7})], workers=1)


@pytest.mark.parametrize(
    ("source", "tags", "message"),
    [
        ("seed = 1", (), "exactly one code cell tagged parameters, got 0"),
        ("seed = 1 + n", ("parameters",), "malformed node"),
        ("seed = 1\nprint(seed)", ("parameters",), r"only name = literal, not print\(seed\)"),
    ],
)
def test_bad_parameters_cell_is_refused(tmp_path, source, tags, message):
    with pytest.raises(ValueError, match=message):
        notebooks.parameters_of(toy(tmp_path / "x.ipynb", source, tags=tags))


def test_kernel_is_this_environments_whatever_else_is_registered(tmp_path, monkeypatch):
    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text('{"argv": ["false"], "display_name": "other", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    path = toy(
        tmp_path / "x.ipynb", "prefix = ''", "import os, sys\nassert (sys.prefix, os.environ['TZ']) == (prefix, 'UTC')"
    )
    (outcome,) = notebooks.run_jobs(
        [notebooks.Job(path, tmp_path / "out.ipynb", {"prefix": notebooks.sys.prefix})], workers=1
    )
    assert outcome.error is None, outcome.error
