"""Which register a sentence is written in, by its words: a small classifier to measure style with.

It knows nothing but which words occur. It is told the registers of some sentences that no captioner has learned from,
and its share of right answers on others stands beside every number it gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RegisterClassifier:
    """Logistic regression on a bag of words.

    Attributes:
        registers: k names.
        words: m words it knows; others tell it nothing.
        weights: (m, k) of each word for each register.
        bias: (k,).
    """

    registers: tuple[str, ...]
    words: tuple[str, ...]
    weights: np.ndarray
    bias: np.ndarray

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The likeliest register of each of n texts."""
        logits = bags(texts, self.words) @ self.weights + self.bias
        return [self.registers[i] for i in logits.argmax(axis=1)]


def bags(texts: Sequence[str], words: Sequence[str]) -> np.ndarray:
    """Return (n, m) ones where text i has word j, apart by white space, zeros elsewhere."""
    column = {word: j for j, word in enumerate(words)}
    found = np.zeros((len(texts), len(words)))
    for i, text in enumerate(texts):
        found[i, [column[word] for word in text.split() if word in column]] = 1
    return found


def fit(texts: Sequence[str], registers: Sequence[str], *, penalty: float = 1e-3) -> RegisterClassifier:
    """Fit a classifier.

    Args:
        texts: n sentences.
        registers: n names, at least two different ones.
        penalty: on the mean squared weights: how much it doubts words that it has seen seldom.

    Raises:
        ValueError: as many names as texts are needed, and two registers.
    """
    from scipy.optimize import minimize

    names = tuple(sorted(set(registers)))
    if len(texts) != len(registers) or len(names) < 2:
        raise ValueError(
            f"one register a text and two different ones are needed, got {len(registers)} for {len(texts)}: {names}"
        )
    words = tuple(sorted({word for text in texts for word in text.split()}))
    x = np.hstack([bags(texts, words), np.ones((len(texts), 1))])  # the last column is the bias
    truth = np.eye(len(names))[[names.index(name) for name in registers]]  # (n, k)

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(x.shape[1], len(names))
        logits = x @ weights
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        slope = x.T @ (np.exp(log_p) - truth) / len(x) + 2 * penalty * weights
        return float(-(truth * log_p).sum() / len(x) + penalty * (weights**2).sum()), slope.ravel()

    found = minimize(loss, np.zeros(x.shape[1] * len(names)), jac=True, method="L-BFGS-B").x
    weights = found.reshape(x.shape[1], len(names))
    return RegisterClassifier(names, words, weights[:-1], weights[-1])
