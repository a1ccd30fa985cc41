"""What every run needs: the repository root, a device, versions, hashes, and results and cards written atomically."""

import contextlib
import csv
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

REPO = Path(__file__).resolve().parents[1]
VERSIONED = ("cma", "numpy", "open_clip_torch", "pymoo", "torch", "transformers")
FIGURE_DPI = 144
METRIC_ID = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")
METRIC_KEYS = {"value", "n", "ci", "unit"}
REFRESH = "GLASSLIB_REFRESH"  # "1" (set by `make notebooks` and `make experiments` alone): may change a params.json


def pick_device(name: str = "auto") -> "torch.device":
    """Return the device called `name`; "auto" takes cuda, then mps, then cpu.

    Raises:
        ValueError: this machine's torch has no such device.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if not present.get(name.partition(":")[0], False):
        there = ", ".join(kind for kind, there in present.items() if there)
        raise ValueError(f"device must be auto or one that torch finds here ({there}), got {name!r}")
    return torch.device(name)


def versions() -> dict[str, str]:
    """Return the versions of Python, glasslib and the libraries that can change a number."""
    from glasslib import __version__

    found = {"glasslib": __version__, "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in VERSIONED}


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes_atomic(path: str | Path, content: bytes) -> None:
    """Replace `path` by `content`; whoever reads, or a kill at any instant, meets the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_json_atomic(path: str | Path, content: Any) -> None:
    """Replace `path` by `content` as JSON with sorted keys; NaN and infinity are refused with ValueError."""
    write_bytes_atomic(path, _json(content))


def _json(content: Any) -> bytes:
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False, default=plain)
    return (text + "\n").encode()


def plain(value: Any) -> Any:
    """Turn what JSON and csv do not know (paths, NumPy numbers and arrays) into what they do."""
    if isinstance(value, Path):
        return value.relative_to(REPO).as_posix() if value.is_relative_to(REPO) else value.as_posix()
    if hasattr(value, "tolist"):  # NumPy scalars, arrays and tensors, without importing either library
        return value.tolist()
    raise TypeError(f"results hold numbers, strings, lists and dicts, got {type(value).__name__}: {value!r:.80}")


def metric(value: float, *, n: int, unit: str, ci: Sequence[float] | None = None) -> dict[str, Any]:
    """Return one checked entry for `write_results`.

    Args:
        value: finite.
        n: what the value was counted or averaged over, at least 1.
        unit: "share", "s", "cosine", ...
        ci: 95 % interval (low, high), or None where there is none to give.

    Raises:
        ValueError: a number that is not finite, n < 1, an interval upside down, an empty unit.
    """
    interval = None if ci is None else [float(bound) for bound in ci]
    entry = {"value": float(value), "n": int(n), "ci": interval, "unit": str(unit)}
    if not all(math.isfinite(number) for number in [entry["value"], *(interval or [])]):
        raise ValueError(f"a metric's value and interval must be finite, got {entry}")
    if entry["n"] < 1 or entry["n"] != n:
        raise ValueError(f"a metric needs n, a whole number of at least 1 that says how many were counted, got {n!r}")
    if interval is not None and (len(interval) != 2 or interval[0] > interval[1]):
        raise ValueError(f"a metric's ci must be [low, high] with low <= high, got {interval}")
    if not entry["unit"].strip():
        raise ValueError(f'a metric needs a unit such as "share" or "s", got {unit!r}')
    return entry


