"""The folder of one training run: the last complete checkpoint, and a log that agrees with it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from glasslib import results


class RunFolder:
    """checkpoint.pt (tensors and plain values, read without running code) and log.jsonl."""

    def __init__(self, folder: str | Path, *, described: dict[str, Any]) -> None:
        """Open a folder, new or not.

        Args:
            folder: made if need be.
            described: JSON values that a run may not change when it goes on: settings, data, seed.
        """
        self.folder, self._described = Path(folder), json.loads(json.dumps(described))
        self.folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, on the CPU; None if there is none.

        Raises:
            ValueError: it belongs to a run of other settings, data or seed.
        """
        path = self.folder / "checkpoint.pt"
        for unfinished in self.folder.glob(".checkpoint.pt.*.part"):
            unfinished.unlink(missing_ok=True)  # a kill left it
        if not path.exists():
            self._write_log([])
            return None
        state = torch.load(path, map_location="cpu", weights_only=True)
        before = json.loads(state.pop("described"))
        if before != self._described:
            names = [name for name in self._described if before.get(name) != self._described[name]]
            changed = ", ".join(f"{name} {before.get(name)!r} -> {self._described[name]!r}" for name in names)
            raise ValueError(
                f"{self.folder} holds another run: {changed}; go on with the same settings, or choose a new folder"
            )
        self._write_log([line for line in self.lines() if line["step"] <= state["step"]])
        return state

    def save(self, state: dict[str, Any], line: dict[str, Any]) -> None:
        """Append a line to the log, then replace the checkpoint; a stop between the two is put right by `load`."""
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        content = io.BytesIO()
        torch.save({**state, "described": json.dumps(self._described)}, content)
        results.write_bytes_atomic(self.folder / "checkpoint.pt", content.getvalue())

    def lines(self) -> list[dict[str, Any]]:
        """The log; a last line cut short by a kill is not counted."""
        path = self.folder / "log.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def _write_log(self, lines: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        results.write_bytes_atomic(self.folder / "log.jsonl", text.encode())
