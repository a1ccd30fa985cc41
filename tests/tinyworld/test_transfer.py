"""Other domains and registers: the same scenes in every register, and nothing tried was learned from."""

import torch

from glasslib.tinyworld import captions, faithfulness
from glasslib.tinyworld.transfer import Away
from glasslib.tinyworld.wording import REGISTERS

SMALL = Away(n_styled=28, n_neon=5)


def test_registers_share_their_scenes_and_nothing_tried_was_learned_from():
    kept = {name: [{c.image_id for c in part} for part in SMALL.style_split(name)] for name in REGISTERS}
    assert kept["neutral"] == kept["romantic"] == kept["humorous"]
    learned, tried = kept["neutral"]
    assert (len(learned), len(tried), learned & tried) == (24, 4, set())
    world = SMALL.world("print")
    assert len(world) == 4
    for row, text in enumerate(SMALL.style_split("romantic")[1]):
        facts = captions.parse(text.text)
        assert facts.register == "romantic" and faithfulness.matches(facts, world[row : row + 1])[0]


def test_references_are_true_of_the_scenes_to_be_captioned():
    for domain, register, n in (("print", "humorous", 4), ("neon", "neutral", 5)):
        world, told = SMALL.world(domain), SMALL.references(domain, register)
        assert len(told) == n
        for row, texts in enumerate(told):
            facts = [captions.parse(text) for text in texts]
            assert {(fact.domain, fact.register) for fact in facts} == {(domain, register)}
            assert all(faithfulness.matches(fact, world[row : row + 1])[0] for fact in facts)


def test_the_first_pictures_are_those_of_all():
    assert torch.equal(SMALL.pictures("neon", 2), SMALL.pictures("neon")[:2])
