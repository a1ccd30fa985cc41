"""Picking one candidate from a Pareto front."""

from collections.abc import Sequence

import numpy as np

from glasslib.search.candidate import Candidate


def pick(front: Sequence[Candidate], weights: Sequence[float] | None = None) -> Candidate:
    """Choose one candidate of a front.

    Args:
        front: what a ParetoSearch found, at least one candidate.
        weights: None picks the knee: with every objective scaled to [0, 1] over the front, the point that lies farthest
            beyond the plane through the extremes, that is the largest sum; on a tie the one better in the first
            objective. Otherwise one weight per objective, not negative: the candidate whose pseudo-weights are
            nearest. (1, 0) is the best in the first objective. CLIP-GLaSS uses (0, 1): the most realistic picture and
            the one *least* like the caption.

    Raises:
        ValueError: an empty front, or weights of another number, negative or all zero.
    """
    if not front:
        raise ValueError("front must hold at least one candidate, got none; run a generation first")
    scores = np.stack([candidate.score for candidate in front])  # (n, k)
    if weights is None:
        total = _scaled(scores).sum(axis=1).round(12)  # so that rounding does not decide a tie
        return front[int(np.lexsort([-scores[:, 0], -total])[0])]
    wanted = np.asarray(weights, dtype=np.float64)
    if wanted.shape != (scores.shape[1],) or not (wanted >= 0).all() or not wanted.sum() > 0:
        raise ValueError(f"weights must be {scores.shape[1]} numbers >= 0, not all 0, got {list(weights)}")
    distance = np.abs(pseudo_weights(scores) - wanted / wanted.sum()).sum(axis=1)
    return front[int(np.argmin(distance))]


def pseudo_weights(scores: np.ndarray) -> np.ndarray:
    """Say how much each point of a front favours each objective: (n, k) scores -> (n, k), rows that sum to 1.

    Source:
        Deb, Multi-Objective Optimization Using Evolutionary Algorithms (2001), section 9.2; pymoo's PseudoWeights.
    """
    scaled = _scaled(scores)
    total = scaled.sum(axis=1, keepdims=True)
    return np.where(total > 0, scaled / np.where(total > 0, total, 1.0), 1.0 / scores.shape[1])


def _scaled(scores: np.ndarray) -> np.ndarray:
    """Each objective to [0, 1] over the front; one that does not vary to 0."""
    low, high = scores.min(axis=0), scores.max(axis=0)
    return (scores - low) / np.where(high > low, high - low, 1.0)
