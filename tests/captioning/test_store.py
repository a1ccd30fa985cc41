"""Embeddings on disk: the same as embedding directly, whatever stops the work, and never those of another corpus."""

import errno
import json
import os
import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glasslib.bench import rss
from glasslib.captioning.corpus import Corpus
from glasslib.captioning.layouts import Caption
from glasslib.captioning.store import EmbeddingStore, embed_corpus


class Embedder:
    """Embeds a text by its letters; remembers how many texts came at once."""

    dim = 6

    def __init__(self, *, fail_after=None, seed=0):
        self.calls, self._fail_after = [], fail_after
        self._letters = torch.randn(128, self.dim, generator=torch.Generator().manual_seed(seed))

    def embed_texts(self, texts, *, truncate=False):
        if self._fail_after is not None and len(self.calls) == self._fail_after:
            raise KeyboardInterrupt
        self.calls.append(len(texts))
        return F.normalize(torch.stack([self._letters[list(text.encode())].sum(0) for text in texts]), dim=1)


def texts(n):
    return [f"caption {i} of {n} ä"[: 9 + i % 4] for i in range(n)]


def embed(corpus, folder, embedder=None, **options):
    settings = {"clip_sha256": "c" * 64, "shard_size": 10, "progress": False, **options}
    return embed_corpus(corpus, embedder or Embedder(), folder, **settings)


