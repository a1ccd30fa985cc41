"""What notebooks are told about pictures: the truth in the tiny world, nothing of real models."""

import numpy as np
import pytest
import torch

from glasslib import presets
from glasslib.presets import truth
from glasslib.tinyworld import captions, scenes, wording


@pytest.fixture(scope="module")
def world():
    return truth.of("tiny-stylegan2")


def test_held_out_captions_name_colour_shape_and_place(world):
    texts = world.captions(100)
    assert texts == world.captions(100)
    assert len(set(texts)) == 92
    for facts in map(captions.parse, texts):
        assert all(getattr(facts.objects[0], name) for name in truth.ATTRIBUTES) and facts.n_named == 3


def test_renders_show_what_their_captions_say(world):
    single = scenes.sample(40, rng=np.random.default_rng(1), n_objects=(1, 1))
    images = scenes.render(single, rng=torch.Generator().manual_seed(1))
    facts = [captions.object_facts(single, i, 0) for i in range(40)]
    texts = [f"a {f.colour} {f.shape} {wording.PLACE_PHRASES[f.place][0]}" for f in facts]
    shown = world.shows(images, texts)
    assert list(shown) == ["colour", "shape", "place"] and all(hits.mean() > 0.9 for hits in shown.values())
    wrong = world.shows(images, texts[1:] + texts[:1])
    assert wrong["shape"].mean() < 0.5
    assert list(world.shows(images[:1], ["a red star left of a blue circle"])) == ["colour", "shape"]
    assert world.titles(images[:1]) == [f"\n{facts[0].colour} {facts[0].shape}, {facts[0].place}"]
    assert world.recognisable(images)["recognisable"].mean() > 0.8
    assert not world.recognisable(torch.full((1, 3, 32, 32), 0.5))["recognisable"][0]


def test_a_caption_that_does_not_parse_names_nothing(world):
    _, scene = world.pictures(1)
    assert world.count("shape a red", scene) == (0, 0)
    true, named = world.count(captions.describe(scene, rng=np.random.default_rng(0))[0], scene)
    assert true == named > 0


def test_of_real_models_nothing_is_known():
    unknown = truth.of("StyleGAN2_ffhq_d", ("a", "b", "c", "d"))
    images = torch.zeros(2, 3, 8, 8)
    assert (unknown.known, unknown.captions(3), unknown.inside) == (False, ["a", "b", "c"], ("a", "b", "c"))
    assert unknown.outside == ("a blue car in the snow", "a gothic church in the city")
    assert (unknown.shows(images, ["a", "b"]), unknown.recognisable(images), unknown.titles(images)) == (
        {},
        {},
        ["", ""],
    )
    assert (unknown.class_name(3), unknown.count("a", None)) == ("class 3", (0, 0))


def test_both_answer_the_same_questions():
    """But for what only the truth has: the oracle, and pictures of known scenes."""
    public = [{name for name in vars(kind) if name[0] != "_"} for kind in (truth.TinyWorld, truth.Unknown)]
    assert public[0] - {"inside", "outside", "pictures"} == public[1]
    assert presets.at_scale("quick", {"quick": 1, "full": 2}) == [1]
