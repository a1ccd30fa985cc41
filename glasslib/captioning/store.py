"""Text embeddings of a corpus, written to disk a shard at a time, and resumed after a kill. shards.py reads them.

The folder's name comes from the corpus, the CLIP and the settings, so another corpus or another CLIP never meets an old
folder.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import hashlib
import io
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from tqdm import tqdm

from glasslib import results
from glasslib.captioning.corpus import Corpus, identity
from glasslib.captioning.layouts import Caption
from glasslib.captioning.shards import FORMAT, EmbeddingStore, checksum, file_name, read_manifest

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
        RuntimeError: another process is writing the same folder.
    """
    if dtype not in ("float16", "float32") or shard_size < 1:
        raise ValueError(f"dtype must be float16 or float32 and shard_size at least 1, got {dtype!r}, {shard_size}")
    folder = store_folder(root, corpus, clip_sha256=clip_sha256, dtype=dtype, truncate=truncate)
    manifest = read_manifest(folder)
    if manifest is None and not truncate:
        _check_lengths(corpus, embedder)
    if manifest is not None and _n_done(manifest) == len(corpus):
        _check_same_clip(EmbeddingStore(folder), embedder, truncate=truncate)
        return EmbeddingStore(folder)
    empty = {
        "format": FORMAT,
        "key": _key(corpus.sha256, clip_sha256, dtype, truncate),
        "corpus": corpus.name,
        "n_captions": len(corpus),
        "dim": int(embedder.dim),
        "shard_size": shard_size,
        "shards": [],
    }
    with _only_writer(folder):
        _write_missing(folder, read_manifest(folder) or empty, corpus, embedder, truncate=truncate, progress=progress)
    return EmbeddingStore(folder)


def _write_missing(
    folder: Path, manifest: dict[str, Any], corpus: Corpus, embedder, *, truncate: bool, progress: bool
) -> None:
    """Embed the captions after those of the finished shards."""
    shards, dtype, n_done = manifest["shards"], manifest["key"]["dtype"], _n_done(manifest)
    if n_done:
        _check_same_clip(EmbeddingStore(folder, complete=False), embedder, truncate=truncate)
    for unfinished in folder.glob(".*.part"):
        unfinished.unlink(missing_ok=True)  # a kill left it
    digest = hashlib.sha256()
    captions = itertools.islice(_digested(corpus, digest), n_done, None)
    with tqdm(total=len(corpus), initial=n_done, desc=f"embedding {corpus.name}", disable=not progress) as bar:
        while rows := list(itertools.islice(captions, manifest["shard_size"])):
            if _n_done(manifest) + len(rows) >= len(corpus):
                _check_unchanged(corpus, digest, folder)
            texts = [row.text for row in rows]
            blocks = (texts[i : i + BLOCK] for i in range(0, len(texts), BLOCK))
            embedded = [embedder.embed_texts(block, truncate=truncate).cpu().numpy().astype(dtype) for block in blocks]
            crc32 = _write_shard(folder, len(shards), rows, np.concatenate(embedded))
            shards.append({"n_captions": len(rows), "crc32": crc32})
            _write(folder / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True).encode())
            bar.update(len(rows))
    _check_unchanged(corpus, digest, folder)


def _n_done(manifest: dict[str, Any]) -> int:
    return sum(shard["n_captions"] for shard in manifest["shards"])


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Refuse to write where another process or thread does; a kill gives the lock back."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(
                f"{folder} is being written by another process; wait until it has finished, then call again"
            ) from error
        yield


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
    return {
        "format": FORMAT,
        "corpus_sha256": corpus_sha256,
        "clip_sha256": clip_sha256,
        "dtype": dtype,
        "truncate": truncate,
    }


def _check_same_clip(store: EmbeddingStore, embedder, *, truncate: bool) -> None:
    """Embed the first caption again: a wrong `clip_sha256` must not mix two CLIPs in one folder."""
    kept, [caption] = store.embeddings([0]), store.captions([0])
    again = F.normalize(embedder.embed_texts([caption.text], truncate=truncate).cpu().float(), dim=1)
    if kept.shape != again.shape or float((kept * again).sum()) < SAME:
        raise ValueError(
            f"{store.folder} was made by another CLIP, which embeds its first caption otherwise; pass the clip_sha256 "
            "of the CLIP in use, or delete the folder"
        )


def _write_shard(folder: Path, number: int, rows: list[Caption], embeddings: np.ndarray) -> dict[str, int]:
    """Write a shard's three files, and return their checksums."""
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False).encode() + b"\n" for row in rows]
    offsets = np.cumsum([0, *map(len, lines)], dtype=np.int64)
    contents = {"embeddings": _npy(embeddings), "offsets": _npy(offsets), "captions": b"".join(lines)}
    for name, content in contents.items():
        _write(folder / file_name(name, number), content)
    return {name: checksum(content) for name, content in contents.items()}


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
