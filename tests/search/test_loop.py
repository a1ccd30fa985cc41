import os
import signal
import threading
import time

import numpy as np
import pytest
import torch

from glasslib import results
from glasslib.latents import Normal
from glasslib.search.candidate import Candidate
from glasslib.search.checkpoint import load_result
from glasslib.search.cmaes import CmaSearch
from glasslib.search.genetic import GeneticSearch, Nsga2Search
from glasslib.search.interrupts import Interrupted
from glasslib.search.loop import run, run_many
from glasslib.search.pareto import pick
from glasslib.search.random import RandomSearch

SPACE = Normal(4, bound=3.0)


def ga(seed=0, popsize=6):
    return GeneticSearch(SPACE, popsize=popsize, rng=np.random.default_rng(seed))


def nsga2(seed=0, popsize=6):
    return Nsga2Search(SPACE, popsize=popsize, rng=np.random.default_rng(seed))


def cma(seed=0, popsize=6):
    return CmaSearch(SPACE, popsize=popsize, rng=np.random.default_rng(seed))


def random_search(seed=0, popsize=6):
    return RandomSearch(SPACE, popsize=popsize, rng=np.random.default_rng(seed))


def score(x):
    return -((x - 1) ** 2).sum(axis=1)


def two_scores(x):
    return np.stack([score(x), -((x + 1) ** 2).sum(axis=1)], axis=1)


