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


def by_hand(drawn):
    """The 2.5 % and 97.5 % points, interpolated between the ordered values."""
    ordered, points = sorted(drawn), []
    for share in (0.025, 0.975):
        below = int(share * (len(ordered) - 1))
        rest = share * (len(ordered) - 1) - below
        points.append(ordered[below] * (1 - rest) + ordered[min(below + 1, len(ordered) - 1)] * rest)
    return points


def test_a_corpus_interval_is_that_of_its_thousand_resamples():
    values, rng = np.arange(12.0) ** 2, np.random.default_rng(7)
    drawn = [values[rng.integers(12, size=12)].mean() for _ in range(1000)]
    entry = metrics.corpus(metrics.mean_metric(values, unit="CIDEr"), rng=np.random.default_rng(7))
    assert entry["ci"] == pytest.approx(by_hand(drawn), abs=1e-9)
    assert (entry["value"], entry["n"]) == (pytest.approx(506 / 12), 12)


def test_a_difference_and_a_ratio_are_of_two_thousand_numbers_drawn_together():
    ours, theirs, rng = np.arange(12.0) ** 2, np.arange(12.0) + 5, np.random.default_rng(8)
    rows = [rng.integers(12, size=12) for _ in range(1000)]
    pair = [metrics.mean_metric(values, unit="CIDEr") for values in (ours, theirs)]
    entry = metrics.difference(*pair, rng=np.random.default_rng(8))
    assert entry["ci"] == pytest.approx(by_hand([ours[k].mean() - theirs[k].mean() for k in rows]), abs=1e-9)
    assert (entry["value"], entry["unit"]) == (pytest.approx(506 / 12 - 10.5), "CIDEr")
    entry = metrics.ratio(*pair, rng=np.random.default_rng(8))
    assert entry["ci"] == pytest.approx(by_hand([ours[k].mean() / theirs[k].mean() for k in rows]), abs=1e-9)
    assert (entry["value"], entry["unit"]) == (pytest.approx(506 / 12 / 10.5), "ratio")


def test_a_mean_s_interval_is_of_two_thousand_resamples():
    values = np.arange(12.0) ** 2
    options = {"n_resamples": 2000}, {}
    named, default = (metrics.mean(values, unit="s", rng=np.random.default_rng(3), **options) for options in options)
    assert default == named and default["unit"] == "s" and default["n"] == 12
    rng = np.random.default_rng(4)
    drawn = [values[rng.integers(12, size=12)].mean() for _ in range(20_000)]
    assert default["ci"] == pytest.approx(by_hand(drawn), rel=0.03)


@pytest.mark.parametrize(("hit", "ci"), [(False, [0, 0.161125]), (True, [0.838875, 1])])
def test_where_every_target_gives_the_same_the_interval_is_wilson_s_for_the_targets(hit, ci):
    """z² / (n + z²) for n = 20 targets, whatever the repetitions: three on each are not sixty."""
    entry = metrics.repeated_share(np.full((3, 20), hit), rng=np.random.default_rng(0))
    assert (entry["value"], entry["n"], entry["unit"]) == (float(hit), 20, "share")
    assert entry["ci"] == pytest.approx(ci, abs=1e-6)


def test_repetitions_are_averaged_and_targets_resampled():
    hits = np.zeros((4, 10))
    hits[:, :5] = 1  # five targets always, five never: forty repetitions say no more than ten targets
    entry = metrics.repeated_share(hits, rng=np.random.default_rng(0))
    assert (entry["value"], entry["n"]) == (0.5, 10)
    assert entry["ci"] == pytest.approx([0.2, 0.8], abs=0.001)  # 2.5 % and 97.5 % of the binomial of 10 and .5, over 10
    halves = np.tile([[0.0], [1.0]], (1, 10))  # every target half the time: not all, and not none
    assert metrics.repeated_share(halves, rng=np.random.default_rng(0))["ci"] is None
    one = metrics.repeated_share(np.ones((3, 1)), rng=np.random.default_rng(0))
    assert (one["value"], one["n"]) == (1, 1) and one["ci"] == pytest.approx([0.2065, 1], abs=1e-4)  # Wilson's for 1
    with pytest.raises(ValueError, match=r"hits must have shape \(k, n\)"):
        metrics.repeated_share(np.zeros(3), rng=np.random.default_rng(0))


def test_a_mean_of_one_value_has_no_interval_and_of_none_is_refused():
    entry = metrics.mean(np.array([3.0]), unit="s", rng=np.random.default_rng(0))
    assert (entry["value"], entry["n"], entry["ci"]) == (3.0, 1, None)
    assert metrics.mean(np.array([3.0, 5.0]), unit="s", rng=np.random.default_rng(0))["ci"] == [3, 5]
    for bad in (np.array([]), np.ones((2, 2)), np.array([1.0, np.inf])):
        with pytest.raises(ValueError, match="values must be a non-empty row of finite numbers"):
            metrics.mean(bad, unit="s", rng=np.random.default_rng(0))


def test_seeds_weigh_alike_and_a_metric_knows_its_length():
    values = [np.array([1.0, 2.0, 3.0, 9.0]), np.array([5.0, 1.0, 1.0, 0.0])]
    seeds = [metrics.mean_metric(each, unit="CIDEr") for each in values]
    rng = np.random.default_rng(5)
    drawn = [np.mean([each[k].mean() for each in values]) for k in (rng.integers(4, size=4) for _ in range(200))]
    entry = metrics.corpus(seeds, rng=np.random.default_rng(5), n_resamples=200)
    assert entry["ci"] == pytest.approx(by_hand(drawn), abs=1e-9)
    assert (entry["value"], entry["n"], len(seeds[0])) == (2.75, 4, 4)
    two = metrics.mean_metric(np.array([1.0, 2.0]), unit="CIDEr")
    assert metrics.corpus(two, rng=np.random.default_rng(0))["ci"] == [1, 2]
    np.testing.assert_array_equal(seeds[0].per_image, [1, 2, 3, 9])


def test_a_corpus_is_a_table_of_finite_numbers():
    for bad in (np.zeros((0, 2)), np.array([[1.0, np.inf]])):
        with pytest.raises(ValueError, match="statistics must be finite, at least one row"):
            metrics.CorpusMetric(bad, metrics.quotient, "share")
    for bad in (np.zeros(3), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match=r"statistics must have shape \(n, k\)"):
            metrics.CorpusMetric(bad, metrics.quotient, "share")
    with pytest.raises(ValueError, match=r"values must have shape \(n,\)"):
        metrics.mean_metric(np.zeros((2, 2)), unit="CIDEr")
    with pytest.raises(ValueError, match="all of one unit, got units"):
        metrics.corpus([metrics.mean_metric(np.ones(2), unit=unit) for unit in "ab"], rng=np.random.default_rng(0))
    np.testing.assert_array_equal(metrics.quotient(np.array([[3.0, 2.0], [0.0, 1.0]])), [1.5, 0])
