"""Tensors to PNG, WebP or GIF. Nothing here writes a file: give the bytes to `results.write_bytes_atomic`."""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from glasslib.images.png import METADATA_KEY

LARGEST_SIDE = {"webp": 16383, "gif": 65535}


def to_pil(images: Tensor) -> Image.Image | list[Image.Image]:
    """Turn one picture (3, h, w) in [0, 1] into a Pillow image, or pictures (n, 3, h, w) into a list of them."""
    pixels = _pixels(images)
    return Image.fromarray(pixels) if pixels.ndim == 3 else [Image.fromarray(one) for one in pixels]


def grid(images: Tensor, *, columns: int, gap: int = 2) -> Tensor:
    """Lay pictures out in rows, left to right, on white.

    Args:
        images: (n, 3, h, w) RGB in [0, 1], n at least 1.
        columns: pictures a row, at least 1; the last row may be shorter.
        gap: white pixels between neighbours.

    Returns:
        (3, rows * (h + gap) - gap, columns * (w + gap) - gap), on the device of `images`.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images must have shape (n, 3, h, w) with n at least 1, got {tuple(images.shape)}")
    if columns < 1 or gap < 0:
        raise ValueError(f"columns must be at least 1 and gap at least 0, got {columns} and {gap}")
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = images.new_ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def encode_png(image: Tensor, *, metadata: Mapping[str, Any] | None = None, scale: int = 1) -> bytes:
    """Return a picture as a PNG file's bytes; the same input gives the same bytes.

    Args:
        image: (3, h, w) RGB in [0, 1].
        metadata: JSON values, kept in the file and read back by `read_metadata`; how the picture was made, say.
        scale: whole number by which each pixel is repeated, so that small pictures can be seen.
    """
    if image.ndim != 3:
        raise ValueError(f"image must have shape (3, h, w), got {tuple(image.shape)}; lay several out with images.grid")
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if metadata is not None:
        text = json.dumps(metadata, sort_keys=True, allow_nan=False, ensure_ascii=False)
        info.add_itxt(METADATA_KEY, text)
    content = io.BytesIO()
    _enlarged(image, scale)[0].save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def encode_animation(
    images: Tensor, *, milliseconds: int | Sequence[int] = 150, scale: int = 1, kind: str = "webp"
) -> bytes:
    """Return pictures as the bytes of an animation that repeats for ever.

    Args:
        images: (n, 3, h, w) RGB in [0, 1], the frames.
        milliseconds: how long each frame stays, one number or one a frame; GIF counts in tens of them.
        scale: whole number by which each pixel is repeated.
        kind: "webp" (lossless) or "gif" (256 colours a frame; shown everywhere).
    """
    if kind not in LARGEST_SIDE:
        raise ValueError(f"kind must be one of {tuple(LARGEST_SIDE)}, got {kind!r}")
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images must have shape (n, 3, h, w) with n at least 1, got {tuple(images.shape)}")
    durations = [milliseconds] * len(images) if isinstance(milliseconds, int) else list(milliseconds)
    if len(durations) != len(images) or min(durations) < 10:
        raise ValueError(f"milliseconds must be at least 10, one or {len(images)} of them, got {milliseconds}")
    first, *others = _enlarged(images, scale)
    if max(first.size) > LARGEST_SIDE[kind]:
        raise ValueError(f"a {kind} is at most {LARGEST_SIDE[kind]} pixels a side, got {first.size}; lower scale")
    content = io.BytesIO()
    how = {"lossless": True, "quality": 60} if kind == "webp" else {}
    first.save(content, format=kind, save_all=True, append_images=others, duration=durations, loop=0, **how)
    return content.getvalue()


def _enlarged(images: Tensor, scale: int) -> list[Image.Image]:
    if not isinstance(scale, int) or scale < 1:
        raise ValueError(f"scale must be a whole number of at least 1, got {scale!r}")
    pixels = _pixels(images if images.ndim == 4 else images[None])
    return [Image.fromarray(one) for one in pixels.repeat(scale, axis=1).repeat(scale, axis=2)]


def _pixels(images: Tensor) -> np.ndarray:
    """(..., 3, h, w) in [0, 1] -> (..., h, w, 3) uint8."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor of shape (3, h, w) or (n, 3, h, w), got {type(images).__name__}")
    if images.ndim not in (3, 4) or images.shape[-3] != 3:
        raise ValueError(f"images must have shape (3, h, w) or (n, 3, h, w), got {tuple(images.shape)}")
    if not ((images >= 0) & (images <= 1)).all():  # False for NaN too
        low, high = images.min().item(), images.max().item()
        raise ValueError(f"images must lie in [0, 1], got {low:g} to {high:g}; rescale or clip them first")
    return (images.detach().float() * 255).round().byte().movedim(-3, -1).cpu().numpy()