def test_rows_are_those_of_embedding_directly(tmp_path):
    corpus = Corpus.from_texts(texts(25), image_ids=[str(i // 5) for i in range(25)])
    store = embed(corpus, tmp_path)
    direct = Embedder().embed_texts([row.text for row in corpus])
    assert len(store) == 25 and store.dim == 6
    rows = [24, 0, 9, 10, 10, 19]
    found, words = store.batch(rows)
    assert torch.allclose(found, direct[rows], atol=1e-3) and found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=1), torch.ones(6), atol=1e-6)
    assert words == [list(corpus)[row].text for row in rows]
    assert store.captions([7]) == [Caption(list(corpus)[7].text, "7", "1")]
    assert torch.allclose(torch.cat(list(store.blocks(7))), direct, atol=1e-3)
    assert [len(block) for block in store.blocks(7)] == [7, 7, 7, 4]
    with pytest.raises(IndexError, match=r"row must be in \[0, 24\], got -1"):
        store.embeddings([-1])
    assert torch.equal(embed(corpus, tmp_path, dtype="float32").embeddings(range(25)), F.normalize(direct, dim=1))


def test_goes_on_where_it_was_stopped(tmp_path):
    corpus = Corpus.from_texts(texts(35))
    with pytest.raises(KeyboardInterrupt):
        embed(corpus, tmp_path, Embedder(fail_after=2))
    [folder] = tmp_path.iterdir()
    with pytest.raises(ValueError, match="holds 20 of 35 embeddings; call embed_corpus again"):
        EmbeddingStore(folder)
    rest = Embedder()
    store = embed(corpus, tmp_path, rest)
    assert rest.calls == [1, 10, 5]  # one to see that it is the same CLIP, then what was missing
    assert torch.equal(store.embeddings(range(35)), embed(corpus, tmp_path / "new").embeddings(range(35)))
    again = Embedder()
    embed(corpus, tmp_path, again)
    assert again.calls == [1]


def test_another_corpus_or_clip_has_another_folder(tmp_path):
    first = Corpus.from_texts(texts(12))
    stores = [
        embed(first, tmp_path),
        embed(Corpus.from_texts(texts(12)[::-1]), tmp_path),
        embed(first, tmp_path, Embedder(seed=1), clip_sha256="d" * 64),
        embed(first, tmp_path, truncate=True),
    ]
    assert len({store.folder for store in stores}) == 4
    assert stores[1].captions([0])[0].text == texts(12)[-1]
    with pytest.raises(ValueError, match="was made by another CLIP"):  # the same hash, passed for another CLIP
        embed(first, tmp_path, Embedder(seed=1))


def test_a_full_disk_keeps_the_finished_shards(tmp_path):
    corpus = Corpus.from_texts([f"{i} " + "x" * (20 if i < 20 else 2000) for i in range(30)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))  # the third shard's captions are 20 kB
    try:
        with pytest.raises(
            OSError, match=r"could not write .* MB to .*captions-00002.jsonl: the disk is full; the fin"
        ):
            embed(corpus, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    [folder] = tmp_path.iterdir()
    assert not list(folder.glob(".*"))
    rest = Embedder()
    assert len(embed(corpus, tmp_path, rest)) == 30 and rest.calls == [1, 10]


def test_no_space_left_keeps_the_finished_shards_and_no_half_file(tmp_path, monkeypatch):
    corpus, real, written = Corpus.from_texts(texts(35)), os.fsync, []

    def fsync(number):
        written.append(number)
        if len(written) == 10:  # three files and the manifest a shard: the offsets of the third shard
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(
        OSError, match=r"could not write .*offsets-00002.npy: the disk is full; the finished shards are"
    ):
        embed(corpus, tmp_path)
    [folder] = tmp_path.iterdir()
    assert not list(folder.glob(".*")) and len(EmbeddingStore(folder, complete=False)) == 20
    monkeypatch.undo()
    rest, whole = Embedder(), embed(corpus, tmp_path / "new")
    assert torch.equal(embed(corpus, tmp_path, rest).embeddings(range(35)), whole.embeddings(range(35)))
    assert rest.calls == [1, 10, 5]


def test_captions_over_the_context_are_refused_before_the_first_is_embedded(tmp_path):
    class Short(Embedder):
        def too_long(self, texts):
            return [text for text in texts if len(text) > 20]

    corpus, embedder = Corpus.from_texts([*texts(30), "a caption that is too long", *("x" * 30,) * 2]), Short()
    with pytest.raises(
        ValueError, match="3 of 33 captions of texts exceed CLIP's context, first 'a caption that is too"
    ):
        embed(corpus, tmp_path, embedder)
    assert not embedder.calls and not list(tmp_path.iterdir())
    assert len(embed(corpus, tmp_path, Short(), truncate=True)) == 33
    assert len(embed(corpus.select(lambda row: len(row.text) <= 20, name="short"), tmp_path, Short())) == 30


@pytest.mark.parametrize("edit", [lambda rows: rows.__setitem__(3, "new"), lambda rows: rows.pop(), list.clear])
@pytest.mark.parametrize("after", [0, 2])
def test_a_corpus_edited_under_way_is_not_kept_under_its_old_name(tmp_path, edit, after):
    path = tmp_path / "captions.txt"
    path.write_text("\n".join(texts(35)))
    corpus = Corpus.read(path)
    if after:
        with pytest.raises(KeyboardInterrupt):
            embed(corpus, tmp_path / "store", Embedder(fail_after=after))
    rows = texts(35)
    edit(rows)
    path.write_text("\n".join(rows))
    late = Embedder()
    with pytest.raises(ValueError, match="captions.txt has changed since it was read, so its embeddings are not kept"):
        embed(corpus, tmp_path / "store", late)
    assert 5 not in late.calls  # refused before the shard that would have made the store whole
    for folder in (tmp_path / "store").glob("*"):
        with pytest.raises(FileNotFoundError, match="no embeddings at"):
            EmbeddingStore(folder)
    if rows:
        store = embed(Corpus.read(path), tmp_path / "store")
        assert [row.text for row in store.captions(range(len(rows)))] == [row.strip() for row in rows]


@pytest.mark.parametrize("name", ["embeddings-00001.npy", "captions-00001.jsonl", "offsets-00001.npy"])
def test_a_damaged_shard_is_refused(tmp_path, name):
    store = embed(Corpus.from_texts(texts(25)), tmp_path)
    path = store.folder / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="shard 1 of .* delete the folder"):
        EmbeddingStore(store.folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=name):
        EmbeddingStore(store.folder)


@pytest.mark.parametrize("name", ["embeddings-00001.npy", "captions-00001.jsonl", "offsets-00001.npy"])
def test_a_flipped_bit_is_found_when_its_shard_is_first_read(tmp_path, name):
    store = embed(Corpus.from_texts(texts(25)), tmp_path)
    path = store.folder / name
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    damaged = EmbeddingStore(store.folder)
    damaged.batch([0, 9, 20])  # the other shards are as they were
    for read in (damaged.embeddings, damaged.captions, damaged.embeddings):
        with pytest.raises(ValueError, match=f"{name} is damaged: it is not what was written there; delete the folder"):
            read([10])


def test_a_damaged_manifest_is_refused_by_name(tmp_path):
    store = embed(Corpus.from_texts(texts(5)), tmp_path)
    (store.folder / "manifest.json").write_text('{"format": 2, ')
    with pytest.raises(ValueError, match="manifest.json is damaged: .*; delete "):
        EmbeddingStore(store.folder)


def test_a_second_writer_is_refused_and_the_first_is_not_disturbed(tmp_path):
    corpus, refused = Corpus.from_texts(texts(35)), []

    class Slow(Embedder):
        def embed_texts(self, texts, **options):
            with pytest.raises(RuntimeError, match="is being written by another process; wait until it has finished"):
                embed(corpus, tmp_path, Embedder())
            refused.append(len(texts))
            return super().embed_texts(texts, **options)

    store = embed(corpus, tmp_path, Slow())
    assert refused == [10, 10, 10, 5]
    assert torch.equal(store.embeddings(range(35)), embed(corpus, tmp_path / "new").embeddings(range(35)))
    assert len(embed(corpus, tmp_path)) == 35  # the lock is free again


def test_a_finished_store_is_opened_where_nothing_may_be_written(tmp_path, monkeypatch):
    corpus = Corpus.from_texts(texts(12))
    embed(corpus, tmp_path)
    monkeypatch.setattr("glasslib.captioning.store._only_writer", None)
    assert len(embed(corpus, tmp_path)) == 12


def test_no_store_and_wrong_settings(tmp_path):
    with pytest.raises(FileNotFoundError, match="no embeddings at"):
        EmbeddingStore(tmp_path)
    with pytest.raises(ValueError, match="dtype must be float16 or float32"):
        embed(Corpus.from_texts(["a"]), tmp_path, dtype="int8")
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(ValueError, match="must have format 2, got 0"):
        EmbeddingStore(tmp_path)


def test_reads_no_further_ahead_than_a_shard(tmp_path):
    read = 0

    def rows():
        nonlocal read
        for i in range(40):
            read += 1
            yield Caption(f"caption {i}", str(i), str(i))

    corpus, ahead = Corpus(rows, name="stream"), []
    embedder, read = Embedder(), 0
    embed_texts = embedder.embed_texts
    embedder.embed_texts = lambda batch, **options: (ahead.append(read), embed_texts(batch, **options))[1]
    embed(corpus, tmp_path, embedder)
    assert ahead == [10, 20, 30, 40]


def test_peak_growth_sees_memory_that_is_given_back():
    kept, growth = rss.peak_growth_mb(lambda: [float(np.ones(int(1e7)).sum()) for _ in range(5)], interval_s=0.002)
    assert kept == [1e7] * 5 and 60 < growth < 200  # 80 MB at a time
