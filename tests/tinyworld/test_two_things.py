"""Scenes of two things: what is held out, what captions name, and that the parser reads it back."""

import dataclasses

import numpy as np
import pytest

from glasslib.tinyworld import captions, scenes, two_things
from glasslib.tinyworld.scenes import COLOURS, PLACES, SHAPES


@pytest.fixture(scope="module")
def world() -> scenes.Scenes:
    return two_things.sample(3000, rng=np.random.default_rng(3))


def triples(world: scenes.Scenes) -> set[tuple[int, int, int]]:
    """Every shape, colour and side that stand together."""
    return {
        (int(world.shape[row, k]), int(world.colour[row, k]), int(world.place[row, k]))
        for row in range(len(world))
        for k in (0, 1)
    }


def test_two_objects_differ_in_colour_and_shape(world):
    assert len(world) == 3000 and (world.n_objects == 2).all()
    assert (world.shape[:, 0] != world.shape[:, 1]).all() and (world.colour[:, 0] != world.colour[:, 1]).all()


def test_training_never_sees_eight_pairs_and_misses_one_side_of_every_other(world):
    seen = triples(world)
    pairs = {(shape, colour) for shape, colour, _ in seen}
    assert len(pairs) == 56
    missing = {(s, c) for s in range(8) for c in range(8)} - pairs
    assert len({s for s, _ in missing}) == 8 and len({c for _, c in missing}) == 8  # each shape, each colour once
    assert {len({side for s, c, side in seen if (s, c) == pair}) for pair in pairs} == {3}


def test_held_out_scenes_hold_a_combination_that_training_never_sees(world):
    unseen = two_things.sample(400, rng=np.random.default_rng(4), held_out=True)
    trained = triples(world)
    assert all(triples(unseen[np.array([row])]) - trained for row in range(len(unseen)))


def test_a_caption_names_all_five_and_is_read_back(world):
    texts = two_things.describe(world, rng=np.random.default_rng(5))
    for text, fact in zip(texts, two_things.facts(world), strict=True):
        read = two_things.parse(text)
        if read.objects != fact.objects:  # told from the other side
            read = dataclasses.replace(read, objects=read.objects[::-1], relation=two_things.OPPOSITE[read.relation])
        assert (read.objects, read.relation) == (fact.objects, fact.relation), text
    by_grammar = np.mean([captions.parses(text) for text in texts])
    assert abs(by_grammar - 0.75) < 0.03
    assert max(len(text.split()) for text in texts) + 2 <= two_things.CONTEXT_LENGTH
    assert len({text.replace("disc", "circle") for text in texts}) > 2800


def test_a_hand_worked_caption():
    world = two_things.sample(1, rng=np.random.default_rng(0))
    one = dataclasses.replace(
        world,
        shape=np.array([[SHAPES.index("star"), SHAPES.index("circle"), -1]]),
        colour=np.array([[tuple(COLOURS).index("red"), tuple(COLOURS).index("orange"), -1]]),
        place=np.array([[tuple(PLACES).index("bottom"), tuple(PLACES).index("top"), -1]]),
    )
    told = two_things.describe(one, rng=np.random.default_rng(0), plain=True)
    assert told == ["a red star below an orange circle"]
    swapped = two_things.exchanged(one, "colours")
    told = two_things.describe(swapped, rng=np.random.default_rng(0), plain=True)
    assert told == ["an orange star below a red circle"]
    moved = two_things.exchanged(one, "places")
    told = two_things.describe(moved, rng=np.random.default_rng(0), plain=True)
    assert told == ["a red star above an orange circle"]
    assert two_things.parse("an orange disc at the top and a red star in the lower part").relation == "above"


def test_scenes_of_one_number_are_described_in_the_same_way(world):
    twin = two_things.exchanged(world, "colours")
    both = scenes.concatenate([world, twin])
    alike = np.tile(np.arange(len(world)), 2)
    texts = two_things.describe(both, rng=np.random.default_rng(6), alike=alike)
    colours = set(COLOURS) | {"a", "an"}
    bare = [[word for word in text.split() if word not in colours] for text in texts]
    assert bare[: len(world)] == bare[len(world) :]
    assert texts[: len(world)] != texts[len(world) :]


def test_what_names_too_little_is_refused():
    for text in ("a red star", "a red star and a blue circle", "a star left of a blue circle", "red"):
        with pytest.raises(ValueError, match="caption must"):
            two_things.parse(text)
    with pytest.raises(ValueError, match="what must be one of"):
        two_things.exchanged(two_things.sample(2, rng=np.random.default_rng(0)), "sizes")


def test_careless_captions_are_wrong_in_seven_of_ten_and_never_of_a_held_out_combination(world):
    told = two_things.mistaken(world, rng=np.random.default_rng(8))
    same = [a == b for a, b in zip(two_things.facts(told), two_things.facts(world), strict=True)]
    assert abs(np.mean(same) - 0.31) < 0.04
    assert not two_things.is_held_out(told).any()
    assert (told.shape[:, 0] != told.shape[:, 1]).all() and (told.colour[:, 0] != told.colour[:, 1]).all()
    assert abs((told.place[:, 0] == world.place[:, 1]).mean() - 0.32) < 0.04
    assert abs((told.colour[:, :2] == world.colour[:, [1, 0]]).all(axis=1).mean() - 0.2) < 0.06
