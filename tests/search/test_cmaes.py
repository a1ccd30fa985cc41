import numpy as np
import pytest

from glasslib.latents import Normal, TruncatedNormal
from glasslib.search.cmaes import CmaSearch

SPACE = TruncatedNormal(5, truncation=2.0)


def make(seed=0, space=SPACE, popsize=8, **settings):
    return CmaSearch(space, popsize=popsize, rng=np.random.default_rng(seed), **settings)


def climb(search, n, score):
    for _ in range(n):
        x = search.ask()
        search.tell(x, score(x))
    return search


@pytest.mark.parametrize("diagonal", [False, True])
def test_finds_an_optimum_on_the_edge_of_the_box(diagonal):
    target = np.array([2.0, -2.0, 0.3, 0.0, 1.5])
    search = climb(make(diagonal=diagonal), 150, lambda x: -((x - target) ** 2).sum(axis=1))
    assert search.best.score > -1e-4
    assert np.allclose(search.best.x, target, atol=0.02)


def test_the_box_is_kept_by_pycma_and_not_by_clipping_behind_its_back():
    search = make()
    for _ in range(40):
        x = search.ask()  # the score pulls out of the box
        assert np.array_equal(x, search._solutions)
        search.tell(x, x.sum(axis=1))


def test_first_generation_stands_around_x0_with_spread_sigma0():
    space = Normal(50)
    x0 = np.linspace(-3, 3, 50)
    x = make(space=space, popsize=200, sigma0=0.2, x0=x0).ask()
    assert np.abs(x.mean(axis=0) - x0).max() < 0.08
    assert abs((x - x0).std() - 0.2) < 0.01
    middle = make(space=space, popsize=200, sigma0=0.2).ask()
    assert np.abs(middle.mean(axis=0)).max() < 0.08


@pytest.mark.parametrize("x0", [np.zeros(4), np.full(5, 2.5), np.full(5, np.nan)])
def test_start_outside_the_box_is_refused(x0):
    with pytest.raises(ValueError, match=r"x0 must be \(5,\) and inside"):
        make(x0=x0)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="sigma0 must be above 0, got 0"):
        make(sigma0=0.0)
    with pytest.raises(ValueError, match="at least 2 variables, got 1; use GeneticSearch"):
        make(space=Normal(1))
    with pytest.raises(ValueError, match="whole number of at least 4, got 3"):
        make(popsize=3)


def test_stops_on_a_flat_score_and_restarts_when_allowed():
    search = climb(make(), 3, lambda x: np.zeros(len(x)))
    assert "tolfun" in search.stop()
    restarted = climb(make(restarts=2), 2, lambda x: np.zeros(len(x)))
    assert restarted.stop() == {}
    assert restarted._n_restarts == 1
    climb(restarted, 5, lambda x: np.zeros(len(x)))
    assert restarted._n_restarts == 2
    assert restarted.stop() != {}


def test_replay_that_ends_elsewhere_is_refused_and_last_digits_are_said():
    search = climb(make(), 4, lambda x: x.sum(axis=1))
    state = search.state()
    other = state | {"scores": state["scores"][::-1]}
    with pytest.raises(ValueError, match="ended elsewhere"):
        make().restore(other)
    nearly = state | {"mean": state["mean"] + 1e-12}
    with pytest.warns(UserWarning, match="differs in the last digits"):
        make().restore(nearly)


def test_restore_brings_its_own_start():
    search = climb(make(x0=np.ones(5)), 4, lambda x: x.sum(axis=1))
    resumed = make(seed=5)
    resumed.restore(search.state())
    assert np.array_equal(resumed.ask(), search.ask())