def write_results(
    results_dir: str | Path,
    *,
    source: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]] | None = None,
    figures: Mapping[str, "Figure | bytes"] | None = None,
    timings: Mapping[str, float] | None = None,
) -> Path:
    """Write one experiment's folder; the same content gives the same bytes, but for timings.json.

    All is checked and drawn before the first file is replaced; metrics.json, which lists tables and figures, is last.
    results/ holds what the committed parameters gave, so only a run with the parameters of results/NN_topic/params.json
    writes there (scale="full": of results/NN_topic/full/). Any other run of a notebook goes to
    runs/NN_topic-<hash of the parameters>/, preset="paper" to runs/paper/NN_topic/, and says so in one line.

    Args:
        results_dir: results/NN_topic; a relative path starts at the repository root. One outside results/ is obeyed.
        source: what makes these numbers again: "notebooks/NN_topic.ipynb" or "make bench".
        params: what the run was asked for, JSON values; "preset" and "scale" also choose the folder.
        metrics: scoreboard id ("clip.colour") -> what `metric` returns.
        tables: name -> rows with the same keys, or columns of one length; becomes name.csv. None is an empty field.
        figures: name -> matplotlib Figure, becomes name.png; or file name with suffix -> bytes, written as they are.
        timings: name -> seconds of this one run; kept apart and out of git, because every run has its own.

    Returns:
        The folder written to.
    """
    folder, notice = Path(os.path.abspath(REPO / results_dir)), ""
    if source.startswith("notebooks/"):  # make bench takes no parameters
        folder, notice = _destination(folder, params)
    files = {f"{name}.csv": _csv(name, table) for name, table in (tables or {}).items()}
    files |= dict(_figure_file(name, figure) for name, figure in (figures or {}).items())
    if misnamed := [name for name in files if name != Path(name).name]:
        raise ValueError(f"tables and figures need plain file names, got {misnamed}")
    summary = {"source": source, "files": sorted(files), "metrics": _checked(metrics)}
    files |= {"timings.json": _json(timings)} if timings else {}
    files |= {"params.json": _json(params), "metrics.json": _json(summary)}
    for name, content in files.items():
        write_bytes_atomic(folder / name, content)
    if notice:
        print(notice)
    return folder


def _destination(folder: Path, params: Mapping[str, Any]) -> tuple[Path, str]:
    """Return where a run asked to write to `folder` may write, and the line that says so if it is elsewhere."""
    if folder == REPO / "results" or not folder.is_relative_to(REPO / "results"):
        return folder, ""
    topic = folder.relative_to(REPO / "results")
    scale = "full" if params.get("scale") == "full" else ""
    if params.get("preset") == "paper":
        return (there := REPO / "runs" / "paper" / topic / scale), f"results are in {plain(there)}/"
    if os.environ.get(REFRESH) == "1" or _asked(folder / scale / "params.json") == _without_folder(params):
        return folder / scale, ""
    mark = hashlib.sha256(_without_folder(params)).hexdigest()[:8]
    there = REPO / "runs" / f"{'-'.join(topic.parts)}-{mark}"
    return there, f"other parameters than the committed ones: results are in {plain(there)}/"


def _without_folder(params: Mapping[str, Any]) -> bytes:
    return _json({name: value for name, value in params.items() if name != "results_dir"})


def _asked(path: Path) -> bytes:
    """Return what an earlier run was asked for, as `_without_folder` gives it; b"" if there was none."""
    return _without_folder(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else b""


def _checked(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    if misnamed := [name for name in metrics if not METRIC_ID.fullmatch(name)]:
        raise ValueError(f'metric ids must look like "clip.colour" (lower case, digits, _ and .), got {misnamed}')
    if strange := [name for name, entry in metrics.items() if set(entry) != METRIC_KEYS]:
        raise ValueError(f"metrics need exactly {sorted(METRIC_KEYS)} (use results.metric), wrong in {strange}")
    return {name: metric(**entry) for name, entry in metrics.items()}


def _csv(name: str, table: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]]) -> bytes:
    """Return a table as csv, floats by repr, so that equal numbers are equal bytes."""
    if isinstance(table, Mapping):
        rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    else:
        rows = [dict(row) for row in table]
    if not rows:
        raise ValueError(f"table {name!r} has no rows; leave it out or say why it is empty in a metric")
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for number, row in enumerate(rows):
        if set(row) != set(rows[0]):
            raise ValueError(f"table {name!r}: row {number} has keys {sorted(row)}, the first has {sorted(rows[0])}")
        where = f"table {name!r}, row {number}"
        writer.writerow({key: _field(value, where=f"{where}, {key}") for key, value in row.items()})
    return text.getvalue().encode()


