"""One list of pins: pyproject.toml's ranges, requirements.lock, environment.yml and what is installed must agree."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from glasslib import __version__
from glasslib.results import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (REPO / "requirements.lock").read_text(encoding="utf-8")
CONDA = yaml.safe_load((REPO / "environment.yml").read_text(encoding="utf-8"))
TARGETS = {
    *("help", "setup", "demo", "figures", "test", "lint", "lab", "bench", "tinyworld", "clean", "notebooks", "lock"),
    "reset",
}
HARD = 'it\'s "red" $HOME $(shell echo bad) `id` \\ #5'


def ranges() -> dict[str, Requirement]:
    """Canonical name -> what pyproject.toml asks for, the dev group included."""
    listed = [Requirement(text) for text in PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]]
    return {canonicalize_name(requirement.name): requirement for requirement in listed}


def pins(lock: str = LOCK) -> dict[str, list[Requirement]]:
    """Canonical name -> its lines in the lock; several where Python versions differ."""
    lines = [line.rstrip(" \\") for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    found: dict[str, list[Requirement]] = {}
    for requirement in map(Requirement, lines):
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def version_of(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", f"{pin} is not an exact pin"
    return specifier.version


@pytest.mark.parametrize("name", sorted(ranges()))
def test_lock_satisfies_every_range(name):
    assert name in pins(), f"{name} is in pyproject.toml but not in requirements.lock; run: make lock"
    for pin in pins()[name]:
        assert ranges()[name].specifier.contains(version_of(pin)), f"{pin}, but pyproject.toml asks {ranges()[name]}"


def test_every_pin_has_hashes_and_no_address():
    blocks = re.split(r"\n(?=[a-zA-Z0-9])", LOCK)[1:]
    assert len(blocks) == sum(map(len, pins().values())) > 100
    assert [block.split()[0] for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", block)] == []
    assert re.findall(r"https?://\S+|--[a-z-]*(?:url|links)\b\S*| @ ", LOCK) == []


def test_conda_environment_names_the_same_packages():
    packages = [entry for entry in CONDA["dependencies"] if isinstance(entry, str)]
    by_pip = [entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict)]
    assert by_pip == [["-r requirements.lock"]], "pip's list must be the lock and nothing else"
    names = {re.match(r"[a-z]+", package)[0]: package for package in packages}
    assert names.keys() == {"python", "openjdk", "pip"}, "Python packages come by pip, from the lock"
    assert SpecifierSet(names["python"].removeprefix("python")) == SpecifierSet(PROJECT["project"]["requires-python"])


def test_installed_packages_are_those_of_the_lock():
    here = [pin for lines in pins().values() for pin in lines if pin.marker is None or pin.marker.evaluate()]
    assert len(here) > 100
    wrong = {}
    for pin in here:
        try:
            found = importlib.metadata.version(pin.name)
        except importlib.metadata.PackageNotFoundError:
            found = "nothing"
        if found != version_of(pin):
            wrong[pin.name] = f"{found} is installed, the lock has {version_of(pin)}"
    assert wrong == {}, "run: make setup"


def top_level(name: str) -> set[str]:
    """What can be imported from an installed distribution."""
    distribution = importlib.metadata.distribution(name)
    listed = distribution.read_text("top_level.txt")
    return set(listed.split()) if listed else {file.parts[0].removesuffix(".py") for file in distribution.files}


def test_every_import_is_a_declared_dependency():
    declared = {"glasslib", *sys.stdlib_module_names}.union(*map(top_level, ranges()))
    browser = REPO / "tests" / "acceptance" / "stop_in_jupyterlab.py"  # has an environment of its own, see there
    files = [path for path in (*(REPO / "glasslib").rglob("*.py"), *(REPO / "tests").rglob("*.py")) if path != browser]
    assert len(files) > 10
    undeclared = {}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules} - declared:
                undeclared.setdefault(top, path.relative_to(REPO).as_posix())
    assert undeclared == {}, "name them in pyproject.toml, then: make lock"


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert __version__ == PROJECT["project"]["version"] == citation["version"]


def test_make_help_lists_the_targets():
    run = subprocess.run(["make", "help"], cwd=REPO, capture_output=True, text=True, check=True)
    listed = re.findall(r"^  make (\S+) +\S", run.stdout, re.M)
    assert set(listed) >= TARGETS
    phony = re.search(r"^\.PHONY: (.*)$", (REPO / "Makefile").read_text(encoding="utf-8"), re.M)[1].split()
    assert sorted(listed) == sorted(phony), "a target without a ## comment, or without .PHONY"


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        ([], ""),
        ([f"TARGET={HARD}"], f"--target={HARD}"),
        (["TARGET="], "--target="),
        (["IMAGE=a b/$(x.png"], "--image=a b/$(x.png"),
    ],
)
def test_make_demo_hands_the_caption_over_untouched(tmp_path, arguments, seen):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nshift 2\nprintf %s "$*"\n')
    python.chmod(0o755)
    overrides = [f"PY={python}", f"READY={python}"]
    run = subprocess.run(["make", "demo", *overrides, *arguments], cwd=REPO, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == (seen, "")


@pytest.fixture
def environment(tmp_path):
    """A folder that looks like an environment; its python writes down what it is asked, and knows no glasslib."""

    def make(name, knows_glasslib=False):
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(
            f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n[ "$1" != -I ] || exit {int(not knows_glasslib)}\n'
        )
        python.chmod(0o755)
        return python.parents[1]

    return make


def make_lint(tmp_path, *arguments, **active):
    """Run `make lint` with these environments active; return what the fake python was asked, and what make said."""
    variables = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    variables |= {key: str(value) for key, value in active.items()}
    variables.pop("MAKEFLAGS", None)
    run = subprocess.run(["make", "lint", *arguments], cwd=REPO, env=variables, capture_output=True, text=True)
    asked = tmp_path / "asked"
    return asked.read_text() if asked.exists() else "", run


@pytest.mark.parametrize(
    ("name", "knows_glasslib", "arguments"),
    [("glasslib", False, []), ("mine", True, []), ("mine", False, ["USE_ACTIVE=1"])],
)
@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_make_uses_the_active_environment(tmp_path, environment, variable, name, knows_glasslib, arguments):
    folder = environment(name, knows_glasslib)
    asked, run = make_lint(tmp_path, *arguments, **{variable: folder})
    assert run.returncode == 0, run.stderr
    assert asked.splitlines()[-4:] == [
        "-m pip install --quiet --require-hashes -r requirements.lock",
        "-m pip install --quiet --no-deps --no-build-isolation -e .",
        "-m ruff check .",
        "-m ruff format --check .",
    ]
    asked_again, _ = make_lint(tmp_path, *arguments, **{variable: folder})
    assert asked_again.count("-m pip") == 2, "set up once"


def test_make_leaves_another_environment_alone(tmp_path, environment):
    python = environment("x") / "bin" / "python"
    overrides = [f"PY={python}", f"READY={python}"]  # .venv stays out of this
    asked, run = make_lint(tmp_path, *overrides, CONDA_PREFIX=environment("base"))
    assert run.returncode == 0, run.stderr
    assert "-m pip" not in asked and asked.splitlines()[0].startswith("-I -c"), "asked whether it has glasslib, no more"


def test_use_active_needs_an_active_environment(tmp_path):
    _, run = make_lint(tmp_path, "USE_ACTIVE=1")
    assert run.returncode == 2 and "USE_ACTIVE=1 needs an active environment: conda activate NAME" in run.stderr


def test_reset_restores_what_is_committed_and_keeps_the_changes(tmp_path):
    (tmp_path / "Makefile").write_text((REPO / "Makefile").read_text())
    for name in ("notebooks", "results"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text("committed\n")
    (tmp_path / "README.md").write_text("committed\n")

    def call(*command):
        run = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
        return run.stdout

    call("git", "init", "--quiet")
    call("git", "add", "--all")
    call("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=a")
    (tmp_path / "notebooks" / "a").write_text("mine\n")
    (tmp_path / "results" / "a").unlink()
    said = call("make", "reset")
    assert (tmp_path / "notebooks" / "a").read_text() == (tmp_path / "results" / "a").read_text() == "committed\n"
    call("git", "apply", said.split("git apply ")[1].strip())
    assert (tmp_path / "notebooks" / "a").read_text() == "mine\n" and not (tmp_path / "results" / "a").exists()
