"""Genetic search as CLIP-GLaSS does it: one objective (GA) or several (NSGA-II)."""

import numpy as np

from glasslib.checks import check_shape
from glasslib.search.candidate import (
    Candidate,
    Turns,
    better,
    check_header,
    check_popsize,
    own_stream,
    pack_best,
    read_only,
    state_header,
    unpack_best,
)
from glasslib.search.noise_moves import NoiseMoves
from glasslib.search.operators import GLASS, Breeder, Operators
from glasslib.search.selection import survive, tournament


class GeneticSearch:
    """Binary tournament, crossover and mutation, then the best of parents and children survive. Takes every kind of
    space."""

    def __init__(
        self,
        latent_space,
        *,
        popsize: int,
        rng: np.random.Generator,
        operators: Operators | NoiseMoves = GLASS,
        initial: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            latent_space: the box, and what the first generation is drawn from.
            popsize: parents, and children a generation, at least 2. CLIP-GLaSS: 64 BigGAN-256, 16 StyleGAN2, 100 GPT-2.
            rng: seeds the search's own stream; is drawn from once.
            operators: CLIP-GLaSS's by default; NoiseMoves for the noise of a diffusion model.
            initial: (m, dim) with m <= popsize, rows to put into the first generation; the rest are sampled.
        """
        self.popsize = check_popsize(popsize, at_least=2)
        self.best: Candidate | None = None
        self._space, self._operators = latent_space, operators
        self._breeder, self._rng, self._turns = Breeder(latent_space, operators), own_stream(rng), Turns()
        self._initial = _check_initial(initial, latent_space, self.popsize)
        self._x: np.ndarray | None = None  # (popsize, dim) the parents
        self._scores: np.ndarray | None = None  # (popsize,)

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
        if self._x is None:
            return self._turns.offer(self._breeder.first(self.popsize, self._initial, self._rng))
        return self._turns.offer(self._breeder.offspring(self._x, self._select, self._rng))

    def tell(self, x: np.ndarray, scores: np.ndarray) -> None:
        """Give the scores (popsize,), higher is better, for the rows of the last ask."""
        x, scores = self._turns.check_tell(x, scores)
        self.best = better(self.best, x, scores, self.generation)
        if self._x is None:
            self._x, self._scores = x, scores
        else:
            everyone, all_scores = np.concatenate([self._x, x]), np.concatenate([self._scores, scores])
            survivors = np.argsort(-all_scores, kind="stable")[: self.popsize]
            self._x, self._scores = everyone[survivors], all_scores[survivors]
        self._turns.finish()

    def _select(self, n: int) -> np.ndarray:
        def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return np.sign(self._scores[a] - self._scores[b])

        return tournament(n, self.popsize, compare, rng=self._rng)

    def state(self) -> dict:
        """Arrays and JSON values that `restore` continues from, bit for bit."""
        self._turns.check_between()
        return self._header() | {
            "generation": self.generation,
            "rng": self._rng.bit_generator.state,
            "best": pack_best(self.best),
            "x": self._x,
            "scores": self._scores,
        }

    def restore(self, state: dict) -> None:
        """Continue from `state`, which must be of a search with the same settings."""
        check_header(state, self._header())
        self._turns = Turns()
        self._turns.generation = int(state["generation"])
        self._rng.bit_generator.state = state["rng"]
        self.best = unpack_best(state["best"])
        self._x, self._scores = state["x"], state["scores"]

    def _header(self) -> dict:
        return state_header(self, self._space, popsize=self.popsize, operators=repr(self._operators))


class Nsga2Search:
    """NSGA-II: as GeneticSearch, but for several scores at once, and what it finds is a front instead of one best."""

    def __init__(
        self,
        latent_space,
        *,
        popsize: int,
        rng: np.random.Generator,
        n_objectives: int = 2,
        operators: Operators | NoiseMoves = GLASS,
        initial: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            latent_space: the box, and what the first generation is drawn from.
            popsize: parents, and children a generation, at least 2. CLIP-GLaSS: 16 for StyleGAN2 with discriminator.
            rng: seeds the search's own stream; is drawn from once.
            n_objectives: columns of the scores, at least 2.
            operators: CLIP-GLaSS's by default; NoiseMoves for the noise of a diffusion model.
            initial: (m, dim) with m <= popsize, rows to put into the first generation; the rest are sampled.
        """
        if n_objectives < 2:
            raise ValueError(f"n_objectives must be at least 2, got {n_objectives}; for one use GeneticSearch")
        self.popsize, self.n_objectives = check_popsize(popsize, at_least=2), n_objectives
        self._space, self._operators = latent_space, operators
        self._breeder, self._rng, self._turns = Breeder(latent_space, operators), own_stream(rng), Turns()
        self._initial = _check_initial(initial, latent_space, self.popsize)
        self._x: np.ndarray | None = None  # (popsize, dim) the parents
        self._scores: np.ndarray | None = None  # (popsize, k)
        self._born: np.ndarray | None = None  # (popsize,) the generation each parent is of
        self._rank: np.ndarray | None = None  # (popsize,) 0 is the front
        self._crowding: np.ndarray | None = None  # (popsize,)

    @property
    def generation(self) -> int:
        """Finished generations."""
        return self._turns.generation

    @property
    def pending(self) -> np.ndarray | None:
        """The candidates asked for and not yet told, or None."""
        return self._turns.pending

    @property
    def front(self) -> list[Candidate]:
        """The parents that no other parent beats in every objective, at most popsize, best first objective first."""
        if self._x is None:
            return []
        rows = np.flatnonzero(self._rank == 0)
        rows = rows[np.argsort(-self._scores[rows, 0], kind="stable")]
        return [Candidate(read_only(self._x[i]), read_only(self._scores[i]), int(self._born[i])) for i in rows]

    def ask(self) -> np.ndarray:
        """(popsize, dim) float64, inside the box."""
        self._turns.check_ask()
        if self._x is None:
            return self._turns.offer(self._breeder.first(self.popsize, self._initial, self._rng))
        return self._turns.offer(self._breeder.offspring(self._x, self._select, self._rng))

    def tell(self, x: np.ndarray, scores: np.ndarray) -> None:
        """Give the scores (popsize, n_objectives), higher is better, for the rows of the last ask."""
        x, scores = self._turns.check_tell(x, scores, n_objectives=self.n_objectives)
        born = np.full(len(x), self.generation)
        if self._x is not None:
            x, scores = np.concatenate([self._x, x]), np.concatenate([self._scores, scores])
            born = np.concatenate([self._born, born])
        kept, rank, crowding = survive(scores, self.popsize, rng=self._rng)
        self._x, self._scores, self._born = x[kept], scores[kept], born[kept]
        self._rank, self._crowding = rank, crowding
        self._turns.finish()

    def _select(self, n: int) -> np.ndarray:
        def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            above = (self._scores[a] > self._scores[b]).any(axis=1)
            below = (self._scores[a] < self._scores[b]).any(axis=1)
            dominates = above.astype(int) - below.astype(int)  # 0 when neither or both
            crowding_a, crowding_b = self._crowding[a], self._crowding[b]
            lonelier = (crowding_a > crowding_b).astype(int) - (crowding_a < crowding_b).astype(int)
            return np.where(dominates != 0, dominates, lonelier)

        return tournament(n, self.popsize, compare, rng=self._rng)

    def state(self) -> dict:
        """Arrays and JSON values that `restore` continues from, bit for bit."""
        self._turns.check_between()
        return self._header() | {
            "generation": self.generation,
            "rng": self._rng.bit_generator.state,
            "x": self._x,
            "scores": self._scores,
            "born": self._born,
            "rank": self._rank,
            "crowding": self._crowding,
        }

    def restore(self, state: dict) -> None:
        """Continue from `state`, which must be of a search with the same settings."""
        check_header(state, self._header())
        self._turns = Turns()
        self._turns.generation = int(state["generation"])
        self._rng.bit_generator.state = state["rng"]
        self._x, self._scores, self._born = state["x"], state["scores"], state["born"]
        self._rank, self._crowding = state["rank"], state["crowding"]

    def _header(self) -> dict:
        settings = {"popsize": self.popsize, "n_objectives": self.n_objectives, "operators": repr(self._operators)}
        return state_header(self, self._space, **settings)


def _check_initial(initial: np.ndarray | None, latent_space, popsize: int) -> np.ndarray | None:
    if initial is None:
        return None
    initial = np.array(initial, dtype=np.float64)
    check_shape(initial, "initial", f"m {latent_space.dim}")
    if len(initial) > popsize:
        raise ValueError(f"initial must have at most popsize={popsize} rows, got {len(initial)}")
    n_outside = int((~latent_space.contains(initial)).sum())
    if n_outside:
        raise ValueError(f"initial must lie inside the latent space, got {n_outside} of {len(initial)} rows outside")
    return initial + 0.0
