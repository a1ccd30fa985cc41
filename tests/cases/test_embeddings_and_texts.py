"""Faults of embeddings and texts that stay mended: norms, control tokens, advice, one text too long."""

import functools

import numpy as np
import pytest
import torch

from glasslib import scoring
from glasslib.captioning import captioner as captioners
from glasslib.captioning import decoding, gap, noise
from glasslib.clip.embedder import ClipEmbedder
from glasslib.tinyworld import models, scenes


@pytest.fixture(scope="module")
def clip():
    return models.load_clip()


@pytest.fixture(scope="module")
def embeddings(clip):
    """(6, dim) of pictures."""
    world = scenes.sample(6, rng=np.random.default_rng(5))
    return clip.embed_images(scenes.render(world, rng=torch.Generator().manual_seed(5)))


@pytest.fixture(scope="module")
def any_word():
    """The tiny CLIP without its list of known words."""
    return ClipEmbedder(*models.new_clip("tiny-clip", models.WEIGHTS / "clip" / "model.safetensors"))


SPOILT = {
    "ten times": (lambda x: x * 10, r"must have rows of L2 norm 1, got 6 of 6 others, norms from 10"),
    "a hundredth": (lambda x: x * 0.01, r"must have rows of L2 norm 1, got 6 of 6 others, norms from 0.01"),
    "NaN": (lambda x: x.where(torch.arange(6)[:, None] != 2, torch.nan), "must be finite, got NaN .* in 1 of 6 rows"),
    "infinite": (lambda x: x.where(torch.arange(6)[:, None] > 1, torch.inf), "must be finite, .* in 2 of 6 rows"),
    "zero": (lambda x: x * 0, "must have rows of L2 norm 1, got 6 of 6 others, norms from 0 to 0"),
}


def takers(clip) -> dict:
    rng, middle = torch.Generator(), torch.zeros(clip.dim)
    captioner = captioners.load(models.WEIGHTS / "captioner")
    memory = gap.TextMemory(clip.embed_texts(["a red star", "a blue ring"]))
    pairs = {"image_ids": [0, 0, 1, 1, 2, 2]}
    return {
        "captioner": lambda x: captioner(x, max_tokens=5),
        "nearest_caption": lambda x: captioners.nearest_caption([["a red star"]] * 6, x, embedder=clip),
        "gaussian noise": lambda x: noise.add_gaussian_noise(x, noise_std=0.1, rng=rng),
        "ball noise": lambda x: noise.add_ball_noise(x, noise_norm=0.1, rng=rng),
        "covariance noise": lambda x: noise.add_covariance_noise(x, factor=torch.eye(clip.dim), rng=rng),
        "offset": lambda x: noise.add_offset(x, offset=middle),
        "paraphrases": lambda x: noise.paraphrase_cosine(x, **pairs),
        "L-infinity": lambda x: noise.linf_noise_std(x, **pairs),
        "mean offset": lambda x: gap.mean_offset(x, offset=middle, normalize=False),
        "stretched offset": lambda x: gap.stretched_offset(x, image_mean=middle, text_mean=middle),
        "projection": memory.project,
        "nearest": memory.nearest,
    }


@pytest.mark.parametrize("spoil", SPOILT)
def test_embeddings_that_are_not_finite_or_not_of_norm_1_are_refused(clip, embeddings, spoil):
    change, match = SPOILT[spoil]
    for name, take in takers(clip).items():
        take(embeddings)  # as they are they are taken
        with pytest.raises(ValueError, match=match):
            take(change(embeddings))
            pytest.fail(f"{name} took embeddings {spoil}")


def test_an_embedder_without_norm_1_is_refused_by_the_scorers_and_nan_is_left_to_the_search(clip):
    class Off:
        factor = 1.0

        def embed_images(self, images):
            return clip.embed_images(images) * self.factor

        def embed_texts(self, texts, **options):
            return clip.embed_texts(texts, **options) * self.factor

    embedder, pictures = Off(), torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for scorer, batch in (
        (scoring.ClipScorer(embedder, "a red star"), pictures),
        (scoring.TextScorer(embedder, pictures[0]), ["a red star", "a ring"]),
    ):
        Off.factor = 1.0
        assert scorer(batch).isfinite().all()
        Off.factor = 3.0
        with pytest.raises(ValueError, match="the embedder's embeddings must have rows of L2 norm 1, got"):
            scorer(batch)
        Off.factor = torch.nan
        assert scorer(batch).isnan().all()
        for target in ("a red star", pictures[0], {"a red star": 1.0}):
            with pytest.raises(ValueError, match="the target's embeddings must be finite"):
                scoring.ClipScorer(embedder, target)


@pytest.mark.parametrize("token", ["<end_of_text>", "<start_of_text>", "<END_OF_TEXT>", "&lt;end_of_text&gt;"])
def test_a_control_token_in_a_caption_does_not_end_it(any_word, token):
    whole, start = any_word.embed_texts([f"a red star {token} on a blue background", "a red star"])
    assert whole @ start < 0.9999


def test_the_tiny_clip_refuses_a_control_token_as_an_unknown_word(clip):
    with pytest.raises(ValueError, match="has the word '<', which this CLIP never saw"):
        clip.embed_texts(["a red star <end_of_text>"])


def test_what_the_message_for_a_long_target_advises_works(clip):
    long = "a red star on the left " * 12
    with pytest.raises(ValueError, match="shorten them$"):
        scoring.ClipScorer(clip, long)


def test_one_text_too_long_is_cut_or_refused_by_name_and_costs_no_other(any_word):
    long, picture = "a red star on the left " * 12, torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    others = ["a red star", "a ring at the top"]
    alone = scoring.TextScorer(any_word, picture)(others)
    together = scoring.TextScorer(any_word, picture, truncate=True)([others[0], long, others[1]])
    assert torch.equal(together[[0, 2]], alone) and together[1].isfinite()
    with pytest.raises(ValueError, match="1 of 3 texts exceed CLIP's 40 tokens, first 'a red star on the left a red"):
        scoring.TextScorer(any_word, picture)([others[0], long, others[1]])
    assert torch.equal(scoring.TextScorer(any_word, picture)(others), alone)


def test_the_faithful_scorer_scores_an_empty_text_as_start_and_end(any_word):
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    score = scoring.TextScorer(any_word, picture, faithful=True)(["", "a red star"])
    expected = any_word.embed_texts([""], allow_empty=True) @ any_word.embed_images(picture[None])[0]
    assert score[0] == pytest.approx(float(expected), abs=1e-6) and score[0] != score[1]
    with pytest.raises(ValueError, match="1 empty of 1"):
        scoring.TextScorer(any_word, picture)([""])


@pytest.mark.parametrize("decode", [decoding.published_beam, decoding.beam])
def test_more_beams_than_tokens_are_refused_by_name(embeddings, decode):
    captioner = captioners.load(models.WEIGHTS / "captioner", decode=functools.partial(decode, beam_size=500))
    with pytest.raises(ValueError, match="beam_size must be at most the language model's 128 tokens, got 500"):
        captioner(embeddings, max_tokens=5)
