"""What no notebook measures, because it takes long or times the machine: `make bench`, into results/bench*/.

`python -m glasslib.bench t2i` finds pictures for a hundred captions, `i2t` captions for a hundred pictures, and `time`
reads the clock.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

import numpy as np
import torch

from glasslib import metrics, presets, runs
from glasslib.search import loop
from glasslib.tinyworld import captions, models, oracle, scenes

N_TARGETS = 100
HELD_OUT = 30_000  # the seed of scenes that no recipe draws
METHODS = {"ga": ("GA", (0,)), "random": ("random", (0, 1, 2)), "cmaes": ("CMA-ES", (0,))}  # with their seeds
N_GENERATIONS, N_GENERATIONS_TEXT = 100, 40  # of 16 pictures, of 100 sentences
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
    """Find a picture for each caption.

    Returns:
        attribute -> (n,) whether the oracle finds what the caption names, and the winners' CLIP scores (n,).
    """
    preset = presets.load("tiny-stylegan2")
    wanted = preset.embedder.embed_texts(targets)
    draw = _best_of_random if method == "random" else _evolved
    x, scores = draw(preset, wanted, method=method, seed=seed, n_generations=n_generations)
    reading = oracle.load(models.WEIGHTS / "oracle")(preset.make(x))
    facts = [captions.parse(text) for text in targets]
    return {name: reading.agrees(facts, name) for name in READ}, scores


@torch.inference_mode()
def _evolved(preset, wanted: torch.Tensor, *, method: str, seed: int, n_generations: int) -> tuple:
    """One search for each row of `wanted`, all in lock step: the winners (n, dim) and their scores (n,)."""
    searches = [preset.search(method, rng=np.random.default_rng([seed, i])) for i in range(len(wanted))]

    def evaluate(x: np.ndarray, owner: np.ndarray) -> torch.Tensor:
        return (preset.embedder.embed_images(preset.make(x)) * wanted[owner]).sum(dim=1)

    results = loop.run_many(searches, evaluate, n_generations=n_generations)
    return np.stack([result.best.x for result in results]), np.array([result.best.score for result in results])


@torch.inference_mode()
def _best_of_random(preset, wanted: torch.Tensor, *, method: str, seed: int, n_generations: int) -> tuple:
    """The best of as many random pictures as a search sees; one draw serves all captions, for none steers it."""
    x = preset.generator.latent_space.sample(preset.popsize * n_generations, rng=np.random.default_rng([seed, 0]))
    similarity = preset.embedder.embed_images(preset.make(x)) @ wanted.T  # (pictures, captions)
    best = similarity.argmax(dim=0).numpy()
    return x[best], similarity.amax(dim=0).numpy()


def image_to_text(*, n: int, n_generations: int) -> list[dict]:
    """Evolve a caption for each of n held-out pictures; a row a picture: caption, parses, attributes named and true."""
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
    rows = []
    for i, text in enumerate(texts):
        facts = captions.parse(text) if captions.parses(text) else captions.Facts()
        true = int(captions.count_true(facts, world[i : i + 1])[0])
        rows.append({"caption": text, "parses": captions.parses(text), "named": facts.n_named, "true": true})
    return rows


def bench_t2i() -> None:
    """Measure t2i.* and write results/bench_t2i/."""
    targets = held_out_captions(N_TARGETS)
    found, rows = {}, []
    for key, (method, seeds) in METHODS.items():
        hits = {name: [] for name in READ}
        for seed in seeds:
            agrees, scores = text_to_image(method, seed=seed, targets=targets, n_generations=N_GENERATIONS)
            for i, text in enumerate(targets):
                seen = {name: bool(agrees[name][i]) for name in READ}
                rows.append({"method": method, "seed": seed, "caption": text, "score": float(scores[i]), **seen})
            for name in READ:
                hits[name].append(agrees[name])
        rng = np.random.default_rng(0)
        for name in READ:
            of_caption = np.mean(hits[name], axis=0)  # seeds of one caption are not independent: resample captions
            found[f"t2i.{key}.{name}"] = metrics.mean(of_caption, unit="share", rng=rng)
    params = {"n_targets": N_TARGETS, "methods": METHODS, "n_generations": N_GENERATIONS, "versions": runs.versions()}
    _write("bench_t2i", params, found, {"text_to_image": rows})


def bench_i2t() -> None:
    """Measure i2t.* and write results/bench_i2t/."""
    rows = image_to_text(n=N_TARGETS, n_generations=N_GENERATIONS_TEXT)
    hits = np.concatenate([np.arange(row["named"]) < row["true"] for row in rows])
    found = {"i2t.ga.precision": metrics.share(hits), "i2t.ga.parses": metrics.share([row["parses"] for row in rows])}
    params = {"n_targets": N_TARGETS, "n_generations": N_GENERATIONS_TEXT, "versions": runs.versions()}
    _write("bench_i2t", params, found, {"image_to_text": rows})


def _write(folder: str, params: dict, found: dict, tables: dict | None = None) -> None:
    runs.write_results(f"results/{folder}", source="make bench", params=params, metrics=found, tables=tables)


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
    """Time the make targets, compare the figures' run with the one before it, and write results/bench_time/."""
    found = {"time.overhead": overhead()}
    found["time.demo_s"] = runs.metric(seconds(["make", "demo"]), n=1, unit="s")
    found["time.test_min"] = runs.metric(seconds(["make", "test"]) / 60, n=1, unit="min")
    before = tables()
    if not before:
        raise FileNotFoundError("results/ holds no notebook's tables to compare with; run: make figures")
    found["time.figures_min"] = runs.metric(seconds(["make", "figures"]) / 60, n=1, unit="min")
    again = tables()
    found["repeat.figures"] = metrics.share([again.get(path) == content for path, content in before.items()])
    _write("bench_time", {"cores": torch.get_num_threads(), "versions": runs.versions()}, found)


PARTS = {"t2i": bench_t2i, "i2t": bench_i2t, "time": bench_time}


def main() -> int:
    """Command line: run the named parts, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"among {tuple(PARTS)}; none for all")
    for part in parser.parse_args().parts or PARTS:
        PARTS[part]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
