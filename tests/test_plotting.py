import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
import torch

from glasslib import plotting

PICTURES = torch.linspace(0, 1, 5 * 3 * 8 * 8).reshape(5, 3, 8, 8)
HISTORY = [{"evaluations": 16 * (g + 1), "best": 0.1 * g} for g in range(4)]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plotting.plt.close("all")


def test_every_picture_is_drawn_once_under_its_title():
    ax = plotting.plot_images(PICTURES, titles=list("abcde"), columns=3)
    assert len(ax.images) == 5
    assert [text.get_text() for text in ax.texts] == list("abcde")
    np.testing.assert_allclose(ax.images[4].get_array(), PICTURES[4].permute(1, 2, 0))


def test_pictures_outside_the_unit_range_are_refused():
    with pytest.raises(ValueError, match="images must lie in"):
        plotting.plot_images(PICTURES * 2 - 1)


def test_titles_must_match():
    with pytest.raises(ValueError, match="one for each of the 5 images, got 2"):
        plotting.plot_images(PICTURES, titles=["a", "b"])


def test_history_draws_seeds_and_their_median_with_n_in_the_legend():
    other = [{**row, "best": row["best"] + 0.2} for row in HISTORY]
    ax = plotting.plot_history({"GA": [HISTORY, other, other]})
    assert len(ax.lines) == 4  # three seeds and the median
    np.testing.assert_allclose(ax.lines[3].get_ydata(), [0.2, 0.3, 0.4, 0.5])
    assert ax.get_legend().get_texts()[0].get_text() == "GA, median of 3"
    assert ax.get_xlabel() == "evaluations"


def test_front_shows_points_in_order_and_some_pictures():
    scores = np.array([[0.3, -1.0], [0.1, 0.0], [0.2, -0.5], [0.25, -0.7], [0.15, -0.1]])
    ax = plotting.plot_front(scores, PICTURES, n_pictures=3)
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.1, 0.15, 0.2, 0.25, 0.3])
    assert len(ax.artists) == 3


def test_bars_carry_intervals():
    entry = {"value": 0.8, "n": 50, "ci": [0.7, 0.9], "unit": "share"}
    ax = plotting.plot_bars({"CLIP": {"shape": entry, "colour": {**entry, "ci": None}}})
    assert [bar.get_height() for bar in ax.patches] == [0.8, 0.8]
    assert ax.get_legend().get_texts()[0].get_text() == "CLIP (n = 50)"
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1  # above the bars, not on them


def test_a_given_axes_is_drawn_on_and_returned():
    ax = plotting.plt.subplots()[1]
    assert plotting.plot_images(PICTURES, ax=ax) is ax
    assert plotting.plot_history({"GA": [HISTORY]}, ax=ax) is ax
