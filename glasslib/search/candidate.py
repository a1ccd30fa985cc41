"""What every search shares: a candidate as a value, the order of ask and tell, a random stream of its own."""

import hashlib
import json
from dataclasses import dataclass, is_dataclass

import numpy as np

from glasslib.latents import REAL


@dataclass(frozen=True, eq=False)
class Candidate:
    """A point a search has scored.

    x: (dim,) float64, read-only. score: a float, or (k,) for k objectives; higher is better. generation: the one that
    found it, from 0.
    """

    x: np.ndarray
    score: float | np.ndarray
    generation: int


class Turns:
    """What every search holds one of: the order ask, tell, ask, tell, its random stream, and what its states share.

    rng: the search's own stream. generation: finished ones. pending: asked and not yet told, or None. identity: what a
    checkpoint compares: class and settings of the search, where its stream began and what it was given to start from.
    """

    def __init__(
        self, search, latent_space, rng: np.random.Generator, *, start: dict | None = None, **settings
    ) -> None:
        space = (
            repr(latent_space) if is_dataclass(latent_space) else f"{type(latent_space).__name__}({latent_space.dim})"
        )
        self.rng, self.generation = own_stream(rng), 0
        self.pending: np.ndarray | None = None
        self._header = {"search": type(search).__name__, "space": space, **settings}
        start = {"rng": self.rng.bit_generator.state, **(start or {})}
        self.identity = self._header | {name: fingerprint(value) for name, value in start.items()}

    def state(self, **kept) -> dict:
        """Arrays and JSON values that `restore` continues from, bit for bit; `kept` is what the search adds."""
        if self.pending is not None:
            raise RuntimeError("a state can be taken only between generations; tell the scores of the last ask first")
        return {"header": self._header, "generation": self.generation, "rng": self.rng.bit_generator.state, **kept}

    def restore(self, state: dict) -> None:
        """Go on from `state`, which must be of a search with the same settings; another one is refused untouched."""
        if others := differences(state["header"], self._header):
            raise ValueError(f"the state was made with {', '.join(others)}; make the search with the same settings")
        self.pending, self.generation = None, int(state["generation"])
        self.rng.bit_generator.state = state["rng"]

    def check_ask(self) -> None:
        if self.pending is not None:
            raise RuntimeError("ask was called twice; tell the scores of the last ask first")

    def offer(self, x: np.ndarray) -> np.ndarray:
        """Remember `x` as asked and hand out a copy."""
        self.pending = read_only(x)
        return self.pending.copy()

    def check_tell(
        self, x: np.ndarray, scores: np.ndarray, *, n_objectives: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Give back the rows asked and their scores as float64, or refuse; a refused tell can be repeated."""
        if self.pending is None:
            raise RuntimeError("tell was called without ask; ask for candidates first")
        if not np.array_equal(np.asarray(x), self.pending):
            raise ValueError(
                f"x must be the rows of the last ask, unchanged and in their order {self.pending.shape}, "
                f"got {np.shape(x)} that differ; pass what ask returned"
            )
        scores = np.asarray(scores).astype(np.float64)  # always a copy; torch's tensors cannot be copied by np.array
        shape = (len(self.pending),) if n_objectives is None else (len(self.pending), n_objectives)
        if scores.shape != shape:
            raise ValueError(f"scores must have shape {shape}, one row per row of x, got {scores.shape}")
        n_bad = int((~np.isfinite(scores)).sum())
        if n_bad:
            raise ValueError(f"scores must be finite, got {n_bad} bad of {scores.size}; look at what made them")
        return self.pending, scores

    def finish(self) -> None:
        self.pending = None
        self.generation += 1


GENERATION = property(lambda search: search._turns.generation, doc="Finished generations.")
PENDING = property(lambda search: search._turns.pending, doc="The candidates asked for and not yet told, or None.")
IDENTITY = property(lambda search: search._turns.identity, doc="Name -> JSON value: what makes this search this one.")


def better(best: Candidate | None, x: np.ndarray, scores: np.ndarray, generation: int) -> Candidate:
    """The best of `best` and the rows of `x`; on a tie the one found first."""
    winner = int(np.argmax(scores))
    if best is not None and scores[winner] <= best.score:
        return best
    return Candidate(read_only(x[winner]), float(scores[winner]), generation)


def read_only(x: np.ndarray) -> np.ndarray:
    x = np.array(x, dtype=np.float64)
    x.setflags(write=False)
    return x


def own_stream(rng: np.random.Generator) -> np.random.Generator:
    """A generator seeded from `rng`, so that whatever else draws from `rng` later cannot disturb the search."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator, got {type(rng).__name__}; use np.random.default_rng(seed)"
        )
    return np.random.Generator(np.random.PCG64([int(word) for word in rng.integers(0, 2**32, size=4)]))


def check_popsize(popsize: int, *, at_least: int) -> int:
    is_number = isinstance(popsize, (int, float, np.number)) and not isinstance(popsize, bool)
    if not is_number or popsize != popsize // 1 or popsize < at_least:
        raise ValueError(f"popsize must be a whole number of at least {at_least}, got {popsize!r}")
    return int(popsize)


def check_real(latent_space, search: str, instead: str) -> None:
    """Refuse a space with variables that are not real numbers, and name the searches that take them."""
    others = sorted(set(latent_space.kinds.tolist()) - {REAL})
    if others:
        raise ValueError(
            f"{search} needs a space of real numbers, got {type(latent_space).__name__} "
            f"with {' and '.join(others)} variables; use {instead}"
        )


def fingerprint(value) -> str | None:
    """A few digits that tell arrays, tensors and JSON values apart; None stays None."""
    if value is None:
        return None
    if hasattr(value, "shape"):
        array = np.ascontiguousarray(value)
        return f"{'x'.join(map(str, array.shape))} {hashlib.sha256(array.tobytes()).hexdigest()[:12]}"
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def differences(theirs: dict, ours: dict) -> list[str]:
    """What differs between two flat dicts, one "name=theirs (here ours)" each."""
    names = [*ours, *(name for name in theirs if name not in ours)]
    differing = [name for name in names if theirs.get(name) != ours.get(name)]
    return [f"{name}={theirs.get(name)!r} (here {ours.get(name)!r})" for name in differing]


def pack_best(best: Candidate | None) -> dict | None:
    return None if best is None else {"x": best.x, "score": best.score, "generation": best.generation}


def unpack_best(packed: dict | None) -> Candidate | None:
    if packed is None:
        return None
    return Candidate(read_only(packed["x"]), float(packed["score"]), int(packed["generation"]))
