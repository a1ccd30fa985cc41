"""Scenes of two things: two objects of two colours and two shapes in a relation, and captions that name all five.

A named split, for a painter that reads. Some combinations are held out of every training set, the painter's and the
scorers': eight pairs of colour and shape (a yellow circle) altogether, and every other pair on one of the four sides
(a red star never stands on the left, though it stands right, above and below).
"""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from glasslib.tinyworld import captions
from glasslib.tinyworld import scenes as world
from glasslib.tinyworld.scenes import COLOURS, PLACES, RELATIONS, SHAPES, Scenes
from glasslib.tinyworld.wording import OPENERS, PLACE_PHRASES, READ, SHAPE_WORDS, Facts, ObjectFacts

IMAGE_SIZE = 32
TOLD_RIGHTLY = 0.25  # share of the painter's captions without a mistake
MISTAKES = {"colours": 0.4, "places": 0.4, "attribute": 0.15}  # chances of exchanging, and of each attribute's error
BY_PLACES = 0.25  # share of captions that name two places instead of a relation
CONTEXT_LENGTH = 22  # tokens of the longest caption, with start and end

_SIDES = tuple(PLACES)[:4]  # left, right, top, bottom
_RELATION_OF = np.full((4, 4), -1)  # index into RELATIONS' values, by the sides of the first and the second object
for _k, (_a, _b) in enumerate(RELATIONS):
    _RELATION_OF[_SIDES.index(_a), _SIDES.index(_b)] = _k
RELATION_NAMES = tuple(RELATIONS.values())
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def is_held_out(scenes: Scenes) -> np.ndarray:
    """(n,) whether a scene of two things holds a combination that no training set has."""
    shape, colour, side = scenes.shape[:, :2], scenes.colour[:, :2], scenes.place[:, :2]
    pair = colour == (3 * shape + 2) % len(COLOURS)
    return (pair | (side == (shape + colour) % 4)).any(axis=1)


def sample(n: int, *, rng: np.random.Generator, held_out: bool | None = False) -> Scenes:
    """Draw n scenes of two things: plain ground, upright medium objects of different colour and shape.

    Args:
        n: how many.
        held_out: False draws only combinations that training may see, True only scenes with a combination that it
            never sees, None both.
    """
    parts, n_kept = [], 0
    while n_kept < n:
        drawn = world.sample(
            2 * n + 16, rng=rng, n_objects=(2, 2), textures=("plain",), sizes=("medium",), tilt=0.0, domain="print"
        )
        fits = _differ(drawn)
        if held_out is not None:
            fits &= is_held_out(drawn) == held_out
        parts.append(drawn[np.flatnonzero(fits)])
        n_kept += len(parts[-1])
    return world.concatenate(parts)[:n]


def relations(scenes: Scenes) -> np.ndarray:
    """(n,) how the first object stands to the second, as an index into RELATION_NAMES."""
    return _RELATION_OF[scenes.place[:, 0], scenes.place[:, 1]]


def exchanged(scenes: Scenes, what: str) -> Scenes:
    """Each scene with its two objects' "colours", "shapes" or "places" exchanged; all else stays."""
    fields = {"colours": ("colour", "tint"), "shapes": ("shape",), "places": ("place", "x", "y")}
    if what not in fields:
        raise ValueError(f"what must be one of {tuple(fields)}, got {what!r}")
    order = [1, 0, *range(2, world.MAX_OBJECTS)]
    return dataclasses.replace(scenes, **{name: getattr(scenes, name)[:, order] for name in fields[what]})


def mistaken(scenes: Scenes, *, rng: np.random.Generator) -> Scenes:
    """The scenes as careless people remember them: most with colours or places exchanged, or an attribute wrong.

    TOLD_RIGHTLY of them are as they were, and those for which eight tries gave no mistake that training may see: .31
    in all. No mistake makes a held-out combination, or two things of one colour or shape.
    """
    n = len(scenes)
    told, waiting = scenes, np.flatnonzero(rng.random(n) >= TOLD_RIGHTLY)
    for _ in range(8):
        other = _with_mistakes(scenes, rng)
        fits = _differ(other) & ~is_held_out(other) & ~_same_told(other, scenes)
        rows = waiting[fits[waiting]]
        told = _put(told, other, rows)
        waiting = waiting[~fits[waiting]]
    return told


def _with_mistakes(scenes: Scenes, rng: np.random.Generator) -> Scenes:
    """Each scene with some mistakes, or none."""
    other = scenes
    for what in ("colours", "places"):
        other = _put(other, exchanged(other, what), np.flatnonzero(rng.random(len(scenes)) < MISTAKES[what]))
    wrong = {}
    for name, values in (("shape", SHAPES), ("colour", COLOURS)):
        drawn = getattr(other, name)
        chosen = (rng.random(drawn.shape) < MISTAKES["attribute"]) & (drawn >= 0)
        wrong[name] = np.where(chosen, (drawn + rng.integers(1, len(values), drawn.shape)) % len(values), drawn)
    return dataclasses.replace(other, **wrong)


