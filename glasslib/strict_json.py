"""Read the JSON of strangers: what Python would take without a word is refused, and every fault is a ValueError."""

import json
from pathlib import Path
from typing import Any


def read(path: Path, what: str) -> Any:
    """Return the content of a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Args:
        path: the file.
        what: what it holds, for the message.

    Raises:
        ValueError: not JSON, cut off, nested too deeply, or a key that one object has twice: Python would silently keep
            the last of its values.
    """
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{what} must be valid JSON, got {path}: {error}; is the file complete?") from error


def parse(text: str | bytes) -> Any:
    """Return JSON's value; ValueError also for a key that one object has twice and for what is nested too deeply."""
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r:.60} comes twice")
    return found
