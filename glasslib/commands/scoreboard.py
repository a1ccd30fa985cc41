"""One flat table of every number the project claims, assembled from results/ and quoted in the README.

In the README a number stands between markers, `<!-- score:clip.colour -->0.991<!-- /score -->`, and is filled in from
the table. `score:clip.colour:ci` gives the interval, `:n` the count, `:all` the three together; `:percent` a share in
percent, `:of` how many of how many ("all 63"), `:short` one decimal, `:faster` a ratio of seconds as times faster.
"""

import json
import re
from pathlib import Path
from typing import Any

from glasslib.results import REPO, write_bytes_atomic, write_json_atomic

MARKER = re.compile(r"<!-- score:(?P<id>[a-z0-9_.]+)(?::(?P<part>[a-z]+))? -->(?P<text>[^<]*)<!-- /score -->")


def assemble_scoreboard(results: Path = REPO / "results") -> dict[str, dict[str, Any]]:
    """Return id -> value, n, ci, unit and source, from every results/*/metrics.json and results/*/full/metrics.json.

    Of a number that a notebook's quick and its full run both give, the full run's stands.

    Raises:
        ValueError: two experiments give the same id.
    """
    board: dict[str, dict[str, Any]] = {}
    for path in [*sorted(results.glob("*/metrics.json")), *sorted(results.glob("*/full/metrics.json"))]:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, entry in content["metrics"].items():
            if name in board and not (path.parent.name == "full" and board[name]["source"] == content["source"]):
                raise ValueError(
                    f"{name} is measured twice, by {board[name]['source']} and by {content['source']}: "
                    f"rename one of them, or delete the stale {path.parent.name}/ under results/"
                )
            board[name] = {**entry, "source": content["source"]}
    return dict(sorted(board.items()))


def read_scoreboard(results: Path = REPO / "results") -> dict[str, dict[str, Any]]:
    """Return the table as it was last written."""
    return json.loads((results / "scoreboard.json").read_text(encoding="utf-8"))


def fill_readme(text: str, board: dict[str, dict[str, Any]]) -> str:
    """Return `text` with every marked number replaced by the scoreboard's.

    Raises:
        ValueError: a marker names an id or a part that the scoreboard lacks, or is not closed.
    """
    if (opened := text.count("<!-- score:")) != (whole := len(MARKER.findall(text))):
        raise ValueError(
            f"the text opens {opened} score markers but {whole} are well formed; "
            "write <!-- score:some.id --> <!-- /score -->, with no < between"
        )
    return MARKER.sub(lambda match: _filled(match, board), text)


def _filled(match: re.Match[str], board: dict[str, dict[str, Any]]) -> str:
    if match["id"] not in board:
        there = ", ".join(board) or "nothing: run make figures"
        raise ValueError(f"no {match['id']} in the scoreboard; it has {there}")
    entry = board[match["id"]]
    interval = "[{}, {}]".format(*map(_number, entry["ci"])) if entry["ci"] else ""
    value, n = _number(entry["value"]), f"{entry['n']:,}"
    parts = {None: value, "ci": interval, "n": n, "all": f"{value} {interval} (n = {n})".replace("  ", " ")}
    parts |= {"percent": _percent(entry["value"]), "of": _of(entry), "short": f"{entry['value']:.1f}"}
    parts["faster"] = f"{1 / (entry['value'] or 1):.1f}"
    if match["part"] not in parts:
        listed = ", ".join(part for part in parts if part)
        raise ValueError(f"score:{match['id']} has no part {match['part']!r}; take one of {listed}, or leave it out")
    opening, _, closing = match[0].partition(f"-->{match['text']}<!--")
    return f"{opening}-->{parts[match['part']]}<!--{closing}"


def _number(value: float) -> str:
    """Three decimals below 10, one below 100, none above: what a reader can use."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def _percent(share: float) -> str:
    """Whole percents, but never 0 or 100 for what is only near them."""
    whole = f"{100 * share:.0f}"
    return f"{100 * share:.1f} %" if whole in ("0", "100") and share not in (0, 1) else f"{whole} %"


def _of(entry: dict[str, Any]) -> str:
    """A count, or the share in percent where it is of no whole number (a mean of three searches each, say)."""
    n, hits = entry["n"], round(entry["value"] * entry["n"])
    if abs(hits - entry["value"] * n) > 1e-6:
        return f"{_percent(entry['value'])} of {n:,}"
    return f"all {n:,}" if hits == n else f"{hits:,} of {n:,}"


def main() -> None:
    """Write results/scoreboard.json and fill the README and the pages of .github/docs/ from it."""
    board = assemble_scoreboard(REPO / "results")
    write_json_atomic(REPO / "results" / "scoreboard.json", board)
    for page in pages():
        write_bytes_atomic(page, fill_readme(page.read_text(encoding="utf-8"), board).encode())
    print(f"results/scoreboard.json holds {len(board)} numbers; README.md quotes them")


def pages() -> list[Path]:
    """Return the pages whose numbers are the scoreboard's."""
    return [REPO / "README.md", *sorted((REPO / ".github" / "docs").glob("*.md"))]


if __name__ == "__main__":
    main()
