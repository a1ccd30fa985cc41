"""Captions in files of lines: plain text, Flickr's token files, JSON lines, and tables with any separator.

Which of them a file is, its lines say (`told`), never its name alone.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from glasslib import strict_json
from glasslib.captioning.layouts import CAPTION, BadRow, Caption, Fields, Rows, captions_of

SEPARATORS = "\t|;,"
PICTURE = r"[^\t|;,\"]{1,250}\.(?:jpe?g|png|webp|gif|bmp|tiff?)(?:#\d+)?"
IS_PICTURE = re.compile(rf"\s*{PICTURE}\s*", re.IGNORECASE)
IS_URL = re.compile(r"\s*https?://\S+\s*", re.IGNORECASE)
IS_NUMBER = re.compile(r"\s*\d+\s*")
TOKEN = re.compile(r"([^\t]+?(?=#\d+\t)|\S+\.(?:jpe?g|png)(?=#\d+ ))#(\d+)\s(.*)", re.DOTALL)
OBJECT = re.compile(r'\s*\{\s*"')
NAME = re.compile(r"[\w.#-]*(?: [\w.#-]+)?")  # of a column: one or two words, or nothing above pandas' row numbers
ALMOST_ALL, SOME = 0.9, 0.2  # of the lines looked at
BAD_BYTE = re.compile("[\udc80-\udcff]")  # what Python reads a byte as that is not of the encoding

Lines = Callable[[], Iterator[tuple[int, str]]]  # from the first one: number and text of each


@dataclass(frozen=True)
class Table:
    """What stands between a table's cells, its columns' names, and whether its first row is these."""

    separator: str
    names: tuple[str, ...]
    has_header: bool


def told(sample: Sequence[str], path: Path) -> str | Table:
    """Tell what a file's first lines are: "token", "jsonl", "text" or a `Table`.

    Args:
        sample: lines with something in them.
        path: for the message; a name in .csv or .tsv says that it should be a table.

    Raises:
        ValueError: something between two layouts, names of files alone, or a table whose captions cannot be told.
    """
    if not sample:
        return "text"
    if share(sample, OBJECT.match) >= ALMOST_ALL:
        return "jsonl"
    if share(sample, lambda line: IS_PICTURE.fullmatch(line) or IS_URL.fullmatch(line)) >= ALMOST_ALL:
        raise ValueError(f"{path.name} lists files or addresses, first {sample[0].strip()[:60]!r}, and no captions")
    of_token = share(sample, TOKEN.match)
    if of_token >= ALMOST_ALL:
        return "token"
    if table := with_header(sample) or without_header(sample):
        return table
    of_rows = max(of_token, *(share(sample, lambda line, s=s: _ids_in(line, s) is not None) for s in SEPARATORS))
    if of_rows >= SOME:
        raise ValueError(
            f"{path.name} is neither a text nor a table: {of_rows:.0%} of its lines name a picture; mend the others, "
            f"or say layout='text' or 'table'"
        )
    if path.suffix.lower() in (".csv", ".tsv"):
        return _one_column(sample, path)
    return "text"


def share(sample: Sequence[str], holds: Callable) -> float:
    """How many of the lines have a property, from 0 to 1."""
    return sum(bool(holds(line)) for line in sample) / max(1, len(sample))


def with_header(sample: Sequence[str]) -> Table | None:
    """The table whose columns the first line names, if it does."""
    first, *rows = sample
    if first.strip().strip('"').lower() in ("caption", "captions"):
        return Table(",", ("caption",), True)
    for separator in SEPARATORS:
        names = tuple(_unquoted(cell).lower() for cell in first.split(separator))
        if len(names) < 2 or not all(map(NAME.fullmatch, names)):
            continue
        fields = Fields.of(names)
        fits = share([line.count(separator) - len(names) + 1 for line in rows], lambda n_more: n_more >= 0)
        looks_written = any(map(str.isspace, first.strip().replace(separator, "")))  # "Caption, please" is a sentence
        if fields.caption and (fields.image or fields.caption_id or (fits >= ALMOST_ALL and not looks_written)):
            return Table(separator, names, True)
    return None


def without_header(sample: Sequence[str]) -> Table | None:
    """The table whose rows begin or end with pictures, addresses or numbers, if almost all of them do."""
    for separator in SEPARATORS:
        shapes = [_ids_in(line, separator) for line in sample]
        for n_first, n_last in sorted({shape for shape in shapes if shape}, reverse=True):
            if shapes.count((n_first, n_last)) >= ALMOST_ALL * len(sample):
                names = ["" for _ in range(n_first)], ["" for _ in range(n_last)]
                of_image = names[0 if n_first else 1]
                cells = sample[0].split(separator)
                is_file = IS_PICTURE.fullmatch(_unquoted(cells[0 if n_first else len(cells) - n_last]))
                of_image[0] = "filename" if is_file else "image_id"
                return Table(separator, (*names[0], "caption", *names[1]), False)
    return None


def _ids_in(line: str, separator: str) -> tuple[int, int] | None:
    """How many cells that are no words stand before and after the words; None if there are none, or no words."""
    cells = [_unquoted(cell) for cell in line.split(separator)]
    is_id = [bool(IS_PICTURE.fullmatch(cell) or IS_URL.fullmatch(cell)) for cell in cells]
    is_number = [bool(IS_NUMBER.fullmatch(cell)) for cell in cells]
    if not any(is_id) and not (separator == "\t" and is_number[0]):  # "2, 3 dogs" is a sentence
        return None
    other = [a or b for a, b in zip(is_id, is_number, strict=True)]
    if all(other):
        return None
    n_first, n_last = other.index(False), other[::-1].index(False)
    # within the words any separator may stand: only the ends are looked at
    return (n_first, n_last) if n_first or n_last else None


def _one_column(sample: Sequence[str], path: Path) -> Table:
    """A csv or tsv without a header that we know: one column, or it cannot be told which holds the captions."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    if all(len(cells) == 1 for _, _, cells, _ in records(lambda: enumerate(sample, 1), separator)):
        return Table(separator, ("caption",), _unquoted(sample[0]).lower() in CAPTION)
    raise ValueError(
        f"{path.name} is a table, and which column holds the captions cannot be told, first line "
        f"{sample[0].strip()[:80]!r}; name the columns in its first line (the captions': {', '.join(CAPTION)}), or say "
        "layout='text' if each line is a caption"
    )


