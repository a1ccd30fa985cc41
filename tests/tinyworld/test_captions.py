import numpy as np
import pytest

from glasslib.tinyworld import captions, faithfulness, scenes, wording
from glasslib.tinyworld.captions import Facts, ObjectFacts, parse


def draw(n, seed=0, **options):
    return scenes.sample(n, rng=np.random.default_rng(seed), **options)


@pytest.mark.parametrize("domain", scenes.DOMAINS)
@pytest.mark.parametrize("register", wording.REGISTERS)
@pytest.mark.parametrize("describer", range(captions.N_DESCRIBERS))
def test_what_is_written_parses_back_to_true_facts(domain, register, describer):
    world = draw(150, domain=domain)
    texts = captions.describe(world, rng=np.random.default_rng(1), describer=describer, register=register)
    for row, text in enumerate(texts):
        facts = parse(text)
        assert (facts.register, facts.domain) == (register, domain)
        assert faithfulness.matches(facts, world[row : row + 1])[0], text
        assert set(text.split()) <= wording.vocabulary()


def test_parse_reads_every_slot():
    assert parse("the picture of a big yellow disc at the left side on a striped black background .") == Facts(
        (ObjectFacts("large", "yellow", "circle", "left"),), background="dark", texture="stripes"
    )
    assert parse("a red star left of an orange moon") == Facts(
        (ObjectFacts(colour="red", shape="star"), ObjectFacts(colour="orange", shape="crescent")), relation="left of"
    )
    assert parse("three shapes over a white background") == Facts((), count=3, background="white")


@pytest.mark.parametrize("text", ["", "a red", "star red a", "a red star on the", "red star", "a red star a red star"])
def test_what_the_grammar_cannot_write_is_refused(text):
    assert not captions.parses(text)
    with pytest.raises(ValueError, match="grammar"):
        parse(text)


def test_count_true_by_hand():
    world = draw(1, n_objects=(1, 1))
    for name, index in {"shape": 3, "colour": 0, "size": 2, "place": 0}.items():
        getattr(world, name)[0, 0] = index  # a large red star on the left
    world.background[0], world.texture[0] = 0, 2  # dark, stripes
    facts = parse("a large red star on the right")
    assert (facts.n_named, faithfulness.count_true(facts, world)[0]) == (4, 3)
    facts = parse("a blue star on a striped white background")
    assert (facts.n_named, faithfulness.count_true(facts, world)[0]) == (4, 2)
    assert faithfulness.count_true(parse("two shapes on a dark background"), world)[0] == 1


def test_described_objects_are_matched_to_different_objects_of_the_scene():
    world = draw(1, n_objects=(2, 2))
    world.shape[0, :2], world.colour[0, :2] = (3, 0), (0, 5)  # a red star and a blue circle
    world.x[0, :2], world.y[0, :2] = (0.25, 0.75), (0.5, 0.5)
    assert faithfulness.matches(parse("a blue circle right of a red star"), world)[0]
    assert not faithfulness.matches(parse("a blue circle left of a red star"), world)[0]
    assert not faithfulness.matches(parse("a red star and a red star"), world)[0]


def test_people_leave_things_out_and_differ():
    world = draw(400)
    five = captions.describe_by_all(world, rng=np.random.default_rng(0))
    assert all(len(texts) == 5 for texts in five)
    named = np.mean([parse(text).n_named for texts in five for text in texts])
    assert 2 < named < 3.5  # of 6 to 14 attributes a scene has
    assert np.mean([len(set(texts)) for texts in five]) > 4


def test_the_same_rng_writes_the_same_captions():
    first, again = (captions.describe(draw(50), rng=np.random.default_rng(7)) for _ in range(2))
    assert first == again


def test_zipf_changes_words_and_nothing_that_is_said():
    world = scenes.sample(600, rng=np.random.default_rng(0))
    even, often = (captions.describe_by_all(world, rng=np.random.default_rng(1), zipf=zipf) for zipf in (0.0, 1.0))
    facts = [[[captions.parse(text) for text in row] for row in described] for described in (even, often)]
    said = " ".join(text for row in often for text in row).split()
    assert facts[0] == facts[1]
    assert said.count("circle") / (said.count("circle") + said.count("disc")) == pytest.approx(2 / 3, abs=0.05)


def test_a_large_exponent_leaves_the_first_word_alone():
    world = scenes.sample(200, rng=np.random.default_rng(0))
    said = " ".join(captions.describe(world, rng=np.random.default_rng(1), zipf=50.0)).split()
    assert "circle" in said and not {"disc", "moon", "tiny", "big", "black", "over"} & set(said)


def test_unknown_registers_describers_and_exponents_are_refused():
    with pytest.raises(ValueError, match="register must be one of"):
        captions.describe(draw(1), rng=np.random.default_rng(0), register="sarcastic")
    with pytest.raises(ValueError, match="describer must be"):
        captions.describe(draw(1), rng=np.random.default_rng(0), describer=5)
    with pytest.raises(ValueError, match="zipf must be 0 or more"):
        captions.describe(draw(1), rng=np.random.default_rng(0), zipf=-1.0)
