"""Predictions and references read from json or from Python values, every fault named before anything is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glasslib import strict_json

ImageId = int | str
Predictions = str | Path | Sequence[Mapping[str, Any]] | Mapping[ImageId, str]
References = str | Path | Sequence[Mapping[str, Any]] | Mapping[ImageId, Sequence[str]] | Mapping[str, Any]


def read_predictions(source: Predictions) -> dict[ImageId, str]:
    """Return image id -> caption.

    Args:
        source: a json file or what it would hold: [{"image_id": 7, "caption": "a dog"}, ...], {7: "a dog"}, or as
            pycocoevalcap takes them {7: ["a dog"]} and {7: [{"caption": "a dog"}]}. An empty caption is a caption: a
            captioner may fail to say anything.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not json, a key twice, nothing in it, two captions for one image, an id or a caption of the wrong
            kind.
    """
    rows = _rows(_load(source, "predictions"), "predictions")
    counts = Counter(image_id for image_id, _ in rows)
    if repeated := [image_id for image_id, count in counts.items() if count > 1]:
        raise ValueError(f"predictions must hold one caption an image, got several for {some(repeated)}")
    return dict(rows)


def read_references(source: References) -> dict[ImageId, list[str]]:
    """Return image id -> its reference captions, in the file's order.

    Args:
        source: a json file or what it would hold: rows as in predictions, many an image; COCO's
            {"images": [{"id": 7}, ...], "annotations": [rows]}, whose images give the order; or {7: ["a dog", ...]}.
            An image may be without any: `align` refuses it if it is to be scored.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as for predictions, but for several captions an image; or an image without an id.
    """
    content = _load(source, "references")
    found: dict[ImageId, list[str]] = {}
    if isinstance(content, Mapping) and "annotations" in content:
        found = {image_id: [] for image_id in _image_ids(content.get("images"))}
        content = content["annotations"]
    elif isinstance(content, Mapping):
        found = {image_id: [] for image_id in content}
    for image_id, caption in _rows(content, "references"):
        found.setdefault(image_id, []).append(caption)
    return found


def align(
    predictions: Mapping[ImageId, str], references: Mapping[ImageId, list[str]], *, predicted_only: bool
) -> dict[ImageId, list[str]]:
    """Return the references to score against, in their own order.

    Args:
        predicted_only: drop the references of images without a prediction, instead of refusing.

    Raises:
        ValueError: images on one side only (says which, and whether the ids differ in type alone), an image to be
            scored without a reference, or with one that has no word.
    """
    extra = [image_id for image_id in predictions if image_id not in references]
    missing = [image_id for image_id in references if image_id not in predictions]
    if extra or (missing and not predicted_only):
        hint = "score the subset with predicted_only=True, or complete the predictions"
        if {str(image_id) for image_id in extra} & {str(image_id) for image_id in missing}:
            hint = 'ids must be of one type in both: 7 is not "7"'
        elif extra:
            hint = "remove these, or add their references"
        raise ValueError(
            "predictions and references must name the same images, got predictions without references for "
            f"{some(extra)}, references without a prediction for {some(missing)}; {hint}"
        )
    scored = {image_id: references[image_id] for image_id in references if image_id in predictions}
    if bare := [image_id for image_id, captions in scored.items() if not captions]:
        raise ValueError(f"every image needs a reference, got none for {some(bare)}")
    if blank := [image_id for image_id, captions in scored.items() if not all(map(str.strip, captions))]:
        raise ValueError(f"references must hold words, got an empty one for {some(blank)}; leave it out")
    return scored


def _image_ids(images: Any) -> list[ImageId]:
    """The ids of COCO's images; none if there is no such list."""
    if images is None:
        return []
    if not isinstance(images, Sequence) or isinstance(images, str | bytes):
        raise ValueError(f"references: images must be a list, got {type(images).__name__}")
    for number, image in enumerate(images):
        if not isinstance(image, Mapping) or not _is_id(image.get("id")):
            raise ValueError(f'references, image {number} of images: expected {{"id": 7, ...}}, got {image!r:.80}')
    return [image["id"] for image in images]


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _load(source: Any, name: str) -> Any:
    if not isinstance(source, str | Path):
        return source
    if not Path(source).is_file():
        raise FileNotFoundError(f"no {name} at {source}; give a json file")
    return strict_json.read(Path(source), name)


def _rows(content: Any, name: str) -> list[tuple[ImageId, str]]:
    """(id, caption) pairs in order, each checked."""
    if isinstance(content, Mapping):
        pairs = [
            (image_id, caption["caption"] if isinstance(caption, Mapping) and "caption" in caption else caption)
            for image_id, captions in content.items()
            for caption in (
                [captions] if name == "predictions" and isinstance(captions, str) else _listed(captions, image_id, name)
            )
        ]
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        for number, row in enumerate(content):
            if not isinstance(row, Mapping) or not {"image_id", "caption"} <= set(row):
                raise ValueError(f'{name}, row {number}: expected {{"image_id": ..., "caption": ...}}, got {row!r:.80}')
        pairs = [(row["image_id"], row["caption"]) for row in content]
    else:
        raise ValueError(f"{name} must be a list of rows or a dict, got {type(content).__name__}")
    if not pairs:
        raise ValueError(f"{name} must hold at least one caption, got none")
    for number, (image_id, caption) in enumerate(pairs):
        if not _is_id(image_id):
            raise ValueError(f"{name}, row {number}: an image id must be a number or a string, got {image_id!r:.80}")
        if not isinstance(caption, str):
            raise ValueError(f"{name}, image {image_id!r}: a caption must be a string, got {caption!r:.80}")
        if any("\ud800" <= sign <= "\udfff" for sign in caption):
            raise ValueError(f"{name}, image {image_id!r}: the caption is not valid Unicode: {caption!r:.80}")
    return pairs


def _listed(captions: Any, image_id: ImageId, name: str) -> Iterable[Any]:
    if name == "predictions" and not (isinstance(captions, Sequence) and len(captions) == 1):
        raise ValueError(f"predictions, image {image_id!r}: a caption must be a string, got {captions!r:.80}")
    if isinstance(captions, str) or not isinstance(captions, Sequence):
        raise ValueError(f"references, image {image_id!r}: expected a list of captions, got {captions!r:.80}")
    return captions


def some(ids: Sequence[ImageId]) -> str:
    """The first few ids, and how many there are."""
    if not ids:
        return "none"
    return f"{len(ids)} ({', '.join(map(repr, ids[:3]))}{', ...' if len(ids) > 3 else ''})"
