import dataclasses

import numpy as np
import pytest
import torch

from glasslib.tinyworld import scenes
from glasslib.tinyworld.scenes import COLOURS, PLACES, SHAPES


def one_object(n=1, **changes):
    """n plain scenes with a large object in the centre, noise-free attributes replaced by `changes`."""
    drawn = scenes.sample(n, rng=np.random.default_rng(0), n_objects=(1, 1), textures=("plain",))
    flat = {name: np.zeros_like(getattr(drawn, name)) for name in ("tint", "background_tint", "rotation")}
    centre = {name: np.array([[0.5, 0, 0]] * n) for name in ("x", "y")} | {"radius": np.array([[0.28, 0, 0]] * n)}
    return dataclasses.replace(drawn, **flat, **centre, **changes)


def render(world, **options):
    return scenes.render(world, rng=torch.Generator().manual_seed(0), **options)


def test_the_same_seed_gives_the_same_scenes_and_pixels():
    first, again = (scenes.sample(20, rng=np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(render(first), render(again))
    assert not torch.equal(render(first), render(scenes.sample(20, rng=np.random.default_rng(4))))


def test_pixels_do_not_depend_on_the_batch():
    world = scenes.sample(12, rng=np.random.default_rng(1))
    whole = render(world, noise_std=0.0)
    parts = torch.cat([render(world[i : i + 1], noise_std=0.0) for i in range(12)])
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=0)


def test_pictures_are_rgb_in_the_unit_range():
    pictures = render(scenes.sample(50, rng=np.random.default_rng(2)), size=48)
    assert pictures.shape == (50, 3, 48, 48)
    assert pictures.min() >= 0 and pictures.max() <= 1


@pytest.mark.parametrize("name", [name for name in SHAPES if name not in ("ring", "crescent")])
def test_the_middle_of_an_object_has_its_colour_and_the_corner_the_background(name):
    world = one_object(shape=np.array([[SHAPES.index(name), -1, -1]]), colour=np.array([[0, -1, -1]]))
    picture = render(dataclasses.replace(world, background=np.array([1])), noise_std=0.0)[0]
    torch.testing.assert_close(picture[:, 32, 32], torch.tensor(COLOURS["red"]), atol=1e-4, rtol=0)
    torch.testing.assert_close(picture[:, 1, 1], torch.tensor([0.95, 0.95, 0.94]), atol=1e-4, rtol=0)


def test_a_ring_is_open_in_the_middle():
    picture = render(
        one_object(shape=np.array([[SHAPES.index("ring"), -1, -1]]), background=np.array([0])), noise_std=0
    )
    torch.testing.assert_close(picture[0, :, 32, 32], torch.tensor([0.08, 0.08, 0.09]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", SHAPES)
def test_signed_distance_is_negative_inside_and_grows_outside(name):
    ticks = torch.linspace(-1.5, 1.5, 61)
    v, u = torch.meshgrid(ticks, ticks, indexing="ij")
    distance = scenes.signed_distance(name, u, v)
    area = (distance < 0).float().mean() * 9
    assert 0.9 < area < 3.2  # every shape covers a fair part of its circle of radius 1 (area 3.14)
    assert (distance[torch.sqrt(u * u + v * v) > 1.2] > 0).all()


def test_objects_lie_inside_the_frame_and_where_their_place_says():
    world = scenes.sample(3000, rng=np.random.default_rng(5))
    for slot in range(3):
        there = world.n_objects > slot
        x, y, r = (getattr(world, name)[there, slot] for name in ("x", "y", "radius"))
        assert (x - r > 0).all() and (x + r < 1).all() and (y - r > 0).all() and (y + r < 1).all()
        centres = np.array([*PLACES.values()])
        nearest = ((np.stack([x, y], 1)[:, None] - centres) ** 2).sum(2).argmin(1)
        assert (nearest == world.place[there, slot]).all()


def test_attributes_are_uniform_and_padded_with_minus_one():
    world = scenes.sample(8000, rng=np.random.default_rng(6))
    counts = np.bincount(world.shape[:, 0], minlength=len(SHAPES))
    assert counts.min() > 850 and counts.max() < 1150
    for slot in (1, 2):
        absent = world.n_objects <= slot
        for name in ("shape", "colour", "size", "place"):
            assert (getattr(world, name)[absent, slot] == -1).all()
            assert (getattr(world, name)[~absent, slot] >= 0).all()


def test_neon_objects_are_outlines():
    filled = one_object(shape=np.array([[0, -1, -1]]), background=np.array([0]))
    neon = dataclasses.replace(filled, domain=np.array([1]))
    difference = (render(filled, noise_std=0) - render(neon, noise_std=0)).abs()
    assert difference[0, :, 32, 32].max() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"domain": "photo"}, "domain must be one of"),
        ({"textures": ("plain", "marble")}, "marble"),
        ({"n_objects": (0, 2)}, "n_objects must be"),
        ({"n_objects": (2, 4)}, "n_objects must be"),
    ],
)
def test_unknown_options_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        scenes.sample(3, rng=np.random.default_rng(0), **options)
