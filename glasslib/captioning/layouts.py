"""The rows of captioning data sets in JSON, each brought to one kind of `Caption`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glasslib import strict_json

# What data sets call their fields or columns, the first of them that occurs.
CAPTION = ("caption", "captions", "raw", "sentence", "sentences", "text", "title", "comment", "description")
IMAGE = ("image_id", "img_id", "imgid", "cocoid", "image", "img", "image_name", "filename", "file_name", "filepath",
         "file_path", "image_path", "img_path", "path", "file", "url", "image_url", "key")  # fmt: skip
FILE = ("filename", "file_name", "image_name", "filepath", "file_path", "image_path", "img_path", "path", "image")
CAPTION_ID = ("id", "sentid", "caption_id", "sent_id")
SENTIMENTS = {"0": "negative", "1": "positive"}  # SentiCap's


@dataclass(frozen=True)
class Caption:
    """One sentence about one picture.

    Attributes:
        text: the sentence.
        caption_id: unique in its corpus.
        image_id: captions of one picture share it; in a plain text every line is a picture of its own.
        split: "train", "val", ... as the file says; "" where it says nothing.
        domain: NoCaps: "in-domain", "near-domain" or "out-domain"; SentiCap: "positive" or "negative"; elsewhere "".
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


def parsed(path: Path, layout: str) -> Callable[[], Rows]:
    """Return a function that goes through a JSON file's captions; it is parsed once and kept in memory.

    Args:
        path: the file.
        layout: "json", or one of JSON_LAYOUTS to insist on it.

    Raises:
        ValueError: no JSON, or not of this layout.
    """
    content = strict_json.read(path, "captions")
    found, rows = recognise(content)
    if found is None or layout not in ("json", found):
        wanted = "a captioning JSON" if layout == "json" else f"a JSON in the layout {layout}"
        raise ValueError(
            f"{path.name} must be {wanted}, got {_keys(content)}; known: coco and nocaps {{images, annotations}}, "
            "karpathy and senticap {images with sentences}, records [{image_id, caption}], "
            "by_image {image id: [captions]}"
        )
    return lambda: JSON_LAYOUTS[found](rows)


def _keys(content: Any) -> str:
    if isinstance(content, list) and content and isinstance(content[0], dict):
        return f"a list of objects with the keys {sorted(map(str, content[0]))[:8]}"
    return f"keys {sorted(content)[:8]}" if isinstance(content, dict) else f"{type(content).__name__} {content!r:.60}"


def recognise(content: Any) -> tuple[str | None, Any]:
    """Tell which layout a JSON value has, by its keys: its name or None, and the part that holds the captions."""
    if isinstance(content, list):
        told = not content or all(isinstance(row, str) for row in content) or Fields.of_rows(content).caption
        return ("records" if told else None), content
    if not isinstance(content, dict):
        return None, content
    if isinstance(content.get("annotations"), list):
        return "coco", content
    for key in ("images", "data", "captions"):
        rows = content.get(key)
        if not isinstance(rows, list):
            continue
        if not rows or (key == "images" and any("sentences" in row for row in rows[:9] if isinstance(row, dict))):
            return "karpathy", rows
        if Fields.of_rows(rows).caption:
            return "records", rows
    if isinstance(content.get("caption"), str):
        return "records", [content]
    # a digit or a full stop is in every picture's id or file name, and in no word that names a part of a file
    is_ids = content and all(any(sign.isdigit() or sign == "." for sign in key) for key in content)
    return ("by_image" if is_ids and any(map(_texts, content.values())) else None), content


@dataclass(frozen=True)
class Fields:
    """Which fields or columns hold what; None for those that are not there."""

    caption: str | None
    image: str | None
    file: str | None
    caption_id: str | None

    @classmethod
    def of(cls, names: Iterable[str]) -> Fields:
        """Find them by name, whatever the case."""
        known = {name.strip().lower(): name for name in names}
        first = lambda wanted: next((known[name] for name in wanted if name in known), None)  # noqa: E731
        return cls(first(CAPTION), first(IMAGE), first(FILE), first(CAPTION_ID))

    @classmethod
    def of_rows(cls, rows: Sequence[Any]) -> Fields:
        """Find them in a list's first objects."""
        return cls.of(dict.fromkeys(key for row in rows[:100] if isinstance(row, dict) for key in row))


