"""CMA-ES over pycma."""

import numpy as np

from glasslib.search import pycma_state
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


class CmaSearch:
    """Adapts a normal distribution to what scores well. Real variables only.

    Its state is pycma's own, as arrays: with popsize 16 and 512 variables 4 MB, or 0.1 MB diagonal. Restoring costs no
    more than a few generations, however long the run was.
    """

    generation, pending, identity = GENERATION, PENDING, IDENTITY

    def __init__(
        self,
        latent_space,
        *,
        popsize: int,
        rng: np.random.Generator,
        sigma0: float = 0.5,
        x0: np.ndarray | None = None,
        diagonal: bool = False,
        restarts: int = 0,
    ) -> None:
        """
        Args:
            latent_space: the box; all its variables must be real, and there must be at least two.
            popsize: candidates a generation, at least 4.
            rng: seeds the search's own stream; is drawn from once.
            sigma0: first standard deviation of every variable, in the units of the space.
            x0: (dim,) where to start; None is the middle of the box, a latent's mean.
            diagonal: adapt variances only (separable CMA-ES): linear in dim, better for hundreds of variables.
            restarts: how often a converged run begins again, from a fresh sample of the space.
        """
        check_real(latent_space, "CmaSearch", "GeneticSearch or RandomSearch")
        if latent_space.dim < 2:
            raise ValueError(f"CmaSearch needs at least 2 variables, got {latent_space.dim}; use GeneticSearch")
        if not 0 < sigma0 < np.inf:
            raise ValueError(f"sigma0 must be a finite number above 0, got {sigma0}")
        self.popsize = check_popsize(popsize, at_least=4)
        self.best: Candidate | None = None
        self.restarts = restarts
        self._space, self._sigma0, self._diagonal = latent_space, float(sigma0), diagonal
        self._x0 = _check_x0(x0, latent_space)
        settings = {"popsize": self.popsize, "sigma0": self._sigma0, "diagonal": diagonal, "restarts": restarts}
        self._turns = Turns(self, latent_space, rng, start={"x0": self._x0}, **settings)
        self._rng = self._turns.rng
        self._n_restarts, self._stop, self._solutions = 0, {}, None
        self._strategy = self._make(self._x0)

    def _make(self, x0: np.ndarray):
        import cma

        options = {
            "bounds": [self._space.lower, self._space.upper],
            "popsize": self.popsize,
            "CMA_diagonal": self._diagonal,
            # pycma would seed and draw from NumPy's global stream; so it gets our own, and nan: no seed
            "seed": np.nan,
            "randn": lambda *shape: self._rng.standard_normal(shape),
            "verbose": -9,
            "signals_filename": "",  # otherwise a file in the working directory could change or end the run
        }
        return cma.CMAEvolutionStrategy(x0, self._sigma0, options)

    def stop(self) -> dict:
        """pycma's reasons to stop, {} to go on; a flat score stops at once with "tolfun". ask still works."""
        return {} if self._n_restarts < self.restarts else dict(self._stop)

    def ask(self) -> np.ndarray:
        """(popsize, dim) float64, inside the box."""
        self._turns.check_ask()
        if self._stop and self._n_restarts < self.restarts:
            self._n_restarts += 1
            self._strategy = self._make(self._space.sample(1, rng=self._rng)[0])
        self._solutions = self._strategy.ask()
        x = np.clip(self._solutions, self._space.lower, self._space.upper)  # against rounding only
        return self._turns.offer(x)

    def tell(self, x: np.ndarray, scores: np.ndarray) -> None:
        """Give the scores (popsize,), higher is better, for the rows of the last ask."""
        x, scores = self._turns.check_tell(x, scores)
        self.best = better(self.best, x, scores, self.generation)
        self._strategy.tell(self._solutions, list(-scores))  # pycma minimises
        self._stop = dict(self._strategy.stop())
        self._turns.finish()

    def state(self) -> dict:
        """Arrays and JSON values that `restore` continues from, bit for bit."""
        import cma

        run = {"pycma": cma.__version__, "n_restarts": self._n_restarts, "stop": self._stop}
        return self._turns.state(best=pack_best(self.best), strategy=pycma_state.take(self._strategy), **run)

    def restore(self, state: dict) -> None:
        """Continue from `state`, which must be of a search with the same settings.

        Raises:
            ValueError: other settings, or another pycma, whose inner state may be another.
        """
        import cma

        if state["pycma"] != cma.__version__:
            raise ValueError(f"the state is of pycma {state['pycma']}, got {cma.__version__}; resume it with its own")
        self._turns.restore(state)
        self._n_restarts, self._stop, self._solutions = state["n_restarts"], state["stop"], None
        self._strategy = self._make(self._x0)
        pycma_state.put(self._strategy, state["strategy"])
        self.best = unpack_best(state["best"])


def _check_x0(x0: np.ndarray | None, latent_space) -> np.ndarray:
    if x0 is None:
        return (latent_space.lower + latent_space.upper) / 2
    x0 = np.array(x0, dtype=np.float64)
    if x0.shape != (latent_space.dim,) or not latent_space.contains(x0[None])[0]:
        raise ValueError(f"x0 must be ({latent_space.dim},) and inside the latent space's box, got shape {x0.shape}")
    return x0
