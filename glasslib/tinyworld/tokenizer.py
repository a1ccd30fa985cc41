"""Byte-pair merges that give every word of the tiny world's grammar one token, in open_clip's file format."""

from __future__ import annotations

import gzip
from collections import Counter
from itertools import pairwise
from pathlib import Path

from glasslib.tinyworld import wording


def byte_pair_merges(words: frozenset[str]) -> list[tuple[str, str]]:
    """Merge the most frequent neighbours until each word is one piece; ties go to the alphabetically first pair."""
    pieces = {word: (*word[:-1], word[-1] + "</w>") for word in words}
    merges = []
    while any(len(parts) > 1 for parts in pieces.values()):
        pairs = Counter(pair for parts in pieces.values() for pair in pairwise(parts))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merge(parts, best) for word, parts in pieces.items()}
    return merges


def _merge(parts: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    i = 0
    while i < len(parts):
        if parts[i : i + 2] == pair:
            merged.append("".join(pair))
            i += 2
        else:
            merged.append(parts[i])
            i += 1
    return tuple(merged)


def write_bpe(path: Path) -> None:
    """Write the merges file for `open_clip.tokenizer.SimpleTokenizer(bpe_path=path)`; same bytes every time.

    open_clip reads a header line, then one merge a line, and takes an empty last line for a merge: so none is written.
    """
    lines = ["# glasslib tiny world", *(" ".join(pair) for pair in byte_pair_merges(wording.vocabulary()))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
