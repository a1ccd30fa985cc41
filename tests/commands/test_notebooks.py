"""The notebook runner when things go otherwise than planned: interrupts, two runners, dead kernels, wrong requests."""

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

from glasslib.commands import notebooks, parameters

RUNNER = [sys.executable, "-c"]
MAIN = "import sys; from pathlib import Path; from glasslib.commands import notebooks as n; n.REPO = Path({0!r});"
MAIN += "n.NOTEBOOKS = n.REPO / 'notebooks'; n.EXECUTED = n.REPO / 'runs' / 'figures'; sys.argv[1:] = {1!r};"
MAIN += "sys.exit(n.main())"


def toy(path, *sources):
    """Write a notebook whose first code cell is tagged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def start(folder, *arguments):
    """The runner's command line, in a process of its own, over the notebooks of `folder`."""
    command = [*RUNNER, MAIN.format(str(folder), list(arguments))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=notebooks.REPO)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_queue_and_its_children_at_once(tmp_path, number):
    sleep = f"import time, pathlib; pathlib.Path({str(tmp_path)!r}, 'begun').touch(); time.sleep(300)"
    for name in ("01_a", "02_b"):
        toy(tmp_path / "notebooks" / f"{name}.ipynb", "preset = 'tiny'", sleep)
    runner = start(tmp_path, "figures", "--workers", "1")
    wait_for((tmp_path / "begun").exists)
    children = psutil.Process(runner.pid).children(recursive=True)
    assert len(children) >= 2, "papermill and its kernel"
    runner.send_signal(number)
    out, err = runner.communicate(timeout=5)
    assert runner.returncode == 130
    assert err.startswith("stopped; ") and err.count("\n") == 1
    assert "01_a: started" in out and "02_b" not in out
    wait_for(lambda: not any(child.is_running() and child.status() != "zombie" for child in children), 5)
    assert [path for path in (tmp_path / "runs" / "figures").iterdir()] == []


def test_two_runners_on_one_notebook_do_not_fail_each_other(tmp_path):
    toy(tmp_path / "notebooks" / "01_a.ipynb", "preset = 'tiny'", "import time; time.sleep(2); print('done')")
    runners = [start(tmp_path, *arguments) for arguments in (["figures"], ["figures"], ["refresh"])]
    for runner in runners:
        out, err = runner.communicate(timeout=120)
        assert (runner.returncode, err) == (0, ""), out
    assert {path.name for path in (tmp_path / "runs" / "figures").iterdir()} == {"01_a.ipynb", "timings.json"}
    refreshed = nbformat.read(tmp_path / "notebooks" / "01_a.ipynb", as_version=4)
    assert refreshed.cells[1].outputs[0].text == "done\n"


def test_a_killed_kernel_is_reported_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    dies = toy(
        tmp_path / "x.ipynb",
        "n = 1",
        f"import os, pathlib; pathlib.Path({str(tmp_path)!r}, 'died').touch(); os.kill(os.getpid(), 9)",
    )
    (outcome,) = notebooks.run_jobs([notebooks.Job(dies, tmp_path / "out.ipynb", {}, None)], workers=1)
    assert "x failed" in outcome.error and "Kernel died" in outcome.error
    assert time.time() - (tmp_path / "died").stat().st_mtime < 10  # about two seconds on an idle machine


