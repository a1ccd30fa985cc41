"""What training two players against each other needs whatever the networks: rates, averages, penalties, checkpoints."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

DECAY_FROM, DECAY_TO = 0.6, 0.1  # of the run; of the learning rate


class Means:
    """Running means of what a run logs, each since it was last read."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, **values: Tensor) -> None:
        """Note one value of each; nothing waits for the device."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value.detach(), count + 1

    def read(self) -> dict[str, float]:
        """Give the means, and start again."""
        means = {name: round(float(total) / count, 4) for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means


class Rates:
    """Learning rates of several optimisers: constant, then a cosine down to a tenth."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._groups = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]

    def set(self, done: float) -> None:
        """Set them for a share `done` of the run."""
        progress = min(1.0, max(0.0, (done - DECAY_FROM) / (1 - DECAY_FROM)))
        factor = DECAY_TO + (1 - DECAY_TO) * (1 + math.cos(math.pi * progress)) / 2
        for group, rate in self._groups:
            group["lr"] = rate * factor


def slope_penalty(judge: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared length of a discriminator's slope on either half of a batch: R1 on real pictures, R2 on false ones.

    Args:
        judge: (n, 3, h, w) -> logits, each of its own picture only.
        images: (2n, 3, h, w), real ones first.
    """
    images = images.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(judge(images).sum(), images, create_graph=True)
    r1, r2 = (half.square().sum(dim=(1, 2, 3)).mean() for half in slope.chunk(2))
    return r1, r2


def save_checkpoint(path: Path, parts: Mapping[str, nn.Module | torch.optim.Optimizer], **values) -> None:
    """Write the state of all parts, and plain values, atomically."""
    state = {name: part.state_dict() for name, part in parts.items()} | values
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path, parts: Mapping[str, nn.Module | torch.optim.Optimizer]) -> dict:
    """Read the state of all parts, in place, and give all that the file holds; {} where there is no file."""
    if not path.exists():
        return {}
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state


def append_line(path: Path, **values: float) -> None:
    """Add a JSON line to a log."""
    with open(path, "a") as file:
        file.write(json.dumps(values) + "\n")


def write_grid(pictures: Tensor, path: Path, *, columns: int) -> None:
    """Write (n, 3, h, w) in [0, 1] as a PNG, row by row, at twice the size; the whole file or none."""
    from PIL import Image

    rows = pictures.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (h, w, 3)
    pixels = (rows * 255).round().to(torch.uint8).repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(pixels.numpy()).save(temporary, "PNG")
    os.replace(temporary, path)
