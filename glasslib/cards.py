"""Result cards: what one finished search or training leaves behind, enough to run it again and compare."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glasslib import results


@dataclasses.dataclass(frozen=True)
class ResultCard:
    """What one finished search or training leaves behind, enough to run it again and compare.

    Attributes:
        target: the caption, or the picture's path and SHA-256.
        preset: its name in presets.names().
        seed: of the run's rng.
        weights: model -> SHA-256 of its file.
        versions: what `results.versions` gave at the time.
        evaluations: how many candidates were scored.
        wall_time_s: seconds, not compared.
        score: of the winner, higher is better.
        judge_score: the held-out judge's for the same winner; None without a judge.
        lineage: how the best came about, oldest first: one dict of JSON values for each improvement.
    """

    target: str
    preset: str
    seed: int
    weights: Mapping[str, str]
    versions: Mapping[str, str]
    evaluations: int
    wall_time_s: float
    score: float
    judge_score: float | None = None
    lineage: Sequence[Mapping[str, Any]] = ()

    def write(self, path: str | Path) -> None:
        """Write the card as JSON, atomically."""
        results.write_json_atomic(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: str | Path) -> "ResultCard":
        """Read a card that `write` wrote; another file is refused with ValueError."""
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        expected = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(content, dict) or set(content) != expected:
            raise ValueError(f"{path} is not a result card: it must be JSON with exactly the keys {sorted(expected)}")
        return cls(**content)


def differences(card: ResultCard, other: ResultCard) -> dict[str, tuple[Any, Any]]:
    """Return the fields in which two runs differ, name -> (first, second); wall time and versions do not count."""
    left, right = (json.loads(results.to_json(dataclasses.asdict(each))) for each in (card, other))
    compared = [name for name in left if name not in ("wall_time_s", "versions")]
    return {name: (left[name], right[name]) for name in compared if left[name] != right[name]}


def same(card: ResultCard, other: ResultCard) -> bool:
    """Return whether two runs were asked for the same and found the same, bit for bit."""
    return not differences(card, other)


def replay(card: ResultCard, rerun: Callable[[ResultCard], ResultCard]) -> dict[str, tuple[Any, Any]]:
    """Run a card again by `rerun` and return the `differences`: {} says that it came out the same."""
    return differences(card, rerun(card))
