"""The sweep jobs of notebooks 02 to 04 in miniature, and what their rows are summed to."""

import numpy as np
import pytest

from glasslib import results
from glasslib.presets import many_targets, truth
from glasslib.tinyworld import captions

FULL = {
    "02_caption_to_image_stylegan2/full/text_to_image.csv": 900,
    "03_caption_to_image_biggan/full/caption_to_image.csv": 600,
    "04_image_to_caption_gpt2/full/image_to_text.csv": 300,
}


def rows(ours, bits):
    """Rows of three seeds; `ours` and `bits` say for each caption in how many of them its shape is found."""
    return [
        {"encoding": arm, "seed": seed, "caption": str(i), "shape": seed < n, "colour": True, "place": i == 0}
        for arm, found in (("softmax bits", bits), ("sparse mixture", ours))
        for seed in (0, 1, 2)
        for i, n in enumerate(found)
    ]


def test_hits_are_a_row_a_seed():
    some = rows(ours=(3, 1), bits=(0, 2))
    assert many_targets.hits(some, "shape", encoding="sparse mixture").tolist() == [[1, 1], [1, 0], [1, 0]]
    assert many_targets.hits(some, "shape", encoding="softmax bits", seed=1).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match=r"an arm needs rows, as many of each seed, got \[\] of {'encoding': 'bits'}"):
        many_targets.hits(some, "shape", encoding="bits")
    with pytest.raises(ValueError, match=r"got \[2, 2, 1\]"):
        many_targets.hits(some[:5], "shape")


def test_shares_count_captions_and_not_captions_times_seeds():
    arms = {"ours": {"encoding": "sparse mixture"}, "theirs": {"encoding": "softmax bits"}}
    found = many_targets.shares(rows(ours=(3, 3, 3, 1), bits=(2, 2, 2, 0)), arms)
    assert found["ours"]["shape"]["value"] == pytest.approx(10 / 12)
    assert found["theirs"]["shape"]["value"] == pytest.approx(6 / 12)
    assert found["ours"]["colour"]["value"] == 1 and found["theirs"]["place"]["value"] == 0.25
    assert {entry["n"] for entries in found.values() for entry in entries.values()} == {4}


@pytest.mark.parametrize(
    ("encoding", "most"), [("sparse mixture", 1.0), ("softmax bits", np.e / (np.e + 7))], ids=["ours", "theirs"]
)
def test_pictures_found_say_what_the_oracle_sees_and_how_much_of_a_class_they_hold(encoding, most):
    job = {"preset": "tiny-biggan", "method": "GA", "encoding": encoding, "seed": 0, "n_targets": 2}
    found = many_targets.find_pictures(**job, n_generations=2)
    assert [row["caption"] for row in found] == truth.TinyWorld().captions(2)
    assert {row["encoding"] for row in found} == {encoding}
    assert all(0 < row["score"] < 1 and 1 / 8 <= row["mass"] <= most + 1e-9 for row in found)
    assert all(isinstance(row[name], bool) for row in found for name in ("colour", "shape", "place"))


def test_random_search_takes_the_best_of_one_draw():
    job = {"preset": "tiny-stylegan2", "method": "random", "seed": 0, "n_targets": 2}
    few, many = (many_targets.find_pictures(**job, n_generations=n) for n in (1, 4))
    assert all(a["score"] <= b["score"] for a, b in zip(few, many, strict=True)) and few != many
    assert list(few[0]) == ["method", "seed", "caption", "score", "colour", "shape", "place"]


def test_captions_found_are_checked_against_their_scene():
    job = {"preset": "tiny-gpt2", "seed": 0, "first": 1, "n": 2, "n_generations": 1, "n_pictures": 4}
    found = many_targets.find_captions(**job)
    assert [row["picture"] for row in found] == [1, 2]
    for row in found:
        assert row["parses"] == captions.parses(row["caption"]) and 0 <= row["true"] <= row["named"]


@pytest.mark.parametrize(("table", "n"), FULL.items(), ids=lambda value: str(value)[:2])
def test_the_committed_full_tables_have_a_row_a_target_method_and_seed(table, n):
    rows = results.read_table(results.REPO / "results" / table)
    told = [tuple(row.get(key) for key in ("method", "encoding", "seed", "picture")) for row in rows]
    assert len(rows) == n and {told.count(one) for one in told} == ({1} if "picture" in rows[0] else {100})