def _differ(scenes: Scenes) -> np.ndarray:
    """(n,) whether the two objects differ in shape and in colour."""
    return (scenes.shape[:, 0] != scenes.shape[:, 1]) & (scenes.colour[:, 0] != scenes.colour[:, 1])


def _same_told(a: Scenes, b: Scenes) -> np.ndarray:
    """(n,) whether the same is true of both, row by row."""
    names = ("shape", "colour", "place")
    return np.all([(getattr(a, name)[:, :2] == getattr(b, name)[:, :2]).all(axis=1) for name in names], axis=0)


def _put(scenes: Scenes, other: Scenes, rows: np.ndarray) -> Scenes:
    """The scenes with `rows` taken from `other`."""
    order = np.arange(len(scenes))
    order[rows] += len(scenes)
    return world.concatenate([scenes, other])[order]


def facts(scenes: Scenes) -> list[Facts]:
    """What is true of each scene: both objects' colour and shape, and how the first stands to the second."""
    told = relations(scenes)
    return [
        Facts(
            tuple(
                ObjectFacts(colour=tuple(COLOURS)[scenes.colour[row, k]], shape=SHAPES[scenes.shape[row, k]])
                for k in (0, 1)
            ),
            relation=RELATION_NAMES[told[row]],
        )
        for row in range(len(scenes))
    ]


def describe(
    scenes: Scenes, *, rng: np.random.Generator, plain: bool = False, alike: np.ndarray | None = None
) -> list[str]:
    """Write a caption that names both colours, both shapes and the relation of each scene.

    Args:
        scenes: n scenes of two things.
        plain: no opener and no synonyms, the first object first, always a relation.
        alike: (n,) numbers from 0; scenes of one number are described in the same way, one draw a number.

    Returns:
        n captions in the words of the tiny grammar. Those with a relation are sentences of `captions.parse`; a quarter
        names two places instead ("a red star on the left and a blue circle on the right"), which `parse` reads.
    """
    kinds = np.arange(len(scenes)) if alike is None else alike
    dice = np.zeros((len(scenes), 6)) if plain else rng.random((int(kinds.max(initial=-1)) + 1, 6))[kinds]
    return [_sentence(fact, *row) for fact, row in zip(facts(scenes), dice.tolist(), strict=True)]


def _sentence(fact: Facts, opener: float, turn: float, by_places: float, *words: float) -> str:
    first, second = fact.objects
    relation = fact.relation
    if turn >= 0.5:
        first, second, relation = second, first, OPPOSITE[relation]
    start = _pick(OPENERS["print"], opener)
    nouns = [_noun_phrase(obj, word) for obj, word in zip((first, second), words[:2], strict=True)]
    if not 0 < by_places < BY_PLACES:
        return f"{start}{nouns[0]} {relation} {nouns[1]}"
    sides = {name: sides for sides, name in RELATIONS.items()}[relation]
    places = [_pick(PLACE_PHRASES[side], words[2]) for side in sides]
    return f"{start}{nouns[0]} {places[0]} and {nouns[1]} {places[1]}"


def _pick(options: tuple[str, ...], share: float) -> str:
    return options[int(share * len(options))]


def _noun_phrase(obj: ObjectFacts, share: float) -> str:
    return f"{'an' if obj.colour[0] in 'aeiou' else 'a'} {obj.colour} {_pick(SHAPE_WORDS[obj.shape], share)}"


def _any(words) -> str:
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


def _by_places() -> re.Pattern:
    nouns = [
        f"an? (?P<colour{k}>{_any(COLOURS)}) (?P<shape{k}>{_any(READ['shape'])}) (?P<place{k}>{_any(READ['place'])})"
        for k in (0, 1)
    ]
    return re.compile(f"(?:{'|'.join(filter(None, OPENERS['print']))})?{nouns[0]} and {nouns[1]}")


_BY_PLACES = _by_places()


def parse(caption: str) -> Facts:
    """Read what a caption asks for: two objects with colour and shape, and their relation.

    Raises:
        ValueError: it names fewer than the five facts, or is no sentence of the grammar.
    """
    found = _BY_PLACES.fullmatch(caption.strip().removesuffix(".").strip())
    if found:
        read = {key: READ[key[:-1]][value] for key, value in found.groupdict().items()}
        sides = read["place0"], read["place1"]
        objects = tuple(ObjectFacts(colour=read[f"colour{k}"], shape=read[f"shape{k}"]) for k in (0, 1))
        fact = Facts(objects, relation=RELATIONS.get(sides))
    else:
        fact = captions.parse(caption)
    named = [value for obj in fact.objects for value in (obj.colour, obj.shape)]
    if len(fact.objects) != 2 or None in named or fact.relation is None:
        raise ValueError(
            "caption must name two objects, each with colour and shape, and left of, right of, above or below, "
            f"got {caption!r}; see two_things.describe"
        )
    return fact
