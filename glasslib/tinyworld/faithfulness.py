"""Whether captions are true of the scene: exact attribute precision, recall and F1, beside people's own recall.

The grammar's parser reads a caption, and the scene says what holds. People leave things out, so that a caption as good
as theirs has a low recall: compare it with `reference_recall`, not with 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from glasslib.metrics.intervals import CorpusMetric, mean_metric, quotient
from glasslib.tinyworld import captions as language
from glasslib.tinyworld.scenes import BACKGROUNDS, COLOURS, MAX_OBJECTS, PLACES, SHAPES, SIZES, TEXTURES, Scenes
from glasslib.tinyworld.wording import Facts, ObjectFacts


def n_attributes(scenes: Scenes) -> np.ndarray:
    """(n,) how much a caption can say of each scene.

    Size, colour, shape and place of each object, background and texture; of several objects also their number and one
    relation.
    """
    return 4 * scenes.n_objects + 2 + 2 * (scenes.n_objects > 1)


def count_true(facts: Facts, scenes: Scenes) -> np.ndarray:
    """How many of the attributes a caption names hold in each scene, under the kindest matching of objects.

    Args:
        facts: what a caption says.
        scenes: n scenes.

    Returns:
        (n,) whole numbers from 0 to facts.n_named.
    """
    ground = np.zeros(len(scenes), dtype=int)
    if facts.count is not None:
        ground += scenes.n_objects == facts.count
    if facts.background is not None:
        ground += scenes.background == tuple(BACKGROUNDS).index(facts.background)
    if facts.texture is not None:
        ground += scenes.texture == TEXTURES.index(facts.texture)
    held = [np.stack([_true_of(obj, scenes, s) for s in range(MAX_OBJECTS)], axis=1) for obj in facts.objects]
    best = np.zeros(len(scenes), dtype=int)
    for slots in itertools.permutations(range(MAX_OBJECTS), len(facts.objects)):
        total = sum((held[i][:, slot] for i, slot in enumerate(slots)), np.zeros(len(scenes), dtype=int))
        if facts.relation is not None:
            total = total + _related(facts.relation, scenes, *slots[:2])
        best = np.maximum(best, total)
    return best + ground


def matches(facts: Facts, scenes: Scenes) -> np.ndarray:
    """(n,) whether everything the caption names holds in each scene."""
    return count_true(facts, scenes) == facts.n_named


def _true_of(obj: ObjectFacts, scenes: Scenes, slot: int) -> np.ndarray:
    names = {"size": tuple(SIZES), "colour": tuple(COLOURS), "shape": SHAPES, "place": tuple(PLACES)}
    total = np.zeros(len(scenes), dtype=int)
    for key, options in names.items():
        if (value := getattr(obj, key)) is not None:
            total += getattr(scenes, key)[:, slot] == options.index(value)
    return total


def _related(relation: str, scenes: Scenes, first: int, second: int) -> np.ndarray:
    dx, dy = scenes.x[:, first] - scenes.x[:, second], scenes.y[:, first] - scenes.y[:, second]
    both = scenes.n_objects > max(first, second)
    sideways = np.abs(dx) > np.abs(dy)
    holds = {
        "left of": sideways & (dx < 0),
        "right of": sideways & (dx > 0),
        "above": ~sideways & (dy < 0),
        "below": ~sideways & (dy > 0),
    }[relation]
    return (both & holds).astype(int)


def attribute_counts(captions: Sequence[str], scenes: Scenes) -> np.ndarray:
    """Return (n, 3): attributes each caption names, those of them that hold in its scene, and whether it parses.

    Objects are matched to the scene's under the kindest assignment. A sentence that is not of the grammar has no
    exact reading: it counts as naming nothing, and as not parsing.

    Args:
        captions: n sentences, with or without a final full stop.
        scenes: n scenes, in the same order.

    Raises:
        ValueError: another number of captions than of scenes.
    """
    if len(captions) != len(scenes):
        raise ValueError(f"captions must be one a scene, got {len(captions)} for {len(scenes)}")
    rows_of: dict[str, list[int]] = {}
    for row, caption in enumerate(captions):
        rows_of.setdefault(caption, []).append(row)
    counts = np.zeros((len(captions), 3), dtype=int)
    for caption, rows in rows_of.items():  # the same sentence is read once
        if language.parses(caption):
            facts = language.parse(caption)
            counts[rows, 0] = facts.n_named
            counts[rows, 1] = count_true(facts, scenes[np.array(rows)])
            counts[rows, 2] = 1
    return counts


def attribute_metrics(
    captions: Sequence[str], scenes: Scenes, *, references: Sequence[Sequence[str]]
) -> dict[str, CorpusMetric]:
    """Return metrics for `metrics.corpus`, `metrics.difference` and `metrics.ratio`, a row a scene.

    Args:
        captions: n sentences.
        scenes: n scenes.
        references: n lists of what people say of them, at least one each.

    Returns:
        precision: share of the attributes named that hold, over all captions that parse.
        recall: share of what can be said of the scenes that the captions name and that holds.
        f1: harmonic mean of the two.
        parses: share of the captions that the grammar can read; precision knows nothing of the others.
        reference_precision, reference_recall, reference_f1: of one reference caption, averaged over them all.
        recall_of_references: recall / reference_recall; 1 says as much as one person does.

    Raises:
        ValueError: other numbers of captions or references than of scenes, or a scene without a reference.
    """
    if len(references) != len(scenes) or not all(references):
        raise ValueError(f"references must be {len(scenes)} non-empty lists of strings, got {len(references)}")
    counts = attribute_counts(captions, scenes)
    sayable = n_attributes(scenes)
    owner = np.repeat(np.arange(len(scenes)), [len(texts) for texts in references])
    people = attribute_counts([text for texts in references for text in texts], scenes[owner])
    n_people = np.bincount(owner)
    named, true = (np.bincount(owner, weights=people[:, column]) / n_people for column in (0, 1))
    found = {**_three(counts[:, 0], counts[:, 1], sayable), "parses": mean_metric(counts[:, 2], unit="share")}
    found |= {f"reference_{name}": metric for name, metric in _three(named, true, sayable).items()}
    return found | {"recall_of_references": _quotient(counts[:, 1], true, unit="ratio")}


def _three(named: np.ndarray, true: np.ndarray, sayable: np.ndarray) -> dict[str, CorpusMetric]:
    f1 = _quotient(2 * true, named + sayable)  # as 2 P R / (P + R) of the sums
    return {"precision": _quotient(true, named), "recall": _quotient(true, sayable), "f1": f1}


def _quotient(above: np.ndarray, below: np.ndarray, *, unit: str = "share") -> CorpusMetric:
    return CorpusMetric(np.stack([above, below], axis=1).astype(float), quotient, unit)
