"""The words of the tiny world's language, and what a caption can say of a scene.

Of several words for one thing the commonest stands first. Registers: `neutral`; `romantic` and `humorous` for style
transfer. Scenes of the `neon` domain have their own wording.
"""

from __future__ import annotations

from dataclasses import dataclass

from glasslib.tinyworld.scenes import BACKGROUNDS, COLOURS, SHAPES, TEXTURES

REGISTERS = ("neutral", "romantic", "humorous")
SIZE_WORDS = {"small": ("small", "tiny"), "medium": ("medium",), "large": ("large", "big")}
SHAPE_WORDS = {name: (name,) for name in SHAPES} | {"circle": ("circle", "disc"), "crescent": ("crescent", "moon")}
BACKGROUND_WORDS = {name: (name,) for name in BACKGROUNDS} | {"dark": ("dark", "black")}
TEXTURE_WORDS = dict(zip(TEXTURES, ("plain", "shaded", "striped", "dotted", "checked"), strict=True))
PLACE_PHRASES = {
    "left": ("on the left", "at the left side"),
    "right": ("on the right", "at the right side"),
    "top": ("at the top", "in the upper part"),
    "bottom": ("at the bottom", "in the lower part"),
    "centre": ("in the centre", "in the middle"),
}
RELATION_PHRASES = {"left of": "left of", "right of": "right of", "above": "above", "below": "below"}
OPENERS = {
    "print": ("", "", "", "the picture of ", "an image of ", "there is ", "we see "),
    "neon": ("", "", "neon art showing ", "at night we find "),
}
GROUND = {"print": (("on", "over"), "background"), "neon": (("against", "across"), "wall")}
ADJECTIVES = {
    "neutral": (),
    "romantic": ("lovely", "tender", "dreamy", "gentle"),
    "humorous": ("silly", "clumsy", "grumpy", "lazy"),
}
TAILS = {
    "neutral": (),
    "romantic": (
        "waiting for its one true love",
        "whispering sweet words to the moonlight",
        "dancing softly in a warm embrace",
        "dreaming of a kiss under the roses",
        "longing for a tender heart",
    ),
    "humorous": (
        "looking for its lost socks",
        "pretending to be a pizza",
        "hiding from the tax man",
        "late for a very serious party",
        "wondering who ate the last cookie",
    ),
}
COUNTS = {2: "two shapes", 3: "three shapes"}


def _lookup(table: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {word: name for name, words in table.items() for word in words}


# What each word or phrase stands for, by attribute.
READ = {
    "size": _lookup(SIZE_WORDS),
    "colour": {name: name for name in COLOURS},
    "shape": _lookup(SHAPE_WORDS) | {"shape": None},
    "place": _lookup(PLACE_PHRASES),
    "background": _lookup(BACKGROUND_WORDS),
    "texture": {word: name for name, word in TEXTURE_WORDS.items()},
}


@dataclass(frozen=True)
class ObjectFacts:
    """What a caption says of one object; None where it is silent."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Facts:
    """What a caption says of a scene. `relation` holds between the first and the second object named."""

    objects: tuple[ObjectFacts, ...] = ()
    relation: str | None = None
    count: int | None = None
    background: str | None = None
    texture: str | None = None
    register: str = "neutral"
    domain: str = "print"

    @property
    def n_named(self) -> int:
        """How many attributes the caption names."""
        named = [value for obj in self.objects for value in vars(obj).values()]
        named += [self.relation, self.count, self.background, self.texture]
        return sum(value is not None for value in named)


def vocabulary() -> frozenset[str]:
    """Every word the grammar can write, and the full stop."""
    phrases = [*COLOURS, *TEXTURE_WORDS.values(), *RELATION_PHRASES, *COUNTS.values()]
    phrases += [
        w for table in (SIZE_WORDS, SHAPE_WORDS, BACKGROUND_WORDS, PLACE_PHRASES) for ws in table.values() for w in ws
    ]
    phrases += [w for table in (OPENERS, ADJECTIVES, TAILS) for ws in table.values() for w in ws]
    phrases += [word for prepositions, noun in GROUND.values() for word in (*prepositions, noun)]
    phrases.append("a an and with there is shape glowing sign , .")
    return frozenset(word for phrase in phrases for word in phrase.split())
