"""Crossing the modality gap at inference: an image's embedding moved to where the decoder was trained, among texts.

CapDec does nothing here: the noise it trained with reaches that far. These are the alternatives, to compare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from glasslib.captioning.noise import add_offset
from glasslib.checks import check_shape, check_unit

CHUNK = 65_536  # memory rows compared at once


def keep(embeddings: Tensor) -> Tensor:
    """Return the embeddings as they are: CapDec's way."""
    return embeddings


def mean_offset(embeddings: Tensor, *, offset: Tensor, normalize: bool = True) -> Tensor:
    """Move image embeddings by the difference of the two centroids.

    Args:
        embeddings: (n, dim) of images, rows of L2 norm 1.
        offset: (dim,), mean text embedding minus mean image embedding.
        normalize: go back to the unit sphere, where training was. False is CapDec's "modality offset", which does not.

    Returns:
        (n, dim), rows of L2 norm 1 if `normalize`.

    Source:
        CapDec, section 4 and Fig. 4, https://arxiv.org/abs/2211.00575.
    """
    if normalize:
        return add_offset(embeddings, offset=offset)
    check_unit(embeddings, "embeddings")
    check_shape(offset, "offset", f"{embeddings.shape[1]}")
    return embeddings + offset.to(embeddings)


def stretched_offset(embeddings: Tensor, *, image_mean: Tensor, text_mean: Tensor, stretch: float = 1.5) -> Tensor:
    """Move image embeddings to the texts' centroid, and further apart: for a decoder that was trained with noise.

    Noise and the way back to the unit sphere leave a text less of the centroid that all texts share, and so relatively
    more of what it has of its own. A picture moved by the mean offset alone looks like a text that says little.

    Args:
        embeddings: (n, dim) of images, rows of L2 norm 1.
        image_mean: (dim,), mean image embedding.
        text_mean: (dim,), mean text embedding.
        stretch: above 0, what differences from the centroid are multiplied by; 1 is `mean_offset`.

    Returns:
        (n, dim), rows of L2 norm 1.
    """
    check_unit(embeddings, "embeddings")
    check_shape(image_mean, "image_mean", f"{embeddings.shape[1]}")
    check_shape(text_mean, "text_mean", f"{embeddings.shape[1]}")
    if not stretch > 0:
        raise ValueError(f"stretch must be above 0, got {stretch}")
    return F.normalize(text_mean.to(embeddings) + stretch * (embeddings - image_mean.to(embeddings)), dim=1)


class TextMemory:
    """Text embeddings that images are compared with; read in blocks, so they may lie on disk."""

    def __init__(self, memory: Tensor | Callable[[], Iterable[Tensor]]) -> None:
        """Keep a memory.

        Args:
            memory: (m, dim) rows of L2 norm 1, or a function that goes through them in blocks, such as
                `store.blocks` of an EmbeddingStore.
        """
        self._blocks = memory if callable(memory) else lambda: memory.split(CHUNK)

    def project(self, embeddings: Tensor, *, temperature: float = 0.01) -> Tensor:
        """Replace each embedding by the mean of the memory, weighted by softmax(cosine / temperature).

        Args:
            embeddings: (n, dim), rows of L2 norm 1.
            temperature: above 0; DeCap's is 1/100. The smaller, the fewer texts count.

        Returns:
            (n, dim), rows of L2 norm 1.

        Source:
            Li et al. 2023 (DeCap), https://arxiv.org/abs/2303.03032, equation 4.
        """
        check_unit(embeddings, "embeddings")
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        peak = embeddings.new_full((len(embeddings), 1), -torch.inf)  # running maximum: the sums stay in range
        total = torch.zeros_like(embeddings)
        for block in self._blocks():
            logits = embeddings @ block.to(embeddings).T / temperature  # (n, block)
            new_peak = torch.maximum(peak, logits.max(dim=1, keepdim=True).values)
            total = total * (peak - new_peak).exp() + (logits - new_peak).exp() @ block.to(embeddings)
            peak = new_peak
        return F.normalize(total, dim=1)  # the softmax's denominator is a length, which goes here

    def nearest(self, embeddings: Tensor, *, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return the k most similar texts of each embedding: rows of the memory (n, k), and cosines (n, k).

        The captions of these rows are the retrieval baseline (CLIPRe).
        """
        check_unit(embeddings, "embeddings")
        best = embeddings.new_full((len(embeddings), k), -torch.inf)
        rows = torch.full((len(embeddings), k), -1, device=embeddings.device)
        start = 0
        for block in self._blocks():
            cosines = torch.cat((best, embeddings @ block.to(embeddings).T), dim=1)
            here = torch.arange(start, start + len(block), device=rows.device).expand(len(rows), -1)
            best, picked = cosines.topk(k, dim=1)
            rows = torch.cat((rows, here), dim=1).gather(1, picked)
            start += len(block)
        if start < k:
            raise ValueError(f"the memory must hold at least k={k} texts, got {start}")
        return rows, best
