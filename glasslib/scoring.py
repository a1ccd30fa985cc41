"""What a search maximises: CLIP similarity to a target, alone, averaged over several CLIPs or crops, or beside realism.

Every scorer takes a batch (pictures, or strings for a `TextScorer`) and returns a number a row, higher is better. None
switches gradients off: call them in `torch.inference_mode()` unless you want some.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Protocol

import torch
from torch import Tensor

from glasslib.checks import check_shape, check_unit

Target = str | Tensor | Mapping[str, float]


class Embedder(Protocol):
    """Pictures and texts to unit embeddings of one space."""

    def embed_images(self, images: Tensor) -> Tensor: ...  # (n, 3, h, w) RGB in [0, 1] -> (n, dim), norm 1

    def embed_texts(self, texts: Sequence[str]) -> Tensor: ...  # n strings -> (n, dim), norm 1


class Scorer(Protocol):
    """Pictures to scores."""

    def __call__(self, images: Tensor) -> Tensor: ...  # (n, 3, h, w) in [0, 1] -> (n,), higher is better


class ClipScorer:
    """Cosine similarity of pictures to a target."""

    def __init__(self, embedder: Embedder, target: Target) -> None:
        """Embed the target, once.

        Args:
            embedder: CLIP.
            target: a caption; or one picture (3, h, w) or (1, 3, h, w) in [0, 1]; or captions with weights,
                {"a red star": 1.0, "a circle": -0.5}, which scores the weighted mean of their similarities:
                sum(weight * similarity) / sum(|weight|).
        """
        self.target = target
        self._embedder = embedder
        self._direction = _target_direction(embedder, target)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) RGB in [0, 1] -> (n,) in [-1, 1]; NaN where the embedding is not finite."""
        return _similarities(self._embedder.embed_images(images), self._direction)


class TextScorer:
    """Cosine similarity of texts to a target, for searches among sentences."""

    def __init__(
        self, embedder: Embedder, target: Target, *, truncate: bool = False, faithful: bool = False
    ) -> None:  # fmt: skip
        """Embed the target, once.

        Args:
            embedder: CLIP.
            target: usually one picture (3, h, w) or (1, 3, h, w) in [0, 1]; what `ClipScorer` takes is taken here too.
            truncate: cut a text that is too long for CLIP; otherwise it is refused by name. Needs a `ClipEmbedder`.
            faithful: two quirks of CLIP-GLaSS: if one text is too long, every text of that call scores 0; an empty text
                is scored as it stands instead of being refused. Needs a `ClipEmbedder`.
        """
        if truncate and faithful:
            raise ValueError("truncate=True and faithful=True exclude each other: either cut long texts, or score 0")
        self.target = target
        self._embedder = embedder
        self._truncate, self._faithful = truncate, faithful
        self._direction = _target_direction(embedder, target)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """n strings -> (n,) in [-1, 1]; NaN where the embedding is not finite."""
        if self._faithful and self._embedder.too_long(texts):
            return self._direction.new_zeros(len(texts))
        options = {"truncate": True} if self._truncate else {"allow_empty": True} if self._faithful else {}
        return _similarities(self._embedder.embed_texts(texts, **options), self._direction)


def _similarities(embeddings: Tensor, direction: Tensor) -> Tensor:
    """(n, dim), (dim,) -> (n,). What is not finite is left to the search, which refuses it or counts it as worst."""
    check_unit(embeddings, "the embedder's embeddings", finite=False)
    return (embeddings * direction).sum(dim=1).clamp(-1, 1)  # of `@` the last bit would depend on the number of rows


def _target_direction(embedder: Embedder, target: Target) -> Tensor:
    """(dim,): what an embedding is multiplied by. Its norm is 1, or at most 1 for weighted captions."""
    with torch.inference_mode(False), torch.no_grad():  # made within inference_mode, it could not be used for gradients
        if isinstance(target, str):
            return _embedded_target(embedder.embed_texts([target]))[0]
        if isinstance(target, Mapping):
            if not all(isinstance(caption, str) for caption in target):
                raise TypeError(f"the keys of a weighted target must be captions, got {list(target)!r:.80}")
            weights = _mean_weights(list(target.values()), len(target))
            embeddings = _embedded_target(embedder.embed_texts(list(target)))
            return torch.as_tensor(weights, dtype=embeddings.dtype, device=embeddings.device) @ embeddings
        if isinstance(target, Tensor):
            picture = target if target.ndim == 4 else target[None]
            if picture.ndim != 4 or len(picture) != 1:
                raise ValueError(f"target must be one picture (3, h, w) or (1, 3, h, w), got {tuple(target.shape)}")
            return _embedded_target(embedder.embed_images(picture))[0]
    raise TypeError(
        "target must be a caption (str), a picture (tensor of shape (3, h, w); see images.load_image) or captions with "
        f"weights (dict of str to float), got {type(target).__name__}"
    )


def _embedded_target(embeddings: Tensor) -> Tensor:
    check_unit(embeddings, "the target's embeddings")
    return embeddings


