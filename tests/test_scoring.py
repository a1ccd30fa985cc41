"""Scorers against hand-worked numbers, on a toy embedder whose space is the picture's mean colour."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glasslib.scoring import ClipScorer, CutoutScorer, Ensemble, JointScorer, RealismScorer, TextScorer

WORDS = {"red": [1.0, 0, 0], "green": [0, 1.0, 0], "blue": [0, 0, 1.0], "yellow": [1.0, 1.0, 0]}


class ColourEmbedder:
    """A picture's embedding is its mean colour, a text's the sum of its words' colours, both of norm 1."""

    def __init__(self, context=4):
        self.context = context
        self.n_image_calls = 0

    def embed_images(self, images):
        self.n_image_calls += 1
        return F.normalize(images.mean(dim=(2, 3)), dim=1)

    def embed_texts(self, texts, *, truncate=False, allow_empty=False):
        if self.too_long(texts) and not truncate:
            raise ValueError(f"1 of {len(texts)} texts exceed CLIP's tokens, first {self.too_long(texts)[0]!r}")
        rows = [torch.tensor([WORDS[word] for word in text.split()[: self.context]]).sum(0) for text in texts]
        return F.normalize(torch.stack(rows), dim=1)

    def too_long(self, texts):
        return [text for text in texts if len(text.split()) > self.context]


class WithDiscriminator:
    """Its logit is the mean brightness times 4."""

    def realism(self, images):
        return images.mean(dim=(1, 2, 3)) * 4


def plain(*colours, size=4):
    """(n, 3, size, size): one picture a colour."""
    return torch.tensor(colours)[:, :, None, None].expand(-1, 3, size, size).clone()


PICTURES = plain([1.0, 0, 0], [0, 1.0, 0], [0.6, 0.8, 0])


def test_a_caption_scores_its_cosine():
    scores = ClipScorer(ColourEmbedder(), "red")(PICTURES)
    assert scores.tolist() == pytest.approx([1.0, 0.0, 0.6])


@pytest.mark.parametrize("target", [plain([0.0, 0.5, 0])[0], plain([0.0, 0.5, 0])])
def test_a_picture_scores_its_cosine_and_is_embedded_once(target):
    embedder = ColourEmbedder()
    scorer = ClipScorer(embedder, target)
    assert scorer(PICTURES).tolist() == pytest.approx([0.0, 1.0, 0.8])
    scorer(PICTURES)
    assert embedder.n_image_calls == 3


def test_weighted_captions_score_the_weighted_mean_of_their_similarities():
    scorer = ClipScorer(ColourEmbedder(), {"red": 1.0, "green": -0.5})
    # (1 * cos red - 0.5 * cos green) / 1.5
    assert scorer(PICTURES).tolist() == pytest.approx([1 / 1.5, -0.5 / 1.5, (0.6 - 0.4) / 1.5])
    assert ClipScorer(ColourEmbedder(), {"red": np.float32(7)})(PICTURES).tolist() == pytest.approx([1.0, 0.0, 0.6])


def test_weighted_captions_equal_an_ensemble_of_plain_ones():
    embedder, weights = ColourEmbedder(), {"red": 2.0, "yellow": -1.0, "blue": 0.5}
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    together = ClipScorer(embedder, weights)(images)
    apart = Ensemble([ClipScorer(embedder, caption) for caption in weights], list(weights.values()))(images)
    assert torch.allclose(together, apart, atol=1e-6)


def test_scores_never_leave_their_range():
    class Rounding(ColourEmbedder):
        def embed_images(self, images):
            return super().embed_images(images) * 1.0000004  # a norm of 1, but for float32

    for weight in (1.0, -1.0):
        assert ClipScorer(Rounding(), {"red": weight})(PICTURES).abs().max() == 1
    assert TextScorer(Rounding(), PICTURES[0])(["red"]).item() == 1


@pytest.mark.parametrize(
    ("target", "error", "match"),
    [
        (3, TypeError, r"target must be a caption \(str\), a picture \(tensor .* or captions with weights .* got int"),
        (["red", "green"], TypeError, "got list"),
        (np.zeros((3, 4, 4)), TypeError, "got ndarray"),
        (None, TypeError, "got NoneType"),
        (PICTURES, ValueError, r"one picture \(3, h, w\) or \(1, 3, h, w\), got \(3, 3, 4, 4\)"),
        (torch.zeros(4, 4), ValueError, r"one picture .*, got \(4, 4\)"),
        ({3: 1.0}, TypeError, r"keys of a weighted target must be captions, got \[3\]"),
        ({"red": "green"}, TypeError, r"weights must be numbers, got \['green'\]"),
        ({"red": float("nan")}, ValueError, "weights must be 1 finite numbers"),
        ({"red": float("inf")}, ValueError, "weights must be 1 finite numbers"),
        ({"red": 0.0}, ValueError, "at least one of them not 0"),
        ({}, ValueError, "weights must be 0 finite numbers"),
    ],
)
@pytest.mark.parametrize("scorer", [ClipScorer, TextScorer])
def test_a_target_of_the_wrong_kind_is_refused(scorer, target, error, match):
    with pytest.raises(error, match=match):
        scorer(ColourEmbedder(), target)


