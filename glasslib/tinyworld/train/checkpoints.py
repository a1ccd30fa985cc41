"""Training that survives being stopped: atomic checkpoints, a log line with each, and the model card at the end."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch
from torch import nn


class Session:
    """One training run in a folder: where it stands, how long it has taken, and what it has logged.

    `checkpoint.pt` holds weights, optimiser, random states and step; `log.jsonl` one line a checkpoint.
    """

    def __init__(self, folder: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer, rng: torch.Generator) -> None:
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
