"""One search of a tiny preset in a process of its own, for test_resume.py: PRESET METHOD CHECKPOINT, or no file.

Prints the digest of all that the run found and of the search's last state, as the last line.
"""

import hashlib
import json
import sys
import time

import numpy as np
import torch

from glasslib import presets
from glasslib.search import checkpoint, loop

N_GENERATIONS = 6


def evaluation(preset, method):
    """Two targets at once for NSGA-II, one for the others."""
    if preset.writes_text:
        targets = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    else:
        targets = ("a large red star on a dark background", "a blue ring on the left")
    scores = [preset.scores(target) for target in targets]
    return scores[0] if method != "NSGA-II" else lambda x: torch.stack([score(x) for score in scores], dim=1)


def digest(search, result) -> str:
    arrays: dict = {}
    history = [{name: value for name, value in row.items() if name != "seconds"} for row in result.history]
    text = json.dumps([history, checkpoint._pack(search.state(), arrays), result.best.generation], sort_keys=True)
    content = [text.encode(), result.best.x.tobytes(), *(arrays[name].tobytes() for name in sorted(arrays))]
    return hashlib.sha256(b"".join(content)).hexdigest()


def main(name: str, method: str, path: str | None = None) -> None:
    torch.set_num_threads(1)
    preset = presets.load(name)
    search = preset.search(method, rng=np.random.default_rng(3))
    started = time.perf_counter()
    result = loop.run(
        search,
        evaluation(preset, method),
        n_generations=N_GENERATIONS,
        checkpoint=path,
        resume=True,
        identity={"target": "two", "preset": name},
        progress=False,
    )
    print(json.dumps({"digest": digest(search, result), "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main(*sys.argv[1:])
