"""Whether a search of the tiny BigGAN finds the shape that a caption names, by the encoding of its classes.

A hundred held-out captions, each searched for in our encoding and in CLIP-GLaSS's with the same evaluations and seeds.
"""

from __future__ import annotations

import numpy as np
import torch

from glasslib import metrics, presets
from glasslib.bench.tiny_searches import N_TARGETS, READ, SEEDS, held_out_captions, run_jobs, write
from glasslib.search import loop
from glasslib.tinyworld import captions, models, oracle

ARMS = {"ours": "sparse mixture", "softmax_bits": "softmax bits"}
N_GENERATIONS = 12  # of 32 pictures


def caption_to_image(key: str, *, seed: int, n_targets: int, n_generations: int) -> list[dict]:
    """Find a picture for each held-out caption with the genetic search.

    Args:
        key: of ARMS.

    Returns:
        A row a caption: the winner's CLIP score, the largest class weight in it, and for each attribute whether the
        oracle finds what is named.
    """
    preset, targets = presets.load("tiny-biggan").encoded(ARMS[key]), held_out_captions(n_targets)
    wanted = preset.embedder.embed_texts(targets)
    searches = [preset.search("GA", rng=np.random.default_rng([seed, i])) for i in range(n_targets)]

    @torch.inference_mode()
    def evaluate(x: np.ndarray, owner: np.ndarray) -> torch.Tensor:
        return (preset.embedder.embed_images(preset.make(x)) * wanted[owner]).sum(dim=1)

    searched = loop.run_many(searches, evaluate, n_generations=n_generations, progress=False)
    x = np.stack([result.best.x for result in searched])
    reading, facts = oracle.load(models.WEIGHTS / "oracle")(preset.make(x)), [captions.parse(text) for text in targets]
    seen = {name: reading.agrees(facts, name) for name in READ}
    masses = preset.generator.classes.weights(preset.generator.latent_space.split(x)[1]).max(axis=1)
    return [
        {
            "encoding": ARMS[key],
            "seed": seed,
            "caption": text,
            "score": searched[i].best.score,
            "mass": float(masses[i]),
        }
        | {name: bool(seen[name][i]) for name in READ}
        for i, text in enumerate(targets)
    ]


def bench_biggan() -> None:
    """Measure t2i.biggan.* and write results/bench_biggan/."""
    jobs = [
        {"key": key, "seed": seed, "n_targets": N_TARGETS, "n_generations": N_GENERATIONS}
        for key in ARMS
        for seed in SEEDS
    ]
    rows = run_jobs(caption_to_image, jobs, name="biggan", weights=("clip", "biggan", "oracle"))
    params = {"n_targets": N_TARGETS, "encodings": ARMS, "seeds": SEEDS, "n_generations": N_GENERATIONS}
    write("bench_biggan", params, found_shares(rows), {"caption_to_image": rows})


def found_shares(rows: list[dict]) -> dict[str, dict]:
    """Metrics of `caption_to_image`'s rows of all arms and seeds.

    Returns:
        For each arm the share of captions whose shape is found (and under `_colour`, `_place` the others'), with the
        interval over captions; and `advantage`, ours - softmax bits in shapes, paired caption by caption.
    """
    hits = {}  # (arm, attribute) -> (seeds, captions)
    for key, arm in ARMS.items():
        mine = [[row for row in rows if (row["encoding"], row["seed"]) == (arm, seed)] for seed in SEEDS]
        hits |= {(key, name): np.array([[float(row[name]) for row in each] for each in mine]) for name in READ}
    found = {}
    for (key, name), each in hits.items():
        suffix = "" if name == "shape" else f"_{name}"
        found[f"t2i.biggan.{key}{suffix}"] = metrics.repeated_share(each, rng=np.random.default_rng(0))
    ahead = (hits["ours", "shape"] - hits["softmax_bits", "shape"]).mean(axis=0)  # (captions,)
    found["t2i.biggan.advantage"] = metrics.mean(ahead, unit="difference", rng=np.random.default_rng(0))
    return found