def read_table(path: str | Path) -> list[dict[str, str | int | float | None]]:
    """Return the rows of a csv that `write_results` wrote, as they were given to it.

    A column whose every filled field is a number, or every one True or False, is converted; any other holds strings.
    An empty field is None.

    Raises:
        FileNotFoundError: no such table.
        ValueError: no header, a row that is longer or shorter than it, or a name twice in it.
    """
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if not header or len(set(header)) < len(header) or any(len(row) != len(header) for row in rows):
        raise ValueError(
            f"{path} must be a csv with one header of different names and rows of its length; make it anew"
        )
    columns = [_converted(column) for column in zip(*rows, strict=True)]
    return [dict(zip(header, values, strict=True)) for values in zip(*columns, strict=True)]


def _converted(column: Sequence[str]) -> list[str | int | float | None]:
    for parse in ({"True": True, "False": False}.__getitem__, _number):
        with contextlib.suppress(KeyError, ValueError):
            return [parse(field) if field else None for field in column]
    return [field or None for field in column]


def _number(field: str) -> int | float:
    """Return the number that is written as `field`; ValueError if none is (007, 1_000 and nan are not)."""
    number = int(field) if field.lstrip("-").isdecimal() else float(field)
    if repr(number) != field or not math.isfinite(number):
        raise ValueError(field)
    return number


def show(metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """Print metrics as a table: id, value, 95 % interval, n, unit."""
    rows = [("id", "value", "95 % interval", "n", "unit")]
    for name, entry in metrics.items():
        interval = "" if entry["ci"] is None else "[{:.3f}, {:.3f}]".format(*entry["ci"])
        rows.append((name, f"{entry['value']:.3f}", interval, f"{entry['n']:,}", entry["unit"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        fields = [f"{field:{side}{width}}" for field, side, width in zip(row, "<><><", widths, strict=True)]
        print("  ".join(fields).rstrip())


def _field(value: Any, *, where: str) -> str | int | float | None:
    value = plain(value) if hasattr(value, "tolist") or isinstance(value, Path) else value
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: numbers must be finite, got {value}; use None for a missing one")
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{where}: a field must be a number or a string, got {type(value).__name__}")
    return float(value) if isinstance(value, float) else value  # np.float64 is a float whose repr is not


def _figure_file(name: str, figure: "Figure | bytes") -> tuple[str, bytes]:
    if not isinstance(figure, bytes):
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=FIGURE_DPI, metadata={"Software": None})
        return f"{name}.png", content.getvalue()
    if not Path(name).suffix:
        raise ValueError(f'figure {name!r} is bytes, so its name needs a suffix, such as "{name}.webp"')
    return name, figure


@dataclasses.dataclass(frozen=True)
class ResultCard:
    """What one finished search or training leaves behind, enough to run it again and compare.

    Attributes:
        target: the caption, or the picture's path and SHA-256.
        preset: its name in presets.names().
        seed: of the run's rng.
        weights: model -> SHA-256 of its file.
        versions: what `versions` gave at the time.
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
        write_json_atomic(path, dataclasses.asdict(self))

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
    left, right = (json.loads(_json(dataclasses.asdict(each))) for each in (card, other))
    compared = [name for name in left if name not in ("wall_time_s", "versions")]
    return {name: (left[name], right[name]) for name in compared if left[name] != right[name]}


def same(card: ResultCard, other: ResultCard) -> bool:
    """Return whether two runs were asked for the same and found the same, bit for bit."""
    return not differences(card, other)


def replay(card: ResultCard, rerun: Callable[[ResultCard], ResultCard]) -> dict[str, tuple[Any, Any]]:
    """Run a card again by `rerun` and return the `differences`: {} says that it came out the same."""
    return differences(card, rerun(card))
