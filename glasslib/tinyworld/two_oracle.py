"""The oracle of two things: what stands on each side of a picture, read by a classifier trained on renders alone.

Nothing is ever optimised against it. It reads pictures at 32 pixels; larger ones are averaged down first. A picture of
one thing, of three or of none is read as such, and agrees with no caption of two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from glasslib.checks import check_range, check_shape, map_batches
from glasslib.tinyworld.oracle import IMAGE_SIZE, OracleNetwork
from glasslib.tinyworld.scenes import COLOURS, PLACES, RELATIONS, SHAPES
from glasslib.tinyworld.wording import Facts

NOTHING = "nothing"
VALUES = {"colour": (NOTHING, *COLOURS), "shape": (NOTHING, *SHAPES)}
# One head for each question: which colour, and which shape, stands at each place.
HEADS = {f"{kind} {place}": values for kind, values in VALUES.items() for place in PLACES}
ASPECTS = ("shapes", "colours", "binding", "relation", "all")
_SIDES_OF = {relation: sides for sides, relation in RELATIONS.items()}


@dataclass(frozen=True)
class Layout:
    """What stands where in n pictures: indices into VALUES by place, left, right, top, bottom, centre; 0 is nothing."""

    colour: np.ndarray  # (n, 5)
    shape: np.ndarray  # (n, 5)

    @property
    def is_two(self) -> np.ndarray:
        """(n,) whether two things, and no more, stand on opposite sides."""
        there = (self.colour > 0) & (self.shape > 0)
        opposite = (there[:, 0] & there[:, 1]) | (there[:, 2] & there[:, 3])
        return opposite & (there.sum(1) == 2) & ((self.colour > 0) == (self.shape > 0)).all(1)

    def names(self, row: int) -> dict[str, str]:
        """One picture's things in words, by place."""
        return {
            place: f"{VALUES['colour'][self.colour[row, k]]} {VALUES['shape'][self.shape[row, k]]}"
            for k, place in enumerate(PLACES)
            if self.colour[row, k] or self.shape[row, k]
        }

    def agrees(self, facts: list[Facts]) -> dict[str, np.ndarray]:
        """Compare pictures with what captions ask for.

        Args:
            facts: one a picture, of two things, from `two_things.parse`.

        Returns:
            By aspect, (n,) bool, all False where a picture does not show two things. `shapes` and `colours`: both are
            there, wherever. `binding`: each asked shape has its own colour, wherever. `relation`: both shapes, or both
            colours, stand on the asked sides. `all`: both shapes with their colours on the asked sides.
        """
        places = tuple(PLACES)
        sides = np.array([[places.index(side) for side in _SIDES_OF[fact.relation]] for fact in facts])  # (n, 2)
        asked = {
            kind: np.array([[values.index(getattr(obj, kind)) for obj in fact.objects] for fact in facts])
            for kind, values in VALUES.items()
        }  # (n, 2) each
        two = self.is_two
        at_sides = {kind: (np.take_along_axis(getattr(self, kind), sides, 1) == asked[kind]).all(1) for kind in VALUES}
        pair = self.colour * 100 + self.shape
        seen = {"shapes": _same(self.shape, asked["shape"]), "colours": _same(self.colour, asked["colour"])}
        seen["binding"] = _same(pair, asked["colour"] * 100 + asked["shape"])
        seen["relation"] = at_sides["shape"] | at_sides["colour"]
        seen["all"] = at_sides["shape"] & at_sides["colour"]
        return {aspect: two & seen[aspect] for aspect in ASPECTS}


def _same(seen: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Whether the two largest of (n, 5) are the two asked, (n, 2), in any order; nothing is 0 and so the least."""
    return (np.sort(seen, axis=1)[:, -2:] == np.sort(asked, axis=1)).all(1)


class TwoOracle:
    """Reads pictures of two things with a trained `OracleNetwork` of HEADS."""

    def __init__(self, network: OracleNetwork) -> None:
        self._network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Layout:
        """Say what stands where.

        Args:
            images: (n, 3, h, w) RGB in [0, 1], h and w at least 32.

        Raises:
            ValueError: another shape or range, or pictures under 32 pixels.
        """
        check_shape(images, "images", "n 3 h w")
        check_range(images, "images", 0.0, 1.0)
        if min(images.shape[-2:]) < IMAGE_SIZE:
            raise ValueError(f"images must be at least {IMAGE_SIZE} pixels wide, got {tuple(images.shape[-2:])}")
        seen = map_batches(self._read, images.float().cpu(), batch_size=500).numpy()
        return Layout(colour=seen[:, : len(PLACES)], shape=seen[:, len(PLACES) :])

    def _read(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (IMAGE_SIZE, IMAGE_SIZE):
            images = F.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
        logits = self._network(images.contiguous(memory_format=torch.channels_last))
        return torch.stack([logits[name].argmax(dim=1) for name in HEADS], dim=1)


def load(folder: Path) -> TwoOracle:
    """The trained oracle of a folder with model.safetensors."""
    network = OracleNetwork(HEADS)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return TwoOracle(network)
