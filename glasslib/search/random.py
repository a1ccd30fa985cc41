"""Random search: the baseline that every plot carries."""

import numpy as np

from glasslib.search.candidate import (
    GENERATION,
    IDENTITY,
    PENDING,
    Candidate,
    Turns,
    better,
    check_popsize,
    pack_best,
    unpack_best,
)


class RandomSearch:
    """Draws every candidate afresh from the latent space and remembers the best. Takes every kind of space."""

    generation, pending, identity = GENERATION, PENDING, IDENTITY

    def __init__(self, latent_space, *, popsize: int, rng: np.random.Generator) -> None:
        """
        Args:
            latent_space: what to draw from.
            popsize: candidates a generation, at least 1.
            rng: seeds the search's own stream; is drawn from once.
        """
        self.popsize = check_popsize(popsize, at_least=1)
        self.best: Candidate | None = None
        self._space, self._turns = latent_space, Turns(self, latent_space, rng, popsize=self.popsize)

    def ask(self) -> np.ndarray:
        """(popsize, dim) float64, inside the box."""
        self._turns.check_ask()
        return self._turns.offer(self._space.sample(self.popsize, rng=self._turns.rng))

    def tell(self, x: np.ndarray, scores: np.ndarray) -> None:
        """Give the scores (popsize,), higher is better, for the rows of the last ask."""
        x, scores = self._turns.check_tell(x, scores)
        self.best = better(self.best, x, scores, self.generation)
        self._turns.finish()

    def state(self) -> dict:
        """Arrays and JSON values that `restore` continues from, bit for bit."""
        return self._turns.state(best=pack_best(self.best))

    def restore(self, state: dict) -> None:
        """Continue from `state`, which must be of a search with the same settings."""
        self._turns.restore(state)
        self.best = unpack_best(state["best"])
