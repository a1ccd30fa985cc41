"""The CLIP wrapper against open_clip's own functions and Pillow, on a small CLIP of random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from glasslib.clip import fast
from glasslib.clip.embedder import ClipEmbedder, load_open_clip
from glasslib.clip.fast import encode_image_pooled, encode_text_trimmed

CONTEXT = 16
WORDS = ("a", "red", "blue", "star", "circle", "on", "the", "left", "of", "yellow")
TEXTS = ["a red star", "the blue circle on the left of the yellow star", "red", "a star on a star on a star on a star"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """open_clip's model, by a registered config, and tokenizer."""
    return make_clip(tmp_path_factory.mktemp("clip"), "glasslib-test")


def make_clip(folder: Path, name: str, *, custom: bool = False, **text_options):
    import open_clip
    from open_clip.tokenizer import SimpleTokenizer

    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2, **text_options}
    vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
    config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text, "custom_text": custom}
    (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # open_clip initialises from the global state
        model, _, _ = open_clip.create_model_and_transforms(name)
        # as initialised, all texts and all pictures come out nearly alike: make the blocks matter
        tower = model.text if custom else model
        for parameter in [*tower.transformer.resblocks.parameters(), *model.visual.layer4.parameters()]:
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


@pytest.mark.parametrize(
    ("vision", "is_short"),
    [
        ({}, True),
        ({"pool_type": "avg"}, False),
        ({"attentional_pool": True, "attn_pooler_heads": 4}, False),
        ({"ls_init_value": 0.1}, True),
    ],
)
def test_of_a_vision_transformer_s_last_block_the_class_token_is_computed(tmp_path, monkeypatch, vision, is_short):
    import open_clip

    config = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3} | vision
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    name = "glasslib-vit-" + "-".join([*map(str, vision.values()), "plain"])
    (tmp_path / f"{name}.json").write_text(json.dumps({"embed_dim": 12, "vision_cfg": config, "text_cfg": text}))
    open_clip.add_model_config(tmp_path)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = open_clip.create_model(name).eval()
        for parameter in model.visual.transformer.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    full = model.encode_image(images)
    (slope,) = torch.autograd.grad(full.square().sum(), images)
    if is_short:
        monkeypatch.setattr(model, "encode_image", None)  # not used
    ours = encode_image_pooled(model, images)
    assert full.std(dim=0).norm() > 0.1
    torch.testing.assert_close(ours, full, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(ours.square().sum(), images)[0], slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_a_text_tower_of_its_own_module_is_trimmed_too(tmp_path, monkeypatch, pool):
    model, tokenizer = make_clip(tmp_path, f"glasslib-test-{pool}", custom=True, pool_type=pool, eos_id=49407)
    token_ids = tokenizer(TEXTS)
    full = model.encode_text(token_ids)
    assert torch.allclose(encode_text_trimmed(model, token_ids), full, atol=1e-6)
    monkeypatch.setattr(model, "encode_text", None)  # not used: the result above was computed in short
    assert torch.allclose(encode_text_trimmed(model, token_ids[[2]]), full[[2]], atol=1e-6)


def test_trimmed_text_computes_no_more_than_the_longest(clip, monkeypatch):
    model, tokenizer = clip
    lengths = []
    block = model.transformer.resblocks[0]
    monkeypatch.setattr(block, "forward", lambda x, attn_mask: (lengths.append(x.shape[1]), x)[1])
    encode_text_trimmed(model, tokenizer(["red", "a red star"]))
    assert lengths == [8]  # start, three words and end, and on to a multiple of four
    assert fast.text_lengths(model, tokenizer(["red", "a red", "a red star", "a " * 11, "a " * 14])).tolist() == [
        4,
        4,
        8,
        16,
        16,
    ]


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


def computed_texts(embedder, monkeypatch) -> list[str]:
    """A list that grows by every text the embedder computes."""
    computed, original = [], embedder._embed_tokens
    monkeypatch.setattr(embedder, "_embed_tokens", lambda new: (computed.extend(new), original(new))[1])
    return computed


def test_each_distinct_text_is_computed_once(embedder, monkeypatch):
    computed = computed_texts(embedder, monkeypatch)
    embedder.embed_texts(["red", "a star", "red"])
    embedder.embed_texts(("a star", "blue"))
    assert sorted(computed) == ["a star", "blue", "red"]


def test_the_memory_of_texts_is_bounded_and_the_longest_unused_goes(clip, monkeypatch):
    embedder = ClipEmbedder(*clip, text_cache_size=3)
    known = embedder.embed_texts(WORDS)  # more than are remembered
    assert torch.allclose(known, ClipEmbedder(*clip).embed_texts(WORDS), atol=1e-6)
    embedder.embed_texts(["red", "blue", "star"])
    embedder.embed_texts(["red", "circle"])
    computed = computed_texts(embedder, monkeypatch)
    assert torch.equal(embedder.embed_texts(["red", "circle", "star", "blue"]), known[[1, 4, 3, 2]])
    assert computed == ["blue"]


def pixels_seen(clip, picture: np.ndarray, **options) -> torch.Tensor:
    """What the model is given for a picture (h, w, 3) in [0, 1]: (3, 32, 32)."""
    seen = []
    handle = clip[0].visual.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][0]))
    ClipEmbedder(*clip, normalize=False, **options).embed_images(torch.from_numpy(picture).permute(2, 0, 1)[None])
    handle.remove()
    return seen[0]


