"""Plots: each draws on an Axes and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from torch import Tensor

from glasslib.checks import check_range, check_shape

# One colour for each method, everywhere; from the Okabe-Ito palette, which colour-blind readers can tell apart.
METHOD_COLOURS = {
    "random": "#7f7f7f",
    "GA": "#0072b2",
    "NSGA-II": "#009e73",
    "CMA-ES": "#d55e00",
    "gradient": "#cc79a7",
    "CLIP": "#0072b2",
    "judge": "#d55e00",
    "images": "#56b4e9",
    "texts": "#e69f00",
    "GA from CapDec": "#e69f00",
    "softmax bits": "#d55e00",
    "sparse mixture": "#0072b2",
    "single class": "#e69f00",
}


def plot_images(
    images: Tensor, *, titles: Sequence[str] | None = None, columns: int | None = None, ax: Axes | None = None
) -> Axes:
    """Draw pictures side by side, each under its title.

    Args:
        images: (n, 3, h, w) RGB in [0, 1].
        titles: n strings, or None for none.
        columns: pictures a row; None puts all in one.
        ax: where to draw; None makes a figure of a fitting size.
    """
    check_shape(images, "images", "n 3 h w")
    check_range(images, "images", 0.0, 1.0)
    n, columns = len(images), columns or len(images)
    if titles is not None and len(titles) != n:
        raise ValueError(f"titles must be one for each of the {n} images, got {len(titles)}")
    rows = -(-n // columns)
    n_lines = max((title.count("\n") + 1 for title in titles), default=1) if titles else 0
    step = 1.06 + 0.13 * n_lines
    if ax is None:
        ax = plt.subplots(figsize=(1.5 * columns, 1.5 * rows * step), layout="constrained")[1]
    for i, image in enumerate(images):
        left, top = (i % columns) * 1.06, (i // columns) * step
        pixels = image.detach().permute(1, 2, 0).cpu().numpy()
        ax.imshow(pixels, extent=(left, left + 1, top + 1, top), interpolation="nearest")
        if titles is not None:
            ax.text(left + 0.5, top - 0.03, titles[i], ha="center", va="bottom", fontsize=7, linespacing=1.1)
    ax.set(
        xlim=(-0.02, columns * 1.06 - 0.04), ylim=(rows * step - step + 1.02, -0.03 - 0.13 * n_lines), aspect="equal"
    )
    ax.axis("off")
    return ax


def plot_history(
    histories: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], *, key: str = "best", ax: Axes | None = None
) -> Axes:
    """Draw score against evaluations for several methods: every seed thin, their median bold, the range shaded.

    Args:
        histories: method -> one history (rows with "evaluations" and `key`) for each seed.
        key: the column drawn.
        ax: where to draw; None makes a figure.
    """
    ax = ax or plt.subplots(figsize=(5, 3.2), layout="constrained")[1]
    for method, runs in histories.items():
        length = min(len(run) for run in runs)
        evaluations = [row["evaluations"] for row in runs[0][:length]]
        values = np.array([[row[key] for row in run[:length]] for run in runs])  # (seeds, generations)
        colour = METHOD_COLOURS.get(method)
        ax.plot(evaluations, values.T, color=colour, lw=0.5, alpha=0.4)
        median = np.median(values, axis=0)
        line = ax.plot(evaluations, median, color=colour, lw=2, label=f"{method}, median of {len(runs)}")
        ax.fill_between(evaluations, values.min(0), values.max(0), color=line[0].get_color(), alpha=0.12, lw=0)
    ax.set(xlabel="evaluations", ylabel="CLIP similarity (cosine)")
    ax.legend(frameon=False, fontsize=8)
    ax.grid(alpha=0.25)
    return ax


def plot_front(scores: np.ndarray, images: Tensor, *, n_pictures: int = 7, ax: Axes | None = None) -> Axes:
    """Draw a Pareto front of two objectives with pictures on it.

    Args:
        scores: (n, 2) similarity and realism, both higher is better.
        images: (n, 3, h, w) the pictures, same order.
        n_pictures: how many of them to show, evenly along the front.
        ax: where to draw; None makes a figure.
    """
    check_shape(scores, "scores", "n 2")
    check_shape(images, "images", f"{len(scores)} 3 h w")
    ax = ax or plt.subplots(figsize=(7, 4), layout="constrained")[1]
    order = np.argsort(scores[:, 0])
    ax.plot(scores[order, 0], scores[order, 1], "o-", ms=3, color=METHOD_COLOURS["NSGA-II"], lw=1)
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(n_pictures, len(order))).round().astype(int))]
    for k, i in enumerate(shown):
        pixels = images[i].detach().permute(1, 2, 0).cpu().numpy()
        box = OffsetImage(pixels, zoom=44 / pixels.shape[0], interpolation="nearest")
        above = 44 if k % 2 else -44
        arrow = {"arrowstyle": "-", "lw": 0.5, "color": "0.5"}
        place = {"xybox": (0, above), "boxcoords": "offset points", "pad": 0.1, "arrowprops": arrow}
        ax.add_artist(AnnotationBbox(box, tuple(scores[i]), **place))
    ax.margins(x=0.08, y=0.35)
    ax.set(xlabel="CLIP similarity (cosine)", ylabel="realism (−hinge loss of the discriminator)")
    ax.grid(alpha=0.25)
    return ax


def plot_bars(values: Mapping[str, Mapping[str, Mapping]], *, ax: Axes | None = None) -> Axes:
    """Draw metrics in groups with their 95 % intervals.

    Args:
        values: method -> label -> metric ({"value", "n", "ci", "unit"}), the same labels for each method.
        ax: where to draw; None makes a figure.
    """
    ax = ax or plt.subplots(figsize=(6, 3), layout="constrained")[1]
    width = 0.8 / len(values)
    for k, (method, metrics) in enumerate(values.items()):
        heights = np.array([entry["value"] for entry in metrics.values()])
        ci = np.array([entry["ci"] or [entry["value"]] * 2 for entry in metrics.values()])
        errors = np.abs(np.stack([heights - ci[:, 0], ci[:, 1] - heights]))
        n = next(iter(metrics.values()))["n"]
        x = np.arange(len(heights)) + (k - (len(values) - 1) / 2) * width
        ax.bar(x, heights, width * 0.95, yerr=errors, color=METHOD_COLOURS.get(method), label=f"{method} (n = {n})",
               error_kw={"lw": 0.8, "capsize": 2})  # fmt: skip
    ax.set_xticks(range(len(metrics)), metrics)
    above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1)}  # the bars reach everywhere below
    ax.legend(fontsize=8, ncols=len(values), frameon=False, **above)
    ax.set_ylim(0, 1.05)
    return ax
