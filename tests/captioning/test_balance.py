"""Balancing: the words change in text and target together, in as many captions as it takes, and nowhere else."""

import numpy as np
import pytest
import torch

from glasslib.captioning import balance
from glasslib.captioning.balance import Swap
from glasslib.captioning.corpus import Corpus

COLOUR = Swap("colour", pairs=(("red", "blue"), ("crimson", "azure"), ("orange", "green")))
GENDER = Swap("gender", pairs=(("man", "woman"), ("men", "women")))


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("a red star", "a blue star"),
        ("Red stars and a CRIMSON ring", "Blue stars and an AZURE ring"),
        ("an orange ring on a red ground", "a green ring on a blue ground"),
        ("An azure cross, reddish", "A crimson cross, reddish"),
        ("the infrared star", "the infrared star"),
        ("a star", "a star"),
    ],
)
def test_whole_words_change_with_their_article(text, swapped):
    assert COLOUR(text) == swapped
    assert COLOUR(swapped) == text


def test_sides():
    texts = ["a man's dog", "two women", "Men and a woman", "a mandolin"]
    assert [GENDER.side(text) for text in texts] == ["left", "right", "both", None]


@pytest.mark.parametrize("pairs", [(), (("his", "her"), ("him", "her")), (("Red", "blue"),), (("", "blue"),)])
def test_words_that_could_not_be_swapped_back_are_refused(pairs):
    with pytest.raises(ValueError, match="lower-case words, each once"):
        Swap("x", pairs=pairs)


def skewed():
    """Stars are red 8 times of 10, rings blue 9 times of 10; two captions name both, three none."""
    texts = ["a red star"] * 8 + ["a blue star"] * 2 + ["a red ring"] + ["a blue ring"] * 9
    return Corpus.from_texts([*texts, "a red and a blue star", "a blue and a red ring", "a star", "a ring", "a ring"])


def shape_of(text):
    return "star" if "star" in text else "ring"


def counts(corpus):
    return {text: [caption.text for caption in corpus].count(text) for text in ("a red star", "a blue star")} | {
        text: [caption.text for caption in corpus].count(text) for text in ("a red ring", "a blue ring")
    }


def test_each_group_is_balanced_by_itself():
    corpus, before = skewed(), list(skewed())
    balanced, coverage = balance.balance(corpus, COLOUR, rng=np.random.default_rng(0), within=shape_of)
    assert counts(balanced) == {"a red star": 5, "a blue star": 5, "a red ring": 5, "a blue ring": 5}
    assert list(balanced) == list(balanced) and list(corpus) == before
    assert [caption.caption_id for caption in balanced] == [caption.caption_id for caption in before]
    changed = [i for i, (old, new) in enumerate(zip(before, balanced, strict=True)) if old != new]
    assert len(changed) == coverage.n_swapped == 7 and max(changed) < 20
    assert (coverage.n_captions, coverage.n_both, coverage.n_neither, coverage.share) == (25, 2, 3, 0.8)
    assert coverage.rows() == [
        {"group": "star", "left": 8, "right": 2, "swapped": 3, "left_after": 5, "right_after": 5},
        {"group": "ring", "left": 1, "right": 9, "swapped": 4, "left_after": 5, "right_after": 5},
        {"group": "all", "left": 9, "right": 11, "swapped": 7, "left_after": 10, "right_after": 10},
    ]
    assert balanced.sha256 != corpus.sha256


def test_as_a_whole_the_groups_keep_their_skew():
    balanced, coverage = balance.balance(skewed(), COLOUR, rng=np.random.default_rng(0))
    assert coverage.n_swapped == 1 and coverage.left == {"all": 9}
    assert counts(balanced)["a red star"] >= 8


def test_the_rng_draws_which_captions():
    first, again, other = (
        [row.text for row in balance.balance(skewed(), COLOUR, rng=np.random.default_rng(seed), within=shape_of)[0]]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_corpus_without_the_words_is_refused():
    with pytest.raises(ValueError, match="no caption of texts names gender"):
        balance.balance(skewed(), GENDER, rng=np.random.default_rng(0))


class Embedder:
    def embed_texts(self, texts):
        return torch.tensor([[float("red" in text), float("blue" in text)] for text in texts])


def test_text_and_target_change_together_unless_asked_as_published():
    corpus = skewed()
    edited, _ = balance.balance(corpus, COLOUR, rng=np.random.default_rng(0), within=shape_of)
    both = balance.pairs(corpus, edited, Embedder())
    assert [("red" in text) for text in both.texts] == both.embeddings[:, 0].bool().tolist()
    published = balance.pairs(corpus, edited, Embedder(), edit_targets=False)
    assert torch.equal(published.embeddings, both.embeddings)
    assert list(published.texts) == [caption.text for caption in corpus]
    assert published.key != both.key


def test_hits_are_counted_by_the_side_that_is_true():
    said = ["a red star", "a red ring", "a blue ring", "a red star", "a star", "a red and a blue star"]
    truth = ["left", "left", "left", "right", "right", "right"]
    hits = balance.hits_by_side(said, truth, swap=COLOUR)
    assert hits["left"].tolist() == [True, True, False] and hits["right"].tolist() == [False]
    assert balance.hits_by_side(said[:1], [None], swap=COLOUR)["left"].size == 0
