"""Checkpoints: arrays and JSON in one .npz file, without pickle, replaced whole or not at all."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np

FORMAT = "glasslib search checkpoint 1"


def save(path: Path, content: dict) -> None:
    """Write `content` so that killing the process at any instant leaves the last complete file.

    Args:
        path: where; the folder is made, and a temporary file beside it is used.
        content: JSON values and NumPy arrays, nested in dicts and lists.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps({"format": FORMAT, "content": _pack(content, arrays)})
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        np.savez(file, json=np.frombuffer(text.encode(), dtype=np.uint8), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load(path: Path) -> dict:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: nothing there.
        ValueError: a damaged file, or not a checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}; run the search with checkpoint= first")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        content = json.loads(arrays["json"].tobytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        return _unpack(content["content"], arrays)
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged or no search checkpoint ({error}); delete it to start again") from error


def _pack(value, arrays: dict):
    if isinstance(value, np.ndarray):
        name = f"array_{len(arrays)}"
        arrays[name] = value
        return {"__array__": name}
    if isinstance(value, dict):
        return {key: _pack(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_pack(item, arrays) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _unpack(value, arrays: dict):
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return arrays[value["__array__"]]
        return {key: _unpack(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    return value
