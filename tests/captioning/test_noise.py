"""Noise: each kind has the size its own unit says, and CapDec's code is reproduced with its quirks."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from glasslib.captioning import noise


def unit(n, dim, seed=0):
    return F.normalize(torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def rng(seed=7):
    return torch.Generator().manual_seed(seed)


def cosines(x, y):
    return (x * y).sum(1)


@pytest.mark.parametrize(
    "add",
    [
        functools.partial(noise.add_gaussian_noise, noise_std=0.2),
        functools.partial(noise.add_ball_noise, noise_norm=0.7),
        functools.partial(noise.add_covariance_noise, factor=torch.eye(16) * 0.1),
        functools.partial(noise.published_noise, variance=0.04),
    ],
)
def test_contract(add):
    x = unit(50, 16)
    noisy = add(x, rng=rng())
    assert torch.allclose(noisy.norm(dim=1), torch.ones(50), atol=1e-6)
    assert (noisy - x).norm(dim=1).min() > 0.01
    assert torch.equal(noisy, add(x, rng=rng())) and not torch.equal(noisy, add(x, rng=rng(8)))
    with pytest.raises(ValueError, match=r"must have shape \(n, dim\), got \(16,\)"):
        add(x[0], rng=rng())


def test_capdec_s_noise_at_640_dimensions_leaves_a_cosine_of_0_3():
    x = unit(400, 640)
    gaussian = noise.add_gaussian_noise(x, noise_std=math.sqrt(0.016), rng=rng())
    ball = noise.add_ball_noise(x, noise_norm=math.sqrt(0.016), rng=rng())  # the same number in the other unit
    assert cosines(x, gaussian).mean() == pytest.approx(0.298, abs=0.01)
    assert cosines(x, ball).mean() == pytest.approx(0.992, abs=0.001)


def test_a_ball_is_filled_evenly():
    x = torch.zeros(20_000, 3)
    inside = noise._in_unit_ball(x, rng()).norm(dim=1)
    assert inside.max() <= 1
    for radius in (0.3, 0.6, 0.9):
        assert (inside < radius).float().mean() == pytest.approx(radius**3, abs=0.012)


def test_no_noise_is_no_noise():
    x = unit(5, 8)
    assert torch.allclose(noise.add_gaussian_noise(x, noise_std=0, rng=rng()), x)
    assert torch.allclose(noise.add_ball_noise(x, noise_norm=0, rng=rng()), x)
    for function, name in ((noise.add_gaussian_noise, "noise_std"), (noise.add_ball_noise, "noise_norm")):
        with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0, got -1"):
            function(x, **{name: -1}, rng=rng())


def test_published_noise_and_its_quirks():
    x, offset = unit(30, 8) * 9, torch.linspace(-1, 1, 8)
    drawn = torch.randn(30, 8, generator=rng())
    expected = x / x.norm(dim=1, keepdim=True) + drawn * 0.04**0.5 + offset
    expected = expected / expected.norm(dim=1, keepdim=True)
    assert torch.allclose(noise.published_noise(x, variance=0.04, rng=rng(), offset=offset), expected, atol=1e-6)
    raw = x + drawn * 0.04**0.5
    raw = raw / raw.norm(dim=1, keepdim=True)
    assert torch.allclose(noise.published_noise(x, variance=0.04, rng=rng(), normalize=False), raw, atol=1e-6)
    ball = noise.published_noise(x, variance=0.04, rng=rng(), uniform=True)
    assert torch.allclose(ball, noise.add_ball_noise(F.normalize(x, dim=1), noise_norm=0.2, rng=rng()), atol=1e-6)
    assert noise.published_noise(x, variance=0, rng=rng(), offset=offset) is x  # neither normalised nor moved


def test_offset():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    moved = noise.add_offset(x, offset=torch.tensor([0.0, 1.0]))
    assert torch.allclose(moved, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0]]))


def test_covariance_noise_has_the_covariance():
    mixing = torch.randn(6, 6, generator=rng(1))
    covariance = mixing @ mixing.T
    factor = noise.covariance_factor(covariance)
    assert torch.allclose(factor @ factor.T, covariance, atol=1e-4)
    scaled = noise.covariance_factor(covariance, noise_std=0.3)
    assert torch.allclose(scaled @ scaled.T, covariance * (6 * 0.09 / covariance.trace()), atol=1e-5)
    x = torch.zeros(40_000, 6)
    x[:, 0] = 1  # and so little noise that going back to the sphere changes nothing
    drawn = (noise.add_covariance_noise(x, factor=1e-4 * factor, rng=rng()) * 1e4)[:, 1:]
    assert torch.allclose(torch.cov(drawn.T), covariance[1:, 1:], atol=0.35)
    with pytest.raises(ValueError, match="no negative eigenvalue"):
        noise.covariance_factor(torch.diag(torch.tensor([1.0, -1.0])))


def test_estimates_from_captions_worked_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
    ids = ["a", "a", "b", "a", "c"]  # c has one caption and says nothing
    pairs_of_a = (1.0 + 1.0 + 0.0) / 3
    assert noise.linf_noise_std(x, image_ids=ids) == pytest.approx(pairs_of_a)
    assert noise.paraphrase_cosine(x, image_ids=ids) == pytest.approx((0 + 0 + 1) / 3)
    two = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])
    assert noise.linf_noise_std(two, image_ids=[1, 1, 2, 2]) == pytest.approx((1.0 + 0.2) / 2)
    spread = noise.paraphrase_covariance(two, image_ids=[1, 1, 2, 2])
    a, b = torch.tensor([0.5, -0.5]), torch.tensor([-0.1, 0.1])
    assert torch.allclose(spread, (2 * torch.outer(a, a) + 2 * torch.outer(b, b)) / 2)
    with pytest.raises(ValueError, match="at least one picture must have two captions, got 4 pictures"):
        noise.linf_noise_std(two, image_ids=range(4))


def test_the_matched_angle_is_matched_in_any_number_of_dimensions():
    for dim in (64, 640):
        x = unit(2000, dim)
        for cosine in (0.3, 0.8):
            std = noise.noise_std_for_cosine(cosine, dim=dim)
            noisy = noise.add_gaussian_noise(x, noise_std=std, rng=rng())
            assert cosines(x, noisy).mean() == pytest.approx(cosine, abs=0.01)
    assert noise.noise_std_for_cosine(0.298, dim=640) == pytest.approx(0.1265, abs=1e-3)  # CapDec's
    with pytest.raises(ValueError, match=r"cosine must lie in \(0, 1\], got 0"):
        noise.noise_std_for_cosine(0, dim=8)


def test_centring_takes_away_what_all_captions_share():
    shared = torch.zeros(16)
    shared[0] = 3.0
    topics = unit(40, 16, seed=2).repeat_interleave(5, 0)
    x = F.normalize(shared + topics + 0.5 * unit(200, 16, seed=3), dim=1)
    ids = [i // 5 for i in range(200)]
    centred = noise.paraphrase_cosine(x, image_ids=ids, centre=True)
    assert noise.paraphrase_cosine(x, image_ids=ids) > 0.95 > 0.9 > centred > 0.5


def test_noise_is_the_drawn_vector_times_its_size():
    """To the last bit of a hand-made loop: a wrong factor, exponent or sign shows."""
    x = unit(6, 3)
    drawn = torch.randn(6, 3, generator=rng())
    expected = x + 0.3 * drawn
    expected /= expected.norm(dim=1, keepdim=True)
    assert torch.allclose(noise.add_gaussian_noise(x, noise_std=0.3, rng=rng()), expected, atol=1e-6)
    twin = rng()
    direction = torch.randn(6, 3, generator=twin)
    radius = torch.rand(6, 1, generator=twin) ** (1 / 3)
    inside = direction / direction.norm(dim=1, keepdim=True) * radius
    assert torch.allclose(noise._in_unit_ball(x, rng()), inside, atol=1e-6)
    expected = x + 0.7 * inside
    expected /= expected.norm(dim=1, keepdim=True)
    assert torch.allclose(noise.add_ball_noise(x, noise_norm=0.7, rng=rng()), expected, atol=1e-6)
    factor = torch.arange(9.0).view(3, 3)
    expected = torch.stack([row + factor @ one for row, one in zip(x, drawn, strict=True)])
    expected /= expected.norm(dim=1, keepdim=True)
    assert torch.allclose(noise.add_covariance_noise(x, factor=factor, rng=rng()), expected, atol=1e-5)


def test_wrong_shapes_and_amounts_are_refused():
    x = unit(4, 3)
    for bad in (torch.zeros(3, 2), torch.zeros(2, 3), torch.zeros(3)):
        with pytest.raises(ValueError, match="factor must have shape"):
            noise.add_covariance_noise(x, factor=bad, rng=rng())
    with pytest.raises(ValueError, match=r"offset must have shape \(3,\)"):
        noise.add_offset(x, offset=torch.zeros(2))
    with pytest.raises(ValueError, match=r"embeddings must have shape \(n, dim\)"):
        noise.add_offset(x[0], offset=torch.zeros(3))
    with pytest.raises(ValueError, match="covariance must have shape"):
        noise.covariance_factor(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"embeddings must have shape \(3, dim\)"):
        noise.linf_noise_std(x, image_ids=[1, 1, 2])
    for bad in (math.nan, math.inf, -0.1):
        with pytest.raises(ValueError, match="variance must be a finite number of at least 0"):
            noise.published_noise(x, variance=bad, rng=rng())


def test_a_covariance_may_be_singular_and_round_a_little_below_zero():
    flat = torch.diag(torch.tensor([4.0, 1.0, 0.0]))
    factor = noise.covariance_factor(flat)
    assert torch.allclose(factor @ factor.T, flat, atol=1e-6)
    assert noise.covariance_factor(torch.diag(torch.tensor([1.0, -5e-7]))).isfinite().all()
    for values in ((100.0, 1.0, -5e-5), (-5e-5, 100.0, 1.0)):  # rounding is as large as the largest
        assert noise.covariance_factor(torch.diag(torch.tensor(values))).isfinite().all()
    with pytest.raises(ValueError, match="no negative eigenvalue"):
        noise.covariance_factor(torch.diag(torch.tensor([0.01, -5e-8])))
    with pytest.raises(ValueError, match="no negative eigenvalue, got -2e-06"):
        noise.covariance_factor(torch.diag(torch.tensor([1.0, -2e-6])))


def test_the_edges_of_the_matched_angle():
    assert noise.noise_std_for_cosine(1, dim=8) == 0
    assert noise.noise_std_for_cosine(0.5, dim=3) == pytest.approx(1.0)  # tan 60° / √3
    for cosine in (1.01, -0.5, math.nan):
        with pytest.raises(ValueError, match=r"cosine must lie in \(0, 1\]"):
            noise.noise_std_for_cosine(cosine, dim=8)


def test_the_share_that_all_captions_have_is_taken_away_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]])
    centred = x - torch.tensor([0.6, 0.6])  # (.4, -.6), (-.6, .4), (0, .2), (.2, 0)
    cosines = [-0.48 / 0.52, 0.0]  # of the first two, and of the last two
    found = noise.paraphrase_cosine(x, image_ids=["a", "a", "b", "b"], centre=True)
    assert torch.allclose(x.mean(0), torch.tensor([0.6, 0.6])) and len(centred) == 4
    assert found == pytest.approx(sum(cosines) / 2, abs=1e-6)


def test_the_scatter_of_three_captions_by_hand():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.0, -1.0]])
    residuals = torch.tensor([[0.4, -1.6 / 3], [-0.6, 1.4 / 3], [0.2, 0.2 / 3]])  # about (.6, 1.6 / 3)
    spread = noise.paraphrase_covariance(x, image_ids=["a", "a", "a", "b"])
    assert torch.allclose(spread, residuals.T @ residuals / 2, atol=1e-6)
