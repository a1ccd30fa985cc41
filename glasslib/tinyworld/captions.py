"""The tiny world's people: they describe scenes and leave things out, and a parser reads captions back exactly.

One grammar writes and reads. A caption names few of a scene's attributes, as real captions do; five describers have
five habits. The words and the facts they stand for are in wording.py.
"""

from __future__ import annotations

import bisect
import itertools
import re
from dataclasses import fields

import numpy as np

from glasslib.tinyworld import scenes as world
from glasslib.tinyworld.scenes import BACKGROUNDS, COLOURS, DOMAINS, PLACES, RELATIONS, SHAPES, SIZES, TEXTURES, Scenes
from glasslib.tinyworld.wording import (
    ADJECTIVES,
    BACKGROUND_WORDS,
    COUNTS,
    GROUND,
    OPENERS,
    PLACE_PHRASES,
    READ,
    REGISTERS,
    RELATION_PHRASES,
    SHAPE_WORDS,
    SIZE_WORDS,
    TAILS,
    TEXTURE_WORDS,
    Facts,
    ObjectFacts,
)

N_DESCRIBERS = 5


def describe(
    scenes: Scenes,
    *,
    rng: np.random.Generator,
    describer: int | None = None,
    register: str = "neutral",
    zipf: float = 0.0,
) -> list[str]:
    """Have one person describe each scene.

    Args:
        scenes: n scenes.
        describer: 0 to 4, the person's habit (0 names colour and shape, 1 the place, 2 the background, 3 details, 4 how
            objects stand to each other); None draws one for each scene.
        register: one of REGISTERS.
        zipf: how much more often people use the first of several words for one thing (sizes, shapes, backgrounds,
            places, prepositions; not openers and registers): word k of wording.py's tuple comes in proportion to
            1 / k**zipf. 0: all alike; 1: Zipf's law. It changes words, never what is said.

    Returns:
        n captions, lower case, without a full stop.
    """
    if register not in REGISTERS:
        raise ValueError(f"register must be one of {REGISTERS}, got {register!r}")
    if describer is not None and not 0 <= describer < N_DESCRIBERS:
        raise ValueError(f"describer must be 0 to {N_DESCRIBERS - 1} or None, got {describer}")
    if not zipf >= 0:
        raise ValueError(f"zipf must be 0 or more, got {zipf}")
    habits = rng.integers(0, N_DESCRIBERS, len(scenes)) if describer is None else np.full(len(scenes), describer)
    dice = rng.random((len(scenes), 24)).tolist()  # one draw for all scenes: the writer reads its row in order
    return [
        _write(_notice(scenes, row, int(habits[row]), _Dice(dice[row], zipf), register)) for row in range(len(scenes))
    ]


def describe_by_all(
    scenes: Scenes, *, rng: np.random.Generator, register: str = "neutral", zipf: float = 0.0
) -> list[list[str]]:
    """Five captions for each scene, one by each describer; see `describe`."""
    columns = [describe(scenes, rng=rng, describer=d, register=register, zipf=zipf) for d in range(N_DESCRIBERS)]
    return [list(row) for row in zip(*columns, strict=True)]


class _Dice:
    """Uniform numbers used up one by one."""

    def __init__(self, values: list[float], zipf: float) -> None:
        self._values = iter(values)
        self._zipf = zipf

    def chance(self, probability: float) -> bool:
        return next(self._values) < probability

    def pick(self, options: tuple) -> object:
        return options[int(next(self._values) * len(options))]

    def word(self, synonyms: tuple[str, ...]) -> str:
        """One of several words for the same thing, by Zipf's law."""
        shares = list(itertools.accumulate((k + 1) ** -self._zipf for k in range(len(synonyms))))
        return synonyms[bisect.bisect_right(shares, next(self._values) * shares[-1])]


def object_facts(scenes: Scenes, row: int, slot: int) -> ObjectFacts:
    """All attributes of object `slot` of scene `row`."""
    return ObjectFacts(
        size=tuple(SIZES)[scenes.size[row, slot]],
        colour=tuple(COLOURS)[scenes.colour[row, slot]],
        shape=SHAPES[scenes.shape[row, slot]],
        place=tuple(PLACES)[scenes.place[row, slot]],
    )


