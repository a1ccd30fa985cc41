"""The loop ask, evaluate, tell, with what long runs need: batches, progress, history, checkpoints, early stop."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch

from glasslib.checks import map_batches
from glasslib.search.checkpoint import Checkpoint, Result, identity_of, is_pareto, result_of
from glasslib.search.interrupts import Interrupted, WholeSteps, message

WORST = -1e100  # what a score that is no finite number counts as with on_bad="worst"


def run(
    search,
    evaluate: Callable[[np.ndarray], np.ndarray | torch.Tensor],
    *,
    n_generations: int,
    batch_size: int | None = None,
    checkpoint: Path | str | None = None,
    resume: bool = False,
    identity: Mapping | None = None,
    rngs: Sequence[np.random.Generator | torch.Generator] = (),
    callback: Callable[[object, dict], bool | None] | None = None,
    patience: int | None = None,
    on_bad: str = "refuse",
    progress: bool = True,
) -> Result:
    """Run a search until it has seen `n_generations` generations, earlier ones included.

    Ctrl-C, at any instant, leaves the search and its checkpoint whole and raises Interrupted with the attribute
    `result`; calling `run` again with the same search goes on. An error in `evaluate`, or scores that are refused,
    passes through with the same attribute, so that nothing found is lost.

    Args:
        search: a Search or ParetoSearch.
        evaluate: x (n, dim) -> scores (n,), or (n, k) for a ParetoSearch; higher is better.
        n_generations: generations in all.
        batch_size: most rows given to `evaluate` at once, halved when memory runs out; None gives it the whole
            population.
        checkpoint: a file written after every generation, and FILE.history beside it; one run at a time may use it.
        resume: go on from `checkpoint` if it is there; the run then equals, bit for bit, one that never stopped. It is
            refused if search, identity or versions are others, or if `evaluate` scores the best found otherwise (not
            asked where it draws from `rngs`).
        identity: name -> what the run is of (target, preset, weights, ...): JSON values, arrays or tensors. They are
            added to `evaluate.identity`, where it has that attribute, as a preset's evaluations do.
        rngs: random generators that `evaluate` draws from, saved and restored with the checkpoint.
        callback: called with the search and its newest history row; returning True ends the run.
        patience: end after this many generations without a better best; one objective only.
        on_bad: "refuse" scores that are NaN or infinite; "worst" makes them worse than any other, in all objectives,
            and counts them in `n_bad` of history and result. A generation without one good score is always refused.
        progress: show a bar.

    Raises:
        Interrupted: a KeyboardInterrupt, see above.
        FileExistsError: `checkpoint` is there and resume is False.
        ValueError: `checkpoint` is of another run, or damaged; bad scores.
        RuntimeError: another run is using `checkpoint`.
    """
    if patience is not None and is_pareto(search):
        raise ValueError("patience needs a search with one best, got one with a front; stop it by callback")
    _check_on_bad(on_bad)
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.is_file() and not resume:
        raise FileExistsError(f"{path} holds an earlier run; pass resume=True to go on with it, or delete it")
    named = {**getattr(evaluate, "identity", {}), **(identity or {})}
    history: list[dict] = []

    def scored(x: np.ndarray) -> np.ndarray:
        return _as_array(evaluate(x) if batch_size is None else map_batches(evaluate, x, batch_size=batch_size))

    def generation(x: np.ndarray, scores: np.ndarray) -> None:
        history.append(_tell(search, x, scores, on_bad, history, clock))
        kept.save(search, rngs, history[-1])

    try:
        with Checkpoint(path, lambda: identity_of(search, named)) as kept, WholeSteps() as whole:
            whole(kept.open)
            if not rngs:
                kept.check_score(scored)
            whole(lambda: history.extend(kept.restore(search, rngs)))
            clock, stopped = _Clock(history), ""
            with _bar(search.generation, n_generations, progress) as bar, _keeping(search, history, path):
                while search.generation < n_generations and not (stopped := _reason(search, history, patience)):
                    x = whole(_ask, search)
                    whole(generation, x, scored(x))
                    _advance(bar, history[-1])
                    if callback is not None and callback(search, history[-1]):
                        return result_of(search, history, "callback")
                return result_of(search, history, stopped or "finished")
    except KeyboardInterrupt:
        result = result_of(search, history, "interrupted")
        found = result.best is not None
        text = message(search.generation, n_generations, found=found, checkpoint=path, resume=resume)
        raise Interrupted(text, result) from None


def run_many(
    searches: Sequence,
    evaluate: Callable[[np.ndarray, np.ndarray], np.ndarray | torch.Tensor],
    *,
    n_generations: int,
    on_bad: str = "refuse",
    progress: bool = True,
) -> list[Result]:
    """Run many searches in lock step, all their candidates in one call of `evaluate` a generation.

    Each search runs as it would alone. One that ends early drops out. Ctrl-C and errors as in `run`; the attribute
    `result` is then the list.

    Args:
        searches: of one number of variables and objectives; population sizes may differ.
        evaluate: (x (n, dim), owner (n,) int) -> scores (n,) or (n, k); row i belongs to searches[owner[i]].
        n_generations: generations in all.
        on_bad: as in `run`.
        progress: show a bar.

    Returns:
        A Result per search, in their order.
    """
    _check_on_bad(on_bad)
    histories: list[list[dict]] = [[] for _ in searches]
    reasons = [""] * len(searches)
    clock = _Clock([])

    def results(stopped: str) -> list[Result]:
        ends = [reason or stopped for reason in reasons]
        return [result_of(*each) for each in zip(searches, histories, ends, strict=True)]

    def generation(live: list[int], asked: list[np.ndarray], scores: np.ndarray, owner: np.ndarray) -> None:
        for i, x in zip(live, asked, strict=True):
            histories[i].append(_tell(searches[i], x, scores[owner == i], on_bad, histories[i], clock))

    try:
        n_before = min((search.generation for search in searches), default=n_generations)
        with WholeSteps() as whole, _bar(n_before, n_generations, progress) as bar:
            while True:
                reasons[:] = [_reason(search, [], None) for search in searches]
                live = [i for i, s in enumerate(searches) if s.generation < n_generations and not reasons[i]]
                if not live:
                    return results("finished")
                asked = whole(lambda live=live: [_ask(searches[i]) for i in live])
                owner = np.repeat(live, [len(x) for x in asked])
                scores = _as_array(evaluate(np.concatenate(asked), owner))
                if len(scores) != len(owner):
                    raise ValueError(f"scores must have {len(owner)} rows, one per row of x, got {len(scores)}")
                whole(generation, live, asked, scores, owner)
                _advance(bar, {})
    except KeyboardInterrupt:
        n_done, found = max((search.generation for search in searches), default=0), results("interrupted")
        text = message(n_done, n_generations, found=any(each.best is not None for each in found))
        raise Interrupted(text, found) from None
    except Exception as error:
        error.result = results("failed")
        raise


class _Clock:
    """Seconds of all the runs that a history is made of."""

    def __init__(self, history: list[dict]) -> None:
        self._start = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)

    def seconds(self) -> float:
        return round(time.perf_counter() - self._start, 3)


def _ask(search) -> np.ndarray:
    """The candidates to score: those an interrupted run left unscored, or new ones."""
    return search.ask() if search.pending is None else search.pending.copy()


def _check_on_bad(on_bad: str) -> None:
    if on_bad not in ("refuse", "worst"):
        raise ValueError(f"on_bad must be 'refuse' or 'worst', got {on_bad!r}")


def _tell(search, x: np.ndarray, scores: np.ndarray, on_bad: str, history: list[dict], clock: _Clock) -> dict:
    """Tell the scores, bad ones as `on_bad` says; the history's new row."""
    bad = np.zeros(len(x), dtype=bool)
    if on_bad == "worst" and scores.ndim and len(scores) == len(x):
        bad = ~np.isfinite(scores).all(axis=tuple(range(1, scores.ndim)))
    told = scores
    if bad.any() and not bad.all():  # if all are, tell says so
        told = scores.copy()
        told[bad] = WORST
    search.tell(x, told)
    row = _row(search, scores[~bad], clock)
    if on_bad == "worst":
        row["n_bad"] = int(bad.sum()) + (history[-1]["n_bad"] if history else 0)
    return row


