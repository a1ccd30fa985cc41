import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glasslib import metrics

TABLE = {
    "A photo depicts a dog": (1.0, 0.0, 0.0),
    "A photo depicts a cat": (0.6, 0.8, 0.0),
    "A photo depicts a car": (0.0, 0.0, 1.0),
    "a dog": (0.0, 1.0, 0.0),
}


class Lookup:
    """An embedder that knows the vectors of a few texts."""

    def embed_texts(self, texts, *, truncate=False):
        return torch.tensor([TABLE[text] for text in texts])


PICTURES = F.normalize(torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, -1.0]]), dim=1)


def test_modality_gap_by_hand():
    images, texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert metrics.modality_gap(images, texts) == pytest.approx(0.5**0.5)


def test_first_hit_counts_rows_won_by_the_diagonal_and_ties_as_misses():
    similarity = np.array([[0.9, 0.1, 0.2], [0.5, 0.5, 0.1], [0.3, 0.8, 0.7]])
    assert metrics.first_hit(similarity).tolist() == [True, False, False]


def test_clip_score_by_hand():
    scores = metrics.clip_score(Lookup(), PICTURES, ["a dog", "a car"])
    np.testing.assert_allclose(scores, [2.5 * 0.6, 0], atol=1e-6)  # a cosine below 0 counts as 0
    np.testing.assert_allclose(metrics.clip_score(Lookup(), PICTURES[:1], ["a dog"], prefix=""), [2.5 * 0.8], atol=1e-6)


def test_ref_clip_score_by_hand():
    scores = metrics.ref_clip_score(Lookup(), PICTURES, ["a dog", "a car"], [["a car", "a cat"], ["a car"]])
    best = 0.6  # with the cat; the car has 0
    np.testing.assert_allclose(scores, [2 * 1.5 * best / (1.5 + best), 0], atol=1e-6)


def test_a_caption_without_a_reference_or_a_picture_is_refused():
    with pytest.raises(ValueError, match="2 non-empty lists"):
        metrics.ref_clip_score(Lookup(), PICTURES, ["a dog", "a car"], [["a car"], []])
    with pytest.raises(ValueError, match="image_embeddings must have shape"):
        metrics.clip_score(Lookup(), PICTURES, ["a dog"])


@pytest.mark.parametrize("factor", [2.0, 0.5, torch.nan, torch.inf])
def test_embeddings_that_are_not_of_norm_1_are_refused(factor):
    for call in (
        lambda: metrics.modality_gap(PICTURES * factor, PICTURES),
        lambda: metrics.modality_gap(PICTURES, PICTURES * factor),
        lambda: metrics.clip_score(Lookup(), PICTURES * factor, ["a dog", "a car"]),
        lambda: metrics.ref_clip_score(Lookup(), PICTURES * factor, ["a dog", "a car"], [["a car"], ["a car"]]),
    ):
        with pytest.raises(ValueError, match=r"must (be finite|have rows of L2 norm 1)"):
            call()
    half = F.normalize(torch.randn(50, 512, generator=torch.Generator().manual_seed(0)), dim=1).half()
    assert metrics.modality_gap(half.float(), half.float()) == 0  # as half precision leaves them