def _notice(scenes: Scenes, row: int, describer: int, dice: _Dice, register: str) -> tuple[Facts, str, _Dice]:
    """Choose what this person says of the scene, and in which order of words."""
    n_objects = int(scenes.n_objects[row])
    truth = [object_facts(scenes, row, slot) for slot in range(n_objects)]
    main = truth[dice.pick(tuple(range(n_objects)))]
    background, texture = tuple(BACKGROUNDS)[scenes.background[row]], TEXTURES[scenes.texture[row]]
    common = {"register": register, "domain": DOMAINS[scenes.domain[row]]}
    if describer == 0:  # colour and shape, sometimes only one of them
        both = dice.chance(0.7)
        colour = main.colour if both or dice.chance(0.5) else None
        obj = ObjectFacts(colour=colour, shape=main.shape if both or colour is None else None)
        return Facts((obj,), **common), "plain", dice
    if describer == 1:  # the place first of all
        named = dice.pick(("shape", "colour", "both", "neither"))
        obj = ObjectFacts(
            place=main.place,
            shape=main.shape if named in ("shape", "both") else None,
            colour=main.colour if named in ("colour", "both") else None,
        )
        return Facts((obj,), **common), dice.pick(("plain", "fronted")), dice
    if describer == 2:  # the background, and little else
        ground = {"background": background, "texture": texture if dice.chance(0.6) else None}
        if n_objects > 1 and dice.chance(0.5):
            return Facts((), count=n_objects, **ground, **common), "plain", dice
        obj = ObjectFacts(shape=main.shape if dice.chance(0.5) else None)
        return Facts((obj,), **ground, **common), dice.pick(("plain", "ground first")), dice
    if describer == 3:  # one object in detail
        size = main.size if dice.chance(0.75) else None
        place = main.place if dice.chance(0.5) else None
        obj = ObjectFacts(size=size, colour=main.colour, shape=main.shape, place=place)
        return Facts((obj,), background=background if place is None else None, **common), "plain", dice
    if n_objects == 1:
        obj = ObjectFacts(colour=main.colour, shape=main.shape, place=main.place if dice.chance(0.4) else None)
        return Facts((obj,), background=background, **common), "plain", dice
    return _notice_together(truth, dice, common)


def _notice_together(truth: list[ObjectFacts], dice: _Dice, common: dict) -> tuple[Facts, str, _Dice]:
    """Several objects in one sentence: a relation for two, a list for three."""
    full = dice.chance(0.7)
    named = tuple(ObjectFacts(colour=obj.colour if full else None, shape=obj.shape) for obj in truth)
    if len(truth) == 2:
        relation = RELATIONS[truth[0].place, truth[1].place] if dice.chance(0.8) else None
        return Facts(named, relation=relation, **common), "plain", dice
    return Facts(named, **common), "plain", dice


def _write(noticed: tuple[Facts, str, _Dice]) -> str:
    """Words for facts: synonyms, opener and the register's adornments are drawn from the dice."""
    facts, order, dice = noticed
    prepositions, ground_noun = GROUND[facts.domain]
    phrases = [_noun_phrase(obj, facts, dice) for obj in facts.objects] or [COUNTS[facts.count]]
    ground = ""
    if facts.background is not None:
        words = [TEXTURE_WORDS[facts.texture]] if facts.texture else []
        words += [dice.word(BACKGROUND_WORDS[facts.background]), ground_noun]
        ground = " ".join(("a", *words))
    place = dice.word(PLACE_PHRASES[facts.objects[0].place]) if facts.objects and facts.objects[0].place else ""
    opener = dice.pick(OPENERS[facts.domain])
    if order == "ground first":
        opener, body = "", f"{ground} with {phrases[0]}"
    elif order == "fronted":
        opener, body = "", f"{place} there is {phrases[0]}"
    else:
        joint = f" {facts.relation} " if facts.relation else " and "
        listed = [" , ".join(phrases[:-1]), phrases[-1]] if len(phrases) == 3 else phrases
        body = " ".join(filter(None, (joint.join(listed), place)))
        body += f" {dice.word(prepositions)} {ground}" if ground else ""
    tail = f" {dice.pick(TAILS[facts.register])}" if facts.register != "neutral" else ""
    return opener + body + tail