def timeless(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


class Recorder:
    """Remembers what it was given, and can fail at a generation."""

    def __init__(self, fn=score, *, fail_at=None, error=None):
        self.fn, self.asked, self.fail_at, self.error = fn, [], fail_at, error

    def __call__(self, x):
        if len(self.asked) == self.fail_at:
            raise self.error
        self.asked.append(x.copy())
        return self.fn(x)


def test_history_by_hand():
    table = iter([[1.0, 5.0, 3.0, 0.0], [2.0, 2.0, 9.0, 1.0], [4.0, 4.0, 4.0, 4.0]])
    result = run(random_search(popsize=4), lambda x: np.array(next(table)), n_generations=3, progress=False)
    assert timeless(result.history) == [
        {"generation": 0, "best": 5.0, "median": 2.0, "evaluations": 4},
        {"generation": 1, "best": 9.0, "median": 2.0, "evaluations": 8},
        {"generation": 2, "best": 9.0, "median": 4.0, "evaluations": 12},
    ]
    seconds = [row["seconds"] for row in result.history]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0
    assert (result.best.score, result.best.generation) == (9.0, 1)
    assert (result.stopped, result.front) == ("finished", [])


def test_history_and_pick_of_a_front():
    table = iter([[[0.0, 9.0], [8.0, 8.0], [9.0, 0.0], [1.0, 1.0]]])
    result = run(nsga2(popsize=4), lambda x: np.array(next(table)), n_generations=1, progress=False)
    assert timeless(result.history) == [
        {
            "generation": 0,
            "best_0": 9.0,
            "best_1": 9.0,
            "median_0": 4.5,
            "median_1": 4.5,
            "front_size": 3,
            "evaluations": 4,
        }
    ]
    assert [candidate.score.tolist() for candidate in result.front] == [[9, 0], [8, 8], [0, 9]]
    assert result.best.score.tolist() == [8, 8]


def test_the_loop_is_the_loop_of_the_first_notebook():
    search, by_hand = ga(), ga()
    result = run(search, score, n_generations=8, progress=False)
    for _ in range(8):
        x = by_hand.ask()
        by_hand.tell(x, score(x))
    assert np.array_equal(result.best.x, by_hand.best.x)


@pytest.mark.parametrize("batch_size", [1, 4, 6, 50])
def test_batches_change_nothing(batch_size):
    sizes = []

    def evaluate(x):
        sizes.append(len(x))
        return torch.from_numpy(score(x)).float()

    result = run(ga(), evaluate, n_generations=5, batch_size=batch_size, progress=False)
    whole = run(ga(), lambda x: score(x).astype(np.float32), n_generations=5, progress=False)
    assert timeless(result.history) == timeless(whole.history)
    assert max(sizes) == min(batch_size, 6)


def test_population_that_does_not_fit_memory_is_halved():
    def evaluate(x):
        if len(x) > 2:
            torch.empty(2**60, dtype=torch.uint8)
        return score(x)

    with pytest.warns(UserWarning, match="out of memory with a batch of 6"):
        result = run(ga(), evaluate, n_generations=1, batch_size=6, progress=False)
    assert result.best.score == run(ga(), score, n_generations=1, progress=False).best.score


@pytest.mark.parametrize("make", [random_search, ga, nsga2, cma])
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_stop_and_resume_is_the_run_that_never_stopped(make, stop, tmp_path):
    """Also for an evaluation that draws random numbers, in NumPy and in torch."""

    def noisy(rng, torch_rng):
        def evaluate(x):
            noise = rng.normal(size=len(x)) + torch.randn(len(x), generator=torch_rng).numpy()
            clean = two_scores(x) if make is nsga2 else score(x)
            return clean + (noise[:, None] if make is nsga2 else noise)

        return Recorder(evaluate), (rng, torch_rng)

    whole, rngs = noisy(np.random.default_rng(5), torch.Generator().manual_seed(5))
    expected = run(make(), whole, n_generations=9, rngs=rngs, progress=False)

    path = tmp_path / "run.npz"
    first, rngs = noisy(np.random.default_rng(5), torch.Generator().manual_seed(5))
    run(make(), first, n_generations=stop, checkpoint=path, rngs=rngs, progress=False)
    second, rngs = noisy(np.random.default_rng(6), torch.Generator().manual_seed(6))
    result = run(make(), second, n_generations=9, checkpoint=path, resume=True, rngs=rngs, progress=False)

    assert np.array_equal(whole.asked, first.asked + second.asked)
    assert timeless(result.history) == timeless(expected.history)
    assert_same(result.best, expected.best)
    again = run(make(), noisy(*rngs)[0], n_generations=9, checkpoint=path, resume=True, rngs=rngs, progress=False)
    assert timeless(again.history) == timeless(expected.history)
    stored = load_result(path)
    assert_same(stored.best, expected.best)
    assert len(stored.front) == len(expected.front)
    assert stored.history == again.history


def assert_same(a: Candidate, b: Candidate):
    assert np.array_equal(a.x, b.x)
    assert np.array_equal(a.score, b.score)
    assert a.generation == b.generation


def wait_for_change(path, *, then):
    """Until the file is replaced once, at most five seconds, and a moment longer."""

    def stamp():
        return path.stat().st_mtime_ns if path.exists() else 0

    before, end = stamp(), time.monotonic() + 5
    while stamp() == before and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(then)


@pytest.mark.parametrize("make", [ga, nsga2, cma])
def test_killed_at_any_instant(make, tmp_path):
    """A child process is killed with SIGKILL again and again; the resumed run ends as one that was left alone."""
    evaluate = two_scores if make is nsga2 else score
    expected = run(make(), evaluate, n_generations=60, progress=False)
    path = tmp_path / "run.npz"
    rng, kills = np.random.default_rng(0), 0
    while kills < 5:
        child = os.fork()
        if child == 0:  # only NumPy work in here, and out by _exit: the parent's threads do not exist
            try:
                run(make(), evaluate, n_generations=60, checkpoint=path, resume=True, progress=False)
            finally:
                os._exit(0)
        wait_for_change(path, then=rng.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kills += 1
    result = run(make(), evaluate, n_generations=60, checkpoint=path, resume=True, progress=False)
    assert timeless(result.history) == timeless(expected.history)
    assert_same(result.best, expected.best)


def test_an_earlier_run_is_not_overwritten(tmp_path):
    path = tmp_path / "run.npz"
    run(ga(), score, n_generations=2, checkpoint=path, resume=True, progress=False)  # nothing there yet: starts
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="pass resume=True to go on with it, or delete it"):
        run(ga(), score, n_generations=2, checkpoint=path, progress=False)
    assert path.read_bytes() == before


def other_score(x):
    return -((x + 1) ** 2).sum(axis=1)


def test_checkpoint_says_what_it_is_of(tmp_path):
    """Another target was accepted once, and its best reported for what the first target had found."""
    path, picture = tmp_path / "run.npz", np.arange(12.0).reshape(3, 2, 2)

    def go(search, evaluate=score, *, n=3, **identity):
        return run(search, evaluate, n_generations=n, checkpoint=path, resume=True, identity=identity, progress=False)

    def start(value):
        return GeneticSearch(SPACE, popsize=6, rng=np.random.default_rng(0), initial=np.full((1, 4), value))

    named = {"target": "a red star", "preset": "tiny", "weights": {"clip": "ab12"}, "picture": picture}
    go(start(0.5), **named)
    before = path.read_bytes(), (tmp_path / "run.npz.history").read_bytes()
    for search, evaluate, change, message in [
        (start(0.5), score, {"target": "a blue ring"}, r"target='a red star' \(here 'a blue ring'\)"),
        (start(0.5), score, {"weights": {"clip": "cd34"}}, r"weights=\{'clip': 'ab12'\} \(here \{'clip': 'cd34'\}\)"),
        (start(0.5), score, {"picture": picture.T}, r"picture='3x2x2 \w+' \(here '2x2x3 \w+'\)"),
        (start(0.5), score, {"arm": "faithful"}, r"arm=None \(here 'faithful'\)"),
        (start(0.6), score, {}, r"initial='1x4 \w+' \(here '1x4 \w+'\)"),
        (ga(), score, {}, r"initial='1x4 \w+' \(here None\)"),
        (start(0.5), other_score, {}, r"run.npz scored -1\.0000, and here it scores -9\.0000: another target"),
    ]:
        with pytest.raises(ValueError, match=message):
            go(search, evaluate, **(named | change))
        assert (search.generation, search.best) == (0, None)
    with pytest.raises(ValueError, match=r"target='a red star' \(here None\)"):
        go(start(0.5))
    assert (path.read_bytes(), (tmp_path / "run.npz.history").read_bytes()) == before
    assert len(go(start(0.5), n=5, **named).history) == 5


def test_an_evaluation_can_say_what_it_is_of(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"

    def evaluation(target):
        def evaluate(x):
            return score(x)

        evaluate.identity = {"target": target}
        return evaluate

    run(ga(), evaluation("a"), n_generations=2, checkpoint=path, progress=False)
    with pytest.raises(ValueError, match=r"target='a' \(here 'b'\)"):
        run(ga(), evaluation("b"), n_generations=4, checkpoint=path, resume=True, progress=False)
    monkeypatch.setattr(results, "versions", lambda: {"python": "4", "glasslib": "0", "numpy": "9.9"})
    with pytest.raises(ValueError, match=r"numpy version='\d[\d.]+' \(here '9.9'\)"):
        run(ga(), evaluation("a"), n_generations=4, checkpoint=path, resume=True, progress=False)


def test_one_run_at_a_time_on_a_checkpoint(tmp_path):
    path = tmp_path / "run.npz"

    def evaluate(x):
        with pytest.raises(RuntimeError, match="run.npz belongs to a run that is going on"):
            run(ga(), score, n_generations=9, checkpoint=path, resume=True, progress=False)
        return score(x)

    result = run(ga(), evaluate, n_generations=3, checkpoint=path, progress=False)
    child = os.fork()
    if child == 0:
        try:
            run(ga(), lambda x: (score(x), time.sleep(0.02))[0], n_generations=500, checkpoint=path, resume=True,
                progress=False)  # fmt: skip
        finally:
            os._exit(0)
    wait_for_change(path, then=0)
    with pytest.raises(RuntimeError, match="in another process; wait for it or stop it"):
        run(ga(), score, n_generations=9, checkpoint=path, resume=True, progress=False)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    n_done = len(load_result(path).history)
    after = run(ga(), score, n_generations=n_done + 1, checkpoint=path, resume=True, progress=False)
    assert after.history[:3] == result.history
    assert timeless(after.history) == timeless(run(ga(), score, n_generations=n_done + 1, progress=False).history)


def test_saving_does_not_grow_with_the_run(tmp_path):
    path = tmp_path / "run.npz"
    sizes, added = [], []

    def watch(search, row):
        sizes.append(path.stat().st_size)
        added.append((tmp_path / "run.npz.history").stat().st_size)

    run(ga(), score, n_generations=200, checkpoint=path, callback=watch, progress=False)
    assert max(sizes[20:]) - min(sizes[20:]) < 200  # a few digits
    assert max(np.diff(added)) < 200
    assert len(load_result(path).history) == 200


def test_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    run(ga(), score, n_generations=2, checkpoint=path, progress=False)
    for search, rngs, message in [
        (ga(popsize=8), (), r"popsize=6 \(here 8\)"),
        (random_search(), (), r"search='GeneticSearch' \(here 'RandomSearch'\)"),
        (ga(seed=1), (), r"another run: rng='\w+' \(here '\w+'\)\. Make"),
        (ga(), (np.random.default_rng(0),), "written with 0 rngs, got 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(search, score, n_generations=4, checkpoint=path, resume=True, rngs=rngs, progress=False)


@pytest.mark.parametrize("make", [ga, nsga2, cma])
def test_ctrl_c_raises_with_the_best_so_far_and_the_same_search_goes_on(make):
    fn = two_scores if make is nsga2 else score
    whole, expected = Recorder(fn), make()
    run(expected, whole, n_generations=8, progress=False)
    search = make()
    first = Recorder(fn, fail_at=5, error=KeyboardInterrupt())
    with pytest.raises(
        Interrupted, match="stopped after generation 5 of 8; the best so far is in error.result"
    ) as stop:
        run(search, first, n_generations=8, progress=False)
    result = stop.value.result
    assert result.stopped == "interrupted"
    assert [row["generation"] for row in result.history] == [0, 1, 2, 3, 4]
    assert np.array_equal(result.best.score, (pick(search.front) if make is nsga2 else search.best).score)
    second = Recorder(fn)
    more = run(search, second, n_generations=8, progress=False)
    assert [row["generation"] for row in more.history] == [5, 6, 7]
    assert [row["evaluations"] for row in more.history] == [36, 42, 48]
    assert np.array_equal(first.asked + second.asked, whole.asked)


def test_what_an_interrupt_says_is_true(tmp_path):
    def stopped(fail_at, **settings):
        with pytest.raises(KeyboardInterrupt) as stop:
            run(ga(), Recorder(fail_at=fail_at, error=KeyboardInterrupt()), n_generations=9, progress=False, **settings)
        assert isinstance(stop.value, Interrupted)
        return stop.value

    path = tmp_path / "run.npz"
    nothing = stopped(0, checkpoint=path)
    assert str(nothing) == "stopped before the first of 9 generations was scored; nothing was found yet"
    assert (nothing.result.best, nothing.result.history) == (None, [])
    assert nothing._render_traceback_() == [str(nothing)]
    best = "; the best so far is in error.result"
    assert str(stopped(2)) == (
        f"stopped after generation 2 of 9{best}; no checkpoint was kept, so only the same search object can go on"
    )
    kept = stopped(3, checkpoint=path)
    assert str(kept) == f"stopped after generation 3 of 9{best}, or pass resume=True and run the cell again to go on"
    again = stopped(2, checkpoint=path, resume=True)  # the first call scores the stored best once more
    assert str(again) == f"stopped after generation 4 of 9{best}, or run the cell again to go on"
    assert again._render_traceback_() == [f"{again} (error is sys.last_value)"]
    assert len(again.result.history) == 4


class Pressed:
    """A search of which somebody presses Ctrl-C, `n_times`, inside a call of `method` in generation 3."""

    def __init__(self, method, n_times=1):
        self.inner, self.method, self.n_times = ga(), method, n_times
        self.popsize = self.inner.popsize

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name != self.method or self.inner.generation != 3:
            return found

        def pressed(*args):
            for _ in range(self.n_times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.02)
            return found(*args)

        return pressed


@pytest.mark.parametrize("n_times", [1, 3])
@pytest.mark.parametrize(("method", "n_done"), [("ask", 3), ("tell", 4), ("state", 3), ("restore", 3)])
def test_a_real_ctrl_c_waits_until_the_step_is_whole(method, n_done, n_times, tmp_path):
    path, handler = tmp_path / "run.npz", signal.getsignal(signal.SIGINT)
    search = Pressed(method, n_times)
    if method == "restore":
        run(ga(), score, n_generations=3, checkpoint=path, progress=False)
        run(search.inner, score, n_generations=3, progress=False)
    with pytest.raises(Interrupted, match=f"stopped after generation {n_done} of 8") as stop:
        run(search, score, n_generations=8, checkpoint=path, resume=True, progress=False)
    assert len(stop.value.result.history) == n_done
    assert (search.pending is None) == (method != "ask")
    assert len(load_result(path).history) == n_done
    assert signal.getsignal(signal.SIGINT) is handler
    result = run(ga(), score, n_generations=8, checkpoint=path, resume=True, progress=False)
    assert_same(result.best, run(ga(), score, n_generations=8, progress=False).best)


def test_a_real_ctrl_c_at_any_instant(tmp_path):
    """Also while the bar is made, between two steps and while the file is written: always one exception, no damage."""
    expected = run(ga(), score, n_generations=25, progress=False)
    rng = np.random.default_rng(0)
    begun = time.perf_counter()
    run(ga(), score, n_generations=25, checkpoint=tmp_path / "timed.npz", progress=False)
    longest, n_stopped = time.perf_counter() - begun, 0
    for k in range(12):
        path = tmp_path / f"{k}.npz"
        timer = threading.Timer(rng.uniform(0, longest), os.kill, (os.getpid(), signal.SIGINT))
        n_known = 0
        try:
            timer.start()
            run(ga(), score, n_generations=25, checkpoint=path, progress=False)
            timer.join()
            time.sleep(0.01)
        except KeyboardInterrupt as error:
            if isinstance(error, Interrupted):
                n_stopped, n_known = n_stopped + 1, len(error.result.history)
        assert (len(load_result(path).history) if path.is_file() else 0) >= n_known
        result = run(ga(), score, n_generations=25, checkpoint=path, resume=True, progress=False)
        assert timeless(result.history) == timeless(expected.history)
        assert_same(result.best, expected.best)
    assert n_stopped > 2


def test_runs_in_a_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(run(ga(), score, n_generations=3, progress=False)))
    thread.start()
    thread.join()
    assert len(found[0].history) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_scores_are_refused_and_nothing_found_is_lost(bad, tmp_path):
    def spoils(x):
        scores = score(x)
        if search.generation == 4:
            scores[2] = bad
        return scores

    search, path = ga(), tmp_path / "run.npz"
    with pytest.raises(ValueError, match="scores must be finite, got 1 bad of 6") as caught:
        run(search, spoils, n_generations=9, checkpoint=path, progress=False)
    result = caught.value.result
    assert (result.stopped, len(result.history)) == ("failed", 4)
    assert result.best.score == run(ga(), score, n_generations=4, progress=False).best.score
    assert "the search failed in generation 4; the best so far" in caught.value.__notes__[0]
    assert str(path) in caught.value.__notes__[0]
    rest = run(search, score, n_generations=9, progress=False)  # mended, the same search goes on
    assert rest.best.score == run(ga(), score, n_generations=9, progress=False).best.score


@pytest.mark.parametrize("make", [random_search, ga, nsga2, cma])
def test_bad_scores_counted_as_worst_when_asked(make, tmp_path):
    clean = two_scores if make is nsga2 else score

    def spoils(x):
        scores = clean(x)
        scores[scores.reshape(len(x), -1)[:, 0] > -1.0] = np.nan  # whatever comes near the best one there is
        scores[0] = np.inf if len(x) > 1 else scores[0]
        return scores

    path = tmp_path / "run.npz"
    whole = run(make(), spoils, n_generations=12, on_bad="worst", progress=False)
    assert np.isfinite(whole.best.score).all()
    assert np.min(whole.best.score) > -1e99
    assert whole.n_bad == whole.history[-1]["n_bad"] >= 12
    medians = [value for row in whole.history for name, value in row.items() if name.startswith("median")]
    assert min(medians) > -1e99
    run(make(), spoils, n_generations=5, on_bad="worst", checkpoint=path, progress=False)
    rest = run(make(), spoils, n_generations=12, on_bad="worst", checkpoint=path, resume=True, progress=False)
    assert timeless(rest.history) == timeless(whole.history)
    many = run_many([make()], lambda x, owner: spoils(x), n_generations=12, on_bad="worst", progress=False)
    assert timeless(many[0].history) == timeless(whole.history)


def test_a_generation_of_bad_scores_alone_is_refused():
    with pytest.raises(ValueError, match="scores must be finite, got 6 bad of 6"):
        run(ga(), lambda x: np.full(6, np.nan), n_generations=2, on_bad="worst", progress=False)
    with pytest.raises(ValueError, match="on_bad must be 'refuse' or 'worst', got 'ignore'"):
        run(ga(), score, n_generations=2, on_bad="ignore", progress=False)


def test_an_error_in_evaluate_keeps_its_type_and_the_result():
    with pytest.raises(FileNotFoundError, match="weights") as caught:
        run(ga(), Recorder(fail_at=2, error=FileNotFoundError("weights")), n_generations=5, progress=False)
    assert len(caught.value.result.history) == 2
    with pytest.raises(FileNotFoundError) as caught:
        run(nsga2(), Recorder(fail_at=0, error=FileNotFoundError("weights")), n_generations=5, progress=False)
    assert caught.value.result.best is None
    assert "nothing was scored yet" in caught.value.__notes__[0]


@pytest.mark.parametrize("scores", [np.zeros(5), np.zeros((6, 1)), np.zeros((6, 2)), np.float64(0.0)])
def test_scores_of_another_shape_are_refused(scores):
    with pytest.raises(ValueError, match=r"scores must have shape \(6,\)"):
        run(ga(), lambda x: scores, n_generations=1, progress=False)


def test_callback_sees_every_row_and_can_end_the_run():
    rows = []

    def callback(search, row):
        rows.append(row)
        return search.generation == 3

    result = run(ga(), score, n_generations=9, callback=callback, progress=False)
    assert result.stopped == "callback"
    assert rows == result.history
    assert len(rows) == 3


def test_patience_by_hand(tmp_path):
    bests = [1, 3, 3, 3, 4, 4, 4, 4, 4]
    scores = iter(bests)
    result = run(
        ga(), lambda x: np.full(6, float(next(scores))), n_generations=9, patience=3, checkpoint=tmp_path / "run.npz",
        progress=False,
    )  # fmt: skip
    assert result.stopped == "patience"
    assert [row["best"] for row in result.history] == [1, 3, 3, 3, 4, 4, 4, 4]
    again = run(
        ga(), lambda x: np.full(len(x), 4.0), n_generations=9, patience=3, checkpoint=tmp_path / "run.npz", resume=True,
        progress=False,
    )  # fmt: skip
    assert (again.stopped, len(again.history)) == ("patience", 8)
    with pytest.raises(ValueError, match="patience needs a search with one best"):
        run(nsga2(), two_scores, n_generations=2, patience=3, progress=False)


def test_a_search_that_stops_by_itself_ends_the_run():
    result = run(cma(), lambda x: np.zeros(len(x)), n_generations=9, progress=False)
    assert "tolfun" in result.stopped
    assert len(result.history) < 9


def test_progress_bar_counts_generations(capsys):
    run(ga(), score, n_generations=3)
    shown = capsys.readouterr()
    assert "3/3" in shown.err
    assert "best=" in shown.err
    run(ga(), score, n_generations=3, progress=False)
    assert capsys.readouterr() == ("", "")


def test_many_searches_run_as_each_would_alone():
    targets = np.linspace(-1, 1, 5)
    searches = [ga(seed, popsize=4 + 2 * (seed % 2)) for seed in range(5)]
    calls = []

    def evaluate(x, owner):
        calls.append(len(x))
        return torch.from_numpy(-((x - targets[owner][:, None]) ** 2).sum(axis=1))

    results = run_many(searches, evaluate, n_generations=7, progress=False)
    assert calls == [4 * 3 + 6 * 2] * 7
    for seed, result in enumerate(results):
        alone = run(
            ga(seed, popsize=4 + 2 * (seed % 2)),
            lambda x, seed=seed: -((x - targets[seed]) ** 2).sum(axis=1),
            n_generations=7,
            progress=False,
        )
        assert timeless(result.history) == timeless(alone.history)
        assert_same(result.best, alone.best)
        assert result.stopped == "finished"


def test_many_pareto_searches_and_none():
    results = run_many([nsga2(0), nsga2(1)], lambda x, owner: two_scores(x), n_generations=3, progress=False)
    alone = run(nsga2(1), two_scores, n_generations=3, progress=False)
    assert [c.score.tolist() for c in results[1].front] == [c.score.tolist() for c in alone.front]
    assert run_many([], score, n_generations=3, progress=False) == []


def test_one_of_many_that_stops_early_drops_out():
    def evaluate(x, owner):
        return np.where(owner == 0, 0.0, score(x))

    results = run_many([cma(0), ga(1)], evaluate, n_generations=9, progress=False)
    assert "tolfun" in results[0].stopped
    assert len(results[0].history) < 9
    assert (results[1].stopped, len(results[1].history)) == ("finished", 9)


def test_many_keep_what_they_found():
    def interrupted(x, owner):
        if searches[0].generation == 2:
            raise KeyboardInterrupt
        return score(x)

    searches = [ga(0), ga(1)]
    with pytest.raises(Interrupted, match="stopped after generation 2 of 5") as stop:
        run_many(searches, interrupted, n_generations=5, progress=False)
    results = stop.value.result
    assert [(r.stopped, len(r.history)) for r in results] == [("interrupted", 2)] * 2
    results = run_many(searches, lambda x, owner: score(x), n_generations=5, progress=False)
    assert results[1].best.score == run(ga(1), score, n_generations=5, progress=False).best.score
    with pytest.raises(ValueError, match="scores must have 12 rows, one per row of x, got 11") as caught:
        run_many([ga(0), ga(1)], lambda x, owner: score(x)[1:], n_generations=5, progress=False)
    assert len(caught.value.result) == 2
