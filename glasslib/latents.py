"""Latent spaces as values: a box, what kind of number each variable is, and how to draw from it.

`lower` and `upper` are arrays of shape (dim,) in every space, because a `Product` mixes boxes. `kinds` names each
variable "real", "integer" or "binary"; a search works on float64 arrays throughout, so integers and bits are whole
numbers held as floats, and the generator rounds and casts them.
"""

from dataclasses import dataclass

import numpy as np

from glasslib.checks import check_shape

REAL, INTEGER, BINARY = "real", "integer", "binary"


def _spread(space, k: int, dtype=None) -> np.ndarray:
    """(dim,): the k-th of what the space's `_ends` gives (lower end, upper end, kind), of all its variables or each."""
    return np.full(space.dim, space._ends()[k], dtype=dtype)


# shared by every space, which need no base class for them
LOWER = property(lambda space: _spread(space, 0, np.float64), doc="(dim,) float64: the box's lower ends.")
UPPER = property(lambda space: _spread(space, 1, np.float64), doc="(dim,) float64: the box's upper ends.")
KINDS = property(lambda space: _spread(space, 2), doc="(dim,): REAL, INTEGER or BINARY.")


def contains(space, x: np.ndarray) -> np.ndarray:
    """(n, dim) -> (n,) bool: every variable in the box, and whole where the space asks for whole numbers."""
    check_shape(x, "x", f"n {space.dim}")
    inside = (x >= space.lower) & (x <= space.upper)  # False for NaN
    whole = (space.kinds == REAL) | (x == np.floor(x))
    return (inside & whole).all(axis=1)


@dataclass(frozen=True)
class Normal:
    """Standard normal z, redrawn inside [-bound, bound]; CLIP-GLaSS searches StyleGAN2 with bound 10."""

    dim: int
    bound: float = 10.0

    def __post_init__(self) -> None:
        _check_positive(dim=self.dim, bound=self.bound)

    lower, upper, kinds, contains = LOWER, UPPER, KINDS, contains

    def _ends(self) -> tuple:
        return -self.bound, self.bound, REAL

    def sample(self, n: int, *, rng: np.random.Generator) -> np.ndarray:
        return _normal_inside(n, self.dim, self.bound, rng)


@dataclass(frozen=True)
class TruncatedNormal:
    """Standard normal z, redrawn until |z_i| <= truncation; BigGAN's prior, where truncation is at most 2."""

    dim: int
    truncation: float = 2.0

    def __post_init__(self) -> None:
        _check_positive(dim=self.dim, truncation=self.truncation)

    lower, upper, kinds, contains = LOWER, UPPER, KINDS, contains

    def _ends(self) -> tuple:
        return -self.truncation, self.truncation, REAL

    def sample(self, n: int, *, rng: np.random.Generator) -> np.ndarray:
        return _normal_inside(n, self.dim, self.truncation, rng)


@dataclass(frozen=True)
class Tokens:
    """`length` token ids, each a whole number in [0, vocab_size - 1], drawn uniformly."""

    length: int
    vocab_size: int

    def __post_init__(self) -> None:
        _check_positive(length=self.length, vocab_size=self.vocab_size)

    @property
    def dim(self) -> int:
        return self.length

    lower, upper, kinds, contains = LOWER, UPPER, KINDS, contains

    def _ends(self) -> tuple:
        return 0, self.vocab_size - 1, INTEGER

    def sample(self, n: int, *, rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, self.vocab_size, size=(n, self.length)).astype(np.float64)


@dataclass(frozen=True)
class ClassMixture:
    """A mixture of classes for a class-conditional generator, one variable per class.

    encoding="simplex" (ours): a weight in [0, 1] per class, of which the `n_active` largest count, divided by their
    sum; one weight alone is a pure class. encoding="softmax_bits" (CLIP-GLaSS): a bit per class, through a softmax,
    so that n_active set bits of 1000 carry about n_active * 0.27 % of the mass and no pure class can be reached.
    """

    n_classes: int
    n_active: int = 5
    encoding: str = "simplex"

    def __post_init__(self) -> None:
        _check_positive(n_classes=self.n_classes, n_active=self.n_active)
        if self.n_active > self.n_classes:
            raise ValueError(f"n_active must be at most n_classes={self.n_classes}, got {self.n_active}")
        if self.encoding not in ("simplex", "softmax_bits"):
            raise ValueError(f"encoding must be 'simplex' or 'softmax_bits', got {self.encoding!r}")

    @property
    def dim(self) -> int:
        return self.n_classes

    lower, upper, kinds, contains = LOWER, UPPER, KINDS, contains

    def _ends(self) -> tuple:
        return 0, 1, REAL if self.encoding == "simplex" else BINARY

    def sample(self, n: int, *, rng: np.random.Generator) -> np.ndarray:
        """(n, n_classes): bits set with chance n_active / n_classes, or up to `n_active` random classes weighted."""
        if self.encoding == "softmax_bits":
            return (rng.random((n, self.n_classes)) < self.n_active / self.n_classes).astype(np.float64)
        x = np.zeros((n, self.n_classes))
        for row in x:
            n_set = rng.integers(1, self.n_active + 1)
            row[rng.choice(self.n_classes, size=n_set, replace=False)] = 1.0 - rng.random(n_set)  # (0, 1]: never empty
        return x

    def weights(self, x: np.ndarray) -> np.ndarray:
        """Turn search variables (n, n_classes) into class weights (n, n_classes): no row negative, each sums to 1."""
        check_shape(x, "x", f"n {self.n_classes}")
        if self.encoding == "softmax_bits":
            e = np.exp(x - x.max(axis=1, keepdims=True))
            return e / e.sum(axis=1, keepdims=True)
        largest = np.argsort(-x, axis=1, kind="stable")[:, : self.n_active]
        kept = np.zeros_like(x)
        np.put_along_axis(kept, largest, np.take_along_axis(x, largest, axis=1), axis=1)
        total = kept.sum(axis=1, keepdims=True)
        return np.where(total > 0, kept / np.where(total > 0, total, 1.0), 1.0 / self.n_classes)


@dataclass(frozen=True)
class Product:
    """Several spaces side by side: the variables of the first, then those of the second, and so on."""

    parts: tuple

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("parts must name at least one latent space, got none")

    @property
    def dim(self) -> int:
        return sum(part.dim for part in self.parts)

    lower, upper, kinds, contains = LOWER, UPPER, KINDS, contains

    def _ends(self) -> tuple:
        ends = [(part.lower, part.upper, part.kinds) for part in self.parts]
        return tuple(map(np.concatenate, zip(*ends, strict=True)))

    def split(self, x: np.ndarray) -> list[np.ndarray]:
        """(n, dim) -> one (n, part.dim) array per part."""
        check_shape(x, "x", f"n {self.dim}")
        return np.split(x, np.cumsum([part.dim for part in self.parts])[:-1], axis=1)

    def sample(self, n: int, *, rng: np.random.Generator) -> np.ndarray:
        return np.concatenate([part.sample(n, rng=rng) for part in self.parts], axis=1)


def _normal_inside(n: int, dim: int, bound: float, rng: np.random.Generator) -> np.ndarray:
    z = rng.standard_normal((n, dim))
    while (outside := np.abs(z) > bound).any():
        z[outside] = rng.standard_normal(outside.sum())
    return z


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
