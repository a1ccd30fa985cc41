"""The register classifier: what it learns, what it cannot know, and its slope against finite differences."""

import numpy as np
import pytest

from glasslib.metrics import registers


def test_it_learns_the_words_that_tell_and_not_the_others():
    texts = ["a lovely red star", "a lovely blue ring", "a silly red star", "a silly blue ring"] * 5
    classifier = registers.fit(texts, ["romantic", "romantic", "humorous", "humorous"] * 5)
    assert classifier.registers == ("humorous", "romantic")
    assert classifier(["one lovely green cross", "silly moon"]) == ["romantic", "humorous"]
    said_by_both = classifier.weights[classifier.words.index("star")]
    tells = classifier.weights[classifier.words.index("lovely")]
    assert abs(said_by_both).max() < 1e-3 < 1 < tells[1]


def test_a_sentence_without_a_telling_word_gets_the_commonest_register():
    classifier = registers.fit(["red"] * 9 + ["silly"], ["neutral"] * 9 + ["humorous"])
    assert classifier(["words it never met", ""]) == ["neutral", "neutral"]


def test_no_other_weights_would_do_better():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(6)]
    texts = [" ".join(w for w in words if rng.random() < 0.5) or "w0" for _ in range(200)]
    labels = ["ab"[(("w1" in text) ^ (rng.random() < 0.1))] for text in texts]
    fitted = registers.fit(texts, labels, penalty=0.01)

    def loss(weights, bias):
        logits = registers.bags(texts, fitted.words) @ weights + bias
        chosen = logits[np.arange(200), [fitted.registers.index(label) for label in labels]]
        return (np.log(np.exp(logits).sum(1)) - chosen).mean() + 0.01 * ((weights**2).sum() + (bias**2).sum())

    best = loss(fitted.weights, fitted.bias)
    for _ in range(20):  # no step in any direction is better
        step = rng.normal(size=fitted.weights.shape) * 0.05
        assert loss(fitted.weights + step, fitted.bias) > best


@pytest.mark.parametrize(("texts", "labels"), [(["a"], ["x"]), (["a", "b"], ["x"]), ([], [])])
def test_too_little_to_learn_from_is_refused(texts, labels):
    with pytest.raises(ValueError, match="two different ones are needed"):
        registers.fit(texts, labels)