def text_rows(lines: Lines) -> Rows:
    """One sentence a line; an empty line is a bad row, so that line numbers stay the captions' ids."""
    for number, line in lines():
        if bad := BAD_BYTE.search(line):
            yield BadRow(f"line {number}", _of_byte(bad))
        elif not line.strip():
            yield BadRow(f"line {number}", "empty")
        else:
            yield Caption(line, str(number), str(number))


def token_rows(lines: Lines) -> Rows:
    """Flickr8k.token.txt and Flickr30k's results_20130124.token: `1000092795.jpg#0<tab>Two young guys ...`."""
    seen: set[str] = set()
    for number, line in lines():
        found, bad = TOKEN.match(line), BAD_BYTE.search(line)
        if bad or not found:
            if line.strip():
                reason = _of_byte(bad) if bad else f"must be file#number<tab>caption, got {line.strip()[:40]!r}"
                yield BadRow(f"line {number}", reason)
            continue
        file_name, caption_id = found[1].strip(), f"{found[1].strip()}#{found[2]}"
        if caption_id in seen:
            yield BadRow(f"line {number}", f"the id {caption_id} comes twice")
            continue
        seen.add(caption_id)
        yield Caption(found[3], caption_id, Path(file_name).stem, file_name=file_name)


def jsonl_rows(lines: Lines, sample: Sequence[str], name: str) -> Callable[[], Rows]:
    """A function that goes through one JSON object a line.

    Raises:
        ValueError: none of the first lines is an object with a caption.
    """
    parsed = [row for row in map(_object, sample) if isinstance(row, dict)]
    fields = Fields.of_rows(parsed)
    if fields.caption is None:
        raise ValueError(
            f"{name} has JSON lines without a caption; known fields: {', '.join(CAPTION)}; got "
            f"{sorted(parsed[0])[:8] if parsed else sample[0][:60]!r}"
        )

    def rows() -> Rows:
        seen: set[str] = set()
        for number, line in lines():
            if not line.strip():
                continue
            row = _object(line)
            if isinstance(row, str):
                yield BadRow(f"line {number}", row)
                continue
            for found in captions_of(row, str(number), fields, seen):
                yield BadRow(f"line {number}", found.reason) if isinstance(found, BadRow) else found

    return rows


