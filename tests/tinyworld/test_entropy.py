"""The probability of a caption against how often the writer writes it, and against probabilities worked out by hand."""

from collections import Counter

import numpy as np
import pytest

from glasslib.tinyworld import captions, entropy, scenes


def test_captions_occur_as_often_as_they_should():
    rng, n = np.random.default_rng(0), 12_000
    counts = Counter(captions.describe(scenes.sample(n, rng=rng), rng=rng))
    expected = {text: n * np.exp(entropy.log_probability(text)) for text in counts}
    often = [text for text, mean in expected.items() if mean > 8]
    z = np.array([(counts[text] - expected[text]) / np.sqrt(expected[text]) for text in often])
    assert len(often) > 80
    assert abs(z.mean()) < 0.3 and 0.8 < z.std() < 1.2 and np.abs(z).max() < 4


@pytest.mark.parametrize(
    ("caption", "probability"),
    [
        ("a star", 1 / 5 * 0.15 / 8 * 3 / 7),
        ("on the left there is a shape", 1 / 5 / 4 * (1 / 5 + 1 / 4 + 1 / 4) / 3 / 2 / 2),
        ("three shapes over a plain grey background", 1 / 5 / 3 * 0.5 / 5 * 0.6 / 5 * 3 / 7 / 2),
        ("a red star , a blue ring and a red cross", 1 / 5 / 3 * 0.7 / 64**3 * 3 / 7),
        ("we see a pink ring above a cyan heart", 1 / 5 / 3 * 0.7 / 64**2 * 0.8 / 4 / 7),
        ("a red star over a grey background", 1 / 5 / 64 / 5 * (0.25 * 0.5 + 0.6 / 3) * 3 / 7 / 2),
        ("there is a big red star", None),
    ],
)
def test_worked_by_hand(caption, probability):
    if probability is None:
        with pytest.raises(ValueError, match="no describer notices"):
            entropy.log_probability(caption)
    else:
        assert np.exp(entropy.log_probability(caption)) == pytest.approx(probability)


def test_other_registers_and_domains_are_refused():
    with pytest.raises(ValueError, match="neutral and of the print domain, got neutral, neon"):
        entropy.log_probability("a glowing red star sign")
