"""How text embeddings lie on disk, and how they are read: row by row, without loading them, each shard checked once.

A folder holds, for each shard, `embeddings-NNNNN.npy`, `captions-NNNNN.jsonl` and `offsets-NNNNN.npy` (where each line
of the jsonl begins), and one manifest.json with each shard's size and checksums, which is rewritten after each shard.
"""

from __future__ import annotations

import bisect
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glasslib.captioning.layouts import Caption

FORMAT = 2
CHUNK = 1 << 24  # bytes whose checksum is taken at once


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a store's folder says of itself; None where nothing has been finished."""
    path = folder / "manifest.json"
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; delete {folder}") from error
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path} must have format {FORMAT}, got {manifest.get('format')}; delete {folder}")
    return manifest


def file_name(name: str, number: int) -> str:
    """Of one of a shard's three files."""
    return f"{name}-{number:05d}.{'jsonl' if name == 'captions' else 'npy'}"


def checksum(content: bytes | np.ndarray) -> int:
    """CRC-32 of bytes, or of a file that is mapped as bytes: a gigabyte takes under a second."""
    value = 0
    for start in range(0, len(content), CHUNK):
        value = zlib.crc32(content[start : start + CHUNK], value)
    return value


class EmbeddingStore:
    """Unit embeddings and their captions, read from disk row by row.

    Attributes:
        folder: where it lies.
        dim: of the embeddings.
        key: hashes of corpus and CLIP, dtype, truncate.
    """

    def __init__(self, folder: str | Path, *, complete: bool = True) -> None:
        """Open a store.

        Args:
            folder: as `embed_corpus` wrote it.
            complete: refuse one that is not finished.

        Raises:
            FileNotFoundError: no store there, or a file of it is missing.
            ValueError: unfinished, or a shard of another size than the manifest says. One whose content has changed
                is refused when a row of it is first read.
        """
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest is None:
            raise FileNotFoundError(f"no embeddings at {folder}; make them with store.embed_corpus")
        self.key, self.dim = manifest["key"], manifest["dim"]
        self._ends = list(itertools.accumulate(shard["n_captions"] for shard in manifest["shards"]))
        self._unchecked = dict(enumerate(shard["crc32"] for shard in manifest["shards"]))
        if complete and len(self) != manifest["n_captions"]:
            raise ValueError(
                f"{folder} holds {len(self)} of {manifest['n_captions']} embeddings; call embed_corpus again to go on"
            )
        self._shards = [self._open(number, shard["n_captions"]) for number, shard in enumerate(manifest["shards"])]

    def _open(self, number: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        paths = {name: self.folder / file_name(name, number) for name in ("embeddings", "offsets", "captions")}
        try:
            embeddings = np.load(paths["embeddings"], mmap_mode="r", allow_pickle=False)
            offsets = np.load(paths["offsets"], mmap_mode="r", allow_pickle=False)
            captions = np.memmap(paths["captions"], mode="r", dtype=np.uint8)
        except ValueError as error:
            raise ValueError(f"shard {number} of {self.folder} is damaged: {error}; delete the folder") from error
        if embeddings.shape != (n, self.dim) or len(offsets) != n + 1 or offsets[-1] != len(captions):
            raise ValueError(
                f"shard {number} of {self.folder} must hold {n} rows of {self.dim}, got embeddings {embeddings.shape}, "
                f"{len(offsets) - 1} captions in {len(captions)} bytes; delete the folder"
            )
        return embeddings, offsets, captions

    def _shard(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A shard's embeddings, offsets and captions; before the first use its files' checksums are compared."""
        for name, expected in self._unchecked.get(number, {}).items():
            path = self.folder / file_name(name, number)
            if checksum(np.memmap(path, mode="r", dtype=np.uint8)) != expected:
                raise ValueError(f"{path} is damaged: it is not what was written there; delete the folder")
        self._unchecked.pop(number, None)
        return self._shards[number]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def embeddings(self, rows: Sequence[int]) -> Tensor:
        """The embeddings of these rows: (n, dim) float32, rows of L2 norm 1."""
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        for i, (shard, row) in enumerate(map(self._locate, rows)):
            found[i] = self._shard(shard)[0][row]
        return F.normalize(torch.from_numpy(found), dim=1)  # float16 left the norms within 1e-3 of 1

    def captions(self, rows: Sequence[int]) -> list[Caption]:
        """The captions of these rows."""
        found = []
        for shard, row in map(self._locate, rows):
            _, offsets, captions = self._shard(shard)
            found.append(Caption(**json.loads(captions[offsets[row] : offsets[row + 1]].tobytes())))
        return found

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Embeddings (n, dim) and texts of these rows, as training reads them."""
        return self.embeddings(rows), [caption.text for caption in self.captions(rows)]

    def blocks(self, size: int = 65_536) -> Iterator[Tensor]:
        """All embeddings in order, at most `size` rows at a time."""
        for start in range(0, len(self), size):
            yield self.embeddings(range(start, min(start + size, len(self))))

    def _locate(self, row: int) -> tuple[int, int]:
        """The shard that holds a row, and which of its rows it is."""
        if not 0 <= row < len(self):
            raise IndexError(f"row must be in [0, {len(self) - 1}], got {row}")
        shard = bisect.bisect_right(self._ends, row)
        return shard, int(row) - (self._ends[shard - 1] if shard else 0)
