"""Balance an attribute in a corpus before anything is learned from it, by swapping its words in some of the captions.

A corpus where nine stars of ten are red teaches a captioner to say "red star" of blue ones, and one of COCO's size
teaches it that who snowboards is a man. `balance` draws as many captions of the larger side as makes both sides equal
and swaps the words in them, before embedding: what is embedded and what the decoder learns to write are then the same
edited text. CapDec's code edits the embedded text alone, so that the decoder goes on learning the old words;
`pairs(..., edit_targets=False)` reproduces that.

    colour = balance.Swap("red or blue", pairs=(("red", "blue"),))
    balanced, coverage = balance.balance(corpus, colour, rng=rng, within=shape_of)  # shape_of(text) -> "star", ...
    coverage.rows()                                             # a table: what was found, and what was swapped
    training.train(decoder, balance.pairs(corpus, balanced, clip), ...)  # or store.embed_corpus(balanced, ...)
    hits = balance.hits_by_side(captions, truth, swap=colour)   # truth[i] in ("left", "right", None), of each picture
    metrics.share(hits["left"]), metrics.share(hits["right"])   # far apart: biased

Source: Nukrai et al. 2022 (CapDec), section 4 on fairness, https://arxiv.org/abs/2211.00575, and its
`embeddings_generator.py`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from glasslib.captioning.corpus import Corpus
from glasslib.captioning.layouts import Caption
from glasslib.captioning.training import Pairs

SIDES = ("left", "right", "both", None)  # what a caption can name


@dataclass(frozen=True)
class Swap:
    """An attribute of two sides, word for word.

    Attributes:
        name: of the attribute, for messages.
        pairs: (left, right) words or phrases in lower case, each in one pair only: ("man", "woman"), ("men", "women").
    """

    name: str
    pairs: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        words = [word for pair in self.pairs for word in pair]
        wrong = [word for word in words if not word or word != " ".join(word.lower().split())]
        if not words or wrong or len(set(words)) < len(words):
            raise ValueError(
                "pairs must hold lower-case words, each once, or a swap could not be undone (English 'her' is 'his' or "
                f"'him': leave one out), got {self.pairs}"
            )

    @cached_property
    def _sides(self) -> dict[str, int]:
        return {word: side for pair in self.pairs for side, word in enumerate(pair)}

    @cached_property
    def _partner(self) -> dict[str, str]:
        return {word: other for a, b in self.pairs for word, other in ((a, b), (b, a))}

    @cached_property
    def _pattern(self) -> re.Pattern:
        words = "|".join(re.escape(word) for word in sorted(self._sides, key=len, reverse=True))
        return re.compile(rf"(?:(?<!\w)(?P<article>an?)(?P<space>\s))?(?<!\w)(?P<word>{words})(?!\w)", re.IGNORECASE)

    def side(self, text: str) -> str | None:
        """Which side's words a text holds: "left", "right", "both", or None."""
        named = {self._sides[match["word"].lower()] for match in self._pattern.finditer(text)}
        return ("both" if len(named) > 1 else SIDES[named.pop()]) if named else None

    def __call__(self, text: str) -> str:
        """The text with every word of the pairs replaced by its partner; capitals stay, "a" and "an" are mended."""
        return self._pattern.sub(self._replace, text)

    def _replace(self, match: re.Match) -> str:
        word = match["word"]
        other = self._partner[word.lower()]
        article = match["article"] or ""
        if article and (word[0].lower() in "aeiou") != (other[0] in "aeiou"):
            article = article[0] + ("n" if other[0] in "aeiou" else "")
        if word.isupper() and len(word) > 1:
            other = other.upper()
        elif word[0].isupper():
            other = other.capitalize()
        return article + (match["space"] or "") + other


@dataclass(frozen=True)
class Coverage:
    """How much of a corpus an edit reached.

    Attributes:
        n_captions: in the corpus.
        n_both: captions that name both sides, which stay as they are.
        n_neither: captions that name none.
        left: group -> captions that named the left side alone, before.
        right: the same for the right side.
        swapped: group -> captions edited, all of its larger side.
    """

    n_captions: int
    n_both: int
    n_neither: int
    left: dict[str, int]
    right: dict[str, int]
    swapped: dict[str, int]

    @property
    def share(self) -> float:
        """Share of all captions that name one side, and so could be edited."""
        return (self.n_captions - self.n_both - self.n_neither) / self.n_captions

    @property
    def n_swapped(self) -> int:
        """Captions edited."""
        return sum(self.swapped.values())

    def rows(self) -> list[dict[str, Any]]:
        """A row for each group and one for all: captions of each side before and after, how many were swapped."""
        rows = []
        for group in self.left:
            left, right, swapped = self.left[group], self.right[group], self.swapped[group]
            moved = swapped if right > left else -swapped
            rows.append(_row(group, left=left, right=right, swapped=swapped, left_after=left + moved))
        totals = {key: sum(row[key] for row in rows) for key in ("left", "right", "swapped", "left_after")}
        return [*rows, _row("all", **totals)]


