"""How well the tiny searches do on a hundred targets each: captions to pictures, and pictures to captions.

One search a target and a seed, in lock step; the jobs (a method and a seed, or a tenth of the pictures) run in as many
processes as there are cores. What is done is kept in runs/bench until all is done, so that a stop loses one job.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from glasslib import metrics, presets, results
from glasslib.search import loop
from glasslib.tinyworld import captions, faithfulness, models, oracle, scenes, wording

N_TARGETS = 100
HELD_OUT = 30_000  # the seed of scenes that no recipe draws
METHODS = {"ga": "GA", "random": "random", "cmaes": "CMA-ES"}
SEEDS = (0, 1, 2)
N_GENERATIONS = 100  # of 16 pictures; of 100 sentences
N_TOGETHER = 10  # pictures captioned in one job
READ = ("colour", "shape", "place")


def held_out_captions(n: int) -> list[str]:
    """n captions of one-object scenes that name colour, shape and place."""
    rng = np.random.default_rng(HELD_OUT)
    world = scenes.sample(n, rng=rng, n_objects=(1, 1))
    texts = []
    for row in range(n):
        truth = captions.object_facts(world, row, 0)
        article = "an" if truth.colour == "orange" else "a"
        phrase = rng.choice(wording.PLACE_PHRASES[truth.place])
        texts.append(f"{article} {truth.colour} {rng.choice(wording.SHAPE_WORDS[truth.shape])} {phrase}")
    return texts


def text_to_image(key: str, *, seed: int, n_targets: int, n_generations: int) -> list[dict]:
    """Find a picture for each held-out caption.

    Returns:
        A row a caption: the winner's CLIP score, and for each attribute whether the oracle finds what is named.
    """
    preset, method, targets = presets.load("tiny-stylegan2"), METHODS[key], held_out_captions(n_targets)
    wanted = preset.embedder.embed_texts(targets)
    draw = _best_of_random if method == "random" else _evolved
    x, scores = draw(preset, wanted, method=method, seed=seed, n_generations=n_generations)
    reading = oracle.load(models.WEIGHTS / "oracle")(preset.make(x))
    facts = [captions.parse(text) for text in targets]
    seen = {name: reading.agrees(facts, name) for name in READ}
    return [
        {"method": method, "seed": seed, "caption": text, "score": float(scores[i])}
        | {name: bool(seen[name][i]) for name in READ}
        for i, text in enumerate(targets)
    ]


@torch.inference_mode()
def _evolved(preset, wanted: torch.Tensor, *, method: str, seed: int, n_generations: int) -> tuple:
    """One search for each row of `wanted`, all in lock step: the winners (n, dim) and their scores (n,)."""
    searches = [preset.search(method, rng=np.random.default_rng([seed, i])) for i in range(len(wanted))]

    def evaluate(x: np.ndarray, owner: np.ndarray) -> torch.Tensor:
        return (preset.embedder.embed_images(preset.make(x)) * wanted[owner]).sum(dim=1)

    searched = loop.run_many(searches, evaluate, n_generations=n_generations, progress=False)
    return np.stack([result.best.x for result in searched]), np.array([result.best.score for result in searched])


@torch.inference_mode()
def _best_of_random(preset, wanted: torch.Tensor, *, method: str, seed: int, n_generations: int) -> tuple:
    """The best of as many random pictures as a search sees; one draw serves all captions, for none steers it."""
    x = preset.generator.latent_space.sample(preset.popsize * n_generations, rng=np.random.default_rng([seed, 0]))
    similarity = preset.embedder.embed_images(preset.make(x)) @ wanted.T  # (pictures, captions)
    best = similarity.argmax(dim=0).numpy()
    return x[best], similarity.amax(dim=0).numpy()


def image_to_text(*, seed: int, first: int, n: int, n_generations: int) -> list[dict]:
    """Evolve a caption for each of n held-out pictures from number `first` on.

    Returns:
        A row a picture: its caption, whether it parses, how many attributes it names, and how many of them are true.
    """
    preset = presets.load("tiny-gpt2")
    world = scenes.sample(N_TARGETS, rng=np.random.default_rng(HELD_OUT + 1))
    pictures = scenes.render(world, rng=torch.Generator().manual_seed(HELD_OUT))
    chosen = range(first, first + n)
    wanted = preset.embedder.embed_images(pictures[first : first + n])
    searches = [preset.search("GA", rng=np.random.default_rng([seed, i])) for i in chosen]

    @torch.inference_mode()
    def evaluate(x: np.ndarray, owner: np.ndarray) -> torch.Tensor:
        return (preset.embedder.embed_texts(preset.make(x)) * wanted[owner]).sum(dim=1)

    searched = loop.run_many(searches, evaluate, n_generations=n_generations, progress=False)
    rows = []
    for i, text in zip(chosen, preset.make(np.stack([result.best.x for result in searched])), strict=True):
        facts = captions.parse(text) if captions.parses(text) else wording.Facts()
        true = int(faithfulness.count_true(facts, world[i : i + 1])[0])
        row = {"seed": seed, "picture": i, "caption": text, "parses": captions.parses(text)}
        rows.append(row | {"named": facts.n_named, "true": true})
    return rows


def bench_t2i() -> None:
    """Measure t2i.* and write results/bench_t2i/."""
    jobs = [
        {"key": key, "seed": seed, "n_targets": N_TARGETS, "n_generations": N_GENERATIONS}
        for key in METHODS
        for seed in SEEDS
    ]
    rows = run_jobs(text_to_image, jobs, name="t2i", weights=("clip", "stylegan2", "oracle"))
    found = {}
    for key, method in METHODS.items():
        rng = np.random.default_rng(0)
        mine = [row for row in rows if row["method"] == method]
        for name in READ:
            hits = np.reshape([row[name] for row in mine], (len(SEEDS), N_TARGETS))
            found[f"t2i.{key}.{name}"] = metrics.repeated_share(hits, rng=rng)
    params = {"n_targets": N_TARGETS, "methods": METHODS, "seeds": SEEDS, "n_generations": N_GENERATIONS}
    write("bench_t2i", params, found, {"text_to_image": rows})


def bench_i2t() -> None:
    """Measure i2t.* and write results/bench_i2t/."""
    jobs = [
        {"seed": seed, "first": first, "n": N_TOGETHER, "n_generations": N_GENERATIONS}
        for seed in SEEDS
        for first in range(0, N_TARGETS, N_TOGETHER)
    ]
    rows = run_jobs(image_to_text, jobs, name="i2t", weights=("clip", "gpt2"))
    rng = np.random.default_rng(0)
    named, true, parses = (
        np.reshape([row[name] for row in rows], (len(SEEDS), N_TARGETS)) for name in ("named", "true", "parses")
    )
    said = metrics.CorpusMetric(np.stack([true.sum(axis=0), named.sum(axis=0)], axis=1), metrics.quotient, "share")
    found = {
        "i2t.ga.precision": metrics.corpus(said, rng=rng),
        "i2t.ga.parses": metrics.repeated_share(parses, rng=rng),
    }
    params = {"n_targets": N_TARGETS, "seeds": SEEDS, "n_generations": N_GENERATIONS}
    write("bench_i2t", params, found, {"image_to_text": rows})


def run_jobs(
    work: Callable[..., list[dict]], jobs: Sequence[dict], *, name: str, weights: Sequence[str] = (),
    files: Sequence[Path] = (), n_workers: int | None = None,
) -> list[dict]:  # fmt: skip
    """The rows of all jobs, in their order, computed in parallel; what an earlier run finished is not done again.

    Args:
        work: a function of a module.
        jobs: its keyword arguments.
        name: of the bar, and of the folder where results are kept.
        weights: folders of tiny models that `work` reads. Results kept for other weights are not used.
        files: whatever else the result depends on, such as the source that is timed.
        n_workers: processes; None: as many as there are cores.
    """
    files = [path for each in weights for path in sorted((models.WEIGHTS / each).glob("*.safetensors"))] + list(files)
    state = json.dumps([[results.sha256_file(path) for path in files], results.versions()], sort_keys=True)
    folder = results.REPO / "runs" / "bench" / f"{name}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
    paths = [folder / f"{'-'.join(str(value) for value in job.values())}.json" for job in jobs]
    open_jobs = [i for i, path in enumerate(paths) if not path.is_file()]
    spawn = multiprocessing.get_context("spawn")
    n_workers = n_workers or os.cpu_count() or 1
    with ProcessPoolExecutor(n_workers, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {pool.submit(work, **jobs[i]): paths[i] for i in open_jobs}
        try:
            done = tqdm(as_completed(waiting), initial=len(jobs) - len(open_jobs), total=len(jobs), desc=name)
            for job in done:
                results.write_json_atomic(waiting[job], job.result())
        finally:  # a stop waits for no job that has not begun
            pool.shutdown(cancel_futures=True, wait=False)
    return [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))]


def write(folder: str, params: dict, found: dict, tables: dict | None = None) -> None:
    """Write results/`folder` as measured by `make bench`."""
    params = params | {"versions": results.versions()}
    results.write_results(f"results/{folder}", source="make bench", params=params, metrics=found, tables=tables)
