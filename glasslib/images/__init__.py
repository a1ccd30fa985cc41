"""Pictures between files and tensors: read any common file as RGB in [0, 1]; encode tensors as PNG, WebP or GIF."""

from glasslib.images.reading import (
    FORMATS,
    SUFFIXES,
    load_image,
    load_squares,
    middle_square,
    picture_paths,
    read_metadata,
)
from glasslib.images.writing import encode_animation, encode_png, grid, to_pil

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "encode_animation",
    "encode_png",
    "grid",
    "load_image",
    "load_squares",
    "middle_square",
    "picture_paths",
    "read_metadata",
    "to_pil",
]
