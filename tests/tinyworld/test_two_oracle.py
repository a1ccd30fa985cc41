"""What the oracle of two things says of layouts worked by hand."""

import numpy as np
import pytest
import torch

from glasslib.tinyworld import two_things
from glasslib.tinyworld.oracle import OracleNetwork
from glasslib.tinyworld.recipes import two_oracle as recipe
from glasslib.tinyworld.two_oracle import HEADS, VALUES, Layout, TwoOracle

ASKED = two_things.parse("a red star left of a blue circle")
PLACES = ("left", "right", "top", "bottom", "centre")


def layout(**things: str) -> Layout:
    """One picture, from what stands where: left="red star"."""
    seen = np.zeros((2, 1, 5), dtype=int)
    for place, thing in things.items():
        colour, shape = thing.split()
        seen[:, 0, PLACES.index(place)] = VALUES["colour"].index(colour), VALUES["shape"].index(shape)
    return Layout(colour=seen[0], shape=seen[1])


@pytest.mark.parametrize(
    ("things", "right"),
    [
        ({"left": "red star", "right": "blue circle"}, {"shapes", "colours", "binding", "relation", "all"}),
        ({"left": "blue circle", "right": "red star"}, {"shapes", "colours", "binding"}),
        ({"left": "blue star", "right": "red circle"}, {"shapes", "colours", "relation"}),
        ({"left": "blue star", "right": "green circle"}, {"shapes", "relation"}),
        ({"left": "red heart", "right": "blue circle"}, {"colours", "relation"}),
        ({"top": "red star", "bottom": "blue circle"}, {"shapes", "colours", "binding"}),
        ({"left": "green heart", "right": "blue circle"}, set()),
        ({"left": "red star"}, set()),
        ({"left": "red star", "right": "blue circle", "top": "pink ring"}, set()),
        ({"left": "red star", "top": "blue circle"}, set()),
        ({"left": "red star", "right": "blue nothing"}, set()),
    ],
)
def test_aspects_of_layouts_worked_by_hand(things, right):
    hits = layout(**things).agrees([ASKED])
    assert {name for name, hit in hits.items() if hit[0]} == right


def test_names_what_stands_where():
    assert layout(left="red star", right="blue circle").names(0) == {"left": "red star", "right": "blue circle"}


def test_labels_agree_with_facts():
    world = two_things.sample(50, rng=np.random.default_rng(0), held_out=None)
    seen = recipe.labels(world)
    hits = Layout(colour=seen[:, :5], shape=seen[:, 5:]).agrees(two_things.facts(world))
    assert all(hit.all() for hit in hits.values())
    swapped = recipe.labels(two_things.exchanged(world, "colours"))
    assert not Layout(colour=swapped[:, :5], shape=swapped[:, 5:]).agrees(two_things.facts(world))["binding"].any()


def test_half_of_the_training_scenes_hold_two_things_and_some_none():
    world = recipe.sample(400, rng=np.random.default_rng(0))
    seen = recipe.labels(world)
    n_things = (seen[:, :5] > 0).sum(axis=1)
    assert (n_things[:200] == 2).all() and set(n_things[200:]) == {0, 1, 2, 3}


def test_the_oracle_refuses_what_it_cannot_read():
    oracle = TwoOracle(OracleNetwork(HEADS))
    assert oracle(torch.rand(3, 3, 64, 64)).colour.shape == (3, 5)
    with pytest.raises(ValueError, match="at least 32 pixels"):
        oracle(torch.rand(1, 3, 16, 16))
