import dataclasses

import numpy as np
import pytest

from glasslib import metrics


def test_share_has_wilsons_interval():
    entry = metrics.share(np.array([True] * 9 + [False]))
    assert (entry["value"], entry["n"], entry["unit"]) == (0.9, 10, "share")
    assert entry["ci"] == pytest.approx([0.5958, 0.9821], abs=1e-4)  # worked by hand: (p + z²/2n ± ...) / (1 + z²/n)


def test_mean_interval_covers_and_repeats():
    values = np.random.default_rng(0).normal(3, 1, 200)
    entry, again = (metrics.mean(values, unit="cosine", rng=np.random.default_rng(1)) for _ in range(2))
    assert entry == again
    half_width = (entry["ci"][1] - entry["ci"][0]) / 2
    assert half_width == pytest.approx(1.96 * values.std() / 200**0.5, rel=0.15)


def test_mean_of_equal_values_has_no_interval():
    assert metrics.mean(np.ones(5), unit="share", rng=np.random.default_rng(0))["ci"] is None


@pytest.mark.parametrize("bad", [np.array([]), np.array([[1, 0]]), np.array([0.5, 1])])
def test_share_refuses_what_is_not_a_row_of_hits(bad):
    with pytest.raises(ValueError, match="row of true and false"):
        metrics.share(bad)


def test_mean_refuses_nan():
    with pytest.raises(ValueError, match="finite"):
        metrics.mean(np.array([1.0, np.nan]), unit="s", rng=np.random.default_rng(0))


def ratio_metric(hits, named):
    return metrics.CorpusMetric(np.stack([hits, named], axis=1).astype(float), lambda s: s[..., 0] / s[..., 1], "share")


def test_a_corpus_value_is_of_the_sums_and_its_interval_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    named = rng.integers(1, 9, 60)
    hits = rng.binomial(named, 0.7)
    metric = ratio_metric(hits, named)
    assert metric.value == hits.sum() / named.sum()
    np.testing.assert_allclose(metric.per_image, hits / named)
    entry = metrics.corpus(metric, rng=np.random.default_rng(1), n_resamples=4000)
    loop = np.random.default_rng(2)
    drawn = [hits[rows].sum() / named[rows].sum() for rows in (loop.integers(60, size=60) for _ in range(4000))]
    assert entry["ci"] == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.01)
    assert (entry["n"], entry["unit"]) == (60, "share")


def test_pairing_cancels_what_the_images_share():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 1, 300)
    ours = metrics.mean_metric(difficulty + 0.1, unit="CIDEr")
    theirs = metrics.mean_metric(difficulty + rng.normal(0, 0.01, 300), unit="CIDEr")
    entry = metrics.difference(ours, theirs, rng=rng)
    assert entry["value"] == pytest.approx(0.1, abs=0.002)
    assert 0.09 < entry["ci"][0] < entry["value"] < entry["ci"][1] < 0.11
    assert metrics.difference(ours, ours, rng=rng)["ci"] == [0, 0]
    assert metrics.ratio(ours, ours, rng=rng)["ci"] == [1, 1]


def test_seeds_are_averaged_on_the_same_images():
    low, high = (metrics.mean_metric(np.array([1.0, 2.0, 3.0]) + shift, unit="CIDEr") for shift in (0, 4))
    entry = metrics.difference([low, high], [low, low], rng=np.random.default_rng(0))
    assert (entry["value"], entry["ci"], entry["n"]) == (pytest.approx(2), pytest.approx([2, 2]), 3)


def test_an_interval_repeats_under_one_rng_and_is_none_for_one_image():
    metric = metrics.mean_metric(np.arange(10.0), unit="CIDEr")
    first, again = (metrics.corpus(metric, rng=np.random.default_rng(3)) for _ in range(2))
    assert first == again
    assert metrics.corpus(metrics.mean_metric(np.ones(1), unit="CIDEr"), rng=np.random.default_rng(0))["ci"] is None


def test_what_cannot_be_compared_or_is_undefined_is_refused():
    short, long = (metrics.mean_metric(np.ones(n), unit="CIDEr") for n in (3, 4))
    with pytest.raises(ValueError, match=r"same images, got corpora of \[3, 4\]"):
        metrics.difference(short, long, rng=np.random.default_rng(0))
    here, there = (dataclasses.replace(short, image_ids=ids) for ids in ((1, 2, 3), (1, 3, 2)))
    assert metrics.difference(here, short, rng=np.random.default_rng(0))["value"] == 0
    with pytest.raises(ValueError, match="same images in one order, got other ids"):
        metrics.difference(here, there, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least one metric, all of one unit"):
        metrics.corpus([], rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="finite, at least one row"):
        metrics.mean_metric(np.array([1.0, np.nan]), unit="CIDEr")
    sometimes_zero = metrics.mean_metric(np.array([0.0, 0.0, 1.0]), unit="CIDEr")
    with pytest.raises(ValueError, match="undefined in [0-9]+ of 1000 resamples; give more images"):
        metrics.ratio(short, sometimes_zero, rng=np.random.default_rng(0))
