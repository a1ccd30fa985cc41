import numpy as np
import pytest
import torch

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


def test_modality_gap_by_hand():
    images, texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert metrics.modality_gap(images, texts) == pytest.approx(0.5**0.5)


def test_first_hit_counts_rows_won_by_the_diagonal_and_ties_as_misses():
    similarity = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.8, 0.7]])
    assert metrics.first_hit(similarity).tolist() == [True, False, False]
