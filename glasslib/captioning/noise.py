"""Noise on text embeddings, one function per kind and per unit, and how much of it a text corpus suggests.

CapDec trains its decoder on text embeddings moved at random, so that an image's embedding, some way off, is nothing
new to it. All functions take and return rows of L2 norm 1. Source: Nukrai et al. 2022 (CapDec),
https://arxiv.org/abs/2211.00575, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glasslib.checks import check_shape, check_unit


def add_gaussian_noise(embeddings: Tensor, *, noise_std: float, rng: torch.Generator) -> Tensor:
    """Add normal noise to every coordinate and go back to the unit sphere.

    Args:
        embeddings: (n, dim), rows of L2 norm 1.
        noise_std: standard deviation per coordinate; the noise vector's length is about noise_std * sqrt(dim). CapDec
            quotes its square: variance 0.016.
        rng: on the device of `embeddings`.

    Returns:
        (n, dim), rows of L2 norm 1. noise_std=0 returns the input's values.

    Raises:
        ValueError: a wrong shape, rows that are not finite or not of norm 1, or noise_std < 0.
    """
    check_unit(embeddings, "embeddings")
    _check_amount(noise_std=noise_std)
    return F.normalize(embeddings + noise_std * _randn(embeddings, rng), dim=1)


def add_ball_noise(embeddings: Tensor, *, noise_norm: float, rng: torch.Generator) -> Tensor:
    """Add noise uniform in a ball and go back to the unit sphere.

    Args:
        embeddings: (n, dim), rows of L2 norm 1.
        noise_norm: the ball's radius: the greatest length of the noise vector. In many dimensions nearly all of a
            ball lies at its surface, so this is nearly every noise vector's length. CapDec's code passes the square
            root of its variance here, which at 640 dimensions is 25 times less noise than the Gaussian it replaces.
        rng: on the device of `embeddings`.

    Returns:
        (n, dim), rows of L2 norm 1.

    Raises:
        ValueError: a wrong shape, rows that are not finite or not of norm 1, or noise_norm < 0.
    """
    check_unit(embeddings, "embeddings")
    _check_amount(noise_norm=noise_norm)
    return F.normalize(embeddings + noise_norm * _in_unit_ball(embeddings, rng), dim=1)


def add_covariance_noise(embeddings: Tensor, *, factor: Tensor, rng: torch.Generator) -> Tensor:
    """Add normal noise of a given covariance and go back to the unit sphere.

    Args:
        embeddings: (n, dim), rows of L2 norm 1.
        factor: (dim, dim) with `factor @ factor.T` the covariance; see `covariance_factor`.
        rng: on the device of `embeddings`.

    Returns:
        (n, dim), rows of L2 norm 1.

    Raises:
        ValueError: a wrong shape, or rows that are not finite or not of norm 1.

    Source:
        Gu et al. 2023 (CLOSE), https://arxiv.org/abs/2211.09778, compare such noise with the isotropic kind.
    """
    check_unit(embeddings, "embeddings")
    check_shape(factor, "factor", f"{embeddings.shape[1]} {embeddings.shape[1]}")
    return F.normalize(embeddings + _randn(embeddings, rng) @ factor.to(embeddings).T, dim=1)


def add_offset(embeddings: Tensor, *, offset: Tensor) -> Tensor:
    """Move all embeddings by one vector and go back to the unit sphere.

    Args:
        embeddings: (n, dim), rows of L2 norm 1.
        offset: (dim,): mean image minus mean text to train as if texts were images, or its negative at inference.

    Returns:
        (n, dim), rows of L2 norm 1.
    """
    check_unit(embeddings, "embeddings")
    check_shape(offset, "offset", f"{embeddings.shape[1]}")
    return F.normalize(embeddings + offset.to(embeddings), dim=1)


def published_noise(
    embeddings: Tensor,
    *,
    variance: float,
    rng: torch.Generator,
    offset: Tensor | None = None,
    uniform: bool = False,
    normalize: bool = True,
) -> Tensor:
    """Do what CapDec's published code does, with its quirks; the functions above do one thing each.

    Normalise, add noise, add the offset, normalise. Variance 0 returns the input untouched: not normalised, and
    without the offset.

    Args:
        embeddings: (n, dim), of any norm.
        variance: per coordinate; with `uniform` its square root is the radius of a ball.
        rng: on the device of `embeddings`.
        offset: (dim,) mean image minus mean text, or None.
        uniform: noise uniform in a ball instead of Gaussian.
        normalize: False leaves out the first normalisation (`--dont_norm`).

    Returns:
        (n, dim), rows of L2 norm 1 unless variance is 0.

    Source:
        CapDec's `train.py`, function `noise_injection`.
    """
    check_shape(embeddings, "embeddings", "n dim")
    check_unit(F.normalize(embeddings, dim=1), "embeddings")  # of any norm but 0, and finite
    _check_amount(variance=variance)
    if variance == 0:
        return embeddings
    x = F.normalize(embeddings, dim=1) if normalize else embeddings
    x = x + math.sqrt(variance) * (_in_unit_ball(x, rng) if uniform else _randn(x, rng))
    return F.normalize(x if offset is None else x + offset, dim=1)


def covariance_factor(covariance: Tensor, *, noise_std: float | None = None) -> Tensor:
    """Return a (dim, dim) matrix A with A A^T = `covariance`.

    Args:
        covariance: (dim, dim), symmetric, with no negative eigenvalue but for rounding.
        noise_std: scale it so that a noise vector is as long, root mean square, as Gaussian noise of this standard
            deviation per coordinate: two kinds of noise are compared at equal length. None keeps it as it is.
    """
    check_shape(covariance, "covariance", "dim dim")
    values, vectors = torch.linalg.eigh(covariance.double())
    if values[0] < -1e-6 * values[-1].abs():
        raise ValueError(f"covariance must have no negative eigenvalue, got {float(values[0]):g}")
    values = values.clamp(min=0)
    if noise_std is not None:
        values = values * (noise_std**2 * len(values) / values.sum())
    return (vectors * values.sqrt()).to(covariance.dtype)


def paraphrase_covariance(embeddings: Tensor, *, image_ids: Sequence[Hashable]) -> Tensor:
    """Return how captions of one picture scatter around their own mean: (dim, dim), pooled over the pictures.

    Args:
        embeddings: (n, dim) of captions, rows of L2 norm 1.
        image_ids: n, which picture each describes; pictures with a single caption say nothing and are left out.
    """
    groups = _groups(embeddings, image_ids)
    residuals = torch.cat([embeddings[rows] - embeddings[rows].mean(0) for rows in groups]).double()
    freedom = len(residuals) - len(groups)
    return (residuals.T @ residuals / freedom).to(embeddings.dtype)


def linf_noise_std(embeddings: Tensor, *, image_ids: Sequence[Hashable]) -> float:
    """Estimate the noise from texts alone by CapDec's rule.

    The mean over pictures of the mean L-infinity distance between two of a picture's captions: the paper's epsilon,
    used as a standard deviation per coordinate (0.1265 from 15 COCO pictures, RN50x4). It is a largest coordinate
    standing in for a typical one, so it depends on the number of dimensions.

    Args:
        embeddings: (n, dim) of captions, rows of L2 norm 1.
        image_ids: n, which picture each describes.

    Raises:
        ValueError: a wrong shape, or no picture with two captions.
    """
    groups = _groups(embeddings, image_ids)
    means = [torch.pdist(embeddings[rows].float(), p=math.inf).mean() for rows in groups]
    return float(torch.stack(means).mean())


def paraphrase_cosine(embeddings: Tensor, *, image_ids: Sequence[Hashable], centre: bool = False) -> float:
    """Return the mean over pictures of the mean cosine between two of a picture's captions.

    Args:
        embeddings: (n, dim) of captions, rows of L2 norm 1.
        image_ids: n, which picture each describes.
        centre: subtract the mean of all embeddings first, which all captions share and no caption is about.
    """
    groups = _groups(embeddings, image_ids)
    x = F.normalize(embeddings - embeddings.mean(0), dim=1) if centre else embeddings
    means = []
    for rows in groups:
        cosines = x[rows] @ x[rows].T
        means.append((cosines.sum() - cosines.trace()) / (len(rows) * (len(rows) - 1)))
    return float(torch.stack(means).mean())


def noise_std_for_cosine(cosine: float, *, dim: int) -> float:
    """Return the Gaussian noise that turns embeddings by a wanted angle: the rule of the matched angle.

    Noise of this standard deviation leaves a unit vector at a cosine of about `cosine` to where it was, since the
    noise is nearly orthogonal to it and has length std * sqrt(dim): std = tan(angle) / sqrt(dim). Unlike CapDec's
    rule it means the same in any number of dimensions. Feed it `paraphrase_cosine` for an estimate from texts alone:
    the noise then moves a caption as far as asking another person would. Feed it the mean cosine of a few matched
    image-text pairs where some may be looked at: the noise then reaches as far as the images are.

    Raises:
        ValueError: a cosine outside (0, 1], which no such noise gives.
    """
    if not 0 < cosine <= 1:
        raise ValueError(f"cosine must lie in (0, 1], got {cosine:g}; is the paraphrase cosine taken on unit rows?")
    return math.sqrt((1 / cosine**2 - 1) / dim)


def _randn(like: Tensor, rng: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=rng, device=like.device, dtype=like.dtype)


def _in_unit_ball(like: Tensor, rng: torch.Generator) -> Tensor:
    """(n, dim) uniform in the ball of radius 1: a uniform direction, at a radius whose dim-th power is uniform."""
    direction = F.normalize(_randn(like, rng), dim=1)
    radius = torch.rand(len(like), 1, generator=rng, device=like.device, dtype=like.dtype) ** (1 / like.shape[1])
    return direction * radius


def _groups(embeddings: Tensor, image_ids: Sequence[Hashable]) -> list[Tensor]:
    """The rows of each picture that has at least two."""
    check_unit(embeddings, "embeddings", f"{len(image_ids)} dim")
    rows: dict[Hashable, list[int]] = {}
    for row, image in enumerate(image_ids):
        rows.setdefault(image, []).append(row)
    groups = [torch.tensor(group, device=embeddings.device) for group in rows.values() if len(group) > 1]
    if not groups:
        raise ValueError(f"at least one picture must have two captions, got {len(rows)} pictures with one each")
    return groups


def _check_amount(**amount: float) -> None:
    [(name, value)] = amount.items()
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number of at least 0, got {value}")
