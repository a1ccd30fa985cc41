"""One contract over every search: what a notebook may rely on whichever it picks."""

import json

import numpy as np
import pytest
import torch

from glasslib.latents import ClassMixture, Normal, Product, Tokens, TruncatedNormal
from glasslib.search import checkpoint
from glasslib.search.cmaes import CmaSearch
from glasslib.search.genetic import GeneticSearch, Nsga2Search
from glasslib.search.gradient import GradientSearch
from glasslib.search.loop import run
from glasslib.search.random import RandomSearch

REAL = Normal(6, bound=3.0)
TOKENS = Tokens(5, 40)
MIXED = Product((TruncatedNormal(3), Tokens(2, 9), ClassMixture(6, n_active=1, encoding="softmax_bits")))


def random_search(space, rng):
    return RandomSearch(space, popsize=10, rng=rng)


def ga(space, rng):
    return GeneticSearch(space, popsize=10, rng=rng)


def nsga2(space, rng):
    return Nsga2Search(space, popsize=10, rng=rng)


def cma(space, rng):
    return CmaSearch(space, popsize=10, rng=rng, sigma0=0.8)


def cma_diagonal(space, rng):
    return CmaSearch(space, popsize=10, rng=rng, diagonal=True)


def cma_restarts(space, rng):
    return CmaSearch(space, popsize=10, rng=rng, restarts=3)


def gradient(space, rng):
    span = torch.as_tensor(space.upper - space.lower, dtype=torch.float32)

    def objective(x):
        return -((x / span + 0.5 - 0.8) ** 2).sum(dim=1)

    return GradientSearch(space, objective, popsize=10, rng=rng, norm_weight=0.0)


CASES = [(make, space) for make in (random_search, ga, nsga2) for space in (REAL, TOKENS, MIXED)]
CASES += [(make, REAL) for make in (cma, cma_diagonal, cma_restarts, gradient)]
over_searches = pytest.mark.parametrize(
    ("make", "space"), CASES, ids=[f"{make.__name__}-{type(space).__name__}" for make, space in CASES]
)


def is_pareto(search):
    return isinstance(search, Nsga2Search)


def sphere(search, x):
    """Higher nearer to a point off the centre of the box; a second objective aims at another point."""
    space = search._space
    scaled = (x - space.lower) / (space.upper - space.lower)
    first = -((scaled - 0.8) ** 2).sum(axis=1)
    return np.stack([first, -((scaled - 0.3) ** 2).sum(axis=1)], axis=1) if is_pareto(search) else first


def steps(search, n):
    """Run n generations and give back everything that was asked."""
    asked = []
    for _ in range(n):
        x = search.ask()
        asked.append(x)
        search.tell(x, sphere(search, x))
    return np.array(asked)


def seeded(make, space, seed=0):
    return make(space, np.random.default_rng(seed))


@over_searches
def test_stays_in_the_box(make, space):
    search = seeded(make, space)
    for x in steps(search, 40):
        assert x.shape == (10, space.dim)
        assert x.dtype == np.float64
        assert space.contains(x).all()


@over_searches
def test_maximises(make, space):
    """Better than its first generation and, if it learns, than random search; a wrong sign is worse than random."""
    for seed in range(2):
        search, chance = seeded(make, space, seed), seeded(random_search, space, seed)
        first = sphere(search, steps(search, 1)[0])
        steps(search, 39)
        luck = np.concatenate([sphere(search, x) for x in steps(chance, 40)])
        if is_pareto(search):
            assert search.front[-1].score[1] > first[:, 1].max()
            best, first, luck = search.front[0].score[0], first[:, 0], luck[:, 0]
        else:
            best = search.best.score
        assert best > first.max()
        assert make is random_search or best > luck.max()


@over_searches
def test_best_is_the_best_of_all_told(make, space):
    search = seeded(make, space)
    asked = steps(search, 15)
    scores = np.array([sphere(search, x) for x in asked])
    if is_pareto(search):
        assert max(c.score[0] for c in search.front) == scores[..., 0].max()
        assert max(c.score[1] for c in search.front) == scores[..., 1].max()
        found = search.front
    else:
        generation, row = np.unravel_index(scores.argmax(), scores.shape)
        assert (search.best.score, search.best.generation) == (scores.max(), generation)
        assert np.array_equal(search.best.x, asked[generation, row])
        found = [search.best]
    for candidate in found:
        assert (asked[candidate.generation] == candidate.x).all(axis=1).any()
        with pytest.raises(ValueError, match="read-only"):
            candidate.x[0] = 0


@over_searches
def test_nothing_found_before_the_first_tell(make, space):
    search = seeded(make, space)
    assert (search.front == []) if is_pareto(search) else (search.best is None)
    assert search.generation == 0
    search.ask()
    assert (search.front == []) if is_pareto(search) else (search.best is None)


@over_searches
def test_repeats_under_one_rng_and_differs_under_another(make, space):
    run_0 = steps(seeded(make, space), 12)
    assert np.array_equal(run_0, steps(seeded(make, space), 12))
    assert not np.array_equal(run_0, steps(seeded(make, space, 1), 12))


@over_searches
def test_independent_of_the_global_stream_and_of_other_searches(make, space):
    alone = steps(seeded(make, space), 12)
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    rng = np.random.default_rng(0)
    search, other = make(space, rng), make(space, rng)
    asked = []
    for _ in range(12):
        asked.append(steps(search, 1)[0])
        assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
        np.random.random(3)  # noqa: NPY002
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        rng.random(7)
        steps(other, 1)
    assert np.array_equal(alone, asked)