def test_gradients_reach_the_pictures_even_if_the_scorer_was_made_in_inference_mode():
    with torch.inference_mode():
        inside = plain([1.0, 0.5, 0])  # an inference tensor, as pictures from a search are
        scorers = [ClipScorer(ColourEmbedder(), target) for target in ("red", inside, {"red": 1.0, "blue": -1.0})]
    generator, rng = WithDiscriminator(), torch.Generator().manual_seed(0)
    scorers += [Ensemble(scorers), CutoutScorer(scorers[0], n_cutouts=2, rng=rng), RealismScorer(generator)]
    for scorer in [*scorers, JointScorer([scorers[0], RealismScorer(generator)])]:
        images = plain([0.1, 0.2, 0.3]).requires_grad_()
        scorer(images).sum().backward()
        assert images.grad.abs().max() > 0, scorer


def test_a_step_along_the_gradient_raises_the_score():
    images = plain([0.2, 0.5, 0.3]).requires_grad_()
    scorer = ClipScorer(ColourEmbedder(), "red")
    before = scorer(images)
    before.sum().backward()
    assert scorer((images + images.grad).detach()) > before


def test_texts_are_scored_against_a_picture():
    scorer = TextScorer(ColourEmbedder(), PICTURES[0])
    assert scorer(["red", "blue", "yellow", "red"]).tolist() == pytest.approx([1.0, 0.0, 0.5**0.5, 1.0])


LONG = "red green green green green green"  # its first four words are of cosine 1 / sqrt(10) with red


def test_a_text_too_long_is_refused_by_name():
    with pytest.raises(ValueError, match=r"1 of 2 texts exceed.* first 'red green"):
        TextScorer(ColourEmbedder(), PICTURES[0])(["red", LONG])


def test_truncate_cuts_only_the_text_that_is_too_long():
    scores = TextScorer(ColourEmbedder(), PICTURES[0], truncate=True)(["red", LONG, "blue"])
    assert scores.tolist() == pytest.approx([1.0, 10**-0.5, 0.0])


def test_faithful_scores_the_whole_batch_zero_for_one_text_too_long():
    scorer = TextScorer(ColourEmbedder(), PICTURES[0], faithful=True)
    assert scorer(["red", LONG, "yellow"]).tolist() == [0, 0, 0]
    assert scorer(["red", "yellow"]).tolist() == pytest.approx([1.0, 0.5**0.5])
    with pytest.raises(ValueError, match="exclude each other"):
        TextScorer(ColourEmbedder(), PICTURES[0], truncate=True, faithful=True)


def test_ensemble_is_the_mean_and_weights_shift_it():
    red, green = (ClipScorer(ColourEmbedder(), caption) for caption in ("red", "green"))
    assert Ensemble([red, green])(PICTURES).tolist() == pytest.approx([0.5, 0.5, 0.7])
    assert Ensemble([red, green], [3, 1])(PICTURES).tolist() == pytest.approx([0.75, 0.25, 0.65])
    texts = Ensemble([TextScorer(ColourEmbedder(), picture) for picture in PICTURES[:2]])
    assert texts(["red", "yellow"]).tolist() == pytest.approx([0.5, 0.5**0.5])
    with pytest.raises(ValueError, match="weights must be 2 finite numbers"):
        Ensemble([red, green], [1])
    with pytest.raises(ValueError, match="weights must be 0 finite numbers"):
        Ensemble([])


def test_an_ensemble_of_one_is_that_one():
    red = ClipScorer(ColourEmbedder(), "red")
    for ensemble in (Ensemble([red]), Ensemble([red], [3])):
        assert ensemble.weights == (1.0,) and ensemble.scorers == (red,)
        assert ensemble(PICTURES).tolist() == pytest.approx([1.0, 0.0, 0.6])
    assert Ensemble([red], [-0.5])(PICTURES).tolist() == pytest.approx([-1.0, 0.0, -0.6])
    assert Ensemble([TextScorer(ColourEmbedder(), PICTURES[0])])(["red", "green"]).tolist() == [1, 0]
    with pytest.raises(ValueError, match="weights must be 1 finite numbers, at least one of them not 0, got"):
        Ensemble([red], [0])


def test_a_scorer_made_within_inference_mode_still_gives_gradients():
    pictures = PICTURES.clone().requires_grad_()
    with torch.inference_mode():
        scorers = [ClipScorer(ColourEmbedder(), target) for target in ("red", PICTURES[0].clone(), {"red": 1.0})]
    for scorer in scorers:
        [slope] = torch.autograd.grad(scorer(pictures).sum(), pictures)
        assert slope.abs().sum() > 0


