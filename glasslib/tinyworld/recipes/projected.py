"""A second discriminator on frozen features, for training only: Projected GAN in a small form.

A discriminator that starts from nothing must first learn what a star is before it can ask for one. This one looks
through a network that has learned to name what renders show, so its small heads ask for shapes from the first minute.
That network is trained like the oracle but with another seed, and the oracle that measures is never part of training.
Source: Sauer et al. 2021, https://arxiv.org/abs/2111.01007; features at three resolutions, spectral norm, hinge loss.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.nn.utils.parametrizations import spectral_norm

from glasslib.tinyworld.oracle import WIDTHS, OracleNetwork

LEARNING_RATE = 1e-3


class Features(nn.Module):
    """The frozen trunk, batch norm folded: pictures (n, 3, 32, 32) in [-1, 1] -> maps of 8, 4 and 2 pixels."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        network = OracleNetwork().eval()
        network.load_state_dict(load_file(weights))
        for block in network.trunk:
            block.conv1, block.norm1 = fuse_conv_bn_eval(block.conv1, block.norm1), nn.Identity()
            block.conv2, block.norm2 = fuse_conv_bn_eval(block.conv2, block.norm2), nn.Identity()
        self.trunk = network.trunk.requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = images.contiguous(memory_format=torch.channels_last) * 2  # the oracle reads (x - 0.5) * 4 of [0, 1]
        maps = []
        for block in self.trunk:
            x = block(x)
            maps.append(x)
        return maps[1:]


def _head(n_in: int, size: int, n_classes: int) -> nn.Module:
    """Features of one resolution -> one logit for each class, which sees the whole map."""
    layers: list[nn.Module] = []
    if size == 8:
        layers += [spectral_norm(nn.Conv2d(n_in, 64, 3, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        n_in, size = 64, 4
    layers += [nn.Flatten(), spectral_norm(nn.Linear(n_in * size * size, 96)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Linear(96, n_classes)))


class ProjectedDiscriminator:
    """Heads on frozen features, with their optimiser.

    With `n_classes` above 1 a picture is judged as one of its class: every head has a logit for each.
    """

    def __init__(self, weights: Path, *, n_classes: int = 1) -> None:
        self.features = Features(weights)
        sizes = zip(WIDTHS[1:], (8, 4, 2), strict=True)
        self.heads = nn.ModuleList(_head(n, size, n_classes) for n, size in sizes)
        self.optimizer = torch.optim.Adam(self.heads.parameters(), lr=LEARNING_RATE, betas=(0.0, 0.99))
        self._scales: list[float] = []

    @torch.no_grad()
    def prepare(self, pictures: Tensor) -> list[Tensor]:
        """Features of all training pictures (n, 3, 32, 32) uint8, computed once and kept in half precision."""
        parts = [self.features(part.float().div(127.5).sub(1)) for part in pictures.split(1000)]
        kept = [torch.cat([part[k] for part in parts]) for k in range(len(self.heads))]
        self._scales = [1 / float(each[:5000].std()) for each in kept]
        return [each.half() for each in kept]

    def distance(self, made: Tensor, real: list[Tensor]) -> Tensor:
        """Mean squared difference of pictures' features (n, 3, 32, 32) from prepared ones, summed over resolutions."""
        triples = zip(self.features(made), real, self._scales, strict=True)
        return sum(F.mse_loss(ours * scale, theirs.float() * scale) for ours, theirs, scale in triples)

    def step(self, real: list[Tensor], fake: Tensor, classes: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Train the heads on one batch and say where the pictures should go.

        Args:
            real: features of n training pictures, as `prepare` gives them.
            fake: (n, 3, 32, 32) generated pictures.
            classes: (n,) class of each of both; None where there is one.

        Returns:
            The gradient of the generator's loss with respect to `fake`, and means worth logging.
        """
        fake = fake.detach().requires_grad_(True)
        seen = self.features(fake)
        true_logits = self._logits([each.float() for each in real], classes)  # (3, n)
        false_logits = self._logits([each.detach() for each in seen], classes)
        loss = F.relu(1 - true_logits).mean(1).sum() + F.relu(1 + false_logits).mean(1).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.heads.requires_grad_(False)
        (slope,) = torch.autograd.grad(-self._logits(seen, classes).mean(1).sum(), fake)
        self.heads.requires_grad_(True)
        return slope, {"p_real": true_logits.mean(), "p_fake": false_logits.mean()}

    def _logits(self, maps: list[Tensor], classes: Tensor | None) -> Tensor:
        column = torch.zeros(len(maps[0]), dtype=torch.long) if classes is None else classes
        parts = zip(self.heads, maps, self._scales, strict=True)
        return torch.stack([head(x * s).gather(1, column[:, None])[:, 0] for head, x, s in parts])