def striped(height: int, width: int) -> np.ndarray:
    picture = np.random.default_rng(0).random((height, width, 3), dtype=np.float32)
    picture[:, ::3] = 0.0  # fine stripes, which alias if they are not filtered
    return picture


@pytest.mark.parametrize("size", [(48, 80), (97, 33), (20, 20)])
def test_squashing_is_pillow_s_antialiased_bicubic(clip, size):
    picture = striped(*size)
    channels = [Image.fromarray(picture[..., k]).resize((32, 32), Image.Resampling.BICUBIC) for k in range(3)]
    reference = torch.from_numpy(np.stack([np.asarray(channel) for channel in channels])).clamp(0, 1)
    assert torch.allclose(pixels_seen(clip, picture, resize="squash"), reference, atol=1e-4)


@pytest.mark.parametrize("size", [(48, 80), (97, 33), (32, 45), (20, 20), (31, 400)])
@pytest.mark.parametrize("resize", ["shortest", "longest", "squash"])
def test_a_picture_is_cut_and_scaled_as_open_clip_does_it(clip, size, resize):
    from open_clip.transform import image_transform

    picture = striped(*size)
    transform = image_transform(32, is_train=False, mean=(0, 0, 0), std=(1, 1, 1), resize_mode=resize)
    reference = transform(Image.fromarray((picture * 255).round().astype(np.uint8)))
    default = {} if resize == "shortest" else {"resize": resize}  # what the model's own preprocessing says
    difference = (pixels_seen(clip, picture, **default) - reference).abs()
    assert difference.mean() < 1 / 255 and difference.max() < 0.1  # Pillow rounds and clips halfway


def test_clip_glass_s_resizing_takes_one_sample_a_pixel(clip):
    picture = striped(96, 96)  # a third of the size: each sample falls on the middle one of three
    faithful = pixels_seen(clip, picture, resize="bilinear")
    assert torch.allclose(faithful, torch.from_numpy(picture[1::3, 1::3]).permute(2, 0, 1), atol=1e-5)


