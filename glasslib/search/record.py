"""What a run found, and its way to a checkpoint and back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from glasslib.search import checkpoint as checkpoints
from glasslib.search.candidate import Candidate
from glasslib.search.pareto import pick


@dataclass
class Result:
    """What a run found.

    best: the best candidate, of a ParetoSearch the knee of its front; None before the first generation. front: the
    whole front, best first objective first; empty for one objective. history: a row per generation (generation, best
    so far, median of the generation, evaluations and seconds so far; several objectives give best_0, best_1, ... and
    front_size).
    stopped: why it ended: "finished", "interrupted", "callback", "patience", "failed", or the search's own reason.
    """

    best: Candidate | None = None
    front: list[Candidate] = field(default_factory=list)
    history: list[dict] = field(default_factory=list)
    stopped: str = "finished"


def is_pareto(search) -> bool:
    return hasattr(type(search), "front")


def result_of(search, history: list[dict], stopped: str) -> Result:
    if is_pareto(search):
        front = search.front
        return Result(pick(front) if front else None, front, history, stopped)
    return Result(search.best, [], history, stopped)


def load_result(checkpoint: Path | str) -> Result:
    """Read best, front and history out of a checkpoint without the search that made it."""
    content = checkpoints.load(Path(checkpoint))
    return Result(
        best=_candidate(content["best"]),
        front=[_candidate(packed) for packed in content["front"]],
        history=content["history"],
        stopped="checkpoint",
    )


def save(path: Path, search, rngs: Sequence, history: list[dict]) -> None:
    found = result_of(search, history, "")
    checkpoints.save(
        path,
        {
            "search": search.state(),
            "rngs": [_rng_state(rng) for rng in rngs],
            "history": history,
            "best": _packed(found.best),
            "front": [_packed(candidate) for candidate in found.front],
        },
    )


def resume_from(path: Path, search, rngs: Sequence) -> list[dict]:
    content = checkpoints.load(path)
    if len(content["rngs"]) != len(rngs):
        raise ValueError(f"{path} was written with {len(content['rngs'])} rngs, got {len(rngs)}; pass the same ones")
    search.restore(content["search"])
    for rng, state in zip(rngs, content["rngs"], strict=True):
        if isinstance(rng, torch.Generator):
            rng.set_state(torch.from_numpy(state))
        else:
            rng.bit_generator.state = state
    return content["history"]


def _rng_state(rng: np.random.Generator | torch.Generator):
    return rng.get_state().numpy() if isinstance(rng, torch.Generator) else rng.bit_generator.state


def _packed(candidate: Candidate | None) -> dict | None:
    return None if candidate is None else vars(candidate)


def _candidate(packed: dict | None) -> Candidate | None:
    return None if packed is None else Candidate(**packed)