def _row(group: str, *, left: int, right: int, swapped: int, left_after: int) -> dict[str, Any]:
    after = {"left_after": left_after, "right_after": left + right - left_after}
    return {"group": group, "left": left, "right": right, "swapped": swapped, **after}


def balance(
    corpus: Corpus, swap: Swap, *, rng: np.random.Generator, within: Callable[[str], Any] | None = None
) -> tuple[Corpus, Coverage]:
    """Make the two sides of an attribute equally frequent, by swapping words in captions drawn at random.

    Captions that name both sides, or none, stay. The corpus is streamed; what is kept of each caption is six bytes.

    Args:
        corpus: any length.
        swap: the attribute.
        rng: draws the captions to edit.
        within: text -> group; each group is balanced by itself, say each shape, or each activity. The group must not
            depend on the swapped words. None: the corpus as a whole.

    Returns:
        The edited corpus, ids and order as before, and what was done.

    Raises:
        ValueError: no caption names either side.
    """
    sides, groups = np.full(len(corpus), -1, np.int8), np.zeros(len(corpus), np.int32)
    numbers: dict[str, int] = {}
    for i, caption in enumerate(corpus):
        sides[i] = SIDES.index(swap.side(caption.text))
        groups[i] = numbers.setdefault("all" if within is None else str(within(caption.text)), len(numbers))
    if not (sides < 2).any():
        raise ValueError(f"no caption of {corpus.name} names {swap.name}; check the words: {swap.pairs}")
    chosen, left, right, swapped = np.zeros(len(corpus), bool), {}, {}, {}
    for name, number in numbers.items():
        own = [np.flatnonzero((groups == number) & (sides == side)) for side in (0, 1)]
        n_swapped = abs(len(own[0]) - len(own[1])) // 2
        if len(own[0]) or len(own[1]):
            left[name], right[name], swapped[name] = len(own[0]), len(own[1]), n_swapped
            chosen[rng.permutation(max(own, key=len))[:n_swapped]] = True
    coverage = Coverage(len(corpus), int((sides == 2).sum()), int((sides == 3).sum()), left, right, swapped)

    def rows():
        for caption, edited in zip(corpus, chosen, strict=True):
            yield _edited(caption, swap) if edited else caption

    return Corpus(rows, name=f"{corpus.name} (balanced: {swap.name})"), coverage


def _edited(caption: Caption, swap: Swap) -> Caption:
    return dataclasses.replace(caption, text=swap(caption.text))


def pairs(corpus: Corpus, edited: Corpus, embedder, *, edit_targets: bool = True) -> Pairs:
    """Embeddings of an edited corpus and what the decoder shall write for them, in memory.

    Args:
        corpus: as it was.
        edited: what `balance` made of it.
        embedder: with `embed_texts`.
        edit_targets: the decoder learns the edited text. False reproduces CapDec, whose targets stay as they were.
    """
    texts = [caption.text for caption in edited]
    targets = texts if edit_targets else [caption.text for caption in corpus]
    return Pairs(embedder.embed_texts(texts).cpu(), targets, key=f"{edited.sha256[:16]}-{edit_targets}")


def hits_by_side(captions: Sequence[str], truth: Sequence[str | None], *, swap: Swap) -> dict[str, np.ndarray]:
    """Whether captions name the side that is true of their picture.

    Args:
        captions: n captions, as a captioner wrote them.
        truth: n sides of the pictures, "left" or "right"; others are left out.
        swap: the attribute.

    Returns:
        For "left" and "right": hits (true or false) of the captions that name one side, of the pictures truly of it. A
        captioner that leans to the left side has many hits there and few on the right.
    """
    said = [swap.side(text) for text in captions]
    named = [(true, true == own) for true, own in zip(truth, said, strict=True) if own in ("left", "right")]
    return {side: np.array([hit for true, hit in named if true == side], dtype=bool) for side in ("left", "right")}
