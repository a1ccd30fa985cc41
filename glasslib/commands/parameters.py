"""The parameters of a notebook, read and checked before anything runs."""

import ast
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from glasslib.results import REPO


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
    """Whether a value may stand where the default stands; None as default says that nothing is known.

    Where the default has a value for each scale, one value for all of them may stand in its place.
    """
    if isinstance(default, dict) and set(default) == {"quick", "full"}:
        if isinstance(value, dict):
            return set(value) == set(default) and all(_fits(value[scale], default[scale]) for scale in default)
        return value is None or any(_fits(value, each) for each in default.values() if each is not None)
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
