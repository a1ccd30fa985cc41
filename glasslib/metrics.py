"""Numbers with intervals, and what two sets of embeddings say of each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from glasslib import runs
from glasslib.tensors import check_shape


def share(hits: np.ndarray) -> dict[str, Any]:
    """Return a share as a metric with its 95 % Wilson interval.

    Args:
        hits: (n,) true or false.
    """
    from scipy.stats import binomtest

    hits = np.asarray(hits)
    if hits.ndim != 1 or not hits.size or not np.isin(hits, (0, 1)).all():
        raise ValueError(f"hits must be a non-empty row of true and false, got shape {hits.shape}")
    interval = binomtest(int(hits.sum()), hits.size).proportion_ci(0.95, method="wilson")
    return runs.metric(hits.mean(), n=hits.size, unit="share", ci=(interval.low, interval.high))


def mean(values: np.ndarray, *, unit: str, rng: np.random.Generator, n_resamples: int = 2000) -> dict[str, Any]:
    """Return a mean as a metric with its 95 % percentile-bootstrap interval.

    Args:
        values: (n,) independent measurements, finite.
        unit: of the values.
        rng: draws the resamples.
    """
    from scipy.stats import bootstrap

    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"values must be a non-empty row of finite numbers, got shape {values.shape}")
    if len(values) == 1 or np.ptp(values) == 0:
        return runs.metric(values.mean(), n=len(values), unit=unit)
    interval = bootstrap((values,), np.mean, n_resamples=n_resamples, method="percentile", rng=rng).confidence_interval
    return runs.metric(values.mean(), n=len(values), unit=unit, ci=(interval.low, interval.high))


def repeated_share(hits: np.ndarray, *, rng: np.random.Generator) -> dict[str, Any]:
    """Return the share of hits among k repetitions on n targets, with its 95 % interval over targets.

    Repetitions on one target are not independent, so targets are resampled, not repetitions. Where every target gives
    the same, resampling has nothing to say, and the interval is Wilson's for n.

    Args:
        hits: (k, n) true or false.
        rng: draws the resamples.
    """
    hits = np.asarray(hits, dtype=float)
    check_shape(hits, "hits", "k n")
    of_target = hits.mean(axis=0)
    if hits.size and np.ptp(of_target) == 0 and of_target[0] in (0, 1):
        return share(of_target)
    return mean(of_target, unit="share", rng=rng)


def ratio(above: np.ndarray, below: np.ndarray, *, unit: str, rng: np.random.Generator) -> dict[str, Any]:
    """Return sum(above) / sum(below) over n targets as a metric with its 95 % percentile-bootstrap interval.

    Args:
        above: (n,) for example the attributes that are true of each target.
        below: (n,) for example the attributes named.
        unit: of the ratio.
        rng: draws the resamples of targets.
    """
    from scipy.stats import bootstrap

    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    check_shape(above, "above", "n")
    check_shape(below, "below", str(len(above)))
    if not below.sum() > 0:
        raise ValueError(f"below must have a positive sum, got {below.sum():g} over {len(below)} values")

    def quotient(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return a.sum(axis=axis) / b.sum(axis=axis)

    settings = {"paired": True, "vectorized": True, "n_resamples": 2000, "method": "percentile", "rng": rng}
    interval = bootstrap((above, below), quotient, **settings).confidence_interval
    return runs.metric(quotient(above, below), n=len(above), unit=unit, ci=(interval.low, interval.high))


def modality_gap(images: Tensor, texts: Tensor) -> float:
    """Return the distance between the centroids of unit embeddings (n, dim) and (m, dim).

    Source: Liang et al. 2022, "Mind the gap", https://arxiv.org/abs/2203.02053.
    """
    check_shape(images, "images", "n dim")
    check_shape(texts, "texts", f"m {images.shape[1]}")
    return float((images.mean(0) - texts.mean(0)).norm())


def first_hit(similarity: np.ndarray) -> np.ndarray:
    """Return which rows of an (n, n) similarity have their greatest value on the diagonal: retrieval's R@1.

    Ties count as a miss, so that a constant similarity scores nothing.
    """
    check_shape(similarity, "similarity", "n n")
    others = similarity.astype(float).copy()
    np.fill_diagonal(others, -np.inf)
    return np.diag(similarity) > others.max(axis=1)
