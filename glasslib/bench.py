"""What no notebook measures, because it takes long or times the machine: `make bench`, into results/bench*/.

`python -m glasslib.bench search` runs the searches on a hundred targets, `python -m glasslib.bench time` the clock.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from glasslib import metrics, presets, runs
from glasslib.search import loop
from glasslib.tinyworld import captions, models, oracle, scenes

N_TARGETS = 100
SEEDS = (0, 1, 2)
HELD_OUT = 30_000  # the seed of scenes that no recipe draws
METHODS = {"ga": "GA", "random": "random", "cmaes": "CMA-ES"}
READ = ("colour", "shape", "place")


def held_out_captions(n: int) -> list[str]:
    """n captions of one-object scenes that name colour, shape and place."""
    rng = np.random.default_rng(HELD_OUT)
    world = scenes.sample(n, rng=rng, n_objects=(1, 1))
    texts = []
    for row in range(n):
        truth = captions.object_facts(world, row, 0)
        article = "an" if truth.colour == "orange" else "a"
        phrase = rng.choice(captions.PLACE_PHRASES[truth.place])
        texts.append(f"{article} {truth.colour} {rng.choice(captions.SHAPE_WORDS[truth.shape])} {phrase}")
    return texts


def text_to_image(method: str, *, seed: int, targets: list[str], n_generations: int) -> tuple[dict, np.ndarray]:
    """Evolve a picture for each caption, all in lock step.

    Returns:
        attribute -> (n,) whether the oracle finds what the caption names, and the winners' CLIP scores (n,).
    """
    preset = presets.load("tiny-stylegan2")
    wanted = preset.embedder.embed_texts(targets)
    searches = [preset.search(method, rng=np.random.default_rng([seed, i])) for i in range(len(targets))]

    @torch.inference_mode()
    def evaluate(x: np.ndarray, owner: np.ndarray) -> torch.Tensor:
        return (preset.embedder.embed_images(preset.make(x)) * wanted[owner]).sum(dim=1)

    results = loop.run_many(searches, evaluate, n_generations=n_generations)
    pictures = preset.make(np.stack([result.best.x for result in results]))
    reading = oracle.load(models.WEIGHTS / "oracle")(pictures)
    facts = [captions.parse(text) for text in targets]
    return {name: reading.agrees(facts, name) for name in READ}, np.array([result.best.score for result in results])


def image_to_text(*, n: int, n_generations: int) -> dict[str, dict]:
    """Evolve a caption for each of n held-out pictures; precision and share that parse, as metrics."""
    preset = presets.load("tiny-gpt2")
    world = scenes.sample(n, rng=np.random.default_rng(HELD_OUT + 1))
    pictures = scenes.render(world, rng=torch.Generator().manual_seed(HELD_OUT))
    wanted = preset.embedder.embed_images(pictures)
    searches = [preset.search("GA", rng=np.random.default_rng([0, i])) for i in range(n)]

    @torch.inference_mode()
    def evaluate(x: np.ndarray, owner: np.ndarray) -> torch.Tensor:
        return (preset.embedder.embed_texts(preset.make(x)) * wanted[owner]).sum(dim=1)

    results = loop.run_many(searches, evaluate, n_generations=n_generations)
    texts = preset.make(np.stack([result.best.x for result in results]))
    parsed = [captions.parse(text) if captions.parses(text) else None for text in texts]
    true = [int(captions.count_true(facts, world[i : i + 1])[0]) if facts else 0 for i, facts in enumerate(parsed)]
    rows = [
        {"caption": text, "parses": facts is not None, "named": facts.n_named if facts else 0, "true": held}
        for text, facts, held in zip(texts, parsed, true, strict=True)
    ]
    named = np.repeat(true, 1), np.array([row["named"] for row in rows])
    hits = np.concatenate([np.arange(total) < held for held, total in zip(*named, strict=True)])
    found = {"i2t.ga.precision": metrics.share(hits), "i2t.ga.parses": metrics.share([row["parses"] for row in rows])}
    return {"metrics": found, "rows": rows}


def bench_search(n_generations: int = 100) -> None:
    """Measure t2i.* and i2t.* and write results/bench/."""
    targets = held_out_captions(N_TARGETS)
    found, rows = {}, []
    for key, method in METHODS.items():
        hits = {name: [] for name in READ}
        for seed in SEEDS:
            agrees, scores = text_to_image(method, seed=seed, targets=targets, n_generations=n_generations)
            for i, text in enumerate(targets):
                seen = {name: bool(agrees[name][i]) for name in READ}
                rows.append({"method": method, "seed": seed, "caption": text, "score": float(scores[i]), **seen})
            for name in READ:
                hits[name].append(agrees[name])
        rng = np.random.default_rng(0)
        for name in READ:
            of_caption = np.mean(hits[name], axis=0)  # seeds of one caption are not independent: resample captions
            found[f"t2i.{key}.{name}"] = metrics.mean(of_caption, unit="share", rng=rng)
    sentences = image_to_text(n=N_TARGETS, n_generations=n_generations)
    params = {"n_targets": N_TARGETS, "seeds": list(SEEDS), "n_generations": n_generations, "versions": runs.versions()}
    runs.write_results(
        "results/bench",
        source="make bench",
        params=params,
        metrics=found | sentences["metrics"],
        tables={"text_to_image": rows, "image_to_text": sentences["rows"]},
    )


def overhead(n_generations: int = 200) -> dict:
    """Share of a tiny StyleGAN2 generation (population 16) spent outside the models' forward passes."""
    preset = presets.load("tiny-stylegan2")
    wanted = preset.embedder.embed_texts(["a red star on the left"])[0]
    inside = []

    @torch.inference_mode()
    def evaluate(x: np.ndarray) -> torch.Tensor:
        started = time.perf_counter()
        scores = preset.embedder.embed_images(preset.make(x)) @ wanted
        inside.append(time.perf_counter() - started)
        return scores

    search = preset.search("GA", rng=np.random.default_rng(0))
    totals, before = [], time.perf_counter()

    def clock(*_) -> None:
        nonlocal before
        now = time.perf_counter()
        totals.append(now - before)
        before = now

    loop.run(search, evaluate, n_generations=n_generations, callback=clock, progress=False)
    shares = 1 - np.array(inside[10:]) / np.array(totals[10:])
    return metrics.mean(shares, unit="share", rng=np.random.default_rng(0))


