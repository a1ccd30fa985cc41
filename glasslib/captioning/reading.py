"""Which layout a file of captions has, told by what is in it, and its rows."""

from __future__ import annotations

import codecs
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from glasslib.captioning import layouts, tables
from glasslib.captioning.layouts import JSON_LAYOUTS, Rows

HEAD = 1 << 20  # bytes
N_SAMPLE = 500  # lines
LAYOUTS = ("text", "token", "table", "jsonl", *JSON_LAYOUTS)
KNOWN = (
    "a text with one caption a line, Flickr's file#number<tab>caption, csv and other tables, JSON lines, and the JSON "
    "of COCO, NoCaps, Karpathy, SentiCap, FlickrStyle and pycocoevalcap"
)
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
FOREIGN = (
    (b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "zip"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz"), (b"7z\xbc\xaf", "7z"),
    (b"PAR1", "Parquet"), (b"ARROW1", "Arrow"), (b"\x93NUMPY", "NumPy"), (b"\x89HDF", "HDF5"), (b"SQLite", "SQLite"),
    (b"%PDF", "PDF"), (b"\x89PNG", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"\x80\x02", "pickle"), (b"\x80\x03", "pickle"),
    (b"\x80\x04", "pickle"), (b"\x80\x05", "pickle"), (b"<!doctype", "HTML"), (b"<html", "HTML"), (b"<?xml", "XML"),
    (b"version https://git-lfs", "git-lfs pointer: the data themselves are not there; run git lfs pull"),
)  # fmt: skip
# what follows the first bracket of JSON; "[person] walks in" is a caption
BEGINS_JSON = re.compile(r"\s*(\{\s*([\"}]|$)|\[\s*([\[{\"\]]|$))")


def reader(path: Path, *, layout: str, encoding: str) -> Callable[[], Rows]:
    """Return a function that reads the file's captions from its beginning.

    Files of lines are read line by line. JSON is parsed once and kept, for these files hold under a million captions.

    Args:
        path: the file.
        layout: one of LAYOUTS, "json" for any of JSON's, or "auto".
        encoding: of the text; "auto": by the byte-order mark, else UTF-8.

    Raises:
        ValueError: an unknown layout or encoding, or content that is of no known layout, or not of this one.
    """
    if layout not in ("auto", "json", *LAYOUTS):
        raise ValueError(f"layout must be auto, json or one of {', '.join(LAYOUTS)}, got {layout!r}")
    with open(path, "rb") as file:
        head = file.read(HEAD)
    encoding = _encoding(head, encoding)
    if layout == "auto":
        _check_text(path, head)
    newline = _line_end(head, encoding)
    lines = lambda: _lines(path, encoding, newline)  # noqa: E731
    if layout in ("json", *JSON_LAYOUTS):
        return layouts.parsed(path, layout)
    sample = [line for _, line in itertools.islice(lines(), N_SAMPLE) if line.strip()]
    if layout == "auto" and _is_json(path, sample):
        return layouts.parsed(path, "json")
    try:
        found = tables.told(sample, path) if layout == "auto" else layout
    except ValueError as error:
        raise ValueError(f"{error}; known are {KNOWN}") from error
    if found == "table":
        found = _insisted(sample, path)
    if isinstance(found, tables.Table):
        return lambda: tables.table_rows(lines, found)
    if found == "jsonl":
        return tables.jsonl_rows(lines, sample, path.name)
    return lambda: (tables.token_rows if found == "token" else tables.text_rows)(lines)


def _insisted(sample: list[str], path: Path) -> tables.Table:
    table = tables.with_header(sample) or tables.without_header(sample) if sample else None
    if table is None:
        raise ValueError(f"{path.name} must be a table with a column of captions, got {sample[:1]}; known are {KNOWN}")
    return table


def _is_json(path: Path, sample: list[str]) -> bool:
    """Whether the whole file is one JSON value, and not one a line."""
    if not sample:
        return False
    if len(sample) > 1 and all(map(tables.OBJECT.match, sample[:2])):
        return False
    return path.suffix.lower() == ".json" or bool(BEGINS_JSON.match(sample[0].removeprefix("\ufeff")))


def _check_text(path: Path, head: bytes) -> None:
    for start, what in FOREIGN:
        if head[: len(start)].lower() == start.lower():
            raise ValueError(
                f"{path.name} must hold captions as text, got {what}; unpack or convert it first to {KNOWN}"
            )


def _encoding(head: bytes, encoding: str) -> str:
    if encoding != "auto":
        try:
            codecs.lookup(encoding)
        except LookupError as error:
            raise ValueError(
                f"encoding must be auto or one that Python knows, such as latin-1, got {encoding!r}"
            ) from error
        return encoding
    for mark, name in MARKS:
        if head.startswith(mark):
            return name
    # UTF-16 without its mark: of a text in Latin letters every second byte is 0
    for name, first in (("utf-16-le", 1), ("utf-16-be", 0)):
        if len(head) >= 8 and head[first::2].count(0) > 0.4 * len(head) / 2 and not head[1 - first :: 2].count(0):
            return name
    return "utf-8"


def _line_end(head: bytes, encoding: str) -> str:
    """ "\\n", or "\\r" for a file of old that has no other."""
    text = head.decode(encoding, errors="replace")
    return "\r" if "\r" in text and "\n" not in text else "\n"


def _lines(path: Path, encoding: str, newline: str) -> Iterator[tuple[int, str]]:
    """The number and text of each line. Bytes that are not of the encoding stay in it as lone surrogates."""
    with open(path, encoding=encoding, errors="surrogateescape", newline=newline) as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line.removeprefix("\ufeff") if number == 1 else line
        except UnicodeDecodeError as error:  # of UTF-16, whose pieces cannot stay
            raise ValueError(f"{path.name} is not {encoding} to its end: {error.reason}; is it complete?") from error
