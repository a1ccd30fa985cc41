"""`python -m glasslib.weights [PRESET]`: list the real models' files, or fetch and verify those of one preset."""

import argparse
import sys

from glasslib.weights.registry import PRESETS, fetch, files, table


def main() -> int:
    """Print the table, or fetch the files of the preset that the command line names."""
    parser = argparse.ArgumentParser(description="List the real models' files, or fetch and verify those of a preset.")
    parser.add_argument("preset", nargs="?", help=f"one of {', '.join(PRESETS)}")
    preset = parser.parse_args().preset
    try:
        for file in files(preset) if preset else ():
            fetch(file)
        print(f"{preset}: all {len(files(preset))} files are there and verified" if preset else table())
    except (OSError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
