"""What the CLIPs of two things learn from: twins, tags, and never a held-out combination."""

import numpy as np
import pytest
import torch

from glasslib.tinyworld import two_things
from glasslib.tinyworld.recipes import two_clip
from glasslib.tinyworld.scenes import COLOURS, SHAPES


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(two_clip, "N_SCENES", 300)


def test_tags_by_hand():
    world = two_things.sample(1, rng=np.random.default_rng(0))
    world.shape[0, :2], world.colour[0, :2], world.place[0, :2] = (3, 0), (1, 6), (2, 3)
    pairs = [16 + 3 * 8 + 1, 16 + 0 * 8 + 6]
    sides = [80 + 3 * 4 + 2, 80 + 0 * 4 + 3, 112 + 1 * 4 + 2, 112 + 6 * 4 + 3]
    hot = two_clip.tags(world, two_clip.BOUND)
    assert hot[0].nonzero()[:, 0].tolist() == sorted([3, 0, 8 + 1, 8 + 6, *pairs, *sides])
    assert two_clip.tags(world, two_clip.WORDS)[0].nonzero()[:, 0].tolist() == [0, 3, 9, 14]


def test_twins_are_of_their_scene_and_never_held_out():
    world = two_things.sample(200, rng=np.random.default_rng(1))
    everyone, owner = two_clip.with_twins(world)
    assert not two_things.is_held_out(everyone).any()
    assert 1.8 * len(world) < len(everyone) < 4 * len(world)
    for name in ("shape", "colour"):
        ours, theirs = getattr(everyone, name)[:, :2], getattr(world, name)[owner][:, :2]
        assert (np.sort(ours) == np.sort(theirs)).all()


def test_hard_batches_hold_twins_told_in_the_same_words(few):
    pairs = two_clip.Pairs(1, hard=True)
    pictures, texts, tags = pairs.batch(201, torch.Generator().manual_seed(0))
    assert pictures.shape == (128, 3, 32, 32) and pictures.dtype == torch.uint8 and tags.shape == (128, 144)
    told = [two_things.parse(text) for text in texts]
    words = [tuple(sorted(word for word in text.split() if word not in {"a", "an"})) for text in texts]
    assert len(set(words)) < 110  # colours exchanged: the same words in another order
    assert all(fact.relation for fact in told)
    random = pairs.batch(200, torch.Generator().manual_seed(0))[1]
    assert len({tuple(sorted(text.split())) for text in random}) > 115


def test_plain_batches_are_random_and_their_tags_do_not_bind(few):
    pairs = two_clip.Pairs(1, hard=False)
    _, texts, tags = pairs.batch(201, torch.Generator().manual_seed(0))
    assert tags.shape == (128, 16) and (tags.sum(1) == 4).all()
    assert len({tuple(sorted(text.split())) for text in texts}) > 115


def test_knows_counts_who_is_nearer():
    class Embedder:
        """Knows binding and nothing of places: a caption's colour and shape pairs, without their order."""

        def __init__(self):
            world = two_things.sample(200, rng=np.random.default_rng(7))
            self.rows = [self.of(fact) for fact in two_things.facts(world)]

        @staticmethod
        def of(fact) -> torch.Tensor:
            vector = torch.zeros(64)
            for obj in fact.objects:
                vector[SHAPES.index(obj.shape) * 8 + list(COLOURS).index(obj.colour)] = 1
            return vector / 2**0.5

        def embed_images(self, images):
            return torch.stack(self.rows)

        def embed_texts(self, texts):
            return torch.stack([self.of(two_things.parse(text)) for text in texts])

    report = two_clip.knows(Embedder(), n=200, seed=7)
    assert report["binding"] == report["shapes"] == 1.0
    assert report["relation"] == 0.0  # a tie is not nearer
    assert report["any"] > 0.95