def test_bfloat16_stays_near_float32(clip, pictures):
    exact, cast = ClipEmbedder(*clip, precision="fp32"), ClipEmbedder(*clip, precision="bf16")
    for near, true in zip(
        (cast.embed_images(pictures), cast.embed_texts(TEXTS)),
        (exact.embed_images(pictures), exact.embed_texts(TEXTS)),
        strict=True,
    ):
        assert near.dtype == torch.float32
        assert torch.allclose(near.norm(dim=1), torch.ones(len(near)), atol=1e-6)
        deviation = (near - true).norm(dim=1).max()
        assert 1e-4 < deviation < 0.03  # cosines move by at most as much
    assert torch.equal(ClipEmbedder(*clip).embed_texts(TEXTS), exact.embed_texts(TEXTS))  # on a CPU nothing is cast


@pytest.mark.parametrize(
    "token", ["<end_of_text>", "<start_of_text>", "&lt;end_of_text&gt;", "&amp;amp;lt;END_OF_TEXT>"]
)
def test_a_control_token_written_out_in_a_text_is_read_as_its_characters(clip, token):
    embedder = ClipEmbedder(*clip)
    control = [49406, 49407]
    written = embedder._tokens.encode(f"red {token} star")
    assert (written[0], written[-1]) == (control[0], control[1]) and not set(control) & set(written[1:-1])
    name = "start" if "start" in token else "end"
    plain = [clip[1].encode(part) for part in ("red", "<", name, "_", "of", "_", "text", ">", "star")]
    assert written[1:-1] == [token_id for part in plain for token_id in part]
    short, whole = embedder.embed_texts(["red", f"red {token} star"])
    assert short @ whole < 0.9999


def test_a_tokenizer_of_transformers_works_as_well(tmp_path, clip):
    from open_clip.tokenizer import HFTokenizer
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", *WORDS, "[SEP]"])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    core.normalizer, core.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(tmp_path)
    tokenizer = HFTokenizer(str(tmp_path), context_length=CONTEXT)
    embedder = ClipEmbedder(clip[0], tokenizer)
    expected = F.normalize(clip[0].encode_text(tokenizer(TEXTS)), dim=1)
    assert torch.allclose(embedder.embed_texts(TEXTS), expected, atol=1e-6) and expected.std(dim=0).norm() > 0.1
    fits, long = "a " * 13 + "star", "a " * 14 + "star"
    assert embedder.too_long([fits, long]) == [long]
    with pytest.raises(ValueError, match=r"1 of 2 texts exceed CLIP's 16 tokens, first 'a a a .* with 17"):
        embedder.embed_texts([fits, long])
    with pytest.raises(ValueError, match="1 empty of 2"):
        embedder.embed_texts(["blue", " "])
    with pytest.raises(
        ValueError, match=r"text 'red \[SEP\] star' holds this CLIP's control token '\[SEP\]'; leave it"
    ):
        embedder.embed_texts(["red [SEP] star"])


def test_an_empty_text_is_embedded_on_request_as_start_and_end_alone(clip, embedder):
    model, _ = clip
    alone = torch.zeros(1, CONTEXT, dtype=torch.long)
    alone[0, :2] = torch.tensor([49406, 49407])
    rows = embedder.embed_texts(["", "red", " "], allow_empty=True)
    assert torch.allclose(rows[0], F.normalize(model.encode_text(alone), dim=1)[0], atol=1e-6)
    assert torch.equal(rows[0], rows[2]) and torch.equal(rows[1], embedder.embed_texts(["red"])[0])
    with pytest.raises(ValueError, match="1 empty of 1"):
        embedder.embed_texts([""])  # having been allowed once does not make it welcome


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
        (["a red ☃"], ValueError, r"the word '☃', .*see glasslib\.tinyworld\.wording\.vocabulary\(\)"),
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


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"resize": "crop"}, r"resize must be None or one of \('shortest', .*got 'crop'"),
        ({"precision": "int8"}, r"precision must be 'auto' or one of \('fp32', 'bf16', 'fp16'\), got 'int8'"),
    ],
)
def test_settings_that_are_refused(clip, options, match):
    with pytest.raises(ValueError, match=match):
        ClipEmbedder(*clip, **options)


