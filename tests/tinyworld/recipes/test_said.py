"""What people say of scenes, kept on disk."""

import numpy as np
import pytest
import torch

from glasslib.tinyworld import captions
from glasslib.tinyworld.models import load_clip
from glasslib.tinyworld.recipes import said as module
from glasslib.tinyworld.recipes.said import corpus, said


@pytest.fixture(scope="module")
def clip():
    return load_clip()


def test_the_corpus_says_which_scene_a_caption_is_of():
    texts, scene_of = corpus(7, rng=np.random.default_rng(0))
    assert len(texts) == 35 and scene_of == [i for i in range(7) for _ in range(5)]
    assert texts == corpus(7, rng=np.random.default_rng(0))[0]


def test_registers_and_domains():
    texts, _ = corpus(3, rng=np.random.default_rng(0), register="romantic", domain="neon")
    assert {(captions.parse(text).register, captions.parse(text).domain) for text in texts} == {("romantic", "neon")}


def test_words_follow_zipf_s_law_unless_told_otherwise():
    texts = [corpus(200, rng=np.random.default_rng(0), **options)[0] for options in ({}, {"zipf": 1.0}, {"zipf": 0.0})]
    assert texts[0] == texts[1] != texts[2]
    assert [captions.parse(text) for text in texts[0]] == [captions.parse(text) for text in texts[2]]


def test_what_is_kept_is_found_again_and_not_made_again(clip, tmp_path, monkeypatch):
    first = said(6, clip=clip, seed=1, cache=tmp_path)
    assert torch.equal(first.embeddings, clip.embed_texts(first.texts))
    again = said(6, clip=None, seed=1, cache=tmp_path)
    assert (again.texts, again.scene_of, again.key) == (first.texts, first.scene_of, first.key)
    assert torch.equal(again.embeddings, first.embeddings)
    other = said(6, clip=clip, seed=2, cache=tmp_path)
    assert other.key != first.key and other.texts != first.texts
    assert said(6, clip=clip, seed=1, zipf=0.0, cache=tmp_path).key != first.key
    monkeypatch.setattr(module, "corpus", lambda n, *, rng, **options: (["a red star"] * n, list(range(n))))
    assert said(6, clip=clip, seed=1, cache=tmp_path).texts == ["a red star"] * 6  # another grammar


def test_what_is_embedded_afterwards_is_the_same_whether_it_was_made_or_found(tmp_path):
    later = []
    for _ in ("made", "found"):
        clip = load_clip()
        spoken = said(60, clip=clip, seed=1, cache=tmp_path)
        later.append(clip.embed_texts(spoken.texts[:10]))
    assert torch.equal(*later)


def test_pairs_with_pictures_repeat_a_scenes_embedding(clip):
    spoken = said(2, clip=clip, seed=1)
    pictures = torch.eye(2, clip.dim)
    pairs = spoken.pairs_with(pictures, key="pictures")
    assert torch.equal(pairs.embeddings, pictures[[0] * 5 + [1] * 5])
    assert pairs.texts == spoken.texts and pairs.key != spoken.pairs().key
