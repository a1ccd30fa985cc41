"""The same seed gives the same search: again, after other work, on two torch threads, in two Python threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import numpy as np
import torch

from glasslib import presets
from glasslib.search import loop
from glasslib.tinyworld import scenes

SEARCHES = (  # preset, method
    ("tiny-gpt2", "GA"),
    ("tiny-stylegan2", "GA"),
    ("tiny-stylegan2", "CMA-ES"),
    ("tiny-stylegan2", "NSGA-II"),
    ("tiny-biggan", "GA"),
    ("tiny-gpt2", "random"),
)
WAYS = ("again", "after other work", "two torch threads", "two Python threads", "in a second thread")


def search(preset: presets.Preset, method: str, *, seed: int, n_generations: int, **settings) -> list[np.ndarray]:
    """Run one search: its candidates and scores of every generation, (popsize, dim) and (popsize,) or (popsize, 2)."""
    evaluate, seen = objective(preset, method, seed), []

    def watched(x: np.ndarray):
        scores = evaluate(x)
        seen.extend((x.copy(), np.asarray(scores).copy()))
        return scores

    searched = preset.search(method, rng=np.random.default_rng(seed), **settings)
    loop.run(searched, watched, n_generations=n_generations, progress=False)
    return seen


def objective(preset: presets.Preset, method: str, seed: int) -> Callable:
    if preset.writes_text:
        world = scenes.sample(1, rng=np.random.default_rng([seed, 1]))
        return preset.scores(scenes.render(world, rng=torch.Generator().manual_seed(seed))[0])
    if method != "NSGA-II":
        return preset.scores(preset.prompts[seed % len(preset.prompts)])
    from glasslib.scoring import ClipScorer, JointScorer, RealismScorer

    joint = JointScorer([ClipScorer(preset.embedder, preset.prompts[0]), RealismScorer(preset.generator)])
    return lambda x: joint(preset.make(x)).cpu()


def other_work(preset: presets.Preset, seed: int) -> None:
    """Fill caches and move global states: texts and pictures in odd numbers, and draws of torch's global generator."""
    rng = np.random.default_rng([seed, 2])
    for n in (1, 3, 13):
        made = preset.make(preset.generator.latent_space.sample(n, rng=rng))
        if preset.writes_text:
            preset.embedder.embed_texts(made, truncate=True)
        else:
            preset.embedder.embed_images(made)
    preset.embedder.embed_texts(["a red star", "a blue ring at the top", "a green heart on the left"])
    torch.rand(7)


def repeats(way: str, preset: presets.Preset, run: Callable[[], list]) -> list[list]:
    """What `run` gives in one of WAYS, once or more."""
    if way == "again":
        return [run()]
    if way == "after other work":
        other_work(preset, 0)
        return [run()]
    if way == "two torch threads":
        torch.set_num_threads(2)
        try:
            return [run()]
        finally:
            torch.set_num_threads(1)
    found: list[list] = []
    others = [lambda: found.append(run())] * (2 if way == "two Python threads" else 1)
    workers = [threading.Thread(target=other) for other in others]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if len(found) != len(workers):
        raise RuntimeError(f"{len(workers) - len(found)} of {len(workers)} threads failed: {way}")
    return found


def equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    """Whether two runs' candidates and scores are the same to the last bit."""
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def identical(n: int = 60, *, n_generations: int = 15, **settings) -> list[dict]:
    """Try n combinations of a search, a seed and a way to repeat it.

    Args:
        n: combinations: 30 a seed.
        n_generations: of each search.
        settings: of each search, such as popsize; otherwise the preset's.

    Returns:
        A row each: preset, method, seed, way, and whether every candidate and score is the same to the last bit.
        repeat.searches is the share of rows that are identical.
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    loaded, first, rows = {}, {}, []
    plan = ((seed, search_, way) for seed in itertools.count() for search_ in SEARCHES for way in WAYS)
    try:
        for seed, (name, method), way in itertools.islice(plan, n):
            preset = loaded.setdefault(name, None) or presets.load(name)
            loaded[name] = preset
            run = lambda p=preset, m=method, s=seed: search(p, m, seed=s, n_generations=n_generations, **settings)  # noqa: E731
            expected = first.setdefault((seed, name, method), None) or run()
            first[seed, name, method] = expected
            same = all(equal(found, expected) for found in repeats(way, preset, run))
            rows.append({"preset": name, "method": method, "seed": seed, "way": way, "identical": same})
    finally:
        torch.set_num_threads(n_threads)
    return rows
