"""The CLIP wrapper against open_clip's own functions and Pillow, on a small CLIP of random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from glasslib.embedding import ClipEmbedder, encode_text_trimmed

CONTEXT = 16
WORDS = ("a", "red", "blue", "star", "circle", "on", "the", "left", "of", "yellow")
TEXTS = ["a red star", "the blue circle on the left of the yellow star", "red", "a star on a star on a star on a star"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """open_clip's model, by a registered config, and tokenizer."""
    return make_clip(tmp_path_factory.mktemp("clip"), "glasslib-test")


def make_clip(folder: Path, name: str, **text_options):
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer

    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2, **text_options}
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # open_clip initialises from the global state
        model, _, _ = open_clip.create_model_and_transforms(name)
        # as initialised, all texts and all pictures come out nearly alike: make the blocks matter
        for parameter in [*model.transformer.resblocks.parameters(), *model.visual.layer4.parameters()]:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
        with torch.no_grad():
            for _ in range(30):
                model.train().encode_image(torch.randn(8, 3, 32, 32))  # statistics for batch normalisation
    return model.eval(), SimpleTokenizer(context_length=CONTEXT)


@pytest.fixture
def embedder(clip):
    return ClipEmbedder(*clip, vocabulary=WORDS)


@pytest.fixture
def pictures():
    rng = torch.Generator().manual_seed(0)
    return torch.rand(5, 3, 32, 32, generator=rng) * torch.rand(5, 3, 1, 1, generator=rng).round(decimals=1)


def test_trimmed_text_equals_open_clip_s_full_length(clip):
    model, tokenizer = clip
    token_ids = tokenizer(TEXTS)
    full = model.encode_text(token_ids)
    assert F.normalize(full, dim=1).std(dim=0).norm() > 0.1  # the texts differ, so that agreement means something
    for rows in ([0], [1], [2, 0], [0, 1, 2, 3]):
        assert torch.allclose(encode_text_trimmed(model, token_ids[rows]), full[rows], atol=1e-6)


def test_trimmed_text_computes_no_more_than_the_longest(clip, monkeypatch):
    model, tokenizer = clip
    lengths = []
    monkeypatch.setattr(model.transformer, "forward", lambda x, attn_mask: (lengths.append(x.shape[1]), x)[1])
    encode_text_trimmed(model, tokenizer(["red", "a red star"]))
    assert lengths == [5]  # start, three words, end


def test_text_that_may_read_its_padding_is_not_trimmed(tmp_path):
    model, tokenizer = make_clip(tmp_path, "glasslib-test-not-causal", no_causal_mask=True)
    token_ids = tokenizer(["red"])
    assert torch.allclose(encode_text_trimmed(model, token_ids), model.encode_text(token_ids), atol=1e-6)


def test_embeddings_are_open_clip_s_with_norm_1(clip, embedder, pictures):
    model, tokenizer = clip
    texts, images = embedder.embed_texts(TEXTS), embedder.embed_images(pictures)
    assert texts.shape == (4, 12) and images.shape == (5, 12) and embedder.dim == 12
    assert torch.allclose(texts, F.normalize(model.encode_text(tokenizer(TEXTS)), dim=1), atol=1e-6)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)  # CLIP's, from the paper's code
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    assert torch.allclose(images, F.normalize(model.encode_image((pictures - mean) / std), dim=1), atol=1e-5)
    assert torch.allclose(torch.cat([texts, images]).norm(dim=1), torch.ones(9), atol=1e-6)
    assert images.std(dim=0).norm() > 0.1 and texts.std(dim=0).norm() > 0.1


def test_order_batches_and_repeats_do_not_matter(clip, embedder, pictures):
    texts = embedder.embed_texts(TEXTS)
    shuffled = [3, 1, 1, 0, 2, 3]
    small = ClipEmbedder(*clip, batch_size=2)
    for other in (embedder, small):
        assert torch.allclose(other.embed_texts([TEXTS[i] for i in shuffled]), texts[shuffled], atol=1e-6)
    images = embedder.embed_images(pictures)
    assert torch.allclose(small.embed_images(pictures[[4, 2, 2]]), images[[4, 2, 2]], atol=1e-5)


def test_each_distinct_text_is_computed_once(embedder, monkeypatch):
    computed = []
    original = embedder._embed_text_batch
    monkeypatch.setattr(embedder, "_embed_text_batch", lambda texts: (computed.extend(texts), original(texts))[1])
    embedder.embed_texts(["red", "a star", "red"])
    embedder.embed_texts(("a star", "blue"))
    assert sorted(computed) == ["a star", "blue", "red"]


@pytest.mark.parametrize("size", [(48, 80), (97, 33), (20, 20)])
def test_resizing_is_pillow_s_antialiased_bicubic(clip, size):
    picture = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    picture[:, ::3] = 0.0  # fine stripes, which alias if they are not filtered
    channels = [Image.fromarray(picture[..., k]).resize((32, 32), Image.Resampling.BICUBIC) for k in range(3)]
    reference = torch.from_numpy(np.stack([np.asarray(channel) for channel in channels])).clamp(0, 1)
    seen = []
    handle = clip[0].visual.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    ClipEmbedder(*clip, normalize=False).embed_images(torch.from_numpy(picture).permute(2, 0, 1)[None])
    handle.remove()
    assert torch.allclose(seen[0], reference, atol=1e-4)


