"""Text embeddings of a corpus on disk: shards that are read without loading them, and resumed after a kill.

A folder holds, for each shard, `embeddings-NNNNN.npy`, `captions-NNNNN.jsonl` and `offsets-NNNNN.npy` (where each line
of the jsonl begins), and one manifest.json, which is rewritten after each shard. Its name comes from the corpus, the
CLIP and the settings, so another corpus or another CLIP never meets an old folder.
"""

from __future__ import annotations

import bisect
import dataclasses
import errno
import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from glasslib import results
from glasslib.captioning.corpus import Corpus, identity
from glasslib.captioning.layouts import Caption

FORMAT = 1
BLOCK = 8192  # captions that the embedder gets at once, and sorts by length
SAME = 0.999  # cosine between a stored embedding and the same one computed again; float16 costs about 1e-6


def embed_corpus(
    corpus: Corpus,
    embedder,
    root: str | Path,
    *,
    clip_sha256: str,
    dtype: str = "float16",
    truncate: bool = False,
    shard_size: int = 65_536,
    progress: bool = True,
) -> EmbeddingStore:
    """Embed every caption, or go on where an earlier call was stopped; at once if all is there.

    Captions are read, embedded (like lengths together) and written a shard at a time, so memory does not grow with the
    corpus.

    Args:
        corpus: any length.
        embedder: an `Embedder` with `embed_texts(texts, truncate=...)`.
        root: where the folders of all corpora lie; this one gets its own.
        clip_sha256: of the CLIP's weights, such as `results.sha256_file` gives.
        dtype: "float16" or "float32" on disk.
        truncate: cut captions longer than CLIP's context instead of refusing them.
        shard_size: captions in a shard; a stop loses at most one shard's work.
        progress: show a progress bar.

    Returns:
        The complete store.

    Raises:
        ValueError: captions longer than CLIP's context (said before the first is embedded) or otherwise refused by the
            embedder, a corpus that changed since it was read, or a folder whose embeddings another CLIP made.
        OSError: a shard could not be written, say because the disk is full; finished shards stay and count.
    """
    if dtype not in ("float16", "float32") or shard_size < 1:
        raise ValueError(f"dtype must be float16 or float32 and shard_size at least 1, got {dtype!r}, {shard_size}")
    folder = store_folder(root, corpus, clip_sha256=clip_sha256, dtype=dtype, truncate=truncate)
    manifest = _manifest(folder) or {
        "format": FORMAT,
        "key": _key(corpus.sha256, clip_sha256, dtype, truncate),
        "corpus": corpus.name,
        "n_captions": len(corpus),
        "dim": int(embedder.dim),
        "shard_size": shard_size,
        "shards": [],
    }
    shards, shard_size = manifest["shards"], manifest["shard_size"]
    n_done = sum(shards)
    if n_done:
        _check_same_clip(EmbeddingStore(folder, complete=False), embedder, truncate=truncate)
    elif not truncate:
        _check_lengths(corpus, embedder)
    for unfinished in folder.glob(".*.part"):
        unfinished.unlink(missing_ok=True)  # a kill left it
    if n_done == len(corpus):
        return EmbeddingStore(folder)
    digest = hashlib.sha256()
    captions = itertools.islice(_digested(corpus, digest), n_done, None)
    with tqdm(total=len(corpus), initial=n_done, desc=f"embedding {corpus.name}", disable=not progress) as bar:
        while rows := list(itertools.islice(captions, shard_size)):
            if sum(shards) + len(rows) >= len(corpus):
                _check_unchanged(corpus, digest, folder)
            texts = [row.text for row in rows]
            blocks = (texts[i : i + BLOCK] for i in range(0, len(texts), BLOCK))
            embedded = [embedder.embed_texts(block, truncate=truncate).cpu().numpy().astype(dtype) for block in blocks]
            _write_shard(folder, len(shards), rows, np.concatenate(embedded))
            shards.append(len(rows))
            _write(folder / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode())
            bar.update(len(rows))
    _check_unchanged(corpus, digest, folder)
    return EmbeddingStore(folder)


def _check_lengths(corpus: Corpus, embedder) -> None:
    """Refuse captions that are too long before hours are spent on the others; not every embedder can tell."""
    if not hasattr(embedder, "too_long"):
        return
    long = itertools.chain.from_iterable(map(embedder.too_long, _blocks(caption.text for caption in corpus)))
    first = next(long, None)
    if first is not None:
        raise ValueError(
            f"{1 + sum(1 for _ in long)} of {len(corpus)} captions of {corpus.name} exceed CLIP's context, first "
            f"{first[:60]!r}; shorten them, leave them out with corpus.select, or pass truncate=True to cut them"
        )


