"""Pictures between files and tensors: read any common file as RGB in [0, 1]; encode tensors as PNG, WebP or GIF.

Nothing here writes a file: give the bytes to `results.write_bytes_atomic`.
"""

import io
import json
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

# No EPS or PDF among them: Pillow would run Ghostscript on those.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif"}
READABLE = f"a picture ({', '.join(FORMATS)})"
MAX_PIXELS = 50_000_000
METADATA_KEY = "glasslib"
LARGEST_SIDE = {"webp": 16383, "gif": 65535}

# What Pillow's readers raise on broken files, seen by feeding them some.
BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, RuntimeError,
    EOFError, LookupError, OverflowError, struct.error, zlib.error,
)  # fmt: skip


def load_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a picture as a viewer would show it, on white where it is transparent.

    Cameras' EXIF rotation is applied; grey, palette, CMYK and 16-bit pictures become RGB; colour profiles are ignored.
    Of an animation the first frame is read, with a warning.

    Args:
        path: a PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 or AVIF file.
        max_pixels: a larger picture is refused before it is decoded. Above 178 million Pillow's own limit holds.

    Returns:
        (3, h, w) float32 RGB in [0, 1].

    Raises:
        FileNotFoundError: nothing at `path`.
        IsADirectoryError: a folder.
        ValueError: not a picture, a broken one, too large, or pixels of unknown range (floating point, 32 bit, LAB).
    """
    path = Path(path)
    _check_file(path)
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's: a file that cannot be read right raises here, the rest is noise
        image = _open(file, path, max_pixels)
        n_frames = _decode(image, path)
        rgb = _rgb(image, path)
    if n_frames > 1:
        warnings.warn(f"{path} holds {n_frames} frames; only the first is read", stacklevel=2)
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def load_squares(folder: str | Path, *, size: int, n: int | None = None) -> Tensor:
    """Read the pictures of a folder, in the order of their names, each cut to its middle square.

    Args:
        folder: only pictures are read; other files in it are passed over.
        size: pixels a side that the squares are brought to.
        n: read the first n; None: all.

    Returns:
        (n, 3, size, size) float32 RGB in [0, 1].

    Raises:
        FileNotFoundError: no such folder, or fewer than n pictures in it (than one, if n is None).
        ValueError: a picture that cannot be read, as from `load_image`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}, expected one with pictures; make it and put them there")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(paths) < (n or 1):
        raise FileNotFoundError(f"{folder} must hold at least {n or 1} pictures ({READABLE}), got {len(paths)}")
    return torch.stack([middle_square(load_image(path), size=size) for path in paths[:n]])


def middle_square(image: Tensor, *, size: int) -> Tensor:
    """Return the middle square of a picture, (3, h, w) -> (3, size, size)."""
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[None, :, top : top + side, left : left + side]
    return F.interpolate(square, size=(size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected {READABLE}; name one file in it")
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}, expected {READABLE}; relative paths start at {Path.cwd()}")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file, expected {READABLE}; save the picture to a file first")


def _open(file: io.BufferedReader, path: Path, max_pixels: int) -> Image.Image:
    """Read the header alone."""
    try:
        image = Image.open(file, formats=FORMATS)
        n_pixels = image.width * image.height
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path} is too large: {error}; scale it down first") from error
    except BROKEN as error:
        raise ValueError(f"{path} is empty, damaged or not {READABLE}; open it in a viewer, save it as PNG") from error
    if n_pixels > max_pixels:
        raise ValueError(
            f"{path} has {image.width} x {image.height} = {n_pixels:,} pixels, expected at most {max_pixels:,}; "
            "scale it down first, or pass max_pixels"
        )
    return image


def _decode(image: Image.Image, path: Path) -> int:
    """Decode the first frame in place and turn it upright; the number of frames comes back."""
    try:
        # phones write a preview after the photograph as a second frame (MPO): that is no animation
        n_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        image.seek(0)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}), expected {READABLE}; copy it again") from error
    return n_frames


def _rgb(image: Image.Image, path: Path) -> np.ndarray:
    """(h, w, 3) float32 in [0, 1]."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _grey16(image)
    if image.mode in ("I", "F", "LAB"):
        raise ValueError(
            f"{path} has pixels of Pillow's mode {image.mode!r}, whose range is not known; "
            "expected 8 or 16 bits a channel: save it as one of those, for instance as PNG"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


def _grey16(image: Image.Image) -> np.ndarray:
    """Pillow would clip these at 255 of 65535, so the conversion is ours."""
    grey = np.asarray(image).astype(np.float32) / 65535
    transparent = image.info.get("transparency")  # one grey value, where a PNG names one
    if isinstance(transparent, int):
        grey[np.asarray(image) == transparent] = 1
    return np.repeat(grey[..., None], 3, axis=2)


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


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what `encode_png` was given as metadata; ValueError if the file holds none of ours."""
    path = Path(path)
    _check_file(path)
    with path.open("rb") as file:
        text = getattr(_open(file, path, MAX_PIXELS), "text", {}).get(METADATA_KEY)
    if text is None:
        raise ValueError(f"{path} holds no {METADATA_KEY} metadata, expected a PNG by images.encode_png")
    return json.loads(text)


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