def test_only_a_refresh_may_change_the_committed_parameters(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("GLASSLIB_REFRESH", "1")
    path = toy(tmp_path / "x.ipynb", "may = '0'", "import os; assert os.environ['GLASSLIB_REFRESH'] == may")
    jobs = [
        notebooks.Job(path, tmp_path / "1.ipynb", {"may": "0"}),
        notebooks.Job(path, tmp_path / "2.ipynb", {"may": "1"}, refresh=True),
    ]
    assert [outcome.error for outcome in notebooks.run_jobs(jobs, workers=2)] == [None, None]


@pytest.mark.parametrize(
    ("value", "fits"),
    [(3, True), ({"quick": 1, "full": 9}, True), (None, True), ("3", False), (2.5, False), ({"quick": 1}, False)],
)
def test_one_value_may_stand_for_all_scales(tmp_path, value, fits):
    path = toy(tmp_path / "x.ipynb", 'n = {"quick": 2, "full": None}', "n")
    if fits:
        return parameters.check_parameters(path, {"n": value})
    with pytest.raises(ValueError, match="x.ipynb: n must be dict as"):
        parameters.check_parameters(path, {"n": value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["figures", "07"], "no notebook begins with 07; there is 01_a, 02_b"),
        (["figures", "--preset", "huge"], "01_a.ipynb: preset must be one of tiny, paper, got 'huge'"),
        (["figures", "-p", "n", "many"], "01_a.ipynb: n must be int as 3 is, got 'many'"),
        (["figures", "-p", "n", "1.5"], "01_a.ipynb: n must be int as 3 is, got 1.5"),
        (["figures", "-p", "n", "true"], "01_a.ipynb: n must be int as 3 is, got True"),
        (["figures", "-p", "m", "1"], "01_a.ipynb has no parameter m; it has preset, n, rate, extra"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_before_anything_starts(tmp_path, arguments, message):
    for name in ("01_a", "02_b"):
        toy(tmp_path / "notebooks" / f"{name}.ipynb", "preset = 'tiny'\nn = 3\nrate = 0.5\nextra = None")
    runner = start(tmp_path, *arguments)
    assert runner.communicate(timeout=60) == ("", f"error: {message}\n")
    assert runner.returncode == 2


@pytest.mark.parametrize(("name", "value"), [("n", 4), ("rate", 1), ("rate", 0.1), ("extra", 3), ("extra", "a")])
def test_fitting_parameters_pass(tmp_path, name, value):
    path = toy(tmp_path / "01_a.ipynb", "preset = 'tiny'\nn = 3\nrate = 0.5\nextra = None")
    notebooks.check_parameters(path, {name: value, "preset": "paper"})


def test_a_configuration_is_taken_by_the_notebooks_of_its_family():
    def taken(name):
        return parameters.presets_of(notebooks.NOTEBOOKS / f"{name}.ipynb")

    assert "StyleGAN2_ffhq_d" in taken("02_caption_to_image_stylegan2")
    assert "DeepMindBigGAN512" in taken("03_caption_to_image_biggan")
    assert taken("10_round_trip") == taken("07_capdec_train") == ["tiny", "paper"]


def test_a_prefix_names_notebooks(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    for name in ("01_a", "01_a_more", "02_b"):
        toy(tmp_path / f"{name}.ipynb", "n = 1")
    assert [path.stem for path in notebooks.chosen(["01"])] == ["01_a", "01_a_more"]
    assert [path.stem for path in notebooks.chosen(["02", "01_a"])] == ["01_a", "02_b"]
    assert [path.stem for path in notebooks.chosen([])] == ["01_a", "01_a_more", "02_b"]


def test_a_read_only_checkout_is_refused(tmp_path):
    (tmp_path / "results").write_text("no folder can be made here, for root either")
    with pytest.raises(OSError, match=r"^cannot write in .*results/ \(File exists\); run in a checkout that is yours"):
        notebooks.check_writable(tmp_path / "results")
    notebooks.check_writable(tmp_path / "new")


def test_a_failed_refresh_leaves_the_notebook_and_says_where_to_look(tmp_path):
    path = toy(tmp_path / "notebooks" / "01_a.ipynb", "preset = 'tiny'", "1 / 0")
    before = path.read_bytes()
    runner = start(tmp_path, "refresh")
    _, err = runner.communicate(timeout=60)
    shown = tmp_path / "runs" / "figures" / "01_a.incomplete.ipynb"
    assert runner.returncode == 1 and f"open {shown} to see where" in err
    assert path.read_bytes() == before and json.loads(shown.read_text())
    assert os.listdir(shown.parent) == [shown.name]
