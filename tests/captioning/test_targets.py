"""What the decoder learns to write: stop tokens, padding, labels, and captions that are too long."""

import pytest

from glasslib.captioning.targets import Targets


def test_stop_tokens_are_appended_once(tokenizer):
    ids, labels = Targets(tokenizer, stop_token=".")(["a star", "a red ring ."])
    assert ids.tolist() == [[2, 6, 13, 0], [2, 3, 7, 13]] and labels[0].tolist() == [2, 6, 13, -100]
    assert Targets(tokenizer)(["a star ."])[0].tolist() == [[2, 6, 13, 1]]
    assert Targets(tokenizer, append_stop=False)(["a star"])[0].tolist() == [[2, 6]]


def test_published_labels_end_with_the_captions_own_stop_and_never_teach_token_0(tokenizer):
    ids, labels = Targets(tokenizer, published=True)(["a star .", "! ring"])
    assert ids.tolist() == [[2, 6, 13], [0, 7, 0]]
    assert labels.tolist() == [[2, 6, 13], [-100, 7, -100]]


def test_a_cut_caption_has_no_stop_token(tokenizer):
    targets = Targets(tokenizer, max_tokens=2, truncate=True)
    assert targets(["a red star"])[0].tolist() == [[2, 3]]
    assert targets.describe() == {
        "stop_token": "<|endoftext|>", "append_stop": True, "max_tokens": 2, "truncate": True, "published": False
    }  # fmt: skip


def test_a_stop_token_must_be_one_token(tokenizer):
    with pytest.raises(ValueError, match="red star"):
        Targets(tokenizer, stop_token="red star")
