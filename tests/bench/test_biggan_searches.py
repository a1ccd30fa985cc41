"""What the encodings' shares are made of, on rows written by hand."""

import numpy as np
import pytest

from glasslib.bench import biggan_searches, tiny_searches


def rows(ours, bits):
    """Rows of three seeds and four captions; `ours` and `bits` say for each caption in how many seeds it is found."""
    return [
        {"encoding": arm, "seed": seed, "caption": str(i), "shape": seed < n, "colour": True, "place": i == 0}
        for arm, found in (("softmax bits", bits), ("sparse mixture", ours))
        for seed in (0, 1, 2)
        for i, n in enumerate(found)
    ]


def test_shares_and_their_paired_difference():
    found = biggan_searches.found_shares(rows(ours=(3, 3, 3, 1), bits=(2, 2, 2, 0)))
    assert found["t2i.biggan.ours"]["value"] == pytest.approx(10 / 12)
    assert found["t2i.biggan.softmax_bits"]["value"] == pytest.approx(6 / 12)
    assert found["t2i.biggan.ours_colour"]["value"] == 1 and found["t2i.biggan.softmax_bits_place"]["value"] == 0.25
    assert {entry["n"] for entry in found.values()} == {4}, "captions, not captions times seeds"
    ahead = found["t2i.biggan.advantage"]
    assert (ahead["value"], ahead["ci"]) == (pytest.approx(1 / 3), None), "a caption is compared with itself"


def test_a_worse_encoding_has_a_negative_advantage():
    ahead = biggan_searches.found_shares(rows(ours=(0, 1, 0, 3), bits=(3, 3, 3, 3)))["t2i.biggan.advantage"]
    assert ahead["value"] == pytest.approx(-8 / 12) and ahead["ci"][1] < 0.01


@pytest.mark.parametrize(("key", "most"), [("ours", 1.0), ("softmax_bits", np.e / (np.e + 7))])
def test_a_search_in_miniature_says_what_it_found_and_how_much_of_a_class_it_holds(key, most):
    found = biggan_searches.caption_to_image(key, seed=0, n_targets=2, n_generations=2)
    assert [row["caption"] for row in found] == tiny_searches.held_out_captions(2)
    assert {row["encoding"] for row in found} == {biggan_searches.ARMS[key]}
    assert all(0 < row["score"] < 1 and 1 / 8 <= row["mass"] <= most + 1e-9 for row in found)
    assert all(isinstance(row[name], bool) for row in found for name in tiny_searches.READ)
