"""Any common picture file as RGB in [0, 1], as a viewer would show it."""

import io
import json
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from glasslib.images import png

# Pillow's names and the suffixes. No EPS or PDF among them: Pillow would run Ghostscript on those.
FORMATS = {
    "PNG": (".png", ".apng"), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "WEBP": (".webp",), "GIF": (".gif",),
    "BMP": (".bmp", ".dib"), "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"), "AVIF": (".avif",),
}  # fmt: skip
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
NOT_READ = frozenset((".heic", ".heif", ".svg", ".psd", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".raw"))
READABLE = f"a picture ({', '.join(FORMATS)})"
MAX_PIXELS = 50_000_000

# What Pillow's readers raise on broken files, seen by feeding them some.
BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, RuntimeError,
    EOFError, LookupError, OverflowError, struct.error, zlib.error,
)  # fmt: skip


def load_image(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read a picture as a viewer would show it, on white where it is transparent.

    Cameras' EXIF rotation is applied; grey, palette, CMYK and 16-bit pictures become RGB, and other colour profiles
    sRGB (not 16-bit grey). Of an animation the first frame is read, and a profile that cannot be used is passed over,
    both with a warning.

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
        content, profile = png.pixels_and_profile(file) if png.is_png(file) else (file, None)
        image = _open(content, path, max_pixels)
        n_frames = _decode(image, path)
        profile = image.info.get("icc_profile") if profile is None else profile
        image, fault = _to_srgb(image, profile) if profile is not None else (image, None)
        rgb = _rgb(image, path)
    if n_frames > 1:
        warnings.warn(f"{path} holds {n_frames} frames; only the first is read", stacklevel=2)
    if fault:
        warnings.warn(f"{path}: its colour profile cannot be used ({fault}); read as sRGB", stacklevel=2)
    return torch.from_numpy(rgb).permute(2, 0, 1).contiguous()


def load_squares(folder: str | Path, *, size: int, n: int | None = None, skip_bad: bool = False) -> Tensor:
    """Read the pictures of a folder, in the order of their names, each cut to its middle square.

    Args:
        folder: see `picture_paths`.
        size: pixels a side that the squares are brought to.
        n: read the first n; None: all.
        skip_bad: leave out pictures that cannot be read, with a warning that names them, instead of refusing.

    Returns:
        (n, 3, size, size) float32 RGB in [0, 1].

    Raises:
        FileNotFoundError: no such folder, or fewer than n pictures in it (than one, if n is None).
        ValueError: a picture that cannot be read, as from `load_image`.
    """
    squares, bad = [], []
    for path in picture_paths(folder):
        if len(squares) == n:
            break
        try:
            squares.append(middle_square(load_image(path), size=size))
        except ValueError as error:
            if not skip_bad:
                raise ValueError(f"{error}; or pass skip_bad=True to leave such pictures out") from error
            bad.append(path.name)
    if bad:
        warnings.warn(f"left out {len(bad)} pictures of {folder} that cannot be read: {_some(bad)}", stacklevel=2)
    if len(squares) < (n or 1):
        raise FileNotFoundError(f"{folder} must hold at least {n or 1} pictures ({READABLE}), got {len(squares)}")
    return torch.stack(squares)


def picture_paths(folder: str | Path) -> list[Path]:
    """Return the picture files of a folder in the order of their names, told by their suffixes (SUFFIXES).

    Other files, folders and hidden files (such as macOS's "._a.png" beside "a.png") are passed over; pictures of kinds
    that are not read, such as HEIC, with a warning.

    Raises:
        FileNotFoundError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}, expected one with pictures; make it and put them there")
    shown = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    if others := [path.name for path in shown if path.suffix.lower() in NOT_READ]:
        warnings.warn(
            f"passed over {len(others)} files of {folder}, expected {READABLE}: {_some(others)}", stacklevel=2
        )
    return [path for path in shown if path.suffix.lower() in SUFFIXES]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def middle_square(image: Tensor, *, size: int) -> Tensor:
    """Return the middle square of a picture, (3, h, w) -> (3, size, size)."""
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[None, :, top : top + side, left : left + side]
    return F.interpolate(square, size=(size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what `encode_png` was given as metadata; ValueError if the file holds none of ours."""
    path = Path(path)
    _check_file(path)
    with path.open("rb") as file:
        text = png.metadata_text(file) if png.is_png(file) else None
    if text is None:
        raise ValueError(f"{path} holds no {png.METADATA_KEY} metadata, expected a PNG by images.encode_png")
    return json.loads(text)


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected {READABLE}; name one file in it")
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}, expected {READABLE}; relative paths start at {Path.cwd()}")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file, expected {READABLE}; save the picture to a file first")


def _open(file: BinaryIO, path: Path, max_pixels: int) -> Image.Image:
    """Read the header alone."""
    try:
        image = Image.open(file, formats=tuple(FORMATS))
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


def _to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, str | None]:
    """The picture in sRGB, and what is wrong with its profile if it is left as it is."""
    if image.mode.startswith("I") or image.mode in ("F", "LAB"):
        return image, None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and ImageCms.getProfileDescription(source).strip().lower().startswith("srgb"):
            return image, None
        fitting = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(space)
        if (
            fitting is None
            or ((fitting == "CMYK") != (image.mode == "CMYK"))
            or (fitting == "L" and image.mode not in ("1", "L", "LA", "La"))
        ):
            raise ValueError(f"it is for {space}, the pixels are {image.mode}")
        alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
        bare = image.convert("RGBA").convert("RGB").convert(fitting) if alpha is not None else image.convert(fitting)
        converted = ImageCms.profileToProfile(bare, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, *BROKEN) as error:
        return image, str(error)
    if alpha is not None:
        converted.putalpha(alpha)
    return converted, None


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
    rgb = np.array(image.convert("RGB"), dtype=np.float32)
    rgb /= 255  # in place: a large picture takes its memory once
    return rgb


def _grey16(image: Image.Image) -> np.ndarray:
    """Pillow would clip these at 255 of 65535, so the conversion is ours."""
    grey = np.asarray(image).astype(np.float32) / 65535
    transparent = image.info.get("transparency")  # one grey value, where a PNG names one
    if isinstance(transparent, int):
        grey[np.asarray(image) == transparent] = 1
    return np.repeat(grey[..., None], 3, axis=2)
