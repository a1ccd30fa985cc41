"""The texts and the colour profile of a PNG: Pillow refuses a file in which one has more than a megabyte."""

import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

METADATA_KEY = "glasslib"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
ASIDE = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
MAX_FILE = 1 << 30  # bytes; Pillow gets a larger one as it is
MAX_UNPACKED = 64 << 20  # bytes of one text or profile


def is_png(file: BinaryIO) -> bool:
    """Whether a file begins as a PNG does; it is then at its beginning."""
    found = file.read(len(SIGNATURE)) == SIGNATURE
    file.seek(0)
    return found


def pixels_and_profile(file: BinaryIO) -> tuple[BinaryIO, bytes | None]:
    """Return a PNG without texts and profile, and the profile: b"" if it cannot be unpacked, None if there is none."""
    if file.seek(0, io.SEEK_END) > MAX_FILE:
        file.seek(0)
        return file, None
    kept, profile = [SIGNATURE], None
    for kind, start, length in _chunks(file):
        if kind == b"iCCP" and profile is None:
            file.seek(start)
            profile = _unpacked(file.read(length).partition(b"\0")[2][1:])
        if kind not in ASIDE:
            file.seek(start - 8)
            kept.append(file.read(length + 12))
    return io.BytesIO(b"".join(kept)), profile


def metadata_text(file: BinaryIO) -> str | None:
    """The international text under METADATA_KEY in a PNG, None if there is none."""
    for kind, start, length in _chunks(file):
        if kind != b"iTXt":
            continue
        file.seek(start)
        key, _, rest = file.read(length).partition(b"\0")
        if key == METADATA_KEY.encode() and rest.count(b"\0") >= 3:
            text = rest[2:].split(b"\0", 2)[2]  # after the two flags: language, translated key, text
            return (_unpacked(text) if rest[0] else text).decode(errors="replace")
    return None


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte and length of each chunk, as far as the file goes."""
    at = len(SIGNATURE)
    while True:
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        yield kind, at + 8, length
        if kind == b"IEND":
            return
        at += length + 12


def _unpacked(content: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, MAX_UNPACKED)
    except zlib.error:
        return b""
