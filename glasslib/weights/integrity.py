"""Whether a weight file is whole, by its form alone: no web page in its place, no missing end. Nothing in it runs."""

from __future__ import annotations

from pathlib import Path

from glasslib import strict_json


def fault(path: Path, *, suffix: str) -> str | None:
    """What a file's own form says is wrong with it, in words that follow "it is"; None if nothing.

    Args:
        path: the file, which may still have another name.
        suffix: the one it is to have: ".safetensors", ".json", ".pkl" or ".bin"; of others nothing is known.
    """
    size = path.stat().st_size
    with open(path, "rb") as content:
        start = content.read(8)
        if start == b"version " and content.read(28) == b"https://git-lfs.github.com/s":
            return "a git-lfs pointer in place of the file (run git lfs pull)"
        if start.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
            return "a web page in place of the file"
        content.seek(8)
        if suffix == ".safetensors":
            length = int.from_bytes(start, "little")
            if not 2 <= length <= size - 8:
                return "no safetensors file, or a piece of one"
            try:
                ends = [
                    entry["data_offsets"][1]
                    for key, entry in strict_json.parse(content.read(length)).items()
                    if key[:2] != "__"
                ]
            except (ValueError, KeyError, TypeError, AttributeError):
                return "a safetensors file with a damaged header"
            return None if 8 + length + max(ends, default=0) == size else "a safetensors file of the wrong length"
        content.seek(0)
        if suffix == ".json":
            try:
                return None if strict_json.parse(content.read()) else "empty JSON"
            except ValueError as error:
                return f"no JSON ({error})"
        if suffix in (".pkl", ".bin") and start[:4] != b"PK\x03\x04":
            content.seek(max(0, size - 1))
            # a lone pickle ends with a full stop; torch's old format has the tensors' bytes after it
            return None if start[:1] == b"\x80" and (suffix == ".bin" or content.read() == b".") else "no whole pickle"
    return None
