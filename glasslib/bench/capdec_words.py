"""What people's choice of words does to the contest between a captioner and looking captions up.

`make bench`, part capdec_words, into results/bench_capdec_words/. Scenes, who describes them and what is said are the
same for every exponent of Zipf's law; only which of several words for one thing is taken differs. A captioner writes
the likeliest word and retrieval somebody's, so that the more people agree on words the more a captioner gains. Each
exponent has captioners, retrieval and references of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from glasslib import metrics
from glasslib.bench import capdec_jobs as home
from glasslib.bench import capdec_scores as scoring
from glasslib.bench.capdec import SEEDS, run
from glasslib.bench.tiny_searches import write

EXPONENTS = (0.0, 1.0, 2.0)  # every word alike, Zipf's law, and the first of two words four times in five


def words(zipf: float, seed: int) -> list[dict[str, Any]]:
    """Train CapDec on captions worded by one exponent, and caption the held-out pictures as they are, by beams of five.

    Args:
        zipf: as in `glasslib.tinyworld.captions.describe`.
        seed: of weights, order and noise.

    Returns:
        A row a scene; `variance` is of the noise that those captions suggest.
    """
    variance = home.estimates(zipf)["angle"]
    captioner, _ = home.trained("capdec", variance, seed, zipf=zipf)
    texts = home.written(captioner, sources=("image",))["image"]
    common = {"arm": "capdec", "variance": variance, "seed": seed, "source": "image"}
    return [{**common, "scene": i, "caption": text} for i, text in enumerate(texts)]


def bench_capdec_words() -> None:
    """Measure capdec.vs_retrieval_zipf* and write results/bench_capdec_words/."""
    torch.set_num_threads(1)  # as in every job of the bench
    rng, found, rows = np.random.default_rng(0), {}, []
    for zipf in EXPONENTS:
        given, variance = home.held_out(zipf), home.estimates(zipf)["angle"]
        written = run(words, [{"zipf": zipf, "seed": seed} for seed in SEEDS]) + home.retrieved(zipf)
        test = scoring.score(
            scoring.captions_of(written),
            world=given.world,
            references=given.references,
            first=home.N_SELECT,
            last=home.N_SELECT + home.N_TEST,
        )
        ours, nearest = test["capdec", variance, "image"], test["retrieval", 0.0, "image"]
        gained = metrics.difference(ours["CIDEr"], nearest["CIDEr"], rng=rng)
        found[f"capdec.vs_retrieval_zipf{zipf:g}"] = gained
        row = {"zipf": zipf, "variance": variance, "n": gained["n"], "difference": gained["value"]}
        row |= dict(zip(("difference_low", "difference_high"), gained["ci"], strict=True))
        for name, mine in (("capdec", ours), ("retrieval", nearest)):
            row |= {
                f"{name}_{key.lower()}": metrics.corpus(mine[key], rng=rng)["value"] for key in ("CIDEr", "precision")
            }
        row["cider_of_seeds"] = " ".join(f"{metric.value:.4f}" for metric in ours["CIDEr"])
        rows.append(row)
    params = {"seeds": SEEDS, "exponents": EXPONENTS, "held_out": home.HELD_OUT}
    params |= {"n_training": 5 * home.N_SCENES, "n_test": home.N_TEST}
    write("bench_capdec_words", params, found, {"words": rows})
