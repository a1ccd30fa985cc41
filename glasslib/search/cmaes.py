"""CMA-ES over pycma."""

import warnings

import numpy as np

from glasslib.search.candidate import (
    Candidate,
    Turns,
    better,
    check_header,
    check_popsize,
    check_real,
    own_stream,
    pack_best,
    state_header,
    unpack_best,
)


class CmaSearch:
    """Adapts a normal distribution to what scores well. Real variables only.

    Its state is the scores told so far and where its random stream began: `restore` replays them, which gives pycma's
    inner state bit for bit without pickling it. A replay costs what ask and tell cost the first time: with popsize 16
    about 3 ms a generation for 64 variables, for 512 about 17 ms, or 4 ms diagonal; nothing beside the models.
    """

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
        if not sigma0 > 0:
            raise ValueError(f"sigma0 must be above 0, got {sigma0}")
        self.popsize = check_popsize(popsize, at_least=4)
        self.best: Candidate | None = None
        self.restarts = restarts
        self._space, self._sigma0, self._diagonal = latent_space, float(sigma0), diagonal
        self._x0 = _check_x0(x0, latent_space)
        self._rng, self._turns = own_stream(rng), Turns()
        self._start = self._rng.bit_generator.state
        self._begin()

    def _begin(self) -> None:
        """Put pycma at its start; the random stream must stand at `self._start`."""
        self._log: list[np.ndarray] = []  # the scores of each generation
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
        }
        return cma.CMAEvolutionStrategy(x0, self._sigma0, options)

    @property
    def generation(self) -> int:
        """Finished generations."""
        return self._turns.generation

    @property
    def pending(self) -> np.ndarray | None:
        """The candidates asked for and not yet told, or None."""
        return self._turns.pending

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
        self._advance(scores)
        self._turns.finish()

    def _advance(self, scores: np.ndarray) -> None:
        self._strategy.tell(self._solutions, list(-scores))  # pycma minimises
        self._stop = dict(self._strategy.stop())
        self._log.append(scores)

    def state(self) -> dict:
        """Arrays and JSON values that `restore` continues from, bit for bit."""
        self._turns.check_between()
        return self._header() | {
            "rng_start": self._start,
            "best": pack_best(self.best),
            "scores": np.array(self._log).reshape(-1, self.popsize),
            "mean": np.array(self._strategy.mean),
            "x0": self._x0,
        }

    def restore(self, state: dict) -> None:
        """Continue from `state`, which must be of a search with the same settings.

        Raises:
            ValueError: other settings, or a replay that ends elsewhere, as another pycma can make it.
        """
        check_header(state, self._header())
        self._turns = Turns()
        self._start, self._x0 = state["rng_start"], state["x0"]
        self._rng.bit_generator.state = self._start
        self._begin()
        for scores in state["scores"]:
            self.ask()
            self._advance(scores)
            self._turns.finish()
        self.best = unpack_best(state["best"])
        self._check_replay(state)

    def _check_replay(self, state: dict) -> None:
        if np.array_equal(self._strategy.mean, state["mean"]):
            return
        if not np.allclose(self._strategy.mean, state["mean"], rtol=1e-6, atol=1e-6 * self._sigma0):
            raise ValueError(
                "replaying the scores ended elsewhere than the run they are of; CmaSearch can be resumed only with the "
                "pycma and NumPy that began it. The best found so far is in the state"
            )
        warnings.warn(
            "replaying the scores differs in the last digits (another processor or number of threads): "
            "the resumed run is as good, but not bit for bit the one that never stopped",
            stacklevel=3,
        )

    def _header(self) -> dict:
        settings = {"popsize": self.popsize, "sigma0": self._sigma0, "diagonal": self._diagonal}
        settings["restarts"] = self.restarts
        return state_header(self, self._space, **settings)


def _check_x0(x0: np.ndarray | None, latent_space) -> np.ndarray:
    if x0 is None:
        return (latent_space.lower + latent_space.upper) / 2
    x0 = np.array(x0, dtype=np.float64)
    if x0.shape != (latent_space.dim,) or not latent_space.contains(x0[None])[0]:
        raise ValueError(f"x0 must be ({latent_space.dim},) and inside the latent space's box, got shape {x0.shape}")
    return x0
