"""Genetic search as CLIP-GLaSS does it: one objective (GA) or several (NSGA-II)."""

from collections.abc import Callable

import numpy as np

from glasslib.checks import check_shape
from glasslib.search.candidate import (
    GENERATION,
    IDENTITY,
    PENDING,
    Candidate,
    Turns,
    better,
    check_popsize,
    pack_best,
    read_only,
    unpack_best,
)
from glasslib.search.noise_moves import NoiseMoves
from glasslib.search.operators import GLASS, Breeder, Operators


class GeneticSearch:
    """Binary tournament, crossover and mutation, then the best of parents and children survive. Takes every kind of
    space."""

    generation, pending, identity = GENERATION, PENDING, IDENTITY

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
        self._space, self._breeder = latent_space, Breeder(latent_space, operators)
        self._initial = _check_initial(initial, latent_space, self.popsize)
        settings = {"popsize": self.popsize, "operators": repr(operators)}
        self._turns = Turns(self, latent_space, rng, start={"initial": self._initial}, **settings)
        self._rng = self._turns.rng
        self._x: np.ndarray | None = None  # (popsize, dim) the parents
        self._scores: np.ndarray | None = None  # (popsize,)

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
        return self._turns.state(best=pack_best(self.best), x=self._x, scores=self._scores)

    def restore(self, state: dict) -> None:
        """Continue from `state`, which must be of a search with the same settings."""
        self._turns.restore(state)
        self.best = unpack_best(state["best"])
        self._x, self._scores = state["x"], state["scores"]


class Nsga2Search:
    """NSGA-II: as GeneticSearch, but for several scores at once, and what it finds is a front instead of one best."""

    generation, pending, identity = GENERATION, PENDING, IDENTITY

    def __init__(
        self,
        latent_space,
        *,
        popsize: int,
        rng: np.random.Generator,
        n_objectives: int = 2,
        operators: Operators | NoiseMoves = GLASS,
        initial: np.ndarray | None = None,
        faithful: bool = False,
    ) -> None:
        """
        Args:
            latent_space: the box, and what the first generation is drawn from.
            popsize: parents, and children a generation, at least 2. CLIP-GLaSS: 16 for StyleGAN2 with discriminator.
            rng: seeds the search's own stream; is drawn from once.
            n_objectives: columns of the scores, at least 2.
            operators: CLIP-GLaSS's by default; NoiseMoves for the noise of a diffusion model.
            initial: (m, dim) with m <= popsize, rows to put into the first generation; the rest are sampled.
            faithful: of candidates with equal scores all but one count as crowded, as in pymoo 0.4.2.1, CLIP-GLaSS's.
        """
        if n_objectives < 2:
            raise ValueError(f"n_objectives must be at least 2, got {n_objectives}; for one use GeneticSearch")
        self.popsize, self.n_objectives = check_popsize(popsize, at_least=2), n_objectives
        self._space, self._breeder = latent_space, Breeder(latent_space, operators)
        self._initial = _check_initial(initial, latent_space, self.popsize)
        self._faithful = faithful
        settings = {"popsize": self.popsize, "n_objectives": n_objectives, "operators": repr(operators)}
        settings["faithful"] = faithful
        self._turns = Turns(self, latent_space, rng, start={"initial": self._initial}, **settings)
        self._rng = self._turns.rng
        self._x: np.ndarray | None = None  # (popsize, dim) the parents
        self._scores: np.ndarray | None = None  # (popsize, k)
        self._born: np.ndarray | None = None  # (popsize,) the generation each parent is of
        self._rank: np.ndarray | None = None  # (popsize,) 0 is the front
        self._crowding: np.ndarray | None = None  # (popsize,)

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
        kept, rank, crowding = survive(scores, self.popsize, rng=self._rng, faithful=self._faithful)
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
        parents = {"x": self._x, "scores": self._scores, "born": self._born}
        return self._turns.state(**parents, rank=self._rank, crowding=self._crowding)

    def restore(self, state: dict) -> None:
        """Continue from `state`, which must be of a search with the same settings."""
        self._turns.restore(state)
        self._x, self._scores, self._born = state["x"], state["scores"], state["born"]
        self._rank, self._crowding = state["rank"], state["crowding"]


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


def tournament(n: int, popsize: int, compare: Callable, *, rng: np.random.Generator) -> np.ndarray:
    """Indices (n, 2) of parents, each the winner of a duel between two random members; a draw is decided by lot.

    Args:
        compare: (a, b) index arrays -> > 0 where a wins, < 0 where b wins, 0 on a draw.
    """
    n_duels = 2 * n
    n_rounds = -(-2 * n_duels // popsize)
    drawn = np.concatenate([rng.permutation(popsize) for _ in range(n_rounds)])[: 2 * n_duels]
    duels = drawn.reshape(n_duels, 2)
    result = compare(duels[:, 0], duels[:, 1])
    winners = np.where(result > 0, duels[:, 0], duels[:, 1])
    for i in np.flatnonzero(result == 0):
        winners[i] = rng.choice(duels[i])
    return winners.reshape(n, 2)


def survive(
    scores: np.ndarray, n: int, *, rng: np.random.Generator, faithful: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choose n rows of `scores` (m, k): whole fronts first, of the one that does not fit the loneliest.

    Returns:
        The rows kept (n,), their ranks (n,), 0 for the front, and their crowding distances (n,).
    """
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
    from pymoo.util.randomized_argsort import randomized_argsort

    cost = -scores  # pymoo minimises
    kept, ranks, crowding = [], [], []
    for rank, front in enumerate(NonDominatedSorting().do(cost, n_stop_if_ranked=n)):
        n_room = n - sum(map(len, kept))
        distance = _crowding_distance(cost[front], max(0, len(front) - n_room), faithful)
        order = np.arange(len(front))
        if len(front) > n_room:
            order = randomized_argsort(distance, order="descending", method="numpy", random_state=rng)[:n_room]
        kept.append(front[order])
        ranks.append(np.full(len(order), rank))
        crowding.append(distance[order])
    return np.concatenate(kept), np.concatenate(ranks), np.concatenate(crowding)


def _crowding_distance(cost: np.ndarray, n_remove: int, faithful: bool) -> np.ndarray:
    """(m, k) -> (m,). pymoo 0.4.2.1 measures between different points alone; repeats of one get 0."""
    from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function

    measure = get_crowding_function("cd")
    first = np.sort(np.unique(cost, axis=0, return_index=True)[1])
    if not faithful or len(cost) <= 2 or len(first) == len(cost):
        return measure.do(cost, n_remove=n_remove)
    distance = np.zeros(len(cost))
    if len(first) > 1:  # a single point has no neighbours to be measured from
        distance[first] = measure.do(cost[first], n_remove=0)
    return distance