def _row(search, scores: np.ndarray, clock: _Clock) -> dict:
    row = {"generation": search.generation - 1}
    if scores.ndim == 1:
        row |= {"best": search.best.score, "median": median(scores.tolist())}
    else:
        front = np.stack([candidate.score for candidate in search.front])
        row |= {f"best_{k}": float(best) for k, best in enumerate(front.max(axis=0))}
        row |= {f"median_{k}": float(median) for k, median in enumerate(np.median(scores, axis=0))}
        row["front_size"] = len(front)
    return row | {"evaluations": search.generation * search.popsize, "seconds": clock.seconds()}


def _reason(search, history: list[dict], patience: int | None) -> str:
    """Why the search should end now, "" to go on."""
    if patience is not None and len(history) > patience and history[-1 - patience]["best"] == history[-1]["best"]:
        return "patience"
    reasons = search.stop() if hasattr(search, "stop") else {}
    return ", ".join(reasons)


def _as_array(scores) -> np.ndarray:
    if isinstance(scores, torch.Tensor):
        return scores.detach().cpu().double().numpy()
    return np.asarray(scores, dtype=np.float64)


@contextmanager
def _keeping(search, history: list[dict], path: Path | None):
    """Give an error of the block the attribute `result`, and a note that says where the best is."""
    try:
        yield
    except Exception as error:
        error.result = result_of(search, history, "failed")
        error.add_note(_note(error.result, search.generation, path))
        raise


def _note(result: Result, generation: int, path: Path | None) -> str:
    best = "nothing was scored yet" if result.best is None else f"the best so far, score {result.best.score}, is kept"
    where = "" if path is None else f" and in {path}"
    return f"the search failed in generation {generation}; {best} in the error's attribute result{where}"


def _bar(initial: int, total: int, progress: bool):
    from tqdm.auto import tqdm

    return tqdm(total=total, initial=min(initial, total), disable=not progress, unit="generation", desc="search")


def _advance(bar, row: dict) -> None:
    best = {name: f"{value:.4f}" for name, value in row.items() if name.startswith("best")}
    bar.set_postfix(best, refresh=False)
    bar.update()
