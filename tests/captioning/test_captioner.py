"""A captioner gives texts, keeps its folder, and streams."""

import functools
import json

import pytest
import torch

from glasslib.captioning import captioner as captioners
from glasslib.captioning import decoding, gap
from glasslib.captioning.captioner import Captioner


def test_captions_are_texts_up_to_the_stop_token(decoder, tokenizer, embeddings):
    words = Captioner(decoder, tokenizer)(embeddings, max_tokens=10)
    assert all("<|endoftext|>" not in text for text in words)  # end-of-text is no word of a caption
    sentences = Captioner(decoder, tokenizer, stop_token=".")(embeddings, max_tokens=10)
    ids = decoding.greedy(decoder, embeddings, stop_id=13, max_tokens=10)
    assert sentences == [tokenizer.decode(one) for [one] in ids]
    assert any(text.endswith(" .") for text in sentences)  # the full stop is
    with pytest.raises(ValueError, match="must be one token of the tokenizer, got 'a star', which is 2"):
        Captioner(decoder, tokenizer, stop_token="a star")


def test_batches_streams_and_several(decoder, tokenizer, embeddings):
    captioner = Captioner(decoder, tokenizer, stop_token=".", batch_size=5)
    whole = captioner(embeddings, max_tokens=8)
    assert whole == Captioner(decoder, tokenizer, stop_token=".")(embeddings, max_tokens=8)
    drawn = []
    batches = (drawn.append(i) or embeddings[i : i + 4] for i in range(0, 12, 4))
    stream = captioner.stream(batches, max_tokens=8)
    assert [next(stream) for _ in range(4)] == whole[:4] and drawn == [0]  # no further than asked
    assert list(stream) == whole[4:]
    beams = functools.partial(decoding.beam, beam_size=3, n_captions=3)
    several = Captioner(decoder, tokenizer, decode=beams).several(embeddings, max_tokens=8)
    assert [len(texts) for texts in several] == [3] * 12
    assert captioner(embeddings[:0]) == [] and captioner.scored(embeddings[:0]) == ([], [])
    with pytest.raises(ValueError, match=r"must have shape \(n, 8\)"):
        captioner(embeddings[:, :3])


def test_the_gap_is_crossed_before_decoding(decoder, tokenizer, embeddings):
    offset = torch.linspace(-1, 1, 8)
    crossed = Captioner(decoder, tokenizer, cross=functools.partial(gap.mean_offset, offset=offset))
    plain = Captioner(decoder, tokenizer)
    moved = gap.mean_offset(embeddings, offset=offset)
    assert crossed(embeddings, max_tokens=8) == plain(moved, max_tokens=8) != plain(embeddings, max_tokens=8)


def test_clip_picks_the_nearest_of_each_images_captions():
    class Embedder:
        def embed_texts(self, texts, *, truncate):
            assert truncate  # a runaway caption is a candidate like any other
            return torch.tensor([[float(text.count("a")), float(text.count("b"))] for text in texts])

    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    picked = captioners.nearest_caption([["ab", "aa", "b"], ["aa", "ab"]], images, embedder=Embedder())
    assert picked == ["aa", "ab"]
    assert captioners.nearest_caption([["", "b"], ["", " "]], images, embedder=Embedder()) == ["b", ""]
    assert captioners.nearest_caption([[""], [" "]], images, embedder=Embedder()) == ["", " "]
    for wrong in ([["a"]], [["a"], []]):
        with pytest.raises(ValueError, match="2 non-empty lists of captions"):
            captioners.nearest_caption(wrong, images, embedder=Embedder())


def test_the_decoder_has_its_say_in_the_units_of_clip():
    class Embedder:
        logit_scale = 10.0

        def embed_texts(self, texts, *, truncate):
            return torch.tensor([[{"near": 1.0, "far": 0.7}[text], 0.0] for text in texts])

    images = torch.tensor([[1.0, 0.0]] * 3)  # "near" gains 3 nats
    candidates = [["", "near", "far"]] * 3
    log_probs = [[0.0, -9.0, -5.9], [0.0, -9.0, -6.1], [0.0, -5.0, -5.0]]
    picked = captioners.nearest_caption(candidates, images, embedder=Embedder(), log_probs=log_probs)
    assert picked == ["far", "near", "near"]  # the empty caption is none, however likely
    for wrong in (log_probs[:2], [[0.0, -9.0, -5.9, -1.0], *log_probs[1:]], [[0.0], *log_probs[1:]]):
        with pytest.raises(ValueError, match="log_probs must have one number for each caption"):
            captioners.nearest_caption(candidates, images, embedder=Embedder(), log_probs=wrong)


def test_scored_captions_are_the_several_with_their_log_probabilities(decoder, tokenizer, embeddings, monkeypatch):
    beams = functools.partial(decoding.beam, beam_size=3, n_captions=3)
    captioner = Captioner(decoder, tokenizer, decode=beams, cross=lambda x: -x, batch_size=5)
    monkeypatch.setattr(captioners, "SCORED_AT_ONCE", 4)  # no multiple of an image's three
    texts, log_probs = captioner.scored(embeddings, max_tokens=8)
    assert texts == captioner.several(embeddings, max_tokens=8)
    ids = decoding.beam(decoder, -embeddings, stop_id=1, max_tokens=8, beam_size=3, n_captions=3)
    for row, captions in enumerate(ids):
        for k, caption in enumerate(captions):
            tokens = torch.tensor([caption])
            loss = decoder(-embeddings[row : row + 1], tokens, tokens)
            assert log_probs[row][k] == pytest.approx(-float(loss.detach()), rel=1e-4)


def test_a_folder_gives_the_same_captioner(decoder, tokenizer, embeddings, tmp_path):
    captioner = Captioner(decoder, tokenizer, stop_token=".")
    decoder.gpt.config._name_or_path = "a folder of one machine"
    captioners.save(tmp_path / "tiny", captioner, card={"recipe": "none"})
    assert "one machine" not in (tmp_path / "tiny" / "config.json").read_text()
    state = torch.get_rng_state()
    again = captioners.load(tmp_path / "tiny", batch_size=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert again(embeddings, max_tokens=10) == captioner(embeddings, max_tokens=10)
    assert again.stop_token == "."
    card = json.loads((tmp_path / "tiny" / "card.json").read_text())
    assert card["recipe"] == "none" and len(card["sha256"]["model.safetensors"]) == 64
    assert not list((tmp_path / "tiny").glob("*.bin")) and not list((tmp_path / "tiny").glob("*.pt"))


def test_folders_that_hold_something_else(decoder, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match="no captioner at"):
        captioners.load(tmp_path)
    captioners.save(tmp_path, Captioner(decoder, tokenizer), card={})
    config = json.loads((tmp_path / "config.json").read_text())
    config["mapper"]["n_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"lacks 12 weights, .*must fit .*config\.json"):
        captioners.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file, or a piece of one; copy"):
        captioners.load(tmp_path)
