"""Read a caption that a person typed: the tiny world's words for theirs, the unknown ones named, all at once."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache

from glasslib.tinyworld import wording

SAME = {"gray": "grey", "center": "centre", "centred": "centre", "centered": "centre", "checkered": "checked"}
ENDS = ".!?;:\"'()[]…“”‘’«»"
MAX_WORDS = 37  # CLIP's tokenizer reads 40 tokens: one a word (the shipped one splits none), two ends and a full stop
SHAPES = {*wording.READ["shape"], "shapes"}


@dataclass(frozen=True)
class Caption:
    """A caption in the tiny world's words; `changed` says whether the person's words were others."""

    text: str
    changed: bool

    @property
    def n_objects(self) -> int:
        """How many objects the caption names: its nouns of shape, or more where it says two or three."""
        words = self.text.split()
        return max(sum(word in SHAPES for word in words), 2 * ("two" in words), 3 * ("three" in words))


def read(typed: str) -> Caption:
    """Bring a caption into the tiny world's words: lower case, singular, British, without end punctuation.

    Raises:
        ValueError: nothing to read, more than CLIP can read, or words the tiny world does not have, all of them named
            with those near to them.
    """
    known = wording.vocabulary()
    words = [word.strip(ENDS) for word in typed.lower().replace(",", " , ").split()]
    words = [_known_form(word, known) for word in words if word]
    while words and words[-1] == ",":
        words.pop()
    if not words:
        raise ValueError('the caption is empty; give one such as TARGET="a red star on the left"')
    if unknown := [word for word in dict.fromkeys(words) if word not in known]:
        raise ValueError("\n".join([_refusal(len(unknown), len(known)), *(_near(word, known) for word in unknown)]))
    if len(words) > MAX_WORDS:
        raise ValueError(f"the caption has {len(words)} words, and CLIP reads at most {MAX_WORDS} here; shorten it")
    text = " ".join(words)
    return Caption(text, changed=text != typed.strip())


def _known_form(word: str, known: frozenset[str]) -> str:
    """The tiny world's form of a word: as it is, spelt the British way, or in the singular; else unchanged."""
    for form in (word, SAME.get(word, word), word.removesuffix("s"), word.removesuffix("es")):
        if form in known:
            return form
    return word


def _refusal(n_unknown: int, n_known: int) -> str:
    noun = "word is" if n_unknown == 1 else "words are"
    return f"{n_unknown} {noun} not among the {n_known} of the tiny world (make demo TARGET=help lists them):"


def _near(word: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.6)
    return f"  {word!r}" + (f"; near: {', '.join(near)}" if near else "; nothing near")


def by_kind() -> dict[str, list[str]]:
    """Return every word of the tiny world under the first kind it belongs to, in the order a caption uses them."""

    def words(*phrases: str) -> list[str]:
        return [word for phrase in phrases for word in phrase.split()]

    def values(table: dict) -> list[str]:
        return words(*(phrase for phrases in table.values() for phrase in phrases))

    kinds = {
        "colours": words(*wording.READ["colour"]),
        "shapes": [*wording.READ["shape"]],
        "sizes": values(wording.SIZE_WORDS),
        "backgrounds": [*values(wording.BACKGROUND_WORDS), "background"],
        "textures": words(*wording.TEXTURE_WORDS.values()),
        "places": values(wording.PLACE_PHRASES),
        "several objects": words(*wording.RELATION_PHRASES, *wording.COUNTS.values(), "and ,"),
        "around them": [*words("a an with on over"), *values(wording.OPENERS)],
        "neon": words("glowing sign against across wall"),
        "romantic": values({"adjectives": wording.ADJECTIVES["romantic"], "tails": wording.TAILS["romantic"]}),
        "humorous": values({"adjectives": wording.ADJECTIVES["humorous"], "tails": wording.TAILS["humorous"]}),
        "end": ["."],
    }
    seen: set[str] = set()
    return {
        kind: [w for w in dict.fromkeys(listed) if not (w in seen or seen.add(w))] for kind, listed in kinds.items()
    }


def is_neutral(text: str) -> bool:
    """Whether a text has no word of the romantic and humorous registers."""
    return _styled().isdisjoint(text.lower().replace(".", " ").replace(",", " ").split())


@cache
def _styled() -> frozenset[str]:
    kinds = by_kind()
    return frozenset(kinds["romantic"] + kinds["humorous"])


def help_text() -> str:
    """Return the list that `make demo TARGET=help` prints."""
    kinds = by_kind()
    lines = [f"  {kind:16} {' '.join(words)}" for kind, words in kinds.items()]
    total = sum(map(len, kinds.values()))
    example = 'make demo TARGET="a large red star on a dark background"'
    return "\n".join([f"The tiny world has {total} words, the comma and the full stop among them:", *lines, example])
