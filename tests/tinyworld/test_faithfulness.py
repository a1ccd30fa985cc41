import numpy as np
import pytest

from glasslib import metrics
from glasslib.tinyworld import captions, faithfulness, scenes


def large_red_star_on_the_left(n=1):
    world = scenes.sample(n, rng=np.random.default_rng(0), n_objects=(1, 1))
    for name, index in {"shape": 3, "colour": 0, "size": 2, "place": 0}.items():
        getattr(world, name)[:, 0] = index
    world.background[:], world.texture[:] = 0, 2  # dark, stripes
    return world


def test_counts_by_hand():
    texts = ["a large red star on the right", "a blue star on a striped white background", "red red", "a shape"]
    counts = faithfulness.attribute_counts(texts, large_red_star_on_the_left(4))
    assert counts.tolist() == [[4, 3, 1], [4, 2, 1], [0, 0, 0], [0, 0, 1]]


def test_metrics_by_hand():
    texts = ["a large red star on the right", "a blue star on a striped white background", "red red"]
    people = [["a red star", "a star"], ["a blue star"], ["a red star on a dark background"]]
    found = faithfulness.attribute_metrics(texts, large_red_star_on_the_left(3), references=people)
    values = {name: metric.value for name, metric in found.items()}
    assert values == pytest.approx(
        {
            "precision": 5 / 8,
            "recall": 5 / 18,  # of 6 attributes a scene
            "f1": 2 * 5 / (8 + 18),
            "parses": 2 / 3,
            "reference_precision": (1.5 + 1 + 3) / (1.5 + 2 + 3),
            "reference_recall": (1.5 + 1 + 3) / 18,
            "reference_f1": 2 * 5.5 / (6.5 + 18),
            "recall_of_references": 5 / 5.5,
        }
    )


def test_what_people_say_is_true_and_leaves_things_out():
    world = scenes.sample(300, rng=np.random.default_rng(0))
    people = captions.describe_by_all(world, rng=np.random.default_rng(1))
    said = [texts[row % 5] for row, texts in enumerate(people)]
    found = faithfulness.attribute_metrics(said, world, references=people)
    assert found["precision"].value == found["reference_precision"].value == 1
    assert 0.2 < found["reference_recall"].value < 0.35  # 2 to 3.5 attributes of 6 to 16
    low, high = metrics.corpus(found["recall_of_references"], rng=np.random.default_rng(0))["ci"]
    assert low < 1 < high
    shuffled = faithfulness.attribute_metrics(said[1:] + said[:1], world, references=people)
    assert metrics.difference(shuffled["precision"], found["precision"], rng=np.random.default_rng(0))["ci"][1] < -0.4


@pytest.mark.parametrize("domain", scenes.DOMAINS)
@pytest.mark.parametrize("register", captions.REGISTERS)
def test_no_caption_names_more_than_can_be_said(domain, register):
    world = scenes.sample(200, rng=np.random.default_rng(2), domain=domain)
    texts = captions.describe(world, rng=np.random.default_rng(3), register=register)
    counts = faithfulness.attribute_counts(texts, world)
    assert (counts[:, 0] <= faithfulness.n_attributes(world)).all()
    assert counts[:, 2].all() and (counts[:, 0] == counts[:, 1]).all()


def test_other_numbers_of_captions_or_references_are_refused():
    world = large_red_star_on_the_left(2)
    with pytest.raises(ValueError, match="one a scene, got 1 for 2"):
        faithfulness.attribute_counts(["a star"], world)
    with pytest.raises(ValueError, match="2 non-empty lists"):
        faithfulness.attribute_metrics(["a star", "a star"], world, references=[["a star"], []])
