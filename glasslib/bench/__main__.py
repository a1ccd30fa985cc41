"""What no notebook measures, because it takes long or reads the clock: `make bench`, into results/bench*/.

`python -m glasslib.bench t2i` finds pictures for a hundred captions, `biggan` too, `i2t` captions for a hundred
pictures, and `overhead` and `time` read the clock.
`parity`, `files`, `render`, `host`, `fullsize` and `peak` are about the papers' real models, with random weights
where size is what counts: equal to the references, damaged files refused, half-size pictures for scoring, what a
search costs beside the models, how much faster they are than run plainly, and the memory that the notebooks need.
`capdec_checks` and `capdec_fullsize` are the like for the captioner.
"""

from __future__ import annotations

import argparse
import sys

from glasslib.bench import (
    biggan_searches,
    capdec_checks,
    capdec_fullsize,
    clock,
    damaged_files,
    fullsize,
    host,
    parity,
    peak,
    render,
    tiny_searches,
)

PARTS = {
    "t2i": tiny_searches.bench_t2i,
    "biggan": biggan_searches.bench_biggan,
    "i2t": tiny_searches.bench_i2t,
    "parity": parity.bench_parity,
    "files": damaged_files.bench_files,
    "capdec_checks": capdec_checks.bench_checks,
    "capdec_fullsize": capdec_fullsize.bench_fullsize,
    "render": render.bench_render,
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
