"""How captioning data sets lie on disk, read row by row into one kind of `Caption`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Caption:
    """One sentence about one picture.

    Attributes:
        text: the sentence.
        caption_id: unique in its corpus.
        image_id: captions of one picture share it; in a plain text every line is a picture of its own.
        split: "train", "val", ... as the file says; "" where it says nothing.
        domain: NoCaps: "in-domain", "near-domain" or "out-domain"; elsewhere "".
        file_name: of the picture; "" where the file does not say.
    """

    text: str
    caption_id: str
    image_id: str
    split: str = ""
    domain: str = ""
    file_name: str = ""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: where it stands, and why."""

    where: str
    reason: str


Rows = Iterator[Caption | BadRow]


def reader(path: Path, *, layout: str, encoding: str) -> Callable[[], Rows]:
    """Return a function that reads the file from its beginning.

    A text file is read line by line. A json is parsed once and kept, for these files hold under a million captions.

    Raises:
        ValueError: an unknown layout, or content that is not of this layout.
    """
    if layout == "auto":
        layout = {".json": "json", ".token": "flickr30k_token"}.get(path.suffix.lower(), "text")
    if layout == "text":
        return lambda: _text(path, encoding)
    if layout == "flickr30k_token":
        return lambda: _flickr30k_token(path, encoding)
    if layout not in ("json", *JSON_LAYOUTS):
        raise ValueError(f"layout must be auto, json or one of {', '.join(LAYOUTS)}, got {layout!r}")
    content = _parse(path)
    found = _recognise(content)
    if found is None or layout not in ("json", found):
        wanted = "a captioning json" if layout == "json" else f"a json in the layout {layout}"
        raise ValueError(
            f"{path.name} must be {wanted}, got {_keys(content)}; known: coco and nocaps {{images, annotations}}, "
            "karpathy {images with sentences}, records [{image_id, caption}]"
        )
    return lambda: JSON_LAYOUTS[found](content)


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} must be UTF-8, got byte {error.object[error.start]:#04x} at {error.start}; convert it first"
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not valid json: {error}; is the download complete?") from error


def _keys(content: Any) -> str:
    return f"keys {sorted(content)[:8]}" if isinstance(content, dict) else type(content).__name__


def _recognise(content: Any) -> str | None:
    """Which layout a json has, by its keys."""
    if isinstance(content, list):
        return "records"
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("annotations"), list):
        return "coco"
    images = content.get("images")
    if isinstance(images, list) and (not images or "sentences" in images[0]):
        return "karpathy"
    return None


def _lines(path: Path, encoding: str) -> Iterator[tuple[str, str | BadRow]]:
    """Where each line stands and its text. A byte-order mark at the start is not part of the text."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"line {number}"
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError as error:
                bad = f"byte {line[error.start]:#04x} is not {encoding}; name the file's encoding, such as latin-1"
                yield where, BadRow(where, bad)
                continue
            yield where, text.removeprefix("\ufeff") if number == 1 else text


def _text(path: Path, encoding: str) -> Rows:
    """One sentence a line; an empty line is a bad row, so that line numbers stay the captions' ids."""
    for where, text in _lines(path, encoding):
        if isinstance(text, BadRow):
            yield text
        elif not text.strip():
            yield BadRow(where, "empty")
        else:
            number = where.removeprefix("line ")
            yield Caption(text, number, number)


def _flickr30k_token(path: Path, encoding: str) -> Rows:
    """Flickr30k's results_20130124.token: `1000092795.jpg#0<tab>Two young guys ...`."""
    for where, text in _lines(path, encoding):
        if isinstance(text, BadRow):
            yield text
            continue
        caption_id, tab, caption = text.partition("\t")
        file_name, hash_sign, number = caption_id.partition("#")
        if not (tab and hash_sign and number.isdigit()):
            yield BadRow(where, f"must be file#number<tab>caption, got {text[:40]!r}")
        else:
            yield Caption(caption, caption_id, Path(file_name).stem, file_name=file_name)


def _coco(content: dict) -> Rows:
    """COCO's captions_*.json, and NoCaps', whose images also carry a domain."""
    images, broken = {}, False
    for position, image in enumerate(content.get("images") or []):
        if isinstance(image, dict) and "id" in image:
            images[str(image["id"])] = image
        else:
            broken = True
            yield BadRow(f"images[{position}]", "must have an id")
    seen: set[str] = set()
    for position, row in enumerate(content["annotations"]):
        where = f"annotations[{position}]"
        if problem := _problem(row, ("image_id", "id", "caption"), seen):
            yield BadRow(where, problem)
            continue
        image_id = str(row["image_id"])
        if images and not broken and image_id not in images:
            yield BadRow(where, f"image_id {image_id} is not among the images")
            continue
        image = images.get(image_id, {})
        domain, file_name = str(image.get("domain", "")), str(image.get("file_name", ""))
        yield Caption(row["caption"], str(row["id"]), image_id, domain=domain, file_name=file_name)


def _karpathy(content: dict) -> Rows:
    """Karpathy's dataset_coco.json, dataset_flickr30k.json, dataset_flickr8k.json."""
    seen: set[str] = set()
    for position, image in enumerate(content["images"]):
        where = f"images[{position}]"
        if missing := _missing(image, ("filename", "split", "sentences")):
            yield BadRow(where, missing)
            continue
        image_id = str(image.get("cocoid", Path(image["filename"]).stem))
        for k, sentence in enumerate(image["sentences"]):
            if problem := _problem(sentence, ("sentid", "raw"), seen):
                yield BadRow(f"{where}.sentences[{k}]", problem)
                continue
            yield Caption(
                sentence["raw"], str(sentence["sentid"]), image_id, split=image["split"], file_name=image["filename"]
            )


def _records(content: list) -> Rows:
    """A list of {image_id, caption}, as ClipCap's and CapDec's scripts write it (FlickrStyle10K, open texts)."""
    seen: set[str] = set()
    for position, row in enumerate(content):
        row = {"id": position, **row} if isinstance(row, dict) else row
        if problem := _problem(row, ("image_id", "id", "caption"), seen):
            yield BadRow(f"[{position}]", problem)
            continue
        file_name, split = str(row.get("filename", "")), str(row.get("split", ""))
        yield Caption(row["caption"], str(row["id"]), str(row["image_id"]), split=split, file_name=file_name)


def _problem(row: Any, keys: tuple[str, ...], seen: set[str]) -> str | None:
    """What is wrong with a caption's row; its id, one of `keys`, is remembered in `seen`."""
    if missing := _missing(row, keys):
        return missing
    caption_id = str(row["sentid" if "sentid" in keys else "id"])
    if caption_id in seen:
        return f"the id {caption_id} comes twice"
    seen.add(caption_id)
    return None


def _missing(row: Any, keys: tuple[str, ...]) -> str | None:
    if not isinstance(row, dict):
        return f"must be an object with {', '.join(keys)}, got {type(row).__name__}"
    absent = [key for key in keys if key not in row]
    return f"lacks {', '.join(absent)}" if absent else None


JSON_LAYOUTS: dict[str, Callable[[Any], Rows]] = {"coco": _coco, "karpathy": _karpathy, "records": _records}
LAYOUTS = ("text", "flickr30k_token", *JSON_LAYOUTS)
