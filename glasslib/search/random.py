"""Random search: the baseline that every plot carries."""

import numpy as np

from glasslib.search.candidate import (
    Candidate,
    Turns,
    better,
    check_header,
    check_popsize,
    own_stream,
    pack_best,
    state_header,
    unpack_best,
)


class RandomSearch:
    """Draws every candidate afresh from the latent space and remembers the best. Takes every kind of space."""

    def __init__(self, latent_space, *, popsize: int, rng: np.random.Generator) -> None:
        """
        Args:
            latent_space: what to draw from.
            popsize: candidates a generation, at least 1.
            rng: seeds the search's own stream; is drawn from once.
        """
        self.popsize = check_popsize(popsize, at_least=1)
        self.best: Candidate | None = None
        self._space, self._rng, self._turns = latent_space, own_stream(rng), Turns()

    @property
    def generation(self) -> int:
        """Finished generations."""
        return self._turns.generation

    @property
    def pending(self) -> np.ndarray | None:
        """The candidates asked for and not yet told, or None."""
        return self._turns.pending

    def ask(self) -> np.ndarray:
        """(popsize, dim) float64, inside the box."""
        self._turns.check_ask()
        return self._turns.offer(self._space.sample(self.popsize, rng=self._rng))

    def tell(self, x: np.ndarray, scores: np.ndarray) -> None:
        """Give the scores (popsize,), higher is better, for the rows of the last ask."""
        x, scores = self._turns.check_tell(x, scores)
        self.best = better(self.best, x, scores, self.generation)
        self._turns.finish()

    def state(self) -> dict:
        """Arrays and JSON values that `restore` continues from, bit for bit."""
        self._turns.check_between()
        rng = self._rng.bit_generator.state
        return self._header() | {"generation": self.generation, "rng": rng, "best": pack_best(self.best)}

    def restore(self, state: dict) -> None:
        """Continue from `state`, which must be of a search with the same settings."""
        check_header(state, self._header())
        self._turns = Turns()
        self._turns.generation = int(state["generation"])
        self._rng.bit_generator.state = state["rng"]
        self.best = unpack_best(state["best"])

    def _header(self) -> dict:
        return state_header(self, self._space, popsize=self.popsize)
