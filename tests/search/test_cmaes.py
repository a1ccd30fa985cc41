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
    for sigma0 in (0.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"sigma0 must be a finite number above 0, got {sigma0}"):
            make(sigma0=sigma0)
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


def rotated_and_ill(x):
    """Curvatures from 1 to 1e14 along axes that are not the variables': pycma moves C into a transformation."""
    axes = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    return -(np.logspace(0, 14, 5) * ((x - 0.3) @ axes) ** 2).sum(axis=1)


@pytest.mark.parametrize(
    ("space", "score", "n", "stops", "settings"),
    [
        (Normal(320), lambda x: -((x - 1) ** 2).sum(axis=1), 12, [1, 2, 3, 9], {}),  # from 300 on another step size
        (Normal(320), lambda x: -((x - 1) ** 2).sum(axis=1), 30, [1, 2, 3, 25], {"diagonal": True}),
        (SPACE, rotated_and_ill, 700, [690], {}),
        (SPACE, lambda x: -((x - 1) ** 2).sum(axis=1), 300, [150, 290], {"restarts": 3}),
        (SPACE, lambda x: x.sum(axis=1), 40, [1, 30], {"x0": np.full(5, 1.99)}),  # against the box
    ],
)
def test_restored_from_arrays_it_is_the_run_that_never_stopped(space, score, n, stops, settings):
    """The contract has this for every generation of a short run; here where pycma changes what it works with."""
    whole = make(space=space, **settings)
    states, asked = {}, []
    for generation in range(n):
        if generation in stops:
            states[generation] = whole.state()
        x = whole.ask()
        asked.append(x)
        whole.tell(x, score(x))
    assert whole._strategy.gp.isidentity == (score is not rotated_and_ill)
    assert (whole._n_restarts > 0) == ("restarts" in settings)
    for generation, state in states.items():
        resumed = make(space=space, **settings)
        resumed.restore(state)
        for expected in asked[generation:]:
            x = resumed.ask()
            assert np.array_equal(x, expected)
            resumed.tell(x, score(x))


def test_state_does_not_grow_and_is_not_changed_by_going_on():
    search = climb(make(space=Normal(64)), 30, lambda x: x.sum(axis=1))
    state = search.state()["strategy"]
    before = state["sm"]["C"].copy()
    size = len(repr(state))
    climb(search, 40, lambda x: x.sum(axis=1))
    assert np.array_equal(state["sm"]["C"], before)
    assert len(repr(search.state()["strategy"])) < 1.1 * size


def test_state_of_another_pycma_is_refused():
    state = climb(make(), 4, lambda x: x.sum(axis=1)).state()
    with pytest.raises(ValueError, match=r"of pycma 3.0, got \d.*; resume it with its own"):
        make().restore(state | {"pycma": "3.0"})
