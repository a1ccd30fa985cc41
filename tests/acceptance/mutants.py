"""Would the tests notice? Small faults are planted in the code one at a time, and each must make its tests fail.

`python tests/acceptance/mutants.py` plants 200, drawn with seed 0 from all that it can make of MODULES, and lists those
that no test noticed. A copy of the tree is changed, never the tree itself.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parents[2]
MODULES = {
    "glasslib/search/operators.py": ["tests/search"],
    "glasslib/metrics/intervals.py": ["tests/metrics/test_intervals.py"],
    "glasslib/captioning/noise.py": ["tests/captioning/test_noise.py"],
    "glasslib/captioning/decoding.py": ["tests/captioning/test_decoding.py"],
    "glasslib/scoring.py": ["tests/test_scoring.py"],
    "glasslib/search/pareto.py": ["tests/search/test_pareto.py", "tests/search/test_contract.py"],
    "glasslib/search/checkpoint.py": ["tests/search/test_checkpoint.py"],
    "glasslib/generators/stylegan2/safe_pickle.py": ["tests/generators/test_snapshots.py"],
}
PRELOADED = ("numpy", "torch", "scipy.stats", "PIL.Image", "pytest", "cma", "pymoo.core.problem", "transformers")
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
}  # fmt: skip
# not what the code does: words for people, types, and what the interpreter reads before it runs
NOT_CODE = (ast.JoinedStr, ast.Raise, ast.ImportFrom, ast.Import)


@dataclass(frozen=True)
class Mutant:
    """One fault: the file, its line, what is changed, and the whole file with it."""

    path: str
    line: int
    change: str
    source: str


def mutants(path: str, source: str) -> list[Mutant]:
    """Every fault that can be planted in a module, in the order of its lines."""
    found = []
    for k in range(len(list(_sites(ast.parse(source))))):
        tree = ast.parse(source)
        node, change = list(_sites(tree))[k]
        before = ast.unparse(node)
        change(node)
        found.append(Mutant(path, node.lineno, f"{before} -> {ast.unparse(node)}", ast.unparse(tree)))
    return found


def _sites(tree: ast.AST) -> Iterator[tuple[ast.AST, Callable[[ast.AST], None]]]:
    """Each node that can be changed, and how."""
    for node in _code(tree):
        if isinstance(node, ast.Compare):
            for k, operator in enumerate(node.ops):
                for other in COMPARISONS.get(type(operator), ()):
                    yield node, lambda node, k=k, other=other: node.ops.__setitem__(k, other())
        elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
            yield node, lambda node: setattr(node, "op", ARITHMETIC[type(node.op)]())
        elif isinstance(node, ast.BoolOp):
            yield node, lambda node: setattr(node, "op", ast.And() if isinstance(node.op, ast.Or) else ast.Or())
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            yield node, lambda node: setattr(node, "operand", ast.UnaryOp(node.op, node.operand))  # twice is not at all
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield node, lambda node: setattr(node, "value", not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            yield node, lambda node: setattr(node, "value", node.value + 1)
        elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
            yield node, lambda node: setattr(node, "value", ast.Constant(None))


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run, without annotations, decorators and messages."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, NOT_CODE) and "TYPE_CHECKING" not in _test(child):
                yield from _code(child)


def _test(node: ast.AST) -> str:
    return ast.unparse(node.test) if isinstance(node, ast.If) else ""


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def copy_of_tree(folder: Path) -> Path:
    """The tree again, with links to all but the package and its tests."""
    root, copied = folder / "tree", ("glasslib", "tests")
    for name in copied:
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for other in REPO.iterdir():
        if other.name not in (*copied, ".git"):
            (root / other.name).symlink_to(other)
    return root


def run_tests(root: Path, tests: list[str], *, timeout_s: float | None) -> tuple[int | None, float]:
    """pytest's exit status (None: it took too long) and the seconds, in a fork of this process."""
    started = time.perf_counter()
    child = os.fork()
    if not child:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        os.chdir(root)
        sys.path.insert(0, str(root))
        code = 3
        try:
            import pytest

            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
        finally:
            os._exit(code)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        seconds = time.perf_counter() - started
        if ended:
            return os.waitstatus_to_exitcode(status), seconds
        if timeout_s is not None and seconds > timeout_s:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None, seconds
        time.sleep(0.02)


def preload() -> None:
    """Import once what the tests import each, and none of it ours: a fork then begins at once."""
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}  # for what the tests start themselves
    sys.dont_write_bytecode = True
    for name in PRELOADED:
        importlib.import_module(name)
    if any(name.split(".")[0] == "glasslib" for name in sys.modules):
        raise RuntimeError("glasslib must not be imported before a fault is planted in it")


def main() -> int:
    """Plant, run, list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("n", type=int, nargs="?", default=200, help="how many to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(MODULES), help="modules to draw from")
    parser.add_argument("--out", type=Path, help="a JSON file for the outcome, written after each")
    given = parser.parse_args()
    every = [mutant for path in given.only for mutant in mutants(path, (REPO / path).read_text(encoding="utf-8"))]
    n = min(given.n, len(every))
    drawn = [every[k] for k in sorted(np.random.default_rng(given.seed).choice(len(every), n, replace=False))]
    print(f"{n} of {len(every)} mutants of {len(given.only)} modules")
    preload()
    killed, survivors, limits = 0, [], {}
    with tempfile.TemporaryDirectory() as folder:
        root = copy_of_tree(Path(folder))
        for k, mutant in enumerate(drawn, start=1):
            tests, target = MODULES[mutant.path], root / mutant.path
            if mutant.path not in limits:
                code, seconds = run_tests(root, tests, timeout_s=None)
                if code:
                    raise RuntimeError(
                        f"{' '.join(tests)} must pass before anything is planted, got exit status {code}"
                    )
                limits[mutant.path] = 3 * seconds + 20
            original = target.read_bytes()
            target.write_text(mutant.source, encoding="utf-8")
            code, seconds = run_tests(root, tests, timeout_s=limits[mutant.path])
            target.write_bytes(original)
            killed += code != 0
            if code == 0:
                survivors.append(f"{mutant.path}:{mutant.line}  {mutant.change}")
                print(f"survived  {survivors[-1]}", flush=True)
            outcome = {"mutants.killed": {"value": killed / k, "n": k, "unit": "share"}, "survivors": survivors}
            if given.out:
                given.out.write_text(json.dumps(outcome, indent=1))
    print(f"{killed} of {n} killed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