def captions_of(row: Mapping[str, Any], position: str, fields: Fields, seen: set[str]) -> Rows:
    """One row's captions, of which there may be several.

    Args:
        row: field -> value.
        position: the id of a caption that has none of its own, such as the line's number.
        fields: which of them hold what.
        seen: the caption ids that the file itself gave so far.
    """
    if absent := [name for name in (fields.caption, fields.image) if name is not None and row.get(name) in (None, "")]:
        yield BadRow(position, f"lacks {', '.join(absent)}")
        return
    caption_id = position
    if fields.caption_id in row:
        caption_id = str(row[fields.caption_id])
        if caption_id in seen:
            yield BadRow(position, f"the id {caption_id} comes twice; if it is the picture's, call it image_id")
            return
        seen.add(caption_id)
    texts = row[fields.caption]
    if isinstance(texts, str) and texts.startswith('["'):  # a list in a cell, as Flickr30k's csv has it
        try:
            texts = strict_json.parse(texts)
        except ValueError:
            pass
    image_id = str(row[fields.image]) if fields.image else caption_id
    known = {"split": str(row.get("split", "")), "file_name": str(row.get(fields.file) or "")}
    if not isinstance(texts, list):
        yield Caption(texts, caption_id, image_id, **known)
        return
    for k, text in enumerate(texts):
        yield Caption(_plain(text), f"{caption_id}.{k}", image_id, **known)


def _coco(content: dict) -> Rows:
    """COCO's captions_*.json, and NoCaps', whose images also carry a domain."""
    images, broken = {}, False
    listed = content.get("images") or []
    for position, image in enumerate(listed if isinstance(listed, list) else [listed]):
        if isinstance(image, dict) and "id" in image:
            if images.setdefault(str(image["id"]), image) != image:
                yield BadRow(f"images[{position}]", f"another image has the id {image['id']} too")
        else:
            broken = True
            yield BadRow(f"images[{position}]", "must have an id")
    seen: set[str] = set()
    for position, row in enumerate(content["annotations"]):
        where = f"annotations[{position}]"
        row = {"id": position, **row} if isinstance(row, dict) else row
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


def _karpathy(images: list) -> Rows:
    """Karpathy's dataset_coco.json, dataset_flickr30k.json, dataset_flickr8k.json; and SentiCap's, without sentids."""
    seen: set[str] = set()
    for position, image in enumerate(images):
        where = f"images[{position}]"
        if missing := _missing(image, ("filename", "split", "sentences")):
            yield BadRow(where, missing)
            continue
        if not isinstance(image["sentences"], list):
            yield BadRow(where, f"sentences must be a list, got {type(image['sentences']).__name__}")
            continue
        file_name, split = str(image["filename"]), str(image["split"])
        image_id = str(image.get("cocoid", Path(file_name).stem))
        for k, sentence in enumerate(image["sentences"]):
            numbered = {"sentid": f"{image_id}.{k}", **sentence} if isinstance(sentence, dict) else sentence
            if problem := _problem(numbered, ("sentid", "raw"), seen):
                yield BadRow(f"{where}.sentences[{k}]", problem)
                continue
            domain = SENTIMENTS.get(str(numbered.get("sentiment")), "")
            known = {"split": split, "domain": domain, "file_name": file_name}
            yield Caption(numbered["raw"], str(numbered["sentid"]), image_id, **known)


def _records(content: list) -> Rows:
    """A list of {image_id, caption}, as ClipCap's and CapDec's scripts write it (FlickrStyle10K), or of strings."""
    fields, seen = Fields.of_rows(content), set()
    if fields.caption is None:
        fields = Fields("caption", None, None, None)
    for position, row in enumerate(content):
        row = {"caption": row} if isinstance(row, str) else row
        if not isinstance(row, dict):
            yield BadRow(f"[{position}]", f"must be an object with {fields.caption}, got {type(row).__name__}")
            continue
        for found in captions_of(row, str(position), fields, seen):
            yield BadRow(f"[{position}]", found.reason) if isinstance(found, BadRow) else found


def _by_image(content: dict) -> Rows:
    """{"7.jpg": ["a dog", ...]}, and {"7": [{"caption": "a dog"}]} as pycocoevalcap takes it."""
    for image_id, value in content.items():
        texts = _texts(value)
        if not texts:
            yield BadRow(f"picture {image_id!r}", f"must have captions, got {value!r:.60}")
        for k, text in enumerate(texts):
            yield Caption(text, f"{image_id}.{k}", image_id)


def _texts(value: Any) -> list[str]:
    """The captions in a value that stands for one picture; none if it holds something else."""
    values = [_plain(part) for part in (value if isinstance(value, list) else [value])]
    return values if all(isinstance(part, str) for part in values) else []


def _plain(value: Any) -> Any:
    """The caption of an object that holds one; anything else as it is."""
    if isinstance(value, dict) and (name := Fields.of(value).caption):
        return value[name]
    return value


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


JSON_LAYOUTS: dict[str, Callable[[Any], Rows]] = {
    "coco": _coco, "karpathy": _karpathy, "records": _records, "by_image": _by_image
}  # fmt: skip