def _object(line: str) -> dict | str:
    """The object on a line, or what is wrong with it."""
    if bad := BAD_BYTE.search(line):
        return _of_byte(bad)
    try:
        row = strict_json.parse(line)
    except ValueError as error:
        return f"no JSON: {error}"
    return row if isinstance(row, dict) else f"must be an object, got {type(row).__name__}"


def table_rows(lines: Lines, table: Table) -> Rows:
    """One caption a row, or several where a cell holds a list."""
    fields, seen = Fields.of(name for name in table.names if name), set()
    at_end = table.names[-1] == fields.caption
    at_start = table.names[0] == fields.caption
    rows = records(lines, table.separator)
    if table.has_header:
        next(rows, None)
    n = len(table.names)
    for number, last, cells, raw in rows:
        where = f"line {number}" if number == last else f"lines {number} to {last}"
        if bad := BAD_BYTE.search(raw):
            yield BadRow(where, _of_byte(bad))
            continue
        if isinstance(cells, list) and len(cells) > n and number == last and (at_end or at_start):
            # separators in a caption that has no quotes around it
            cells = raw.split(table.separator, n - 1) if at_end else raw.rsplit(table.separator, n - 1)
        if isinstance(cells, str) or len(cells) != n:
            reason = cells if isinstance(cells, str) else f"must have {n} cells, got {len(cells)}: {raw.strip()[:40]!r}"
            yield BadRow(where, reason)
            continue
        row = {name: _unquoted(cell) for name, cell in zip(table.names, cells, strict=True) if name}
        image = row.get(fields.image, "")
        if "#" in image and IS_PICTURE.fullmatch(image):  # file#number, as in a token file
            row[fields.image] = image.rpartition("#")[0]
        for found in captions_of(row, str(number), fields, seen):
            yield BadRow(where, found.reason) if isinstance(found, BadRow) else found


def records(lines: Lines, separator: str) -> Iterator[tuple[int, int, list[str] | str, str]]:
    """Cut lines into rows: first line's number, last one's, the cells or what is wrong, and the row as it stands.

    Commas and semicolons are csv's, whose quoted cells may hold line ends; a tab or bar always ends a cell, for such
    files hold quotes that mean nothing.
    """
    if separator in "\t|":
        for number, line in lines():
            if line.strip():
                yield number, number, line.rstrip("\r\n").split(separator), line.rstrip("\r\n")
        return
    taken: list[tuple[int, str]] = []

    def feed() -> Iterator[str]:
        for number, line in lines():
            taken.append((number, line))
            yield line

    reader = csv.reader(feed(), delimiter=separator, skipinitialspace=True, strict=True)
    while True:
        taken.clear()
        cells: list[str] | str
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            cells = f"no row of a table: {error}; a quote within quotes must be doubled"
        if cells:
            yield taken[0][0], taken[-1][0], cells, "".join(line for _, line in taken).rstrip("\r\n")


def _unquoted(cell: str) -> str:
    cell = cell.strip()
    inner = cell[1:-1]
    if len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', ""):
        return inner.replace('""', '"').strip()
    return cell


def _of_byte(bad: re.Match) -> str:
    return f"byte {ord(bad[0]) - 0xDC00:#04x} is not of the encoding; name the file's, such as encoding='latin-1'"
