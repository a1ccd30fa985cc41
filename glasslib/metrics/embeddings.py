"""What CLIP embeddings say: the modality gap, retrieval, CLIPScore and RefCLIPScore."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from glasslib.checks import check_shape, check_unit

CLIP_SCORE_WEIGHT = 2.5
CLIP_SCORE_PREFIX = "A photo depicts "


class TextEmbedder(Protocol):
    """The half of an `Embedder` that reads texts."""

    def embed_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor: ...  # n strings -> (n, dim)


def modality_gap(images: Tensor, texts: Tensor) -> float:
    """Return the distance between the centroids of unit embeddings (n, dim) and (m, dim).

    Source: Liang et al. 2022, "Mind the gap", https://arxiv.org/abs/2203.02053.
    """
    check_unit(images, "images", "n dim")
    check_unit(texts, "texts", f"m {images.shape[1]}")
    return float((images.mean(0) - texts.mean(0)).norm())


def first_hit(similarity: np.ndarray) -> np.ndarray:
    """Return which rows of an (n, n) similarity have their greatest value on the diagonal: retrieval's R@1.

    Ties count as a miss, so that a constant similarity scores nothing.
    """
    check_shape(similarity, "similarity", "n n")
    others = similarity.astype(float).copy()
    np.fill_diagonal(others, -np.inf)
    return np.diag(similarity) > others.max(axis=1)


def clip_score(
    embedder: TextEmbedder,
    image_embeddings: Tensor,
    captions: Sequence[str],
    *,
    prefix: str = CLIP_SCORE_PREFIX,
    truncate: bool = False,
) -> np.ndarray:
    """Return each caption's CLIPScore: 2.5 * max(cosine with its picture, 0).

    Args:
        embedder: CLIP; numbers of different CLIPs do not compare, and the published ones are ViT-B/32's.
        image_embeddings: (n, dim), norm 1.
        captions: n strings.
        prefix: put before each caption; "" for a CLIP that does not know these words, such as the tiny ones.
        truncate: cut what is longer than CLIP's context, as the published code does, instead of refusing it.

    Returns:
        (n,) in [0, 2.5].

    Source:
        Hessel et al. 2021, "CLIPScore", https://arxiv.org/abs/2104.08718, section 3.
    """
    check_unit(image_embeddings, "image_embeddings", f"{len(captions)} dim")
    texts = embedder.embed_texts([prefix + caption for caption in captions], truncate=truncate).to(image_embeddings)
    cosine = (image_embeddings * texts).sum(dim=1).clamp(0, 1)
    return CLIP_SCORE_WEIGHT * cosine.double().cpu().numpy()


def ref_clip_score(
    embedder: TextEmbedder,
    image_embeddings: Tensor,
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    prefix: str = CLIP_SCORE_PREFIX,
    truncate: bool = False,
) -> np.ndarray:
    """Return each caption's RefCLIPScore: the harmonic mean of its CLIPScore and its best cosine with a reference.

    Args and Source as `clip_score`; `references` has at least one string for each caption.

    Returns:
        (n,); 0 where either is 0.
    """
    options = {"prefix": prefix, "truncate": truncate}
    with_image = clip_score(embedder, image_embeddings, captions, **options)
    if len(references) != len(captions) or not all(references):
        raise ValueError(f"references must be {len(captions)} non-empty lists of strings, got {len(references)}")
    flat = [prefix + text for texts in references for text in texts]
    said = embedder.embed_texts([prefix + caption for caption in captions], truncate=truncate)
    known = embedder.embed_texts(flat, truncate=truncate)
    owner = torch.repeat_interleave(torch.arange(len(captions)), torch.tensor([len(texts) for texts in references]))
    cosines = (said[owner] * known).sum(dim=1).double().cpu().numpy()
    edges = np.cumsum([0, *map(len, references)])
    best = np.array([cosines[start:stop].max() for start, stop in pairwise(edges)]).clip(0, 1)
    total = with_image + best
    return np.divide(2 * with_image * best, total, out=np.zeros_like(total), where=total > 0)