def test_normalize_false_leaves_clip_s_mean_and_deviation_out(clip, embedder, pictures):
    raw = ClipEmbedder(*clip, normalize=False)
    expected = F.normalize(clip[0].encode_image(pictures), dim=1)
    assert torch.allclose(raw.embed_images(pictures), expected, atol=1e-5)
    assert (raw.embed_images(pictures) - embedder.embed_images(pictures)).norm(dim=1).min() > 0.05


def test_gradients_flow_to_the_pictures_and_not_to_the_weights(clip, embedder):
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.inference_mode():
        embedder.embed_texts(["red"])  # remembered as a tensor of inference mode
    (embedder.embed_images(images) @ embedder.embed_texts(["red"])[0]).sum().backward()
    assert images.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in clip[0].parameters())


def test_doubles_are_taken_as_they_come_from_numpy(embedder, pictures):
    assert torch.equal(embedder.embed_images(pictures.double()), embedder.embed_images(pictures))


def test_the_model_is_put_into_evaluation_mode(clip):
    model, tokenizer = clip
    model.train()
    ClipEmbedder(model, tokenizer)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        (lambda x: x * 2 - 1, ValueError, r"images must lie in \[0, 1\], got .* from -\S+ to \S+; rescale or clip"),
        (lambda x: x * 255, ValueError, r"images must lie in \[0, 1\], got .* from \S+ to \d\d"),
        (lambda x: x.where(x < 0.5, torch.nan), ValueError, r"must be numbers in \[0, 1\], got \d+ NaN"),
        (lambda x: x[0], ValueError, r"images must have shape \(n, 3, h, w\), got \(3, 32, 32\)"),
        (lambda x: x.permute(0, 2, 3, 1), ValueError, r"images must have shape \(n, 3, h, w\), got \(5, 32, 32, 3\)"),
        (lambda x: x[:, :1], ValueError, r"got \(5, 1, 32, 32\)"),
        (lambda x: list(x), TypeError, "images must be a tensor .* got list"),
    ],
)
def test_images_that_are_refused(embedder, pictures, bad, error, match):
    with pytest.raises(error, match=match):
        embedder.embed_images(bad(pictures))


@pytest.mark.parametrize(
    ("texts", "error", "match"),
    [
        (
            "a red star",
            TypeError,
            r"texts must be a sequence of strings, got 'a red star'; wrap a single text in a list",
        ),
        (["red", 3], TypeError, r"texts must be a sequence of strings, got \['red', 3\]"),
        ([], ValueError, "at least one string, got none"),
        (["red", "", " \n", "&nbsp;"], ValueError, "texts must not be empty, got 3 empty of 4"),
        (["red", "a " * 15], ValueError, "1 of 2 texts exceed CLIP's 16 tokens, first 'a a a .* with 17; shorten them"),
        (
            ["a red staar"],
            ValueError,
            r"'a red staar' has the word 'staar', which this CLIP never saw; near words: star",
        ),
        (["the yelow circel"], ValueError, "the word 'yelow', .* near words: yellow"),
        (["a red ☃"], ValueError, r"the word '☃', .*see glasslib\.tinyworld\.captions\.vocabulary\(\)"),
        (["red_star"], ValueError, "the word '_'"),
        (["red 3"], ValueError, "the word '3'"),
    ],
)
def test_texts_that_are_refused(embedder, texts, error, match):
    with pytest.raises(error, match=match):
        embedder.embed_texts(texts)


def test_words_are_known_in_any_case_and_without_a_vocabulary_all_are(clip, embedder):
    assert torch.equal(embedder.embed_texts(["A RED  star"]), embedder.embed_texts(["a red star"]))
    assert ClipEmbedder(*clip).embed_texts(["a snowman, 3 carrots & a hat"]).shape == (1, 12)


def test_a_text_of_exactly_the_context_is_whole_and_a_longer_one_is_cut_on_request(embedder):
    fits, long = "a " * 13 + "star", "a " * 13 + "star red red"
    assert embedder.too_long([fits, long]) == [long]
    rows = embedder.embed_texts([fits, long, "red"], truncate=True)
    assert torch.allclose(rows[1], rows[0], atol=1e-6)  # cut at the context, both are the same
    assert torch.allclose(rows[[0, 2]], embedder.embed_texts([fits, "red"]), atol=1e-6)
    with pytest.raises(ValueError, match="1 of 1 texts exceed"):
        embedder.embed_texts([long])  # having been cut once does not make it welcome


def test_what_a_notebook_reads_off(clip, embedder):
    assert embedder.image_size == 32 and embedder.device.type == "cpu"
    assert embedder.logit_scale == pytest.approx(1 / 0.07, rel=1e-4)  # CLIP's initial temperature