def _noun_phrase(obj: ObjectFacts, facts: Facts, dice: _Dice) -> str:
    words = [] if facts.register == "neutral" else [dice.pick(ADJECTIVES[facts.register])]
    words += ["glowing"] if facts.domain == "neon" else []
    words += [dice.word(SIZE_WORDS[obj.size])] if obj.size else []
    words += [obj.colour] if obj.colour else []
    words += [dice.word(SHAPE_WORDS[obj.shape]) if obj.shape else "shape"]
    words += ["sign"] if facts.domain == "neon" else []
    return f"{'an' if words[0][0] in 'aeiou' else 'a'} {' '.join(words)}"


def _any(words) -> str:
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


def _sentence_patterns(domain: str, register: str) -> list[re.Pattern]:
    """One pattern for each order of words the writer has, with named groups for the facts."""
    adjective = f"{_any(ADJECTIVES[register])} " if register != "neutral" else ""
    glow, sign = ("glowing ", " sign") if domain == "neon" else ("", "")

    def noun(i: int) -> str:
        slots = "".join(f"(?:(?P<{key}{i}>{_any(READ[key])}) )?" for key in ("size", "colour"))
        return f"an? {adjective}{glow}{slots}(?P<shape{i}>{_any(READ['shape'])}){sign}"

    prepositions, ground_noun = GROUND[domain]
    ground = f"a (?:(?P<texture>{_any(READ['texture'])}) )?(?P<background>{_any(READ['background'])}) {ground_noun}"
    place, on_ground = f"(?P<place0>{_any(READ['place'])})", f"(?: {_any(prepositions)} {ground})?"
    opener = f"(?:{'|'.join(filter(None, OPENERS[domain]))})?"
    relation = f"(?P<relation>{_any(RELATION_PHRASES)})"
    tail = f" {_any(TAILS[register])}" if register != "neutral" else ""
    bodies = [
        f"{opener}{noun(0)}(?: {place})?{on_ground}",
        f"{place} there is {noun(0)}",
        f"{ground} with {noun(0)}",
        f"{opener}{noun(0)} (?:{relation}|and) {noun(1)}",
        f"{opener}{noun(0)} , {noun(1)} and {noun(2)}",
        f"{opener}(?P<count>{_any(COUNTS.values())}){on_ground}",
    ]
    return [re.compile(body + tail) for body in bodies]


_PATTERNS = {key: _sentence_patterns(*key) for key in itertools.product(DOMAINS, REGISTERS)}


def parse(caption: str) -> Facts:
    """Read a caption of this language.

    Args:
        caption: with or without a final full stop.

    Raises:
        ValueError: the grammar cannot have written it.
    """
    text = caption.strip().removesuffix(".").strip()
    for (domain, register), patterns in _PATTERNS.items():
        for pattern in patterns:
            if found := pattern.fullmatch(text):
                return _facts({k: v for k, v in found.groupdict().items() if v is not None}, domain, register)
    raise ValueError(f"caption must be a sentence of the tiny world's grammar, got {caption!r}; see captions.describe")


def parses(caption: str) -> bool:
    """Whether the grammar can have written this caption."""
    try:
        parse(caption)
    except ValueError:
        return False
    return True


def _facts(found: dict[str, str], domain: str, register: str) -> Facts:
    objects = []
    for i in range(world.MAX_OBJECTS):
        if f"shape{i}" in found:
            keys = [f.name for f in fields(ObjectFacts) if f"{f.name}{i}" in found]
            objects.append(ObjectFacts(**{key: READ[key][found[f"{key}{i}"]] for key in keys}))
    count = {text: n for n, text in COUNTS.items()}.get(found.get("count"))
    ground = {key: READ[key][found[key]] for key in ("background", "texture") if key in found}
    return Facts(tuple(objects), found.get("relation"), count, **ground, register=register, domain=domain)
