"""Training that survives being stopped: atomic checkpoints with a log, and weights with a card at the end."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from glasslib import results


class Session:
    """One training run in a folder: where it stands, how long it has taken, and what it has logged.

    `checkpoint.pt` holds weights, optimiser, random states and step; `log.jsonl` one line a checkpoint.
    """

    def __init__(
        self, folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, rng: torch.Generator
    ) -> None:
        self.folder, self.step, self.seconds = folder, 0, 0.0
        self._model, self._optimizer, self._rng = model, optimizer, rng
        self._since = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            rng.set_state(state["rng"])
            self.step, self.seconds = state["step"], state["seconds"]

    def elapsed(self) -> float:
        """Seconds of training so far, all sittings together."""
        return self.seconds + time.monotonic() - self._since

    def save(self, step: int, **log: float) -> None:
        """Write the checkpoint atomically and append a line to the log."""
        self.step = step
        state = {"model": self._model.state_dict(), "optimizer": self._optimizer.state_dict(), "step": step}
        state |= {"rng": self._rng.get_state(), "seconds": self.elapsed()}
        temporary = self.folder / "checkpoint.pt.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.folder / "checkpoint.pt")
        line = {"step": step, "seconds": round(self.elapsed(), 1)} | {k: round(float(v), 5) for k, v in log.items()}
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")


def export(
    folder: Path,
    model: nn.Module,
    session: Session,
    *,
    recipe: str,
    seed: int,
    data: str,
    held_out: Mapping[str, float],
    half: bool = False,
) -> None:
    """Write model.safetensors and its card into `folder`.

    Args:
        recipe: the command that trains this again.
        data: what it was trained on, in words.
        held_out: measurements on data that training never drew.
        half: write half precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    if half:
        weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    temporary = folder / "model.safetensors.tmp"
    save_file(weights, temporary)
    os.replace(temporary, folder / "model.safetensors")
    write_card(
        folder,
        recipe=recipe,
        seed=seed,
        steps=session.step,
        data=data,
        wall_time_s=session.elapsed(),
        held_out=held_out,
    )


def write_card(
    folder: Path,
    *,
    recipe: str,
    seed: int,
    steps: int,
    data: str,
    wall_time_s: float,
    held_out: Mapping[str, float],
    **more: object,
) -> None:
    """Write card.json beside a model's safetensors, which it names with their SHA-256; `more` goes into it as it is."""
    files = sorted(folder.rglob("*.safetensors"))
    hashes = {file.relative_to(folder).as_posix(): results.sha256_file(file) for file in files}
    card = {"recipe": recipe, "seed": seed, "steps": steps, "data": data, "wall_time_s": round(wall_time_s)} | more
    measured = {name: round(float(value), 5) for name, value in held_out.items()}
    results.write_json_atomic(
        folder / "card.json", card | {"held_out": measured, "sha256": hashes, "versions": results.versions()}
    )