def seconds(command: list[str]) -> float:
    """Wall seconds of a command that must succeed."""
    started = time.perf_counter()
    subprocess.run(command, cwd=runs.REPO, check=True)
    return time.perf_counter() - started


def tables() -> dict[str, bytes]:
    """Every table and number the notebooks wrote: path -> bytes."""
    folders = [path for path in sorted((runs.REPO / "results").iterdir()) if path.name[:2].isdigit()]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in (".csv", ".json")]
    return {str(file): file.read_bytes() for file in files if file.name != "timings.json"}


def bench_time() -> None:
    """Time the make targets, compare two runs of the figures, and write results/bench_time/."""
    found = {"time.overhead": overhead()}
    clock: Callable = lambda value, unit: runs.metric(value, n=1, unit=unit)  # noqa: E731
    found["time.demo_s"] = clock(seconds(["make", "demo"]), "s")
    found["time.test_min"] = clock(seconds(["make", "test"]) / 60, "min")
    found["time.figures_min"] = clock(seconds(["make", "figures"]) / 60, "min")
    first = tables()
    seconds(["make", "figures"])
    again = tables()
    found["repeat.figures"] = metrics.share([again.get(path) == content for path, content in first.items()])
    params = {"cores": torch.get_num_threads(), "versions": runs.versions()}
    runs.write_results("results/bench_time", source="make bench", params=params, metrics=found)


PARTS = {"search": bench_search, "time": bench_time}


def main() -> int:
    """Command line: run the named parts, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"among {tuple(PARTS)}; none for all")
    for part in parser.parse_args().parts or PARTS:
        PARTS[part]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
