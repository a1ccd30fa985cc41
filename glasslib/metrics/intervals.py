"""Numbers with their 95 % intervals: shares, means, and values of a whole corpus under a paired bootstrap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glasslib import results
from glasslib.checks import check_shape


def share(hits: np.ndarray) -> dict[str, Any]:
    """Return a share as a metric with its 95 % Wilson interval.

    Args:
        hits: (n,) true or false, one of each picture: of several attributes or seeds of one take `repeated_share`.
    """
    from scipy.stats import binomtest

    hits = np.asarray(hits)
    if hits.ndim != 1 or not hits.size or not np.isin(hits, (0, 1)).all():
        raise ValueError(f"hits must be a non-empty row of true and false, got shape {hits.shape}")
    interval = binomtest(int(hits.sum()), hits.size).proportion_ci(0.95, method="wilson")
    return results.metric(hits.mean(), n=hits.size, unit="share", ci=(interval.low, interval.high))


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
        return results.metric(values.mean(), n=len(values), unit=unit)
    interval = bootstrap((values,), np.mean, n_resamples=n_resamples, method="percentile", rng=rng).confidence_interval
    return results.metric(values.mean(), n=len(values), unit=unit, ci=(interval.low, interval.high))


def repeated_share(hits: np.ndarray, *, rng: np.random.Generator) -> dict[str, Any]:
    """Return the share of hits among k repetitions on n targets, with its 95 % interval over targets.

    Repetitions on one target are not independent, nor are the attributes of one picture, so targets are resampled, not
    repetitions. Where every target gives the same, resampling has nothing to say, and the interval is Wilson's for n.

    Args:
        hits: (k, n) true or false: k seeds or attributes, n targets or pictures.
        rng: draws the resamples.
    """
    hits = np.asarray(hits, dtype=float)
    check_shape(hits, "hits", "k n")
    of_target = hits.mean(axis=0)
    if hits.size and of_target.min() == of_target.max() and of_target[0] in (0, 1):
        return share(of_target)
    return mean(of_target, unit="share", rng=rng)


@dataclass(frozen=True)
class CorpusMetric:
    """A number of a whole corpus that its images enter only through sums, so that any resample of them is one product.

    A mean is sum / count, precision is true / named, BLEU and METEOR are functions of summed counts.

    Attributes:
        statistics: (n, k) what each image adds to the sums.
        from_sums: (..., k) sums -> (...) values.
        unit: of the value.
        image_ids: of the rows where known, so that only equal ones are paired.
    """

    statistics: np.ndarray
    from_sums: Callable[[np.ndarray], np.ndarray]
    unit: str
    image_ids: tuple[int | str, ...] | None = None

    def __post_init__(self) -> None:
        check_shape(self.statistics, "statistics", "n k")
        if not len(self.statistics) or not np.isfinite(self.statistics).all():
            raise ValueError(f"statistics must be finite, at least one row, got shape {self.statistics.shape}")

    def __len__(self) -> int:
        return len(self.statistics)

    @property
    def value(self) -> float:
        """Of the corpus."""
        return float(self.from_sums(self.statistics.sum(axis=0)))

    @property
    def per_image(self) -> np.ndarray:
        """(n,) the value of each image as a corpus of its own."""
        return self.from_sums(self.statistics)


def mean_metric(values: np.ndarray, *, unit: str) -> CorpusMetric:
    """The mean of (n,) per-image values as a CorpusMetric."""
    values = np.asarray(values, dtype=float)
    check_shape(values, "values", "n")
    return CorpusMetric(np.stack([values, np.ones_like(values)], axis=1), quotient, unit)


def quotient(sums: np.ndarray) -> np.ndarray:
    """(..., 2) sums -> first / second; NaN where the second is 0, which an interval then refuses."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[..., 0] / sums[..., 1]


Seeds = CorpusMetric | Sequence[CorpusMetric]


def corpus(metric: Seeds, *, rng: np.random.Generator, n_resamples: int = 1000) -> dict[str, Any]:
    """Return a corpus' value as a metric with its 95 % interval over resampled images.

    Args:
        metric: one, or several training seeds on the same images, which are averaged; the interval speaks of other
            images, not of other seeds.
        rng: draws the resamples.
        n_resamples: how many.

    Raises:
        ValueError: seeds with different numbers of images, or a value that some resample leaves undefined.
    """
    return _with_interval([metric], lambda values: values[0], _units(metric), rng=rng, n_resamples=n_resamples)


def difference(ours: Seeds, theirs: Seeds, *, rng: np.random.Generator, n_resamples: int = 1000) -> dict[str, Any]:
    """Return ours - theirs; every resample takes the same images of both, so their common difficulty cancels.

    Args and Raises as `corpus`, with the images in one order for both.
    """
    return _with_interval([ours, theirs], lambda v: v[0] - v[1], _units(ours), rng=rng, n_resamples=n_resamples)


def ratio(ours: Seeds, theirs: Seeds, *, rng: np.random.Generator, n_resamples: int = 1000) -> dict[str, Any]:
    """Return ours / theirs; as `difference`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _with_interval([ours, theirs], lambda v: v[0] / v[1], "ratio", rng=rng, n_resamples=n_resamples)


def _seeds(metric: Seeds) -> list[CorpusMetric]:
    return [metric] if isinstance(metric, CorpusMetric) else list(metric)


def _units(metric: Seeds) -> str:
    units = {seed.unit for seed in _seeds(metric)}
    if len(units) != 1:
        raise ValueError(f"seeds must be at least one metric, all of one unit, got units {sorted(units)}")
    return units.pop()


def _with_interval(systems, combine, unit: str, *, rng: np.random.Generator, n_resamples: int) -> dict[str, Any]:
    systems = [_seeds(system) for system in systems]
    sizes = sorted({len(seed) for system in systems for seed in system})
    if len(sizes) != 1:
        raise ValueError(f"a paired comparison needs the same images, got corpora of {sizes}")
    if len({seed.image_ids for system in systems for seed in system} - {None}) > 1:
        raise ValueError("a paired comparison needs the same images in one order, got other ids; use evaluate_many")
    value = float(combine(np.stack([np.mean([seed.value for seed in system]) for system in systems])))
    if sizes[0] == 1:
        return results.metric(value, n=1, unit=unit)
    drawn = combine(_resample(systems, rng=rng, n_resamples=n_resamples))
    if undefined := int((~np.isfinite(drawn)).sum()):
        raise ValueError(f"the value is undefined in {undefined} of {n_resamples} resamples; give more images")
    return results.metric(value, n=sizes[0], unit=unit, ci=np.percentile(drawn, [2.5, 97.5]))


def _resample(systems: list[list[CorpusMetric]], *, rng: np.random.Generator, n_resamples: int) -> np.ndarray:
    """(n_systems, n_resamples): every system's value, averaged over its seeds, on the same resampled images."""
    flat = [seed for system in systems for seed in system]
    n, edges = len(flat[0]), np.cumsum([seed.statistics.shape[1] for seed in flat])[:-1]
    statistics = np.concatenate([seed.statistics for seed in flat], axis=1)
    sums = np.empty((n_resamples, statistics.shape[1]))
    for row in range(
        n_resamples
    ):  # how often each image is drawn, one resample at a time: memory stays that of a corpus
        sums[row] = np.bincount(rng.integers(n, size=n), minlength=n) @ statistics
    values = iter(seed.from_sums(part) for seed, part in zip(flat, np.split(sums, edges, axis=1), strict=True))
    return np.stack([np.mean([next(values) for _ in system], axis=0) for system in systems])