@over_searches
def test_does_not_look_at_arrays_changed_by_the_caller(make, space):
    alone = steps(seeded(make, space), 8)
    search = seeded(make, space)
    for expected in alone:
        x = search.ask()
        assert np.array_equal(x, expected)
        scores = sphere(search, x)
        search.tell(x, scores)
        x[:] = 0
        scores[:] = 0


@over_searches
def test_takes_tensors(make, space):
    """As in the loop of the first notebook: what a scorer returns is told as it is."""
    alone = steps(seeded(make, space), 4)
    search = seeded(make, space)
    for expected in alone:
        x = search.ask()
        assert np.array_equal(x, expected)
        search.tell(torch.as_tensor(x), torch.as_tensor(sphere(search, x)))


@over_searches
def test_order_of_calls(make, space):
    search = seeded(make, space)
    with pytest.raises(RuntimeError, match="tell was called without ask"):
        search.tell(np.zeros((10, space.dim)), np.zeros(10))
    x = search.ask()
    with pytest.raises(RuntimeError, match="ask was called twice"):
        search.ask()
    with pytest.raises(RuntimeError, match="between generations"):
        search.state()
    search.tell(x, sphere(search, x))
    with pytest.raises(RuntimeError, match="without ask"):
        search.tell(x, sphere(search, x))


@over_searches
def test_refused_scores_change_nothing(make, space):
    alone = steps(seeded(make, space), 6)
    search = seeded(make, space)
    steps(search, 3)
    x = search.ask()
    scores = sphere(search, x)
    for bad in (np.nan, np.inf, -np.inf):
        spoiled = scores.copy()
        spoiled.flat[4] = bad
        with pytest.raises(ValueError, match=f"scores must be finite, got 1 bad of {scores.size}"):
            search.tell(x, spoiled)
    with pytest.raises(ValueError, match="scores must have shape"):
        search.tell(x, scores[:-1])
    with pytest.raises(ValueError, match="scores must have shape"):
        search.tell(x, scores[:, None])
    with pytest.raises(ValueError, match="rows of the last ask"):
        search.tell(x[::-1], scores)
    with pytest.raises(ValueError, match="rows of the last ask"):
        search.tell(x[:-1], scores[:-1])
    search.tell(x, scores)
    assert np.array_equal(alone[4:], steps(search, 2))


@over_searches
def test_a_flat_score_goes_on(make, space):
    """P4 and P6: pymoo runs out of children, pycma stops."""
    search = seeded(make, space)
    for _ in range(5):
        x = search.ask()
        assert x.shape == (10, space.dim)
        search.tell(x, np.zeros((10, 2) if is_pareto(search) else 10))


@over_searches
def test_resumes_bit_for_bit_after_any_generation(make, space, tmp_path):
    whole = seeded(make, space)
    expected = steps(whole, 9)
    for stop in range(10):
        search = seeded(make, space)
        steps(search, stop)
        checkpoint.save(tmp_path / "search.npz", search.state())
        resumed = seeded(make, space, seed=99)
        steps(resumed, 2)  # whatever it did before must not matter
        resumed.restore(checkpoint.load(tmp_path / "search.npz"))
        assert resumed.generation == stop
        assert expected[stop:].tolist() == steps(resumed, 9 - stop).tolist()
        assert_same_state(resumed.state(), whole.state())


def assert_same_state(state, other):
    assert state.keys() == other.keys()
    for name, value in state.items():
        if isinstance(value, dict):
            assert_same_state(value, other[name])
        else:
            assert np.array_equal(value, other[name]), name


@over_searches
def test_state_is_arrays_and_json(make, space):
    def check(value):
        if isinstance(value, dict):
            for key, item in value.items():
                assert isinstance(key, str)
                check(item)
        elif isinstance(value, np.ndarray):
            assert value.dtype.kind in "fiub"
        else:
            json.dumps(value)

    search = seeded(make, space)
    check(search.state())
    steps(search, 3)
    check(search.state())


@over_searches
def test_state_of_another_search_is_refused(make, space):
    search = seeded(make, space)
    steps(search, 2)
    state = search.state()
    other = RandomSearch(space, popsize=10, rng=np.random.default_rng(0))
    if make is not random_search:
        with pytest.raises(ValueError, match=r"search='\w+' \(here 'RandomSearch'\)"):
            other.restore(state)
    objective = (len,) if make is gradient else ()
    larger = type(search)(space, *objective, popsize=12, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"popsize=10 \(here 12\)"):
        larger.restore(state)
    elsewhere = type(search)(Normal(7), *objective, popsize=10, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="the same settings"):
        elsewhere.restore(state)


@over_searches
def test_loop_runs_it(make, space):
    search = seeded(make, space)
    result = run(search, lambda x: sphere(search, x), n_generations=9, progress=False)
    assert len(result.history) == 9
    alone = seeded(make, space)
    steps(alone, 9)
    if is_pareto(search):
        assert np.array_equal([c.score for c in result.front], [c.score for c in alone.front])
    else:
        assert result.best.score == alone.best.score


@pytest.mark.parametrize("make", [random_search, ga, nsga2, cma])
def test_bad_arguments_are_refused(make):
    with pytest.raises(TypeError, match=r"rng must be a numpy.random.Generator, got RandomState"):
        make(REAL, np.random.RandomState(0))
    search = type(make(REAL, np.random.default_rng(0)))
    for popsize in (0, -3, 2.5):
        with pytest.raises(ValueError, match="popsize must be a whole number of at least"):
            search(REAL, popsize=popsize, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("space", "kinds"),
    [(TOKENS, "Tokens with integer"), (MIXED, "Product with binary and integer")],
)
def test_cma_refuses_spaces_it_cannot_search_and_names_those_that_can(space, kinds):
    with pytest.raises(ValueError, match=f"{kinds} variables; use GeneticSearch or RandomSearch"):
        CmaSearch(space, popsize=8, rng=np.random.default_rng(0))