def test_a_file_is_loaded_with_the_activation_that_its_tag_was_trained_with(clip, tmp_path, monkeypatch, pictures):
    import open_clip
    from safetensors.torch import save_file

    save_file(dict(clip[0].state_dict()), tmp_path / "clip.safetensors")
    torch.save(clip[0].state_dict(), tmp_path / "clip.pt")
    trained = {"quick_gelu": True, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2), "resize_mode": "squash"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "glasslib-test", {"somewhere": trained})
    plain = load_open_clip("glasslib-test", None, weights=tmp_path / "clip.safetensors")
    quick = load_open_clip("glasslib-test", "somewhere", weights=tmp_path / "clip.pt")
    reference = ClipEmbedder(clip[0], clip[1]).embed_texts(["a red star"])
    assert torch.equal(plain.embed_texts(["a red star"]), reference)
    assert (quick.embed_texts(["a red star"]) - reference).norm() > 1e-3
    assert quick._pixel_mean.flatten().tolist() == pytest.approx(trained["mean"]) and quick._resize == "squash"
    assert plain._resize == "shortest"


def test_random_weights_come_from_the_generator_alone(clip):
    def texts(seed):
        loaded = load_open_clip("glasslib-test", None, weights="random", rng=torch.Generator().manual_seed(seed))
        return loaded.embed_texts(["a red star"])

    before = torch.get_rng_state()
    assert torch.equal(texts(1), texts(1)) and not torch.equal(texts(1), texts(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_that_do_not_fit_are_refused(clip, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(
        ValueError, match="open_clip has no 'ViT-B-32' with tag 'closedai'; tags of that name: .*openai"
    ):
        load_open_clip("ViT-B-32", "closedai")
    with pytest.raises(ValueError, match="open_clip has no 'ViT-B-33'"):
        load_open_clip("ViT-B-33", "openai")
    with pytest.raises(FileNotFoundError, match="no none.safetensors at .*none.safetensors; .*make weights"):
        load_open_clip("glasslib-test", None, weights=tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="needs rng"):
        load_open_clip("glasslib-test", None, weights="random")
    state = dict(clip[0].state_dict())
    save_file(state, tmp_path / "clip.safetensors")
    whole = (tmp_path / "clip.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    del state["ln_final.weight"]
    save_file(state, tmp_path / "lacking.safetensors")
    save_file(state | {"ln_final.bias": state["ln_final.bias"] * torch.nan}, tmp_path / "nan.safetensors")
    for name, said in (
        ("half", "is a safetensors file of the wrong length"),
        ("lacking", "must hold the weights of glasslib-test, whole: "),
        ("nan", ": ln_final.bias must be finite, got "),
    ):
        with pytest.raises(ValueError, match=rf"{name}.safetensors(: )?.*{said}"):
            load_open_clip("glasslib-test", None, weights=tmp_path / f"{name}.safetensors")


def test_a_file_that_would_run_code_is_refused(clip, tmp_path):
    marker = tmp_path / "ran"

    class Malice:
        def __reduce__(self):
            return Path.touch, (marker,)

    torch.save({"logit_scale": Malice()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match=r"bad.pt must be a complete PyTorch file .* it names "):
        load_open_clip("glasslib-test", None, weights=tmp_path / "bad.pt")
    assert not marker.exists()


def test_quick_gelu_in_place_is_the_same_to_the_last_bit():
    from open_clip.transformer import QuickGELU

    model, x = torch.nn.Sequential(torch.nn.Sequential(QuickGELU()), torch.nn.GELU()), torch.randn(50, 20)
    with torch.no_grad():
        before, copy = model(x), x.clone()
        fast.fuse_quick_gelu(model)
        assert torch.equal(model(x), before) and torch.equal(x, copy)
    assert type(model[0][0]) is fast.InPlaceQuickGELU and type(model[1]) is torch.nn.GELU
    assert torch.autograd.gradcheck(model, (x[:2, :3].double().requires_grad_(True),))