def _mean_weights(weights: Sequence[float], n: int) -> list[float]:
    """`n` weights scaled so that their absolute values sum to 1."""
    if not all(isinstance(weight, Real) for weight in weights):
        raise TypeError(f"weights must be numbers, got {weights!r:.80}")
    total = sum(abs(weight) for weight in weights)
    if len(weights) != n or not math.isfinite(total) or not total > 0:
        raise ValueError(f"weights must be {n} finite numbers, at least one of them not 0, got {weights!r:.80}")
    return [float(weight / total) for weight in weights]


class Ensemble:
    """The weighted mean of several scorers' scores: sum(weight * score) / sum(|weight|)."""

    def __init__(self, scorers: Sequence[Callable], weights: Sequence[float] | None = None) -> None:
        """Take scorers of one kind of batch, pictures or texts.

        Args:
            scorers: at least one; several CLIPs with one target, say, are harder to deceive than one.
            weights: one each, not all 0; None weighs them alike.
        """
        self.scorers = tuple(scorers)
        self.weights = tuple(
            _mean_weights([1.0] * len(self.scorers) if weights is None else weights, len(self.scorers))
        )

    def __call__(self, batch: Tensor | Sequence[str]) -> Tensor:
        """(n, 3, h, w) pictures, or n strings -> (n,)."""
        weighted = [weight * scorer(batch) for weight, scorer in zip(self.weights, self.scorers, strict=True)]
        return sum(one.to(weighted[0].device) for one in weighted)


class CutoutScorer:
    """The mean score of random square crops, which gradient search finds harder to deceive than the whole picture.

    Each call draws new crops, the same for all its pictures, so that one call compares them fairly. The score is
    therefore random; use the plain scorer to report one. Source: the cutouts of Big Sleep, and AugCLIP of Liu et al.
    2021 (FuseDream), https://arxiv.org/abs/2112.01573.
    """

    def __init__(self, scorer: Scorer, *, n_cutouts: int, rng: torch.Generator, smallest: float = 0.5) -> None:
        """Wrap a scorer that takes pictures of any size.

        Args:
            scorer: given each crop in its own size; `ClipScorer` resizes.
            n_cutouts: crops a call, at least 1; the cost grows with them.
            rng: on the CPU.
            smallest: least side of a crop, as a share of the picture's shorter side, in (0, 1].
        """
        if n_cutouts < 1 or not 0 < smallest <= 1:
            raise ValueError(f"n_cutouts must be at least 1 and smallest in (0, 1], got {n_cutouts} and {smallest}")
        self._scorer, self._n_cutouts, self._rng, self._smallest = scorer, n_cutouts, rng, smallest

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) RGB in [0, 1] -> (n,)."""
        check_shape(images, "images", "n 3 h w")
        height, width = images.shape[-2:]
        total = 0.0
        for share, down, right in torch.rand(self._n_cutouts, 3, generator=self._rng).tolist():
            side = max(1, round((self._smallest + (1 - self._smallest) * share) * min(height, width)))
            top, left = int(down * (height - side + 1)), int(right * (width - side + 1))
            total = total + self._scorer(images[..., top : top + side, left : left + side])
        return total / self._n_cutouts


class RealismScorer:
    """How real a generator's own discriminator finds a picture.

    Source: CLIP-GLaSS's second objective, https://arxiv.org/abs/2102.01645, section 2 and its code: the hinge loss on
    the real side, relu(1 - logit), here with the sign of a score.
    """

    def __init__(self, generator, *, hinge: bool = True) -> None:
        """Take the discriminator of a generator.

        Args:
            generator: has `realism(images)`, (n, 3, h, w) in [0, 1] -> (n,) logits; a StyleGAN2 with discriminator.
            hinge: as CLIP-GLaSS does it: min(0, logit - 1), so that whatever looks real enough (logit 1) scores 0.
                False: the logit itself, which never saturates.
        """
        if not callable(getattr(generator, "realism", None)):
            raise TypeError(
                f"generator must come with a discriminator, as method realism(images), got {type(generator).__name__}; "
                "leave realism out and search for similarity alone"
            )
        self._generator, self._hinge = generator, hinge

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) RGB in [0, 1] -> (n,), at most 0 with `hinge`."""
        logits = self._generator.realism(images)
        return -torch.relu(1 - logits) if self._hinge else logits


class JointScorer:
    """Several objectives side by side, for a ParetoSearch: JointScorer([similarity, realism])."""

    def __init__(self, scorers: Sequence[Callable]) -> None:
        """Take at least two scorers; their order is that of the columns."""
        if len(scorers) < 2:
            raise ValueError(f"scorers must be at least 2, got {len(scorers)}; use a single one as it is")
        self.scorers = tuple(scorers)

    def __call__(self, batch: Tensor | Sequence[str]) -> Tensor:
        """(n, 3, h, w) pictures, or n strings -> (n, k)."""
        columns = [scorer(batch) for scorer in self.scorers]
        return torch.stack([column.to(columns[0].device) for column in columns], dim=1)
