"""Variance-preserving moves: noise stays noise, and the search keeps its contract."""

import numpy as np
import pytest

from glasslib.latents import Normal, Tokens
from glasslib.search.genetic import GeneticSearch
from glasslib.search.noise_moves import NoiseMoves


def breed(moves: NoiseMoves, parents: np.ndarray) -> np.ndarray:
    box = np.full(parents.shape[2], 10.0)
    return moves.breed(parents, -box, box, np.random.default_rng(0))


def test_children_of_normal_noise_have_mean_0_and_variance_1():
    parents = np.random.default_rng(1).standard_normal((2, 400, 500))
    children = breed(NoiseMoves(), parents)
    assert children.shape == (800, 500)
    assert abs(children.mean()) < 0.01 and abs(children.var() - 1) < 0.01
    lengths = np.square(children).sum(axis=1)
    assert abs(lengths.mean() - 500) < 4  # a blend without the square root would give 500 * (0.6**2 + 0.4**2) = 260


def test_a_child_is_correlated_with_its_parent_by_the_square_root_of_one_minus_blend_squared():
    parents = np.random.default_rng(1).standard_normal((2, 200, 500))
    children = breed(NoiseMoves(crossover_prob=0.0), parents)
    correlation = (children * parents.reshape(400, 500)).mean()
    assert abs(correlation - 0.9165) < 0.01


def test_crossover_takes_half_of_the_variables_in_the_matings_that_cross():
    parents = np.stack([np.zeros((2000, 40)), np.ones((2000, 40))])
    children = breed(NoiseMoves(blend=0.0), parents)
    crossed = (children[:2000] > 0).any(axis=1)
    assert abs(crossed.mean() - 0.3) < 0.04
    assert abs(children[:2000][crossed].mean() - 0.5) < 0.03
    np.testing.assert_array_equal(children[:2000] + children[2000:], 1.0)  # what one child takes the other lacks


def test_genetic_search_with_noise_moves_climbs_and_resumes_bit_for_bit():
    def search() -> GeneticSearch:
        rng = np.random.default_rng(5)
        return GeneticSearch(Normal(dim=30), popsize=16, rng=rng, operators=NoiseMoves())

    def run(one: GeneticSearch, n: int) -> list[np.ndarray]:
        asked = []
        for _ in range(n):
            asked.append(one.ask())
            one.tell(asked[-1], asked[-1][:, :10].sum(axis=1))
        return asked

    whole = search()
    asked = run(whole, 12)
    assert whole.best.score > 1.3 * asked[0][:, :10].sum(axis=1).max()
    stopped, other = search(), search()
    run(stopped, 5)
    other.restore(stopped.state())
    np.testing.assert_array_equal(run(other, 7)[-1], asked[-1])


def test_noise_moves_refuse_other_spaces_and_settings():
    with pytest.raises(ValueError, match="space of normal noise .*got Tokens"):
        GeneticSearch(Tokens(length=3, vocab_size=5), popsize=4, rng=np.random.default_rng(0), operators=NoiseMoves())
    with pytest.raises(ValueError, match=r"blend must lie in \[0, 1\], got 1.2"):
        NoiseMoves(blend=1.2)
