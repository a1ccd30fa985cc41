import numpy as np
import pytest

from glasslib.search.candidate import Candidate
from glasslib.search.pareto import pick, pseudo_weights


def front_of(*scores):
    return [Candidate(np.array([float(i)]), np.array(score, dtype=float), 0) for i, score in enumerate(scores)]


# scaled to [0, 1]: (1, 0), (.8, .7), (.5, .8), (0, 1); sums 1, 1.5, 1.3, 1
BENT = front_of((30, -2.0), (28, -0.6), (25, -0.4), (20, 0.0))


def test_knee_by_hand():
    assert pick(BENT).score.tolist() == [28, -0.6]
    # units do not matter: the second objective a thousand times larger
    larger = [Candidate(c.x, c.score * np.array([1, 1000]), 0) for c in BENT]
    assert pick(larger).score[0] == 28


def test_knee_of_a_front_without_one():
    assert pick(front_of((1, 0), (0, 1))).score.tolist() == [1, 0]  # a tie goes to the first objective
    assert pick(front_of((0, 1), (1, 0))).score.tolist() == [1, 0]
    assert pick(front_of((0, 1), (0.3, 0.3), (1, 0))).score.tolist() == [1, 0]  # bent inwards: an extreme
    assert pick(front_of((2, 5))).score.tolist() == [2, 5]
    assert pick(front_of((2, 5), (2, 5))).x[0] == 0
    assert pick(front_of((1, 0, 0), (0, 1, 0), (0.6, 0.6, 0.6), (0, 0, 1))).score[0] == 0.6


def test_weights_by_hand():
    # pseudo-weights of BENT: (1, 0), (.533, .467), (.385, .615), (0, 1)
    expected = [[1, 0], [0.8 / 1.5, 0.7 / 1.5], [0.5 / 1.3, 0.8 / 1.3], [0, 1]]
    assert np.allclose(pseudo_weights(np.stack([c.score for c in BENT])), expected)
    assert pick(BENT, (1, 0)).score[0] == 30
    assert pick(BENT, (0.6, 0.4)).score[0] == 28
    assert pick(BENT, (0.4, 0.6)).score[0] == 25
    assert pick(BENT, (4, 6)).score[0] == 25  # only their ratio counts


def test_clip_glass_picks_the_most_realistic_and_least_similar():
    chosen = pick(BENT, (0, 1))
    assert chosen.score.tolist() == [min(c.score[0] for c in BENT), max(c.score[1] for c in BENT)]


@pytest.mark.filterwarnings("ignore:Please import `cKDTree`:DeprecationWarning")
@pytest.mark.parametrize("weights", [(0, 1), (0.5, 0.5), (0.7, 0.3), (0.1, 0.9)])
def test_equals_pymoo(weights):
    from pymoo.mcdm.pseudo_weights import PseudoWeights

    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, np.pi / 2, 20))
    scores = np.stack([np.cos(angle), 7 * np.sin(angle) - 3], axis=1)
    chosen = pick(front_of(*scores), weights)
    assert np.array_equal(chosen.score, scores[PseudoWeights(np.array(weights)).do(-scores)])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="front must hold at least one candidate"):
        pick([])
    for weights in [(1,), (1, 2, 3), (-1, 2), (0, 0), (np.nan, 1)]:
        with pytest.raises(ValueError, match="weights must be 2 numbers >= 0, not all 0"):
            pick(BENT, weights)


def test_ties_go_to_the_better_first_objective_or_the_first_of_the_front():
    # knees (.2, .8) and (.8, .2) of the same sum: the one better in the first objective, wherever it stands
    for scores in [((0, 1), (0.2, 0.9), (0.9, 0.2), (1, 0)), ((1, 0), (0.9, 0.2), (0.2, 0.9), (0, 1))]:
        assert pick(front_of(*scores)).score.tolist() == [0.9, 0.2]
    # sums that only rounding tells apart are a tie too: .1 + .2 is more than .3 in floating point
    near = front_of((0, 1), (0.1 + 0.2, 0.9), (0.9, 0.3), (1, 0))
    assert pick(near).score.tolist() == [0.9, 0.3]
    # equal pseudo-weights (.5, .5) at equal distance: the first
    even = front_of((1, 0), (0.6, 0.6), (0.6, 0.6), (0, 1))
    assert pick(even, (1, 1)).x[0] == 1
    # a front whose objectives do not vary favours none
    assert pseudo_weights(np.array([[2.0, 5.0], [2.0, 5.0]])).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert pseudo_weights(np.array([[1.0, 5.0], [2.0, 5.0]])).tolist() == [[0.5, 0.5], [1.0, 0.0]]
