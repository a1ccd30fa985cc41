"""What no notebook measures, because it takes long or reads the clock: `make bench`, into results/bench*/.

`python -m glasslib.bench overhead` and `time` read the clock, `sweeps` kills workers. `parity`, `files`, `host`,
`fullsize` and `peak` are about the papers' real models, with random weights where size is what counts: equality with
the references, damaged files refused, what a search costs beside the models, how much faster they are than the
reference implementations, and the memory that the notebooks need. `capdec_checks` and `capdec_fullsize` do the same for
the captioner.
"""

from __future__ import annotations

import argparse
import sys

from glasslib.bench import (
    capdec_checks,
    capdec_fullsize,
    clock,
    damaged_files,
    fullsize,
    host,
    parity,
    peak,
    sweeps,
)

PARTS = {
    "parity": parity.bench_parity,
    "files": damaged_files.bench_files,
    "capdec_checks": capdec_checks.bench_checks,
    "capdec_fullsize": capdec_fullsize.bench_fullsize,
    "host": host.bench_host,
    "fullsize": fullsize.bench_fullsize,
    "peak": peak.bench_peak,
    "sweeps": sweeps.bench_sweeps,
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
