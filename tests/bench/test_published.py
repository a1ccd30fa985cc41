"""The plain computations that `make bench` measures against are the published functions, and ours equals them."""

import numpy as np
import pytest
import torch

from glasslib.bench import contests, fullsize
from glasslib.bench.parity import golden_biggan
from glasslib.bench.references import biggan, glass
from glasslib.clip import fast
from glasslib.clip.embedder import ClipEmbedder
from glasslib.generators import gpt2
from glasslib.generators.biggan.networks import GeneratorNetwork, fold_spectral_norm
from glasslib.tinyworld import models


@pytest.mark.parametrize(("truncation", "value"), [(1.0, "image_truncation1"), (0.4, "image_truncation04")])
@torch.no_grad()
def test_plain_biggan_equals_the_golden_images(truncation, value):
    config, weights, values = golden_biggan()
    images = biggan.generate(weights, config, values["z"], values["class_vector"], truncation)
    assert contests.deviation(images, values[value]) <= 1e-4


@torch.no_grad()
def test_spectral_state_is_folded_into_weights_of_norm_one():
    config, _, _ = golden_biggan()
    torch.manual_seed(0)
    network = GeneratorNetwork(**config)
    rng = torch.Generator().manual_seed(0)
    folded = fold_spectral_norm(biggan.spectral_state(network.state_dict(), n_iterations=50, rng=rng))
    assert folded.keys() == network.state_dict().keys()
    weight = folded["generator.layers.0.conv_1.weight"]
    assert float(torch.linalg.matrix_norm(weight.flatten(1), 2)) == pytest.approx(1, abs=1e-3)


def test_deviation_is_in_the_reference_s_deviations():
    wanted = torch.tensor([0.0, 2.0])  # standard deviation sqrt(2)
    assert contests.deviation(wanted + 1, wanted) == pytest.approx(0.5**0.5)
    assert contests.deviation(["a"], ["b"]) == float("inf")
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(1,\)"):
        contests.deviation(wanted[:1], wanted)


def toy(offset=0.0):
    """A contest in which ours is wrong by `offset`."""
    x = torch.linspace(0, 1, 50)

    def busy(result, n):
        return lambda: (sum(x.sort().values.sum() for _ in range(n)) * 0 + result,)

    return contests.Contest(
        busy(x, 2000),
        {"bench.toy": busy(x + offset, 200), "bench.half": busy(x / 2, 20)},
        {"bench.half": lambda: (x / 2,)},
    )


def test_a_contest_gives_a_row_a_way_and_ratios_of_medians(monkeypatch):
    monkeypatch.setitem(contests.CONTESTS, "toy", toy)
    rows = fullsize.measure("toy", repetitions=3)
    assert [row["way"] for row in rows[:3]] == ["reference", "bench.toy", "bench.half"] and len(rows) == 9
    found = fullsize.ratios(rows)
    assert found.keys() == {"bench.toy", "bench.half"}
    assert found["bench.half"]["value"] < found["bench.toy"]["value"] < 0.5 and found["bench.toy"]["n"] == 3


def test_earlier_rows_come_back_as_they_were_measured(monkeypatch, tmp_path):
    monkeypatch.setitem(contests.CONTESTS, "toy", toy)
    monkeypatch.setattr(fullsize.results, "REPO", tmp_path)
    assert fullsize.earlier_rows() == {}
    rows = fullsize.measure("toy", repetitions=2)
    fullsize.write(fullsize.FOLDER, {}, fullsize.ratios(rows), {"seconds": rows})
    assert fullsize.earlier_rows() == {"toy": rows}


def test_a_way_that_is_another_function_is_not_timed(monkeypatch):
    monkeypatch.setitem(contests.CONTESTS, "toy", lambda: toy(offset=0.01))
    with pytest.raises(ValueError, match="bench.toy must equal the reference within .*, got 0.03"):
        fullsize.measure("toy", repetitions=1)


def test_ratio_is_of_medians_and_its_interval_of_pairs():
    ours, reference = np.array([1.0, 2.0, 90.0]), np.array([4.0, 4.0, 400.0])
    found = fullsize.ratio_of_medians(ours, reference, rng=np.random.default_rng(0))
    assert found["value"] == 0.5 and found["n"] == 3
    assert found["ci"] == [pytest.approx(0.225), 0.5]


def test_sentences_are_cut_as_in_the_paper():
    texts = contests.sentences(40)
    assert texts == contests.sentences(40) and len(set(texts)) > 20
    assert all(text.startswith("the picture of ") and len(text) <= 50 for text in texts)
    assert not any(text.count("the picture of") > 1 for text in texts)


@pytest.fixture(scope="module")
def clip():
    """The tiny CLIP, fed pictures as CLIP-GLaSS does it."""
    mine = models.load_clip()
    return ClipEmbedder(mine._model, mine.tokenizer, normalize=False, resize="bilinear")


@torch.no_grad()
def test_plain_clip_equals_ours(clip):
    images = torch.rand(3, 3, 50, 50, generator=torch.Generator().manual_seed(0))
    plain = glass.embed_images(clip._model, images)
    assert contests.deviation(clip.embed_images(images), plain) <= 1e-4
    texts = ["a red star", "a large blue ring on a dark background", "a green heart at the top"]
    plain = glass.embed_texts(clip._model, clip.tokenizer, texts)
    assert contests.deviation(clip.embed_texts(texts), plain) <= 1e-4


def test_the_plain_clip_has_its_own_activation_back_and_the_same_weights():
    from open_clip.transformer import QuickGELU

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), fast.InPlaceQuickGELU(), torch.nn.BatchNorm1d(2))
    plain = glass.as_published(model)
    assert [type(layer) for layer in plain] == [torch.nn.Linear, QuickGELU, torch.nn.BatchNorm1d]
    assert type(model[1]) is fast.InPlaceQuickGELU
    assert plain[0].weight is model[0].weight and plain[2].running_mean is model[2].running_mean


def test_plain_writing_equals_ours():
    model, tokenizer = gpt2.load(models.WEIGHTS / "gpt2")
    ours = gpt2.Gpt2Generator(model, tokenizer, context_ends=True, **gpt2.GLASS)
    contexts = torch.as_tensor(ours.latent_space.sample(30, rng=np.random.default_rng(0))).long()
    texts = glass.write(model, tokenizer, contexts)
    # the tiny tokenizer decodes a space before the end-of-text that is cut off; GPT-2's own does not
    assert [text.rstrip() for text in texts] == [text.rstrip() for text in ours(contexts)] and len(set(texts)) > 5
    assert max(map(len, texts)) == 50
