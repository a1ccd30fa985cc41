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
