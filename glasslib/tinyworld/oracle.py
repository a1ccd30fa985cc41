"""The oracle: a classifier trained on rendered scenes only, which measures what a picture shows.

Nothing is ever optimised against it. It reads one-object pictures at 32 pixels; larger ones are averaged down first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from glasslib.checks import check_range, check_shape, map_batches
from glasslib.tinyworld.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, TEXTURES
from glasslib.tinyworld.wording import Facts

ATTRIBUTES = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "place": tuple(PLACES),
    "background": tuple(BACKGROUNDS),
    "texture": TEXTURES,
}
IMAGE_SIZE = 32
WIDTHS = (24, 48, 96, 128)


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in n pictures: per attribute, indices (n,) into its values and how sure it is, (n,)."""

    values: dict[str, np.ndarray]
    confidence: dict[str, np.ndarray]

    def names(self, row: int) -> dict[str, str]:
        """One picture's attributes in words."""
        return {key: ATTRIBUTES[key][indices[row]] for key, indices in self.values.items()}

    def agrees(self, facts: list[Facts], attribute: str) -> np.ndarray:
        """(n,) whether each picture shows the value that its caption names for the (only) object or the ground."""
        if attribute in ("background", "texture"):
            wanted = [getattr(fact, attribute) for fact in facts]
        else:
            wanted = [getattr(fact.objects[0], attribute) for fact in facts]
        if None in wanted:
            raise ValueError(
                f"every caption must name the {attribute}, got {wanted.count(None)} silent of {len(wanted)}"
            )
        return self.values[attribute] == np.array([ATTRIBUTES[attribute].index(name) for name in wanted])


class OracleNetwork(nn.Module):
    """A small residual network with one head for each attribute."""

    def __init__(self, attributes: Mapping[str, Sequence[str]] = ATTRIBUTES) -> None:
        super().__init__()
        blocks, channels = [], 3
        for width in WIDTHS:
            blocks.append(_Block(channels, width))
            channels = width
        self.trunk = nn.Sequential(*blocks)
        self.hidden = nn.Linear(WIDTHS[-1] * 4, 128)  # the last map is 2 x 2
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(values)) for name, values in attributes.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(n, 3, 32, 32) in [0, 1] -> logits (n, k) for each attribute."""
        x = self.trunk((images - 0.5) * 4)
        x = F.relu(self.hidden(x.flatten(1)))
        return {name: head(x) for name, head in self.heads.items()}


class _Block(nn.Module):
    """Two 3x3 convolutions with a shortcut, then half the size."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.shortcut(x)
        return F.max_pool2d(F.relu(y), 2)


class Oracle:
    """Reads pictures with a trained `OracleNetwork`."""

    def __init__(self, network: OracleNetwork) -> None:
        self._network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Reading:
        """Say what pictures show.

        Args:
            images: (n, 3, h, w) RGB in [0, 1], h and w at least 32.

        Raises:
            ValueError: another shape or range, or pictures under 32 pixels.
        """
        check_shape(images, "images", "n 3 h w")
        check_range(images, "images", 0.0, 1.0)
        if min(images.shape[-2:]) < IMAGE_SIZE:
            raise ValueError(f"images must be at least {IMAGE_SIZE} pixels wide, got {tuple(images.shape[-2:])}")
        flat = map_batches(self._read, images.float().cpu(), batch_size=500)
        parts = flat.split([len(values) for values in ATTRIBUTES.values()], dim=1)
        chances = {name: part.numpy() for name, part in zip(ATTRIBUTES, parts, strict=True)}
        return Reading({k: v.argmax(1) for k, v in chances.items()}, {k: v.max(1) for k, v in chances.items()})

    def _read(self, images: Tensor) -> Tensor:
        size = (IMAGE_SIZE, IMAGE_SIZE)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
        logits = self._network(images.contiguous(memory_format=torch.channels_last))
        return torch.cat([logits[name].softmax(dim=1) for name in ATTRIBUTES], dim=1)


def load(folder: Path) -> Oracle:
    """The trained oracle of a folder with model.safetensors and card.json."""
    network = OracleNetwork()
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return Oracle(network)


def own_accuracy(folder: Path) -> dict[str, float]:
    """The oracle's accuracy on held-out renders, from its card: it belongs beside every number it gives."""
    return json.loads((folder / "card.json").read_text())["held_out"]
