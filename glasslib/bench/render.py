"""Does a picture of half the size rank as the whole one does? `python -m glasslib.bench render`.

The tiny, trained StyleGAN2 scores candidates at half its resolution (`render_size`) and at its own, for the captions
that the searches are measured on. Also how often a population's winner is another one, and what that costs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from glasslib import metrics, presets
from glasslib.bench.tiny_searches import N_TARGETS, held_out_captions, write
from glasslib.checks import check_shape
from glasslib.generators.stylegan2.generator import StyleGAN2Generator
from glasslib.tinyworld import models

N_SAMPLES = 1000


def scores_at(sizes: list[int | None], *, n_samples: int, targets: list[str]) -> list[np.ndarray]:
    """CLIP scores of the same samples at each size, (n_samples, n_targets) each; None is the network's own size."""
    preset = presets.load("tiny-stylegan2")
    x = preset.generator.latent_space.sample(n_samples, rng=np.random.default_rng(0))
    wanted = preset.embedder.embed_texts(targets)
    found = []
    for size in sizes:
        generator = StyleGAN2Generator.load(models.WEIGHTS / "stylegan2", render_size=size)
        pictures = dataclasses.replace(preset, generator=generator).make(x)
        with torch.inference_mode():
            found.append((preset.embedder.embed_images(pictures) @ wanted.T).numpy())
    return found


def rank_correlations(half: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(n_samples, n_targets) twice -> (n_targets,) Spearman's correlation of each column."""
    from scipy.stats import spearmanr

    check_shape(whole, "whole", f"{len(half)} {half.shape[1]}")
    return np.array([spearmanr(a, b).statistic for a, b in zip(half.T, whole.T, strict=True)])


def winners(half: np.ndarray, whole: np.ndarray, *, popsize: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the samples into populations and compare the best by half-size score with the best by whole.

    Returns:
        Per target, (n_targets,): the share of populations whose winner is another, and the mean whole-size score lost.
    """
    n = len(half) // popsize * popsize
    half, whole = (scores[:n].reshape(-1, popsize, scores.shape[1]) for scores in (half, whole))
    chosen, best = half.argmax(axis=1), whole.argmax(axis=1)  # (populations, targets)
    lost = whole.max(axis=1) - np.take_along_axis(whole, chosen[:, None], axis=1)[:, 0]
    return (chosen != best).mean(axis=0), lost.mean(axis=0)


def bench_render() -> None:
    """Measure stylegan2.render_* and write results/bench_render/."""
    preset = presets.load("tiny-stylegan2")
    size, targets = preset.generator.image_size // 2, held_out_captions(N_TARGETS)
    half, whole = scores_at([size, None], n_samples=N_SAMPLES, targets=targets)
    correlations = rank_correlations(half, whole)
    changed, lost = winners(half, whole, popsize=preset.popsize)
    found = {
        "stylegan2.render_rank": metrics.mean(correlations, unit="spearman", rng=np.random.default_rng(0)),
        "stylegan2.render_winner": metrics.mean(changed, unit="share", rng=np.random.default_rng(0)),
        "stylegan2.render_loss": metrics.mean(lost, unit="cosine", rng=np.random.default_rng(0)),
    }
    rows = [
        {"caption": text, "spearman": float(a), "winner_changes": float(b), "score_lost": float(c)}
        for text, a, b, c in zip(targets, correlations, changed, lost, strict=True)
    ]
    params = {"n_samples": N_SAMPLES, "n_targets": N_TARGETS, "render_size": size, "popsize": preset.popsize}
    params["weights"] = {key: value for key, value in preset.weights.items() if not key.startswith("judge")}
    write("bench_render", params, found, {"render": rows})
