"""Exercise 01.1 done as its text says, in a checkout of its own: what is committed stays as it was."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from glasslib.commands import notebooks
from glasslib.results import REPO


@pytest.fixture
def checkout(tmp_path):
    """A git repository with this one's library, results, README and first notebook, all committed."""
    for name in ("glasslib", "results"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "timings.json"))
    (tmp_path / "notebooks").mkdir()
    for name in ("README.md", ".gitignore", "notebooks/01_clip_space.ipynb"):
        shutil.copy(REPO / name, tmp_path / name)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=a")
    return tmp_path


def git(folder, *arguments):
    run = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return run.stdout


def test_exercise_1_leaves_results_and_readme_as_committed(checkout):
    path = checkout / "notebooks" / "01_clip_space.ipynb"
    text = path.read_text(encoding="utf-8")
    assert "Set `n_scenes` to 200." in text, "the exercise has changed; do here what it says now"
    assert text.count("n_scenes = 1000 ") == 1
    path.write_text(text.replace("n_scenes = 1000 ", "n_scenes = 200 "), encoding="utf-8")
    environment = {**os.environ, **notebooks.kernel_environment()}
    command = [sys.executable, "-m", "papermill", str(path), str(path), "-k", "python3", "--no-progress-bar"]
    subprocess.run(command, cwd=checkout, env=environment, check=True, capture_output=True)  # its own glasslib
    subprocess.run([sys.executable, "-m", "glasslib.commands.scoreboard"], cwd=checkout, env=environment, check=True)
    assert git(checkout, "status", "--porcelain", "results", "README.md") == ""
    (elsewhere,) = (checkout / "runs").iterdir()
    assert json.loads((elsewhere / "metrics.json").read_text())["metrics"]["clip.gap"]["n"] == 200
    assert f"results are in runs/{elsewhere.name}/" in path.read_text(encoding="utf-8")
