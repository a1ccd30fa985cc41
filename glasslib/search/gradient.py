"""Gradient ascent on noise, through generator and scorer, with a term that keeps the noise as long as noise is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from glasslib.checks import check_shape
from glasslib.search.candidate import (
    GENERATION,
    IDENTITY,
    PENDING,
    Candidate,
    Turns,
    better,
    check_popsize,
    check_real,
    pack_best,
    unpack_best,
)


class GradientSearch:
    """Several starts, each climbing its own way by clipped steps with Nesterov's momentum. Real variables only.

    `tell` needs the gradient of what it is told. `evaluate` gives scores and keeps their gradients, so that

        x = search.ask()
        search.tell(x, search.evaluate(x))

    costs one pass forward and one back. Told scores of another origin, it computes the gradients then.

    Source:
        Eyring et al. 2024 (ReNO), https://arxiv.org/abs/2406.04312: rate 5, gradients clipped to length 0.1, and 0.01
        times the logarithm of how probable the noise's length is.
    """

    generation, pending, identity = GENERATION, PENDING, IDENTITY

    def __init__(
        self,
        latent_space,
        objective: Callable[[Tensor], Tensor],
        *,
        popsize: int,
        rng: np.random.Generator,
        rate: float = 5.0,
        momentum: float = 0.9,
        clip: float = 0.1,
        norm_weight: float = 0.01,
    ) -> None:
        """
        Args:
            latent_space: where the starts are drawn, and the box.
            objective: (n, dim) float32 -> (n,) scores, differentiable, each row's of that row alone.
            popsize: starts that climb side by side, at least 1.
            rng: seeds the search's own stream; is drawn from once.
            rate: of a step; it moves by at most rate * clip * (1 + momentum / (1 - momentum)) after some steps.
            momentum: in [0, 1).
            clip: longest gradient; a longer one is shortened to it.
            norm_weight: weight of the logarithm of the probability that standard normal noise has this length. 0: none.
        """
        check_real(latent_space, "GradientSearch", "GeneticSearch or RandomSearch")
        if not (rate > 0 and clip > 0 and norm_weight >= 0 and 0 <= momentum < 1):
            raise ValueError(
                "rate and clip must be above 0, norm_weight at least 0 and momentum in [0, 1), got "
                f"{rate}, {clip}, {norm_weight} and {momentum}"
            )
        self.popsize = check_popsize(popsize, at_least=1)
        self.best: Candidate | None = None
        self._space, self._objective = latent_space, objective
        self._rate, self._momentum, self._clip, self._norm_weight = rate, momentum, clip, norm_weight
        settings = {"popsize": self.popsize, "rate": rate, "momentum": momentum, "clip": clip}
        self._turns = Turns(self, latent_space, rng, norm_weight=norm_weight, **settings)
        self._x = latent_space.sample(self.popsize, rng=self._turns.rng)  # (popsize, dim) what is asked next
        self._velocity = np.zeros_like(self._x)
        self._kept: tuple[np.ndarray, np.ndarray] | None = None  # rows evaluated last, and their gradients

    def ask(self) -> np.ndarray:
        """(popsize, dim) float64, inside the box."""
        self._turns.check_ask()
        return self._turns.offer(self._x)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """Scores (n,) of rows (n, dim); their gradients are kept for `tell`."""
        check_shape(x, "x", f"n {self._space.dim}")
        with torch.inference_mode(False), torch.enable_grad():
            rows = torch.tensor(np.asarray(x), dtype=torch.float32, requires_grad=True)
            scores = self._objective(rows)
            (gradient,) = torch.autograd.grad(scores.sum(), rows)
        self._kept = np.array(x), gradient.double().cpu().numpy()
        return scores.detach().double().cpu().numpy()

    def tell(self, x: np.ndarray, scores: np.ndarray) -> None:
        """Give the scores (popsize,), higher is better, for the rows of the last ask."""
        x, scores = self._turns.check_tell(x, scores)
        if self._kept is None or not np.array_equal(self._kept[0], x):
            self.evaluate(x)
        gradient, self._kept = self._kept[1], None
        if not np.isfinite(gradient).all():
            raise ValueError(f"gradients must be finite, got {int((~np.isfinite(gradient)).sum())} bad")
        self.best = better(self.best, x, scores, self.generation)
        self._climb(x, gradient + self._norm_weight * length_gradient(x))
        self._turns.finish()

    def _climb(self, x: np.ndarray, gradient: np.ndarray) -> None:
        length = np.linalg.norm(gradient, axis=1, keepdims=True)
        gradient = gradient * np.minimum(1.0, self._clip / np.maximum(length, 1e-12))
        self._velocity = self._momentum * self._velocity + gradient
        moved = x + self._rate * (gradient + self._momentum * self._velocity)
        self._x = np.clip(moved, self._space.lower, self._space.upper)

    def state(self) -> dict:
        """Arrays and JSON values that `restore` continues from, bit for bit."""
        return self._turns.state(best=pack_best(self.best), x=self._x, velocity=self._velocity)

    def restore(self, state: dict) -> None:
        """Continue from `state`, which must be of a search with the same settings and the same objective."""
        self._turns.restore(state)
        self.best = unpack_best(state["best"])
        self._x, self._velocity, self._kept = state["x"], state["velocity"], None


def length_gradient(x: np.ndarray) -> np.ndarray:
    """Gradient of the log density of a row's length, if the row is standard normal.

    (n, dim) -> (n, dim): ((dim - 1) / length**2 - 1) x; 0 where the length is sqrt(dim - 1), its likeliest value.
    """
    squared = np.square(x).sum(axis=1, keepdims=True)
    return ((x.shape[1] - 1) / np.maximum(squared, 1e-12) - 1) * x
