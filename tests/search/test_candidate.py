import numpy as np
import pytest
import torch

from glasslib.latents import Normal, Product, Tokens
from glasslib.search.candidate import (
    Candidate,
    Turns,
    better,
    check_popsize,
    check_real,
    differences,
    fingerprint,
    own_stream,
    pack_best,
    read_only,
    unpack_best,
)

X = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def turns(seed=0, **settings):
    return Turns(object(), Normal(2), np.random.default_rng(seed), **settings)


def test_best_of_all_and_the_first_on_a_tie():
    best = better(None, X, np.array([1.0, 7.0, 7.0]), 4)
    assert (best.x.tolist(), best.score, best.generation) == ([3, 4], 7.0, 4)
    assert type(best.score) is float
    assert better(best, X, np.array([7.0, 0.0, 0.0]), 5) is best  # as good is not better
    assert better(best, X, np.array([0.0, 0.0, 7.5]), 5).x.tolist() == [5, 6]
    assert better(best, X, np.array([0.0, 0.0, 6.5]), 5) is best


def test_a_candidate_cannot_be_changed_through_the_arrays_it_came_from():
    x = X.copy()
    best = better(None, x, np.array([1.0, 7.0, 2.0]), 0)
    x[:] = 0
    assert best.x.tolist() == [3, 4]
    with pytest.raises(ValueError, match="read-only"):
        best.x[0] = 1
    assert read_only(np.array([1, 2])).dtype == np.float64
    with pytest.raises(AttributeError, match="cannot assign"):
        best.score = 1.0


def test_order_of_turns():
    turn = turns()
    with pytest.raises(RuntimeError, match="tell was called without ask"):
        turn.check_tell(X, np.zeros(3))
    turn.check_ask()
    asked = turn.offer(X)
    asked[:] = 0  # a copy
    assert np.array_equal(turn.pending, X)
    with pytest.raises(RuntimeError, match="ask was called twice"):
        turn.check_ask()
    with pytest.raises(RuntimeError, match="between generations"):
        turn.state()
    turn.finish()
    assert (turn.pending, turn.generation) == (None, 1)


def test_what_tell_takes_and_refuses():
    turn = turns()
    turn.offer(X)
    given = np.array([1, 2, 3])
    x, scores = turn.check_tell(X, given)
    given[0] = 9
    assert (scores.tolist(), scores.dtype, x is turn.pending) == ([1, 2, 3], np.float64, True)
    assert turn.check_tell(X, torch.tensor([1.0, 2.0, 3.0]))[1].tolist() == [1, 2, 3]
    assert turn.check_tell(X, np.ones((3, 2)), n_objectives=2)[1].shape == (3, 2)
    for bad, message in [
        (np.ones(2), r"scores must have shape \(3,\), one row per row of x, got \(2,\)"),
        (np.ones((3, 1)), r"shape \(3,\)"),
        (np.array([1, np.nan, np.inf]), "scores must be finite, got 2 bad of 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            turn.check_tell(X, bad)
    with pytest.raises(ValueError, match=r"shape \(3, 2\)"):
        turn.check_tell(X, np.ones((3, 3)), n_objectives=2)
    with pytest.raises(ValueError, match=r"rows of the last ask, unchanged and in their order \(3, 2\)"):
        turn.check_tell(X[::-1], np.ones(3))


def test_identity_names_settings_and_start():
    start = {"initial": X, "x0": None}
    turn = turns(popsize=8, start=start)
    assert turn.identity["search"] == "object"
    assert turn.identity["space"] == "Normal(dim=2, bound=10.0)"
    assert (turn.identity["popsize"], turn.identity["x0"]) == (8, None)
    assert turn.identity["initial"].startswith("3x2 ")
    assert turn.identity == turns(popsize=8, start=start).identity
    names = {
        "rng": turns(1, popsize=8, start=start),
        "popsize": turns(popsize=9, start=start),
        "initial": turns(popsize=8, start=start | {"initial": X + 1e-15}),
    }
    for name, other in names.items():
        (found,) = differences(turn.identity, other.identity)
        assert found.startswith(f"{name}=")
    turn.rng.random(5)
    assert turn.identity == turns(popsize=8, start=start).identity  # where the stream began, not where it stands


def test_state_and_back():
    turn, other = turns(popsize=8), turns(seed=5, popsize=8)
    turn.offer(X)
    turn.finish()
    turn.rng.random(3)
    state = turn.state(mine=1)
    assert state["mine"] == 1
    other.offer(X)
    other.restore(state)
    assert (other.generation, other.pending) == (1, None)
    assert other.rng.random() == turn.rng.random()
    untouched = turns(popsize=9)
    with pytest.raises(ValueError, match=r"made with popsize=8 \(here 9\); make the search with the same settings"):
        untouched.restore(state)
    assert untouched.generation == 0


def test_fingerprints_and_differences_by_hand():
    assert fingerprint(None) is None
    assert fingerprint(X) == "3x2 d73f023a3f85"
    assert fingerprint(X) == fingerprint(torch.tensor(X)) == fingerprint(np.asfortranarray(X))
    assert fingerprint(X.reshape(2, 3)) != fingerprint(X)
    assert fingerprint({"b": 1, "a": [2]}) == fingerprint({"a": [2], "b": 1}) != fingerprint({"a": [2], "b": 2})
    assert differences({"a": 1, "b": 2, "c": 3}, {"b": 2, "a": 4, "d": None}) == ["a=1 (here 4)", "c=3 (here None)"]


def test_own_stream_is_drawn_from_once_and_alone():
    rng = np.random.default_rng(0)
    stream = own_stream(rng)
    first = stream.random(4).tolist()
    assert first == own_stream(np.random.default_rng(0)).random(4).tolist()
    assert own_stream(rng).random(4).tolist() != first
    with pytest.raises(TypeError, match=r"got RandomState; use np.random.default_rng\(seed\)"):
        own_stream(np.random.RandomState(0))


@pytest.mark.parametrize("popsize", [3, 2.5, -1, "8", None, True, np.nan, [8]])
def test_population_sizes_refused(popsize):
    with pytest.raises(ValueError, match="popsize must be a whole number of at least 4, got ") as caught:
        check_popsize(popsize, at_least=4)
    assert repr(popsize) in str(caught.value)


def test_population_sizes_taken():
    assert [check_popsize(n, at_least=4) for n in (4, 5.0, np.int64(6))] == [4, 5, 6]
    assert type(check_popsize(5.0, at_least=4)) is int


def test_real_spaces_alone():
    check_real(Normal(3), "CmaSearch", "GeneticSearch")
    mixed = Product((Normal(3), Tokens(2, 5)))
    with pytest.raises(ValueError, match="CmaSearch needs a space of real .*Product with integer variables; use GA"):
        check_real(mixed, "CmaSearch", "GA")


def test_best_packed_and_back():
    assert unpack_best(pack_best(None)) is None
    best = Candidate(read_only(X[0]), 0.1 + 0.2, 7)
    back = unpack_best(pack_best(best))
    assert (back.x.tolist(), back.score, back.generation) == ([1, 2], 0.1 + 0.2, 7)
    assert not back.x.flags.writeable
