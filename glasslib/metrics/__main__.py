"""`python -m glasslib.metrics predictions.json references.json`: the table of caption metrics."""

import argparse
import sys

import numpy as np

from glasslib.metrics import captions


def main(arguments: list[str] | None = None) -> int:
    """Score a file of captions and print the table; faults of the input end with code 2 and say what to mend."""
    parser = argparse.ArgumentParser(prog="python -m glasslib.metrics", description=__doc__)
    parser.add_argument("predictions", help='json: [{"image_id": 7, "caption": "a dog"}, ...]')
    parser.add_argument("references", help='json: the same with many rows an image, or COCO\'s {"annotations": [...]}')
    parser.add_argument("--predicted-only", action="store_true", help="leave out images without a prediction")
    parser.add_argument("--without-java", action="store_true", help="no METEOR, and a simpler tokenizer")
    parser.add_argument("--n-resamples", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    given = parser.parse_args(arguments)
    runtime = None if given.without_java else "auto"
    try:
        scores = captions.evaluate(
            given.predictions, given.references, predicted_only=given.predicted_only, java_runtime=runtime
        )
    except (OSError, RuntimeError, ValueError) as error:
        parser.error(str(error))
    rows = scores.table(rng=np.random.default_rng(given.seed), n_resamples=given.n_resamples)
    print(f"{rows[0]['n']} images, {rows[0]['n_empty']} empty predictions, {scores.tokenizer} tokenizer")
    for row in rows:
        print(f"{row['metric']:<13} {_shown(row)}")
    return 0


def _shown(row: dict) -> str:
    if row["value"] is None:
        return f"  -     {row['note']}"
    interval = "" if row["low"] is None else f"  [{row['low']:.4f}, {row['high']:.4f}]"
    return f"{row['value']:.4f}{interval}{row['note'] and '  ' + row['note']}"


if __name__ == "__main__":
    sys.exit(main())
