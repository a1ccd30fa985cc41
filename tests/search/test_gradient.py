"""Gradient ascent on noise: it climbs where the gradient points, keeps the noise's length, and resumes."""

import numpy as np
import pytest
import torch

from glasslib.latents import Normal, Tokens
from glasslib.search.gradient import GradientSearch, length_gradient

SPACE = Normal(dim=50)


def along_first(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0]


def search(objective=along_first, **options) -> GradientSearch:
    return GradientSearch(SPACE, objective, popsize=3, rng=np.random.default_rng(1), **options)


def run(one: GradientSearch, n: int) -> np.ndarray:
    for _ in range(n):
        x = one.ask()
        one.tell(x, one.evaluate(x))
    return one.ask()


def test_first_steps_worked_by_hand():
    one = search(rate=2.0, momentum=0.5, clip=0.25, norm_weight=0.0)
    start = one.ask()
    one.tell(start, start[:, 0])
    first = one.ask()
    expected = start.copy()
    expected[:, 0] += 2.0 * (0.25 + 0.5 * 0.25)  # gradient 1 clipped to 0.25
    np.testing.assert_allclose(first, expected)
    one.tell(first, first[:, 0])
    expected[:, 0] += 2.0 * (0.25 + 0.5 * 0.375)
    np.testing.assert_allclose(one.ask(), expected)


def test_the_length_term_is_the_gradient_of_the_chi_density():
    x = np.random.default_rng(0).standard_normal((2, 5)) * 3

    def log_density(row: np.ndarray) -> float:
        length = np.sqrt(np.square(row).sum())
        return 4 * np.log(length) - length**2 / 2

    for row, gradient in zip(x, length_gradient(x), strict=True):
        for k in range(5):
            step = np.eye(5)[k] * 1e-5
            assert abs((log_density(row + step) - log_density(row - step)) / 2e-5 - gradient[k]) < 1e-6


def test_climbs_and_the_length_term_keeps_the_noise_as_long_as_noise():
    free, held = search(norm_weight=0.0), search(norm_weight=1.0)
    far, near = run(free, 60), run(held, 60)
    assert free.best.score == 10.0 and held.best.score > 2  # 10 is the edge of the box
    assert (np.linalg.norm(far, axis=1) > 11).all()
    assert (np.abs(np.linalg.norm(near, axis=1) - np.sqrt(50)) < 2).all()


def test_resumes_bit_for_bit_and_takes_scores_of_another_origin():
    whole = search()
    last = run(whole, 12)
    stopped, other = search(), search()
    run(stopped, 5)
    stopped.tell(x := stopped.pending, stopped.evaluate(x))
    other.restore(stopped.state())
    np.testing.assert_array_equal(run(other, 6), last)
    told = search()
    for _ in range(12):
        x = told.ask()
        told.tell(x, x[:, 0].astype(np.float32))  # no evaluate: the gradients are computed in tell
    np.testing.assert_allclose(told.ask(), last)


def test_works_inside_inference_mode():
    with torch.inference_mode():
        one = search()
        run(one, 2)
    assert one.generation == 2


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="GradientSearch needs a space of real numbers, got Tokens"):
        GradientSearch(Tokens(3, 5), along_first, popsize=1, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="momentum in .*got 5.0, 0.1, 0.01 and 1.0"):
        search(momentum=1.0)
    with pytest.raises(ValueError, match="gradients must be finite, got 150 bad"):
        one = search(objective=lambda x: (x * float("nan")).sum(1))
        x = one.ask()
        one.tell(x, np.zeros(3))
