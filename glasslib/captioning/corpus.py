"""Captions of any text file or captioning data set: checked once, then gone through as often as needed."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from glasslib.captioning import reading
from glasslib.captioning.layouts import BadRow, Caption

N_NAMED = 5  # how many bad rows an error message names
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # with lone surrogates, which UTF-8 cannot hold
# without width: spaces, marks of direction, soft hyphens; the joiners stay, for emoji and whole scripts need them
INVISIBLE = re.compile("[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")


class Corpus:
    """Captions in a fixed order, streamed: only one is in memory at a time, so ten million are as easy as ten.

    Making one goes through all rows once: checks them, counts them and takes their hash. Captions are cleaned as CLIP's
    own tokenizer cleans them (`cleaned`), so that a language model learns the very words that CLIP has read.

    Attributes:
        name: where it comes from, for messages.
        sha256: of every caption's text and ids, in order: it names this very corpus.
        bad_rows: what `skip_bad` left out.
    """

    def __init__(self, rows: Callable[[], Iterable[Caption | BadRow]], *, name: str, skip_bad: bool = False) -> None:
        """Check the rows.

        Args:
            rows: starts from the first row each time it is called; the rows must be the same each time.
            name: for messages.
            skip_bad: leave bad rows out, with a warning that counts them, instead of refusing the corpus.

        Raises:
            ValueError: bad rows (the first few named with their reason), or no captions at all.
        """
        self.name, self._rows = name, rows
        self.bad_rows: list[BadRow] = []
        digest, self._n = hashlib.sha256(), 0
        for row in map(_checked, rows()):
            if isinstance(row, BadRow):
                self.bad_rows.append(row)
                continue
            digest.update(identity(row))
            self._n += 1
        self.sha256 = digest.hexdigest()
        if self.bad_rows:
            named = "; ".join(f"{row.where}: {row.reason}" for row in self.bad_rows[:N_NAMED])
            message = f"{len(self.bad_rows)} bad of {len(self.bad_rows) + self._n} rows in {name}: {named}"
            if not skip_bad:
                raise ValueError(f"{message}; mend them, or pass skip_bad=True to leave them out")
            warnings.warn(f"left out {message}", stacklevel=3)
        if not self._n:
            raise ValueError(f"{name} must hold at least one caption, got none")

    @classmethod
    def read(cls, path: str | Path, *, layout: str = "auto", encoding: str = "auto", skip_bad: bool = False) -> Corpus:
        """Read a file of captions.

        Args:
            path: the file.
            layout: one of reading.LAYOUTS, or "auto": told by the content, and refused where that is not clear.
            encoding: of a text file; "auto": by its byte-order mark, else UTF-8.
            skip_bad: see `Corpus`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: an unknown layout, content of another or of none, bad rows, no captions.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no captions at {path}; give {reading.KNOWN}")
        reader = reading.reader(path, layout=layout, encoding=encoding)
        return cls(reader, name=path.name, skip_bad=skip_bad)

    @classmethod
    def from_texts(cls, texts: Sequence[str], *, image_ids: Sequence[str] | None = None, name: str = "texts") -> Corpus:
        """A corpus of strings in memory; `image_ids` says which of them describe one picture (None: each its own)."""
        ids = [str(i) for i in range(len(texts))]
        images = ids if image_ids is None else [str(image) for image in image_ids]
        rows = [Caption(text, i, image) for text, i, image in zip(texts, ids, images, strict=True)]
        return cls(lambda: rows, name=name)

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Caption]:
        return (row for row in map(_checked, self._rows()) if not isinstance(row, BadRow))

    def select(self, keep: Callable[[Caption], bool], *, name: str) -> Corpus:
        """The captions for which `keep` is true, as a corpus of its own."""
        return Corpus(lambda: filter(keep, self), name=f"{self.name} ({name})")

    def split(self, *names: str) -> Corpus:
        """The captions of these splits, such as `split("train", "restval")` for Karpathy's training set.

        Raises:
            ValueError: a name that no caption of this corpus carries.
        """
        present = {caption.split for caption in self}
        if unknown := sorted(set(names) - present):
            raise ValueError(f"{self.name} has the splits {sorted(present)}, not {unknown}")
        return self.select(lambda caption: caption.split in names, name=", ".join(names))

    def divide(self, share: float, *, rng: np.random.Generator) -> tuple[Corpus, Corpus]:
        """Two corpora with `share` and the rest of the pictures, drawn at random; a picture's captions stay together.

        FlickrStyle10K's protocol is `share=6/7`. Source: CapDec, appendix A.2, https://arxiv.org/abs/2211.00575.
        """
        images = sorted({caption.image_id for caption in self})
        n_first = round(share * len(images))
        if not 0 < n_first < len(images):
            raise ValueError(f"share must leave pictures on both sides, got {share:g} of {len(images)} pictures")
        first = {images[i] for i in rng.permutation(len(images))[:n_first]}
        return (
            self.select(lambda caption: caption.image_id in first, name=f"{n_first} pictures"),
            self.select(lambda caption: caption.image_id not in first, name=f"the other {len(images) - n_first}"),
        )

    def by_image(self, n_images: int | None = None) -> dict[str, list[Caption]]:
        """The captions of the first `n_images` pictures (None: of all), picture id -> captions in order."""
        found: dict[str, list[Caption]] = {}
        for caption in self:
            if caption.image_id in found or n_images is None or len(found) < n_images:
                found.setdefault(caption.image_id, []).append(caption)
        return found


def identity(row: Caption) -> bytes:
    """What a corpus' hash is made of, row by row."""
    return f"{row.caption_id}\x1f{row.image_id}\x1f{row.text}\n".encode()


def cleaned(text: str) -> str:
    """Return a caption as CLIP's tokenizer would see it, but for the case of its letters.

    White space becomes single spaces, HTML's entities ("&amp;") become their signs, broken and unusual Unicode becomes
    the usual one (by ftfy: curly quotes straight, full-width letters plain), and characters without width go.

    Source: open_clip's tokenizer, which does the same but for the last before it counts its tokens.
    """
    if text.isascii() and "&" not in text:
        words = " ".join(text.split())
        return text if words == text else words
    import ftfy

    for _ in range(4):  # "&amp;amp;" hides another; CLIP looks three times
        before, text = text, html.unescape(ftfy.fix_text(text))
        if text == before:
            break
    return " ".join(INVISIBLE.sub("", text).split())


def _checked(row: Caption | BadRow) -> Caption | BadRow:
    """The caption cleaned, or why it cannot be used."""
    if isinstance(row, BadRow):
        return row
    where = f"caption {row.caption_id!r}"
    if not isinstance(row.text, str):
        return BadRow(where, f"the caption must be a string, got {type(row.text).__name__}")
    raw = " ".join(row.text.split())
    text = cleaned(raw)
    # a sign of a wrong encoding, or of a binary file; an entity may hide one, and cleaning would drop a raw one
    if CONTROL.search(raw) or (text is not raw and CONTROL.search(text)):
        return BadRow(where, f"control characters in {raw[:40]!r}")
    if not any(sign.isprintable() and not sign.isspace() for sign in text):
        return BadRow(where, "empty")
    return row if text == row.text else dataclasses.replace(row, text=text)
