"""What no notebook measures, because it takes long or reads the clock: `make bench`, into results/bench*/.

`python -m glasslib.bench capdec` trains captioners from text alone at several amounts of noise, `capdec_words` on
captions worded more and less alike, `capdec_transfer` in other domains and registers, and `overhead` and `time` read
the clock. `parity`, `files`, `host`, `fullsize` and `peak` are about the papers' real models, with random weights where
size is what counts: equality with the references, damaged files refused, what a search costs beside the models, how
much faster they are than the reference implementations, and the memory that the notebooks need. `capdec_checks` and
`capdec_fullsize` do the same for the captioner.
"""

from __future__ import annotations

import argparse
import sys

from glasslib.bench import (
    capdec,
    capdec_checks,
    capdec_fullsize,
    capdec_transfer,
    capdec_words,
    clock,
    damaged_files,
    fullsize,
    host,
    parity,
    peak,
)

PARTS = {
    "capdec": capdec.bench_capdec,
    "parity": parity.bench_parity,
    "files": damaged_files.bench_files,
    "capdec_transfer": capdec_transfer.bench_capdec_transfer,
    "capdec_words": capdec_words.bench_capdec_words,
    "capdec_checks": capdec_checks.bench_checks,
    "capdec_fullsize": capdec_fullsize.bench_fullsize,
    "host": host.bench_host,
    "fullsize": fullsize.bench_fullsize,
    "peak": peak.bench_peak,
    "overhead": clock.bench_overhead,
    "time": clock.bench_time,
}


def main() -> int:
    """Command line: run the named parts, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=f"among {tuple(PARTS)}; none for all")
    for part in parser.parse_args().parts or PARTS:
        PARTS[part]()
    return 0


if __name__ == "__main__":
    sys.exit(main())
