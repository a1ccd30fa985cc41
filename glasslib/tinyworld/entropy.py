"""The exact probability of a caption under the grammar, and with it the grammar's own entropy.

A language model that has learnt the grammar perfectly cannot need fewer nats for a sentence than this. What is summed
over: who describes, how many objects there are, the scene's attributes, and everything the writer draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from glasslib.tinyworld import captions, wording
from glasslib.tinyworld.scenes import BACKGROUNDS, COLOURS, MAX_OBJECTS, PLACES, SHAPES, TEXTURES
from glasslib.tinyworld.wording import Facts, ObjectFacts

SIZE_CHANCES = {
    1: {"small": 1 / 3, "medium": 1 / 3, "large": 1 / 3},
    2: {"small": 1 / 3, "medium": 2 / 3},
    3: {"small": 1},
}
SHAPE, COLOUR, BACKGROUND, TEXTURE = (1 / len(names) for names in (SHAPES, COLOURS, BACKGROUNDS, TEXTURES))


def log_probability(caption: str) -> float:
    """The log probability, in nats, that a random describer writes this caption of a random scene.

    Scenes are drawn by `scenes.sample` with its defaults, captions by `captions.describe`, both left at theirs.

    Raises:
        ValueError: not a neutral caption of a print scene.
    """
    facts = captions.parse(caption)
    if (facts.register, facts.domain) != ("neutral", "print"):
        raise ValueError(f"caption must be neutral and of the print domain, got {facts.register}, {facts.domain}")
    order = "fronted" if " there is " in caption else "ground first" if " background with " in caption else "plain"
    noticed = sum(
        habit(facts, n, order) / (len(_HABITS) * MAX_OBJECTS) for habit in _HABITS for n in range(1, MAX_OBJECTS + 1)
    )
    if not noticed:
        raise ValueError(f"no describer notices just this: {caption!r}")
    return math.log(noticed) + _log_wording(caption, facts, order)


def _log_wording(caption: str, facts: Facts, order: str) -> float:
    """Of the synonyms, prepositions and the opener that were drawn, given facts and order of words."""
    n_ways = 1
    for obj in facts.objects:
        n_ways *= len(wording.SIZE_WORDS[obj.size]) if obj.size else 1
        n_ways *= len(wording.SHAPE_WORDS[obj.shape]) if obj.shape else 1
        n_ways *= len(wording.PLACE_PHRASES[obj.place]) if obj.place else 1
    if facts.background:
        n_ways *= len(wording.BACKGROUND_WORDS[facts.background])
        n_ways *= len(wording.GROUND["print"][0]) if order == "plain" else 1
    openers = wording.OPENERS["print"]
    used = [opener for opener in openers if opener and caption.startswith(opener)]
    return math.log(openers.count(used[0] if used else "") / len(openers) if order == "plain" else 1) - math.log(n_ways)


def _only(obj: ObjectFacts, *names: str) -> bool:
    """Whether nothing but `names` is said of an object."""
    return all(value is None or name in names for name, value in vars(obj).items())


def _place(n_objects: int, place: str) -> float:
    sides = len(PLACES) - 1
    return 1 / len(PLACES) if n_objects == 1 else 0.0 if place == "centre" else 1 / sides


def _colour_and_shape(facts: Facts, n_objects: int, order: str) -> float:
    obj = facts.objects[0] if len(facts.objects) == 1 else None
    if obj is None or facts.background or order != "plain" or not _only(obj, "colour", "shape"):
        return 0.0
    if obj.colour and obj.shape:
        return 0.7 * COLOUR * SHAPE
    return 0.15 * COLOUR if obj.colour else 0.15 * SHAPE if obj.shape else 0.0


def _where(facts: Facts, n_objects: int, order: str) -> float:
    obj = facts.objects[0] if len(facts.objects) == 1 else None
    if obj is None or facts.background or order == "ground first" or not obj.place or obj.size:
        return 0.0
    said = 0.25 * (COLOUR if obj.colour else 1) * (SHAPE if obj.shape else 1)
    return said * _place(n_objects, obj.place) / 2


def _ground(facts: Facts, n_objects: int, order: str) -> float:
    if not facts.background or order == "fronted":
        return 0.0
    ground = BACKGROUND * (0.6 * TEXTURE if facts.texture else 0.4)
    if facts.count:
        return 0.5 * ground if facts.count == n_objects else 0.0
    if len(facts.objects) != 1 or not _only(facts.objects[0], "shape"):
        return 0.0
    names_object = 1.0 if n_objects == 1 else 0.5
    return names_object * ground * (0.5 * SHAPE if facts.objects[0].shape else 0.5) / 2


def _details(facts: Facts, n_objects: int, order: str) -> float:
    obj = facts.objects[0] if len(facts.objects) == 1 else None
    if obj is None or order != "plain" or facts.texture or not (obj.colour and obj.shape):
        return 0.0
    if (obj.place is None) == (facts.background is None):
        return 0.0
    size = 0.75 * SIZE_CHANCES[n_objects].get(obj.size, 0.0) if obj.size else 0.25
    rest = 0.5 * (_place(n_objects, obj.place) if obj.place else BACKGROUND)
    return size * COLOUR * SHAPE * rest


def _together(facts: Facts, n_objects: int, order: str) -> float:
    if order != "plain" or len(facts.objects) != n_objects or facts.texture:
        return 0.0
    if n_objects == 1:
        obj = facts.objects[0]
        if not (obj.colour and obj.shape and facts.background) or obj.size:
            return 0.0
        return COLOUR * SHAPE * BACKGROUND * (0.4 * _place(1, obj.place) if obj.place else 0.6)
    full = all(obj.colour for obj in facts.objects)
    if facts.background or not all(obj.shape and not obj.size and not obj.place for obj in facts.objects):
        return 0.0
    if not full and any(obj.colour for obj in facts.objects):
        return 0.0
    said = (0.7 * (COLOUR * SHAPE) ** n_objects) if full else 0.3 * SHAPE**n_objects
    return said * (1 if n_objects == 3 else 0.8 / 4 if facts.relation else 0.2)


_HABITS: Sequence = (_colour_and_shape, _where, _ground, _details, _together)
