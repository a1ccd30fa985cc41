"""The layers of design.md section 2: who may import whom, read from the source and never from memory."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from glasslib.results import REPO

LAYERS = {
    "checks": 0,
    "images": 0,
    "results": 0,
    "strict_json": 0,
    "sweep": 1,
    "latents": 1,
    "weights": 1,
    "scoring": 1,
    "plotting": 1,
    "clip": 2,
    "generators": 2,
    "captioning": 2,
    "search": 2,
    "metrics": 2,
    "tinyworld": 3,
    "presets": 4,
    "widgets": 5,
    "commands": 5,
    "bench": 6,
}
HEAVY = {"open_clip", "transformers", "pymoo", "cma", "papermill", "IPython"}
SEARCH_LIBRARIES = {"pymoo", "cma"}  # whose operators and problems search/ subclasses
VAGUE = {"utils", "util", "helpers", "common", "misc"}


def modules(package: Path) -> dict[str, Path]:
    """Dotted name inside the package -> file; a package's __init__ goes by the package's name."""
    names = {path.relative_to(package).with_suffix(""): path for path in sorted(package.rglob("*.py"))}
    return {".".join(part for part in name.parts if part != "__init__"): path for name, path in names.items()}


def imports(tree: ast.AST, module: str, *, is_package: bool) -> list[str]:
    """Every imported dotted name, relative ones resolved against `module`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = f"glasslib.{module}".split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{prefix}.{alias.name}" for alias in node.names]
    return found


def import_time(tree: ast.Module) -> ast.Module:
    """The part of a module that runs when it is imported: no function bodies, no `if TYPE_CHECKING`."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_If(self, node):
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Strip().visit(ast.parse(ast.unparse(tree)))


def violations(package: Path) -> list[str]:
    """What breaks the rules in a package laid out as glasslib is."""
    wrong = []
    found = modules(package)
    for name, path in found.items():
        own = name.split(".")[0]
        if VAGUE & set(name.split(".")):
            wrong.append(f"{name}: a name that says nothing; put its parts where they belong")
        if own not in LAYERS and own:
            wrong.append(f"{name}: has no layer; add it to LAYERS here and to design.md's tree")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), path)
        is_package = path.name == "__init__.py"
        for target in imports(tree, name, is_package=is_package):
            parts = target.split(".")
            inside = parts[0] == "glasslib" and len(parts) > 1 and parts[1] in {n.split(".")[0] for n in found}
            if not inside or parts[1] == own:
                continue
            if not own:
                wrong.append(f"glasslib/__init__.py imports {target}; it stays empty")
            elif LAYERS.get(parts[1], 99) >= LAYERS[own]:
                wrong.append(f"{name} (layer {LAYERS[own]}) imports {target} (layer {LAYERS.get(parts[1])})")
        allowed = SEARCH_LIBRARIES if own == "search" else set()
        for target in imports(import_time(tree), name, is_package=is_package):
            if heavy := [h for h in HEAVY - allowed if f"{target}.".startswith(f"{h}.")]:
                wrong.append(f"{name} imports {heavy[0]} when it is imported; move it into the function that needs it")
    return wrong


def test_layers():
    assert len(modules(REPO / "glasslib")) > 3
    assert violations(REPO / "glasslib") == []


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("results.py", "from glasslib.search import loop", "results (layer 0) imports glasslib.search.loop (layer 2)"),
        ("results.py", "def f():\n    import glasslib.presets", "results (layer 0) imports glasslib.presets (layer 4)"),
        ("results.py", "from . import checks", "results (layer 0) imports glasslib.checks (layer 0)"),
        ("scoring.py", "from glasslib import metrics", "scoring (layer 1) imports glasslib.metrics (layer 2)"),
        ("search/loop.py", "from ..presets import X", "search.loop (layer 2) imports glasslib.presets.X (layer 4)"),
        ("search/__init__.py", "from ..metrics import X", "search (layer 2) imports glasslib.metrics.X (layer 2)"),
        ("odds.py", "", "odds: has no layer"),
        ("search/utils.py", "", "search.utils: a name that says nothing"),
        ("__init__.py", "from glasslib import results", "glasslib/__init__.py imports glasslib.results"),
        ("clip/embedder.py", "import open_clip", "clip.embedder imports open_clip when it is imported"),
        ("clip/embedder.py", "class A:\n    import transformers.models", "clip.embedder imports transformers when"),
        ("scoring.py", "from pymoo.core import problem", "scoring imports pymoo when"),
    ],
)
def test_each_violation_is_found(tmp_path, file, source, message):
    for name in ("results", "checks", "scoring", "metrics", "presets", "latents", "clip/embedder", "search/loop"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text("import json\n")
    assert violations(tmp_path) == []
    (tmp_path / file).write_text(source)
    assert [found for found in violations(tmp_path) if found.startswith(message)], violations(tmp_path)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("scoring.py", "def f():\n    import open_clip"),
        ("scoring.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import transformers"),
        ("search/loop.py", "import cma\nfrom glasslib.search import genetic\nfrom .genetic import X"),
        ("presets/search.py", "from glasslib import scoring, results, __version__"),
    ],
)
def test_what_is_allowed_is_not_flagged(tmp_path, file, source):
    for name in ("results", "scoring", "presets/search", "search/genetic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text("")
    (tmp_path / file).write_text(source)
    assert violations(tmp_path) == []


def test_importing_everything_is_silent_and_touches_no_random_state():
    names = [f"glasslib.{name}".rstrip(".") for name in modules(REPO / "glasslib") if not name.endswith("__main__")]
    script = (
        "import random, numpy as np, torch, importlib\n"
        "state = lambda: (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist())\n"
        "before = state()\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "assert state() == before, 'importing changed a global random state'\n"
        "assert not torch.cuda.is_initialized(), 'importing touched the GPU'\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd="/")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
