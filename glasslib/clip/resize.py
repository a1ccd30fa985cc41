"""How a picture of any shape gets the square that a CLIP reads: open_clip's ways, and CLIP-GLaSS's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

RESIZES = ("shortest", "longest", "squash", "bilinear")
LONG = 64  # times as long as wide: of a longer strip only the middle is scaled, or it would take gigabytes


def to_square(images: Tensor, *, size: int, resize: str, mode: str, fill: float) -> Tensor:
    """Scale pictures, then cut or pad them.

    Args:
        images: (n, 3, h, w) in [0, 1].
        size: height and width of what comes back.
        resize: one of RESIZES: "shortest" scales the shorter side and cuts the middle out, "longest" scales the longer
            side and pads, the others change the proportions; "bilinear" also samples without a filter.
        mode: of the interpolation, "bicubic" or "bilinear".
        fill: what is padded with.

    Returns:
        (n, 3, size, size), still in [0, 1].
    """
    if resize == "shortest":
        images = _middle(images)
    shape = tuple(images.shape[-2:])
    if resize == "shortest":
        scaled = tuple(size * length // min(shape) for length in shape)
    elif resize == "longest":
        scaled = tuple(max(1, round(size * length / max(shape))) for length in shape)
    else:
        scaled = (size, size)
    if scaled != shape:
        images = F.interpolate(images, size=scaled, mode=mode, antialias=resize != "bilinear").clamp(0, 1)
    if scaled == (size, size):
        return images
    top, left = ((size - length) // 2 if length < size else -round((length - size) / 2) for length in scaled)
    pads = (left, size - scaled[1] - left, top, size - scaled[0] - top)  # negative ones cut
    return F.pad(images, pads, value=fill)


def _middle(images: Tensor) -> Tensor:
    """Cut a strip to LONG times its width, about its middle: what is cut out of it later lies well inside."""
    side = min(images.shape[-2:])
    for axis in (2, 3):
        if images.shape[axis] > (LONG + 1) * side:
            kept = LONG * side + (images.shape[axis] - LONG * side) % 2  # the middle stays where it was
            images = images.narrow(axis, (images.shape[axis] - kept) // 2, kept)
    return images