def test_text_scores_stay_above_minus_one():
    class Rounding(ColourEmbedder):
        def embed_texts(self, texts, *, truncate=False):
            return super().embed_texts(texts) * 1.0000004

    assert TextScorer(Rounding(), {"red": -1.0})(["red"]).item() == -1


def test_crops_of_a_tiny_picture_have_a_pixel():
    inner = Recorder()
    CutoutScorer(inner, n_cutouts=1, rng=torch.Generator().manual_seed(0))(torch.zeros(1, 3, 4, 4))
    assert len(inner.seen) == 1
    inner.seen.clear()
    CutoutScorer(inner, n_cutouts=20, rng=torch.Generator().manual_seed(0), smallest=0.01)(torch.zeros(1, 3, 2, 3))
    assert {tuple(crop.shape[2:]) for crop in inner.seen} == {(1, 1), (2, 2)}


class Recorder:
    """A scorer that keeps what it was given; its score is the mean red."""

    def __init__(self):
        self.seen = []

    def __call__(self, images):
        self.seen.append(images)
        return images[:, 0].mean(dim=(1, 2))


def test_cutouts_are_square_in_bounds_and_shared_by_the_batch():
    inner = Recorder()
    rows, columns = torch.meshgrid(torch.arange(10.0), torch.arange(20.0), indexing="ij")
    where = torch.stack([rows / 10, columns / 20, torch.zeros(10, 20)])  # each pixel tells its place
    scores = CutoutScorer(inner, n_cutouts=300, rng=torch.Generator().manual_seed(0), smallest=0.4)(
        torch.stack([where, where])
    )
    assert len(inner.seen) == 300
    assert all(crop.shape[2] == crop.shape[3] and torch.equal(crop[0], crop[1]) for crop in inner.seen)
    assert {crop.shape[2] for crop in inner.seen} == {4, 5, 6, 7, 8, 9, 10}
    small = [crop for crop in inner.seen if crop.shape[2] < 8]
    for channel, last in ((0, 0.9), (1, 0.95)):  # even small crops reach every edge
        assert min(crop[0, channel].min() for crop in small) == 0
        assert max(crop[0, channel].max() for crop in small) == pytest.approx(last)
    assert scores.tolist() == pytest.approx([float(torch.stack([c[0, 0].mean() for c in inner.seen]).mean())] * 2)


def test_cutouts_repeat_under_one_rng_and_differ_between_calls():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    new = lambda: CutoutScorer(Recorder(), n_cutouts=2, rng=torch.Generator().manual_seed(3))  # noqa: E731
    one, other = new(), new()
    first = one(images)
    assert torch.equal(first, other(images)) and not torch.equal(first, one(images))


def test_cutouts_of_the_whole_picture_change_nothing():
    scorer = ClipScorer(ColourEmbedder(), "red")
    whole = CutoutScorer(scorer, n_cutouts=3, rng=torch.Generator(), smallest=1.0)
    assert torch.allclose(whole(PICTURES), scorer(PICTURES))
    for settings in ({"n_cutouts": 0}, {"n_cutouts": 1, "smallest": 0.0}, {"n_cutouts": 1, "smallest": 1.5}):
        with pytest.raises(ValueError, match=r"n_cutouts must be at least 1 and smallest in \(0, 1\]"):
            CutoutScorer(scorer, rng=torch.Generator(), **settings)


def test_realism_is_the_hinge_of_clip_glass_or_the_logit():
    images = plain([0.0] * 3, [0.125] * 3, [0.25] * 3, [1.0] * 3)  # logits 0, 0.5, 1, 4
    assert RealismScorer(WithDiscriminator())(images).tolist() == pytest.approx([-1.0, -0.5, 0.0, 0.0])
    assert RealismScorer(WithDiscriminator(), hinge=False)(images).tolist() == pytest.approx([0, 0.5, 1, 4])


def test_realism_needs_a_discriminator():
    with pytest.raises(TypeError, match=r"must come with a discriminator.* got ColourEmbedder; leave realism out"):
        RealismScorer(ColourEmbedder())


def test_joint_puts_objectives_in_columns():
    joint = JointScorer([ClipScorer(ColourEmbedder(), "red"), RealismScorer(WithDiscriminator(), hinge=False)])
    scores = joint(PICTURES)
    assert scores.shape == (3, 2)
    assert scores.flatten().tolist() == pytest.approx([1, 4 / 3, 0, 4 / 3, 0.6, 4 * 1.4 / 3])
    with pytest.raises(ValueError, match="at least 2, got 1"):
        JointScorer([Recorder()])


def test_a_picture_that_is_nan_scores_nan_for_the_search_to_refuse():
    scores = JointScorer([ClipScorer(ColourEmbedder(), "red"), RealismScorer(WithDiscriminator())])(
        PICTURES * torch.nan
    )
    assert scores.isnan().all()
