"""Genetic moves for noise: children are standard normal where their parents are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class NoiseMoves:
    """Settings of the moves; pass as `operators=` to GeneticSearch or Nsga2Search on a space of normal noise.

    A mating crosses with chance `crossover_prob`: each variable then comes from either parent with chance 0.5. Every
    child x becomes sqrt(1 - blend**2) x + blend e with fresh standard normal e, which keeps mean 0 and variance 1, so
    that a generator never meets noise of another length than it was trained on.

    Source:
        He et al. 2025 (EvoSearch), https://arxiv.org/abs/2505.17618, for the mutation; the crossover is ours.
    """

    blend: float = 0.4
    crossover_prob: float = 0.3

    def __post_init__(self) -> None:
        for name in ("blend", "crossover_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}")

    def breed(self, parents: np.ndarray, lower: np.ndarray, upper: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(2, n, dim) parents -> (2 n, dim) children inside the box."""
        crosses = rng.random((parents.shape[1], 1)) < self.crossover_prob
        swapped = crosses & (rng.random(parents.shape[1:]) < 0.5)  # (n, dim)
        children = np.concatenate(
            [np.where(swapped, parents[1], parents[0]), np.where(swapped, parents[0], parents[1])]
        )
        fresh = rng.standard_normal(children.shape)
        return np.clip(math.sqrt(1 - self.blend**2) * children + self.blend * fresh, lower, upper)
