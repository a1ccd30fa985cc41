"""Crossing the gap: each way against a direct computation."""

import pytest
import torch
import torch.nn.functional as F

from glasslib.captioning import gap


@pytest.fixture
def memory():
    return F.normalize(torch.randn(500, 8, generator=torch.Generator().manual_seed(1)), dim=1)


def test_mean_offset_brings_the_centroids_together(embeddings, memory):
    images = F.normalize(embeddings + 2, dim=1)
    offset = memory.mean(0) - images.mean(0)
    moved = gap.mean_offset(images, offset=offset)
    assert torch.allclose(moved, F.normalize(images + offset, dim=1))
    published = gap.mean_offset(images, offset=offset, normalize=False)
    assert torch.allclose(published.mean(0), memory.mean(0), atol=1e-6)
    assert gap.keep(images) is images


def test_stretched_offset_is_the_offset_at_one_and_tells_more_apart_above(embeddings, memory):
    images = F.normalize(embeddings + 2, dim=1)
    means = {"image_mean": images.mean(0), "text_mean": memory.mean(0)}
    moved = gap.mean_offset(images, offset=memory.mean(0) - images.mean(0))
    assert torch.allclose(gap.stretched_offset(images, **means, stretch=1), moved, atol=1e-6)
    twice = gap.stretched_offset(images, **means, stretch=2)
    assert torch.allclose(twice, F.normalize(memory.mean(0) + 2 * (images - images.mean(0)), dim=1), atol=1e-6)
    assert (twice @ twice.T).mean() < (moved @ moved.T).mean()  # further apart
    with pytest.raises(ValueError, match="stretch must be above 0, got 0"):
        gap.stretched_offset(images, **means, stretch=0)
    with pytest.raises(ValueError, match="image_mean"):
        gap.stretched_offset(images, image_mean=means["image_mean"][:3], text_mean=means["text_mean"])


@pytest.mark.parametrize("block", [500, 64, 1])
@pytest.mark.parametrize("temperature", [0.01, 0.2, 0.0005])
def test_projection_is_the_softmax_over_the_whole_memory(embeddings, memory, block, temperature):
    weights = (embeddings.double() @ memory.double().T / temperature).softmax(dim=1)
    expected = F.normalize(weights @ memory.double(), dim=1).float()
    projected = gap.TextMemory(lambda: memory.split(block)).project(embeddings, temperature=temperature)
    assert torch.allclose(projected, expected, atol=1e-4)
    assert torch.allclose(gap.TextMemory(memory).project(embeddings, temperature=temperature), expected, atol=1e-4)


def test_projection_at_no_temperature_is_the_nearest_text(embeddings, memory):
    cold = gap.TextMemory(memory).project(embeddings, temperature=1e-5)
    rows, _ = gap.TextMemory(memory).nearest(embeddings)
    assert torch.allclose(cold, memory[rows[:, 0]], atol=1e-4)
    with pytest.raises(ValueError, match="temperature must be above 0, got 0"):
        gap.TextMemory(memory).project(embeddings, temperature=0)


@pytest.mark.parametrize("block", [500, 7])
def test_nearest_is_a_full_sort(embeddings, memory, block):
    cosines, rows = (embeddings @ memory.T).sort(dim=1, descending=True)
    found, values = gap.TextMemory(lambda: memory.split(block)).nearest(embeddings, k=5)
    assert torch.equal(found, rows[:, :5]) and torch.allclose(values, cosines[:, :5], atol=1e-6)
    with pytest.raises(ValueError, match="at least k=600 texts, got 500"):
        gap.TextMemory(memory).nearest(embeddings, k=600)
