"""What no notebook measures, because it takes long or reads the clock: `make bench`, into results/bench*/.

`python -m glasslib.bench t2i` finds pictures for a hundred captions, `i2t` captions for a hundred pictures, `capdec`
trains captioners from text alone at several amounts of noise, and `time` reads the clock.
"""

from __future__ import annotations

import argparse
import sys

from glasslib.bench import capdec, capdec_transfer, clock, damaged_files, fullsize, parity, tiny_searches

PARTS = {
    "t2i": tiny_searches.bench_t2i,
    "i2t": tiny_searches.bench_i2t,
    "capdec": capdec.bench_capdec,
    "parity": parity.bench_parity,
    "files": damaged_files.bench_files,
    "capdec_transfer": capdec_transfer.bench_capdec_transfer,
    "fullsize": fullsize.bench_fullsize,
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
