"""The checks see what they are for, at toy sizes."""

import json

import numpy as np
import pytest

from glasslib.bench import capdec_checks
from glasslib.captioning import decoding


def test_beams_are_compared_with_the_published_ones(monkeypatch):
    rows = capdec_checks.equal_beams(mapper_seed=1, n=3)
    assert [row["equal"] for row in rows] == [True] * 3
    assert len({row["caption"] for row in rows}) == 3 and all(row["n_tokens"] > 1 for row in rows)
    right = decoding.published_beam
    monkeypatch.setattr(decoding, "published_beam", lambda *given, **options: right(*given, **options)[::-1])
    assert [row["equal"] for row in capdec_checks.equal_beams(mapper_seed=1, n=3)] == [False, True, False]


def test_many_captions_are_the_same_each_time_and_never_all_in_memory():
    rows = list(capdec_checks.many_captions(2300))
    assert len(rows) == len({row.caption_id for row in rows}) == 2300 and rows == list(
        capdec_checks.many_captions(2300)
    )
    assert len({row.image_id for row in rows}) == 460
    first = next(capdec_checks.many_captions(10**9))
    assert first == rows[0]


def test_memory_is_watched_block_by_block():
    rows = capdec_checks.flat_memory(n_captions=9000)
    assert [row["captions"] for row in rows] == [0, 8192, 9000]
    assert [row["what"] for row in rows] == ["resident", "resident", "peak growth"]
    assert rows[0]["resident_mb"] > 100 and 0 < rows[-1]["resident_mb"] < 200


def test_the_example_pairs_captions_with_their_pictures_references(tmp_path):
    said = [{"image_id": 5, "caption": "a dog"}, {"image_id": 4, "caption": "a cat"}]
    truth = {"annotations": [{"image_id": i, "caption": f"{word} {i}"} for i in (4, 5) for word in ("one", "two")]}
    (tmp_path / "captions_val2014_fakecap_results.json").write_text(json.dumps(said))
    (tmp_path / "captions_val2014.json").write_text(json.dumps(truth))
    assert capdec_checks.example(tmp_path) == (["a dog", "a cat"], [["one 5", "two 5"], ["one 4", "two 4"]])


def test_metrics_are_compared_set_by_set(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(capdec_checks, "EXAMPLE", tmp_path / "none")
    monkeypatch.setattr(
        capdec_checks.parity, "largest_difference", lambda sets: seen.append(len(sets)) or {"CIDEr": 1e-9}
    )
    assert capdec_checks.equal_metrics(n_sets=3) == [{"sets": "3 random", "metric": "CIDEr", "difference": 1e-9}]
    assert seen == [3]


def test_the_numbers_follow_from_the_rows():
    memory = [{"what": "resident", "resident_mb": 700.0}, {"what": "peak growth", "resident_mb": 50.0}]
    beams = [{"equal": True}] * 199 + [{"equal": False}]
    equal = [{"difference": 1e-9}, {"difference": 1e-7}]
    found = capdec_checks.summarise(memory, [{"n_kills": 20, "identical": 19}], beams, equal)
    assert {name: (entry["value"], entry["n"]) for name, entry in found.items()} == {
        "metrics.equal": (1e-7, 200),
        "bench.beam_equal": (pytest.approx(0.995), 200),
        "corpus.peak_mb": (50.0, 1_000_000),
        "train.resume": (pytest.approx(0.95), 20),
    }
    assert np.isfinite(found["train.resume"]["ci"]).all()