def _blocks(texts: Iterator[str]) -> Iterator[list[str]]:
    while block := list(itertools.islice(texts, BLOCK)):
        yield block


def _digested(corpus: Corpus, digest) -> Iterator[Caption]:
    for caption in corpus:
        digest.update(identity(caption))
        yield caption


def _check_unchanged(corpus: Corpus, digest, folder: Path) -> None:
    """The file may have been edited after `corpus` took its hash, which this folder is named by."""
    if digest.hexdigest() != corpus.sha256:
        (folder / "manifest.json").unlink(missing_ok=True)
        raise ValueError(
            f"{corpus.name} has changed since it was read, so its embeddings are not kept; read it again, then call "
            "embed_corpus"
        )


def store_folder(root: str | Path, corpus: Corpus, *, clip_sha256: str, dtype: str, truncate: bool) -> Path:
    """Where the embeddings of this corpus by this CLIP lie, whether or not they are there yet."""
    key = json.dumps(_key(corpus.sha256, clip_sha256, dtype, truncate), sort_keys=True)
    return Path(root) / hashlib.sha256(key.encode()).hexdigest()[:16]


def _key(corpus_sha256: str, clip_sha256: str, dtype: str, truncate: bool) -> dict[str, Any]:
    return {"corpus_sha256": corpus_sha256, "clip_sha256": clip_sha256, "dtype": dtype, "truncate": truncate}


def _check_same_clip(store: EmbeddingStore, embedder, *, truncate: bool) -> None:
    """Embed the first caption again: a wrong `clip_sha256` must not mix two CLIPs in one folder."""
    kept, [caption] = store.embeddings([0]), store.captions([0])
    again = F.normalize(embedder.embed_texts([caption.text], truncate=truncate).cpu().float(), dim=1)
    if kept.shape != again.shape or float((kept * again).sum()) < SAME:
        raise ValueError(
            f"{store.folder} was made by another CLIP, which embeds its first caption otherwise; pass the clip_sha256 "
            "of the CLIP in use, or delete the folder"
        )


def _write_shard(folder: Path, number: int, rows: list[Caption], embeddings: np.ndarray) -> None:
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False).encode() + b"\n" for row in rows]
    offsets = np.cumsum([0, *map(len, lines)], dtype=np.int64)
    for name, content in (
        ("embeddings", _npy(embeddings)),
        ("offsets", _npy(offsets)),
        ("captions", b"".join(lines)),
    ):
        _write(folder / _file(name, number), content)


def _file(name: str, number: int) -> str:
    return f"{name}-{number:05d}.{'jsonl' if name == 'captions' else 'npy'}"


def _npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    return content.getvalue()


def _write(path: Path, content: bytes) -> None:
    try:
        results.write_bytes_atomic(path, content)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else error.strerror or str(error)
        raise OSError(
            error.errno,
            f"could not write {len(content) / 1e6:.1f} MB to {path}: {reason}; the finished shards are kept: "
            "make room and call again, and it goes on after them",
        ) from error


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / "manifest.json"
    if not path.exists():
        return None
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{path} must have format {FORMAT}, got {manifest.get('format')}; delete {folder}")
    return manifest


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
            ValueError: unfinished, or a shard of another size than the manifest says.
        """
        self.folder = Path(folder)
        manifest = _manifest(self.folder)
        if manifest is None:
            raise FileNotFoundError(f"no embeddings at {folder}; make them with store.embed_corpus")
        self.key, self.dim = manifest["key"], manifest["dim"]
        self._ends = list(itertools.accumulate(manifest["shards"]))
        if complete and len(self) != manifest["n_captions"]:
            raise ValueError(
                f"{folder} holds {len(self)} of {manifest['n_captions']} embeddings; call embed_corpus again to go on"
            )
        self._shards = [self._open(number, n) for number, n in enumerate(manifest["shards"])]

    def _open(self, number: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        paths = {name: self.folder / _file(name, number) for name in ("embeddings", "offsets", "captions")}
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

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def embeddings(self, rows: Sequence[int]) -> Tensor:
        """The embeddings of these rows: (n, dim) float32, rows of L2 norm 1."""
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        for i, (shard, row) in enumerate(map(self._locate, rows)):
            found[i] = self._shards[shard][0][row]
        return F.normalize(torch.from_numpy(found), dim=1)  # float16 left the norms within 1e-3 of 1

    def captions(self, rows: Sequence[int]) -> list[Caption]:
        """The captions of these rows."""
        found = []
        for shard, row in map(self._locate, rows):
            _, offsets, captions = self._shards[shard]
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
