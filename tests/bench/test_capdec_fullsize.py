"""The contests at toy sizes: both ways give the same there too, and a difference is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from glasslib.bench import capdec_fullsize
from glasslib.bench.references import capdec
from glasslib.captioning import decoding


def small_gpt():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_positions": 90, "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 50_257}
    return GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.5))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    real = capdec_fullsize.TransformerMapper

    def mapper(**sizes):
        return real(**(sizes | {"gpt_dim": 16, "prefix_length": 4, "clip_length": 3, "n_layers": 2, "n_heads": 8}))

    monkeypatch.setattr(capdec_fullsize, "_new_gpt", small_gpt)
    monkeypatch.setattr(capdec_fullsize, "TransformerMapper", mapper)
    monkeypatch.setattr(capdec_fullsize, "STEPS", {"decode12": 5, "decode67": 7})
    monkeypatch.setattr(capdec_fullsize, "N_IMAGES", 3)
    monkeypatch.setattr(capdec_fullsize, "BATCH_SIZE", 6)
    for part in (capdec_fullsize.train_step, capdec_fullsize.decode):
        part.cache_clear()


def ways(rows):
    return [row["way"] for row in rows], {row["per"] for row in rows}, all(row["cpu_seconds"] > 0 for row in rows)


def test_lengths_are_about_coco_s():
    lengths = capdec_fullsize.n_tokens(100_000, rng=np.random.default_rng(0))
    assert abs(lengths.mean() - 11.54) < 0.05 and abs(lengths.std() - 2.79) < 0.05
    assert np.percentile(lengths, [1, 10, 50, 90, 99]) == pytest.approx([8, 9, 11, 15, 21], abs=1)  # COCO's
    assert capdec_fullsize.ROW_LENGTH == 39
    texts = capdec_fullsize.captions(50, rng=np.random.default_rng(0))
    assert len(set(texts)) == 50 and all(text.endswith(".") for text in texts)


def test_batches_are_padded_to_their_longest():
    embeddings, token_ids, labels = capdec_fullsize.batch(0)
    counted = labels != -100
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(6)) and counted.all(dim=0).any()
    assert counted.any(dim=0).all() and torch.equal(labels[counted], token_ids[counted])
    assert not token_ids[~counted].any() and (token_ids[counted] > 0).all()


def test_the_published_gpt_has_the_same_weights_and_its_own_layers():
    decoder = capdec_fullsize.new_decoder()
    gpt = capdec_fullsize.as_published(decoder.gpt)
    assert all(a is b for a, b in zip(gpt.parameters(), decoder.gpt.parameters(), strict=True))
    assert not any(isinstance(module, nn.GELU) for module in gpt.modules())
    assert any(isinstance(module, nn.GELU) for module in decoder.gpt.modules())


def test_train_step_takes_turns_and_refuses_other_gradients(monkeypatch):
    rows = [row for repeat in range(2) for row in capdec_fullsize.measure(part="train_step", repeat=repeat)]
    assert ways(rows) == (["ours", "published"] * 2, {1}, True)
    capdec_fullsize.train_step.cache_clear()
    right = capdec.loss
    monkeypatch.setattr(capdec, "loss", lambda *given: 1.01 * right(*given))
    with pytest.raises(RuntimeError, match="train_step: ours must equal the published way within 0.0001, differs by"):
        capdec_fullsize.measure(part="train_step", repeat=0)


def test_decode_takes_turns_and_refuses_other_captions(monkeypatch):
    rows = capdec_fullsize.measure(part="decode12", repeat=0)
    assert ways(rows) == (["ours", "published"], {1, 3}, True)
    right = decoding.published_beam
    monkeypatch.setattr(decoding, "published_beam", lambda *given, **options: right(*given, **options)[::-1])
    with pytest.raises(RuntimeError, match="decode67: ours must equal"):
        capdec_fullsize.measure(part="decode67", repeat=0)


def test_the_ratio_is_of_medians():
    rows = [{"way": "ours", "cpu_seconds": s} for s in (1.0, 2.0, 30.0)]
    rows += [{"way": "published", "cpu_seconds": s} for s in (4.0, 8.0, 9.0)]
    assert capdec_fullsize.ratio(rows) == {"value": 0.25, "n": 3, "ci": None, "unit": "ratio"}


def test_the_machine_is_named():
    assert set(capdec_fullsize.machine()) == {"processor", "cores", "threads"}


def test_the_peak_is_of_a_step_and_of_captions():
    [row] = capdec_fullsize.measure(part="peak", repeat=0)
    assert 0 < row["peak_gb"] < 2
