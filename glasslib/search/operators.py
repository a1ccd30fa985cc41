"""How the genetic searches make children: CLIP-GLaSS's operators, run by pymoo on plain arrays.

pymoo's own GA and NSGA2 keep a Python object per individual, which about doubles the time and hides the state. Here its
operators work on (n, dim) arrays; test_genetic.py shows that the runs equal pymoo's bit for bit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from glasslib.latents import BINARY, INTEGER, REAL, Normal
from glasslib.search.noise_moves import NoiseMoves

MAX_TRIES = 20  # rounds of mating before the rest of a generation is drawn afresh


@dataclass(frozen=True)
class Operators:
    """Settings of crossover and mutation; the defaults are CLIP-GLaSS's.

    Reals and integers: simulated binary crossover with chance `crossover_prob` a mating (each variable then with
    chance 0.5) and polynomial mutation with chance `mutation_prob` a *variable*: half of them change in every child,
    because that is what `prob` meant in pymoo 0.4.2. Bits: half-uniform crossover with chance `hux_prob` a mating,
    and each bit flipped with chance `bitflip_prob`; None is CLIP-GLaSS's 10 bits of 1000, and one a child where there
    are fewer than 100. `mixed_prob` decides once a mating for variables of all kinds together, in place of
    `crossover_prob` and `hux_prob`, where a space has several kinds; see AS_IT_RAN.

    Source:
        Galatolo et al. 2021 (CLIP-GLaSS), code: config.py, operators.py.
    """

    crossover_prob: float = 1.0
    crossover_eta: float = 3.0
    mutation_prob: float = 0.5
    mutation_eta: float = 3.0
    hux_prob: float = 0.2
    bitflip_prob: float | None = None
    mixed_prob: float | None = None


GLASS = Operators()  # as CLIP-GLaSS configures them
# As its BigGAN ran: pymoo 0.4.2.1's crossover of mixed variables drops its parts' chances, 1 for z and .2 for bits, and
# crosses both together with .9. Of the bits that differ a child takes .447 from the other parent, not .106.
AS_IT_RAN = Operators(mixed_prob=0.9)


class Breeder:
    """Makes children of a population in one latent space."""

    def __init__(self, latent_space, operators: Operators | NoiseMoves) -> None:
        self._space, self._noise_moves = latent_space, operators if isinstance(operators, NoiseMoves) else None
        self._mixed_prob = None if self._noise_moves else operators.mixed_prob
        if self._noise_moves is not None and not isinstance(latent_space, Normal):
            raise ValueError(
                f"NoiseMoves need a space of normal noise (latents.Normal), got {type(latent_space).__name__}; "
                "use Operators"
            )
        kinds = latent_space.kinds
        makers = {REAL: _RealOperators, INTEGER: _IntegerOperators, BINARY: _BinaryOperators}
        self._groups = [
            (mask, maker(latent_space.lower[mask], latent_space.upper[mask], operators))
            for kind, maker in makers.items()
            if self._noise_moves is None and (mask := kinds == kind).any()
        ]

    def first(self, popsize: int, initial: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
        """(popsize, dim): the rows of `initial`, then samples, all different where the space allows."""
        rows = Distinct(popsize)
        if initial is not None:
            rows.add(initial)
        self._fill(rows, rng)
        return rows.array()

    def offspring(self, population: np.ndarray, select: Callable[[int], np.ndarray], rng) -> np.ndarray:
        """As many children as there are parents: different from them and from each other.

        Where duplicates run out (few tokens, a converged population) the rest are fresh samples, and where even those
        repeat, the space is used up and repeats are allowed.

        Args:
            population: (popsize, dim).
            select: n -> (n, 2) indices of parents.
        """
        rows = Distinct(len(population), known=population)
        for _ in range(MAX_TRIES):
            pairs = select(math.ceil(rows.n_missing / 2))
            rows.add(self.children(population, pairs, rng))
            if not rows.n_missing:
                break
        self._fill(rows, rng)
        return rows.array()

    def children(self, population: np.ndarray, pairs: np.ndarray, rng) -> np.ndarray:
        """(popsize, dim), (n, 2) indices -> (2 * n, dim): the first children of all pairs, then the second."""
        parents = population[pairs.T]  # (2, n, dim)
        if self._noise_moves is not None:
            return self._noise_moves.breed(parents, self._space.lower, self._space.upper, rng)
        if len(self._groups) == 1:
            return self._groups[0][1].breed(parents, rng)
        children = np.empty((2 * len(pairs), population.shape[1]))
        crossed = None if self._mixed_prob is None else rng.random(len(pairs)) < self._mixed_prob
        for mask, operators in self._groups:
            children[:, mask] = operators.breed(parents[:, :, mask], rng, crossed)
        return children

    def _fill(self, rows: "Distinct", rng) -> None:
        for _ in range(MAX_TRIES):
            if not rows.n_missing:
                return
            rows.add(self._space.sample(rows.n_missing, rng=rng))
        rows.add(self._space.sample(rows.n_missing, rng=rng), repeats=True)


class Distinct:
    """Collects up to n rows that differ from each other and from the known ones."""

    def __init__(self, n: int, known: np.ndarray = ()) -> None:
        self._n, self._rows = n, []
        self._seen = {row.tobytes() for row in known}

    @property
    def n_missing(self) -> int:
        return self._n - len(self._rows)

    def add(self, rows: np.ndarray, *, repeats: bool = False) -> None:
        for row in rows[: None if not repeats else self.n_missing]:
            key = row.tobytes()
            if self.n_missing and (repeats or key not in self._seen):
                self._seen.add(key)
                self._rows.append(row)

    def array(self) -> np.ndarray:
        return np.array(self._rows)


class _RealOperators:
    """SBX, then polynomial mutation."""

    def __init__(self, lower: np.ndarray, upper: np.ndarray, operators: Operators) -> None:
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM

        self._box = SimpleNamespace(
            xl=lower, xu=upper, n_var=len(lower)
        )  # all that pymoo's operators read of a problem
        self._crossover = SBX(eta=operators.crossover_eta)
        self._mutation = PM(prob_var=operators.mutation_prob, eta=operators.mutation_eta)
        self._crossover_prob = operators.crossover_prob

    def cross(self, parents: np.ndarray, rng, crossed: np.ndarray | None) -> np.ndarray:
        return _cross_some(self._crossover, self._box, parents, self._crossover_prob, rng, crossed)

    def mutate(self, x: np.ndarray, rng) -> np.ndarray:
        return self._mutation._do(self._box, x, random_state=rng)

    def breed(self, parents: np.ndarray, rng, crossed: np.ndarray | None = None) -> np.ndarray:
        children = self.mutate(self.cross(parents, rng, crossed), rng)
        rng.random(len(children))  # pymoo draws here whether an individual mutates at all; always, so nothing changes
        return children


class _IntegerOperators:
    """The same on whole numbers: each value stands for the unit interval around it, as in pymoo 0.4.2."""

    def __init__(self, lower: np.ndarray, upper: np.ndarray, operators: Operators) -> None:
        self._lower, self._upper = lower, upper
        self._real = _RealOperators(lower - 0.5, upper + 0.5, operators)

    def breed(self, parents: np.ndarray, rng, crossed: np.ndarray | None = None) -> np.ndarray:
        return self._round(self._real.mutate(self._round(self._real.cross(parents, rng, crossed)), rng))

    def _round(self, x: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(x), self._lower, self._upper) + 0.0  # + 0.0 turns -0.0 into 0.0


class _BinaryOperators:
    """Half-uniform crossover, then bit flips."""

    def __init__(self, lower: np.ndarray, upper: np.ndarray, operators: Operators) -> None:
        from pymoo.operators.crossover.hux import HUX
        from pymoo.operators.mutation.bitflip import BitflipMutation

        n_bits = len(lower)
        flip = max(0.01, 1 / n_bits) if operators.bitflip_prob is None else operators.bitflip_prob
        self._crossover, self._hux_prob = HUX(), operators.hux_prob
        self._mutation = BitflipMutation(prob_var=flip)

    def breed(self, parents: np.ndarray, rng, crossed: np.ndarray | None = None) -> np.ndarray:
        children = _cross_some(self._crossover, None, parents > 0.5, self._hux_prob, rng, crossed)
        return self._mutation._do(None, children, random_state=rng).astype(np.float64)


def _cross_some(
    crossover, box, parents: np.ndarray, prob: float, rng, crossed: np.ndarray | None
) -> np.ndarray:  # fmt: skip
    """(2, n, dim) parents -> (2 * n, dim): children where the mating crosses, copies of the parents elsewhere.

    Which matings cross is drawn with chance `prob` each, unless `crossed` (n,) says it.
    """
    if crossed is None:
        crossed = rng.random(parents.shape[1]) < prob
    if not crossed.any():
        return parents.reshape(-1, parents.shape[2])
    children = crossover._do(box, parents, random_state=rng)
    children[:, ~crossed] = parents[:, ~crossed]
    return children.reshape(-1, parents.shape[2])
