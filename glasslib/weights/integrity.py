"""Whether a weight file or a config is whole, by its form alone: no web page in its place, no missing end.

Nothing in a file is run, and none is read further than its form needs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from glasslib import strict_json

MAX_CONFIG_BYTES = 2**20  # the longest config.json we know has 30 kB
MAX_JSON_BYTES = 2**26  # of other JSON, such as tokenizer.json
MAX_DEPTH = 50
MAX_NUMBER = 10**8  # no size in a config is larger; a library that lists as many layers needs 0.8 GB
POINTER = b"version https://git-lfs"
ZIP = b"PK\x03\x04"


def fault(path: Path, *, suffix: str) -> str | None:
    """What a file's own form says is wrong with it, in words that follow "it is"; None if nothing.

    Args:
        path: the file, which may still have another name.
        suffix: the one it is to have: ".safetensors", ".json", ".pkl", ".bin", ".pt" or ".pth"; of others only that it
            is neither empty nor something else in a model's place is known.
    """
    size = path.stat().st_size
    with open(path, "rb") as content:
        start = content.read(512)
        if mistaken := _mistaken(start):
            return mistaken
        content.seek(0)
        if suffix == ".safetensors":
            return _safetensors_fault(content, size)
        if suffix == ".json":
            return _json_fault(content, size)
        if suffix in (".pkl", ".bin", ".pt", ".pth") and not start.startswith(ZIP):
            content.seek(size - 1)
            # a lone pickle ends with a full stop; torch's old format has the tensors' bytes after it
            whole = start[:1] == b"\x80" and (suffix != ".pkl" or content.read() == b".")
            return None if whole else "no whole pickle"
    return None


def _mistaken(start: bytes) -> str | None:
    """What stands in a model's place, by how it begins."""
    if not start:
        return "empty"
    if start.startswith(POINTER):
        return "a git-lfs pointer, not the file it points to (run: git lfs pull)"
    if start.lstrip(b"\xef\xbb\xbf \r\n\t")[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page, not a model (the address gave an error or asked for a login)"
    return None


def _safetensors_fault(content, size: int) -> str | None:
    length = int.from_bytes(content.read(8), "little")
    if not 2 <= length <= size - 8:
        return "no safetensors file, or a piece of one"
    if length > MAX_JSON_BYTES:
        return f"a safetensors file with a header of {length:,} bytes, which no model has"
    try:
        header = strict_json.parse(content.read(length))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__"]
        right = 8 + length + max(ends, default=0) == size
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return "a safetensors file with a damaged header"
    return None if right else "a safetensors file of the wrong length"


def _json_fault(content, size: int) -> str | None:
    if size > MAX_JSON_BYTES:
        return f"JSON of {size:,} bytes, and none of ours has more than {MAX_JSON_BYTES:,}"
    try:
        return None if strict_json.parse(content.read()) else "empty JSON"
    except (ValueError, RecursionError) as error:
        return f"no JSON ({error})"


def check_whole(path: str | Path, *, missing: str, advice: str) -> Path:
    """Return the path of a file that is there and whole by its form.

    Args:
        path: its suffix says which form.
        missing: what to say and do when it is not there, after "no file at <path>; ".
        advice: what to do when it is damaged.

    Raises:
        FileNotFoundError, ValueError: it is not there, or not whole; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} at {path}; {missing}")
    if wrong := fault(path, suffix=path.suffix):
        raise ValueError(f"{path} is {wrong}; {advice}")
    return path


def read_config(path: str | Path, *, missing: str, advice: str) -> dict[str, Any]:
    """Read a model's config.json, of a size, depth and numbers that a model can have.

    Args:
        path, missing, advice: as for `check_whole`.

    Raises:
        FileNotFoundError, ValueError: as `check_whole`; no JSON object; more than MAX_CONFIG_BYTES; nested deeper than
            MAX_DEPTH; a number that is not finite, or a whole one beyond MAX_NUMBER.
    """
    path = Path(path)
    if path.is_file() and (n_bytes := path.stat().st_size) > MAX_CONFIG_BYTES:
        raise ValueError(f"{path} must have at most {MAX_CONFIG_BYTES:,} bytes, got {n_bytes:,}; {advice}")
    check_whole(path, missing=missing, advice=advice)
    try:
        return parse_config(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} {error}; {advice}") from error


def parse_config(content: str | bytes) -> dict[str, Any]:
    """Read a config from its text; ValueError in words that follow the name of where it stands."""
    try:
        config = strict_json.parse(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"must be JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"must hold a JSON object, got a {type(config).__name__}")
    pending: list[tuple[str, Any, int]] = [("", config, 0)]
    while pending:
        name, value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"must nest at most {MAX_DEPTH} deep, got more at {name[:60]!r}")
        if isinstance(value, (dict, list)):
            inside = value.items() if isinstance(value, dict) else ((name, item) for item in value)
            pending += [(key, item, depth + 1) for key, item in inside]
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"must hold finite numbers, got {value} as {name[:60]!r}")
        elif isinstance(value, int) and abs(value) > MAX_NUMBER:
            raise ValueError(f"must hold sizes of at most {MAX_NUMBER:,}, got a larger one as {name[:60]!r}")
    return config
