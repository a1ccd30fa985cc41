import numpy as np
import pytest

from glasslib.latents import ClassMixture, Normal, Product, Tokens, TruncatedNormal
from glasslib.search.genetic import GeneticSearch, Nsga2Search, survive, tournament
from glasslib.search.operators import Breeder, Operators

REAL = Normal(7, bound=2.0)


def one_score(x):
    return -((x - 0.5) ** 2).sum(axis=1)


def two_scores(x):
    return np.stack([one_score(x), -((x + 0.5) ** 2).sum(axis=1)], axis=1)


def pymoo_algorithm(name, popsize, initial, rng_state, n_objectives):
    """pymoo's own algorithm with CLIP-GLaSS's operators in pymoo 0.6.2's words, on the stream of our search."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.problem import Problem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM

    algorithm = {"ga": GA, "nsga2": NSGA2}[name](
        pop_size=popsize,
        sampling=initial,
        crossover=SBX(prob=1.0, eta=3),
        mutation=PM(prob=1.0, prob_var=0.5, eta=3),
        eliminate_duplicates=True,
    )
    problem = Problem(n_var=REAL.dim, n_obj=n_objectives, xl=REAL.lower, xu=REAL.upper)
    algorithm.setup(problem, termination=("n_gen", 1000), verbose=False)
    algorithm.random_state.bit_generator.state = rng_state
    return algorithm, problem


@pytest.mark.parametrize("popsize", [6, 9, 16])
@pytest.mark.parametrize(
    ("name", "make", "score"), [("ga", GeneticSearch, one_score), ("nsga2", Nsga2Search, two_scores)]
)
def test_equals_pymoos_own_algorithm_bit_for_bit(name, make, score, popsize):
    from pymoo.core.evaluator import Evaluator
    from pymoo.problems.static import StaticProblem

    search = make(REAL, popsize=popsize, rng=np.random.default_rng(popsize))
    x = search.ask()
    stream = search._rng.bit_generator.state
    reference, problem = pymoo_algorithm(name, popsize, x, stream, 1 if name == "ga" else 2)
    for _ in range(25):
        theirs = reference.ask()
        assert np.array_equal(theirs.get("X"), x)
        scores = score(x).round(1)  # rounded, so that there are ties
        Evaluator().eval(StaticProblem(problem, F=-scores.reshape(popsize, -1)), theirs)
        reference.tell(infills=theirs)
        search.tell(x, scores)
        x = search.ask()


def test_half_of_the_variables_mutate_whatever_the_dimension():
    """pymoo 0.4.2's prob=0.5 was per variable; 0.6.2's would mutate half of the children, each in few variables."""
    space = Normal(400, bound=5.0)
    breeder = Breeder(space, Operators(crossover_prob=0.0))
    rng = np.random.default_rng(0)
    parents = space.sample(40, rng=rng)
    children = breeder.children(parents, np.arange(40).reshape(20, 2), rng)  # firsts of all pairs, then seconds
    changed = (children != np.concatenate([parents[::2], parents[1::2]])).mean(axis=1)
    assert changed.min() > 0.4
    assert changed.max() < 0.6


def test_mutation_of_tokens_by_hand():
    """Each id stands for the unit interval around it, so the ends are as wide as the middle."""
    space = Tokens(3000, 5)
    breeder = Breeder(space, Operators(mutation_prob=1.0, crossover_prob=0.0))
    parents = np.full((60, 3000), 2.0)
    children = breeder.children(parents, np.arange(60).reshape(30, 2), np.random.default_rng(0))
    assert space.contains(children).all()
    assert not np.signbit(children).any()
    counts = np.bincount(children.astype(int).ravel(), minlength=5) / children.size
    # a draw u moves by 5 * ((2u + (1 - 2u) / 2**4) ** (1/4) - 1): below 0.5 for u < .0947, below 1.5 for u < .3166
    assert np.abs(counts - [0.0947, 0.2219, 0.3668, 0.2219, 0.0947]).max() < 0.005


@pytest.mark.parametrize(("n_bits", "expected"), [(1000, 10), (50, 1)])
def test_bits_flipped_in_a_child(n_bits, expected):
    space = ClassMixture(n_bits, n_active=5, encoding="softmax_bits")
    breeder = Breeder(space, Operators(hux_prob=0.0))
    rng = np.random.default_rng(0)
    parents = space.sample(100, rng=rng)
    flips = []
    for _ in range(5):
        children = breeder.children(parents, np.arange(100).reshape(50, 2), rng)  # firsts of all pairs, then seconds
        flips.append(np.abs(children - np.concatenate([parents[::2], parents[1::2]])).sum(axis=1).mean())
    assert abs(np.mean(flips) - expected) < 0.15 * expected


def test_hux_swaps_half_of_the_bits_that_differ():
    space = ClassMixture(40, n_active=5, encoding="softmax_bits")
    breeder = Breeder(space, Operators(hux_prob=1.0, bitflip_prob=0.0))
    parents = np.stack([np.zeros(40), np.r_[np.ones(10), np.zeros(30)]])
    children = breeder.children(parents, np.array([[0, 1]]), np.random.default_rng(0))
    assert children.sum(axis=1).tolist() == [5, 5]
    assert (children.sum(axis=0) == np.r_[np.ones(10), np.zeros(30)]).all()


def test_mixed_space_breeds_each_kind_by_its_own_operator():
    space = Product((TruncatedNormal(3), Tokens(4, 6), ClassMixture(5, encoding="softmax_bits")))
    still = Operators(crossover_prob=0.0, mutation_prob=0.0, hux_prob=0.0, bitflip_prob=0.0)
    parents = space.sample(6, rng=np.random.default_rng(0))
    pairs = np.array([[0, 1], [2, 3]])
    children = Breeder(space, still).children(parents, pairs, np.random.default_rng(0))
    assert np.array_equal(children, parents[[0, 2, 1, 3]])
    moved = Breeder(space, Operators(mutation_prob=1.0)).children(parents, pairs, np.random.default_rng(0))
    assert (moved[:, :3] != children[:, :3]).all()
    assert space.contains(moved).all()


def test_children_differ_from_parents_and_each_other_until_the_space_is_used_up():
    space = Tokens(2, 6)  # 36 points
    search = GeneticSearch(space, popsize=12, rng=np.random.default_rng(0))
    x = search.ask()
    for _ in range(10):
        search.tell(x, x.sum(axis=1))
        parents = search._x
        x = search.ask()
        assert len(np.unique(np.concatenate([parents, x]), axis=0)) == 24
    tiny = GeneticSearch(Tokens(1, 3), popsize=8, rng=np.random.default_rng(0))
    for _ in range(3):
        x = tiny.ask()
        assert x.shape == (8, 1)
        assert set(x.ravel()) == {0, 1, 2}
        tiny.tell(x, x[:, 0])


def test_given_rows_open_the_search():
    initial = np.full((2, 7), 0.25)
    initial[1] = -1
    search = GeneticSearch(REAL, popsize=5, rng=np.random.default_rng(0), initial=initial)
    x = search.ask()
    assert np.array_equal(x[:2], initial)
    assert len(np.unique(x, axis=0)) == 5
    for bad, message in [
        (np.zeros((6, 7)), "at most popsize=5 rows, got 6"),
        (np.full((1, 7), 2.5), "got 1 of 1 rows outside"),
        (np.zeros((2, 6)), r"initial must have shape \(m, 7\), got \(2, 6\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            Nsga2Search(REAL, popsize=5, rng=np.random.default_rng(0), initial=bad)


def test_tournament_prefers_the_better_and_draws_lots_on_ties():
    rng = np.random.default_rng(0)
    values = np.arange(10.0)

    def better(a, b):
        return values[a] - values[b]

    counts = np.bincount(tournament(500, 10, better, rng=rng).ravel(), minlength=10)
    # each plays 200 duels; the best wins all of them, the worst none, the k-th best of ten (9 - k) / 9
    assert counts[9] == 200
    assert counts[0] == 0
    assert np.abs(counts - 200 * np.arange(10) / 9).max() < 40
    even = np.bincount(tournament(500, 10, lambda a, b: np.zeros(len(a)), rng=rng).ravel(), minlength=10)
    assert np.abs(even - 100).max() < 35


def naive_ranks(scores):
    """Peel off front after front by comparing every pair."""

    def dominates(a, b):
        return all(p >= q for p, q in zip(a, b, strict=True)) and any(p > q for p, q in zip(a, b, strict=True))

    left, ranks = set(range(len(scores))), {}
    rank = 0
    while left:
        front = {i for i in left if not any(dominates(scores[j], scores[i]) for j in left)}
        ranks |= dict.fromkeys(front, rank)
        left -= front
        rank += 1
    return np.array([ranks[i] for i in range(len(scores))])


@pytest.mark.parametrize("n_objectives", [2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_survivors_are_whole_fronts_of_a_naive_sort(seed, n_objectives):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, (30, n_objectives)).astype(float)  # many ties and repeats
    kept, ranks, _ = survive(scores, 12, rng=rng)
    expected = naive_ranks(scores)
    assert len(set(kept.tolist())) == 12
    assert np.array_equal(ranks, expected[kept])
    last = ranks.max()
    assert set(np.flatnonzero(expected < last)) <= set(kept.tolist())


def test_the_lonely_survive_of_the_last_front_by_hand():
    # five points on a line; extremes are always kept, and of the inner three the middle one is the most crowded
    scores = np.array([[0, 10], [4, 6], [5, 5], [6, 4], [10, 0]], dtype=float)
    kept, ranks, crowding = survive(scores, 4, rng=np.random.default_rng(0))
    assert set(kept.tolist()) == {0, 1, 3, 4}
    assert ranks.tolist() == [0, 0, 0, 0]
    by_row = dict(zip(kept.tolist(), crowding.tolist(), strict=True))
    assert by_row[0] == by_row[4] == np.inf
    assert by_row[1] == pytest.approx(0.5)  # half of (5 - 0) / 10 + (10 - 5) / 10


def test_front_is_that_of_a_naive_loop_over_the_parents():
    search = Nsga2Search(REAL, popsize=12, rng=np.random.default_rng(0))
    for _ in range(15):
        x = search.ask()
        search.tell(x, two_scores(x).round(1))
        front = np.array([candidate.score for candidate in search.front])
        expected = search._scores[naive_ranks(search._scores) == 0]
        assert sorted(map(tuple, front)) == sorted(map(tuple, expected))
        assert (np.diff(front[:, 0]) <= 0).all()


def test_three_objectives_and_one():
    search = Nsga2Search(REAL, popsize=6, rng=np.random.default_rng(0), n_objectives=3)
    x = search.ask()
    with pytest.raises(ValueError, match=r"scores must have shape \(6, 3\)"):
        search.tell(x, two_scores(x))
    search.tell(x, np.concatenate([two_scores(x), x[:, :1]], axis=1))
    assert search.front[0].score.shape == (3,)
    with pytest.raises(ValueError, match="n_objectives must be at least 2, got 1; for one use GeneticSearch"):
        Nsga2Search(REAL, popsize=6, rng=np.random.default_rng(0), n_objectives=1)


def test_crowding_of_repeats_as_in_pymoo_0_4_2_1():
    scores = np.array([[0, 3], [1, 1], [1, 1], [3, 0]], dtype=float)
    for faithful, expected in [(False, [np.inf, 2 / 3, 1 / 3, np.inf]), (True, [np.inf, 1.0, 0.0, np.inf])]:
        kept, _, crowding = survive(scores, 4, rng=np.random.default_rng(0), faithful=faithful)
        assert kept.tolist() == [0, 1, 2, 3]
        assert crowding == pytest.approx(expected)
    same = np.ones((3, 2))
    assert survive(same, 3, rng=np.random.default_rng(0), faithful=True)[2].tolist() == [0, 0, 0]
    pair = survive(same[:2], 2, rng=np.random.default_rng(0), faithful=True)
    assert pair[2].tolist() == [np.inf, np.inf]  # up to two points were never looked at
    kept, _, _ = survive(
        np.array([[0.0, 3], [1, 1], [1, 1], [1, 1], [3, 0]]), 3, rng=np.random.default_rng(0), faithful=True
    )
    assert sorted(kept.tolist()) == [0, 1, 4]


def test_faithful_crowding_changes_the_run_and_is_part_of_its_settings():
    def asked(**settings):
        search = Nsga2Search(Tokens(4, 3), popsize=12, rng=np.random.default_rng(0), **settings)
        for _ in range(12):
            x = search.ask()
            search.tell(x, np.stack([x.sum(axis=1), -x[:, 0]], axis=1))
        return search, x

    (search, x), (faithful, other) = asked(), asked(faithful=True)
    assert not np.array_equal(x, other)
    with pytest.raises(ValueError, match=r"faithful=False \(here True\)"):
        faithful.restore(search.state())


@pytest.mark.parametrize("make", [GeneticSearch, Nsga2Search])
def test_a_full_initial_is_the_whole_first_generation(make):
    initial = np.random.default_rng(5).uniform(-1, 1, (5, 7))
    search = make(REAL, popsize=5, rng=np.random.default_rng(0), initial=initial)
    assert np.array_equal(search.ask(), initial)
    repeated = make(REAL, popsize=5, rng=np.random.default_rng(0), initial=np.repeat(initial[:1], 5, axis=0))
    x = repeated.ask()
    assert np.array_equal(x[0], initial[0])
    assert len(np.unique(x, axis=0)) == 5  # repeats of a row are drawn afresh
    initial[:] = 9  # the search holds a copy
    assert (np.abs(search.pending) <= 1).all()
