"""What a VAE-GAN trains and throws away: an encoder, what its z costs, how far a picture made again is off.

A generator that must make real pictures again of their z cannot ignore z. Trained against its judges alone from the
start, the tiny BigGAN drew one colour a class, and the tiny StyleGAN2 one grey picture for all z. Source: Larsen et
al. 2016, https://arxiv.org/abs/1512.09300.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib.tinyworld.recipes.projected import ProjectedDiscriminator

PIXELS_WEIGHT, FEATURES_WEIGHT, KL_WEIGHT = 4.0, 0.3, 0.004  # of what a picture made again differs in, and of z's cost
ENCODER_RATE = 1e-3


def new_encoder(z_dim: int) -> nn.Module:
    """(n, 3, 32, 32) in [-1, 1] -> (n, 2 * z_dim): mean and logarithm of the variance of z."""
    layers: list[nn.Module] = []
    for n_in, n_out in ((3, 32), (32, 64), (64, 96)):
        layers += [nn.Conv2d(n_in, n_out, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.LeakyReLU(0.2)]
    layers += [nn.Flatten(), nn.Linear(96 * 16, 128), nn.LeakyReLU(0.2), nn.Linear(128, 2 * z_dim)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def encode(encoder: nn.Module, real: Tensor, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """z (n, z_dim) drawn for each picture, and how far its distribution is from the prior, in nats on average."""
    mean, log_variance = encoder(real.contiguous(memory_format=torch.channels_last)).chunk(2, dim=1)
    log_variance = log_variance.clamp(-8, 2)
    z = mean + torch.randn(mean.shape, generator=rng) * (log_variance / 2).exp()
    return z, 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean()


def difference(
    again: Tensor, real: Tensor, projected: ProjectedDiscriminator | None, real_features: list[Tensor] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weigh how pictures made again differ from `real`, in pixels and frozen features: the sum, and its parts."""
    parts = {"pixels": F.l1_loss(again, real)}
    total = PIXELS_WEIGHT * parts["pixels"]
    if projected is not None:
        parts["features"] = projected.distance(again, real_features)
        total = total + FEATURES_WEIGHT * parts["features"]
    return total, parts
