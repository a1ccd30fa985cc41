"""The scoreboard's assembly and the README's markers, on folders made here."""

import json

import pytest

from glasslib import results
from glasslib.commands import scoreboard

BOARD = {
    "clip.colour": {"value": 0.98765, "n": 1000, "ci": [0.975, 0.99], "unit": "share", "source": "notebooks/01.ipynb"},
    "near.one": {"value": 0.997, "n": 1000, "ci": None, "unit": "share", "source": "make bench"},
    "files.refused": {"value": 1.0, "n": 63, "ci": None, "unit": "share", "source": "make bench"},
    "bench.biggan256": {"value": 0.4704, "n": 5, "ci": None, "unit": "ratio", "source": "make bench"},
    "time.demo_s": {"value": 41.26, "n": 5, "ci": None, "unit": "s", "source": "make bench"},
}


def add(parent, folder, source, **values):
    metrics = {f"x.{name}": results.metric(value, n=3, unit="share") for name, value in values.items()}
    results.write_results(parent / folder, source=source, params={}, metrics=metrics)


def test_board_collects_every_folder_with_its_source(tmp_path):
    add(tmp_path, "01_b", "notebooks/01_b.ipynb", two=0.2, one=0.1)
    add(tmp_path, "bench", "make bench", three=0.3)
    board = scoreboard.assemble_scoreboard(tmp_path)
    assert list(board) == ["x.one", "x.three", "x.two"]
    assert board["x.three"] == {"value": 0.3, "n": 3, "ci": None, "unit": "share", "source": "make bench"}


def test_an_id_from_two_sources_is_refused(tmp_path):
    add(tmp_path, "01_b", "notebooks/01_b.ipynb", one=0.1)
    add(tmp_path, "bench", "make bench", one=0.1)
    with pytest.raises(ValueError, match=r"x.one is measured twice, by notebooks/01_b.ipynb and by make bench.*bench/"):
        scoreboard.assemble_scoreboard(tmp_path)


def test_the_full_run_of_a_notebook_stands_before_its_quick_one(tmp_path):
    add(tmp_path, "01_b", "notebooks/01_b.ipynb", one=0.1, two=0.2)
    add(tmp_path, "01_b/full", "notebooks/01_b.ipynb", one=0.15)
    board = scoreboard.assemble_scoreboard(tmp_path)
    assert {name: entry["value"] for name, entry in board.items()} == {"x.one": 0.15, "x.two": 0.2}
    add(tmp_path, "02_c/full", "notebooks/02_c.ipynb", two=0.3)
    with pytest.raises(ValueError, match=r"x.two is measured twice, by notebooks/01_b.ipynb and by notebooks/02_c"):
        scoreboard.assemble_scoreboard(tmp_path)


@pytest.mark.parametrize(
    ("marker", "text"),
    [
        ("clip.colour", "0.988"),
        ("clip.colour:ci", "[0.975, 0.990]"),
        ("clip.colour:n", "1,000"),
        ("clip.colour:all", "0.988 [0.975, 0.990] (n = 1,000)"),
        ("clip.colour:percent", "99 %"),
        ("near.one:percent", "99.7 %"),
        ("near.one:of", "997 of 1,000"),
        ("clip.colour:of", "99 % of 1,000"),
        ("time.demo_s:short", "41.3"),
        ("files.refused:percent", "100 %"),
        ("files.refused:of", "all 63"),
        ("bench.biggan256:faster", "2.1"),
        ("time.demo_s", "41.3"),
        ("time.demo_s:all", "41.3 (n = 5)"),
    ],
)
def test_markers_are_filled(marker, text):
    filled = scoreboard.fill_readme(f"a <!-- score:{marker} -->0.1<!-- /score --> b", BOARD)
    assert filled == f"a <!-- score:{marker} -->{text}<!-- /score --> b"
    assert scoreboard.fill_readme(filled, BOARD) == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- score:clip.hue -->0<!-- /score -->", "no clip.hue in the scoreboard; it has clip.colour, near"),
        ("<!-- score:clip.colour:sd -->0<!-- /score -->", "no part 'sd'"),
        ("<!-- score:clip.colour -->0", "opens 1 score markers but 0 are well formed"),
        ("<!-- score:clip.colour -->0<!-- score:time.demo_s -->1<!-- /score -->", "opens 2 score markers but 1"),
    ],
)
def test_bad_markers_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        scoreboard.fill_readme(text, BOARD)


def test_main_writes_the_board_and_fills_the_readme(tmp_path, monkeypatch, capsys):
    add(tmp_path / "results", "01_b", "notebooks/01_b.ipynb", one=0.125)
    (tmp_path / "README.md").write_text("<!-- score:x.one --> <!-- /score -->\n")
    monkeypatch.setattr(scoreboard, "REPO", tmp_path)
    scoreboard.main()
    assert (tmp_path / "README.md").read_text() == "<!-- score:x.one -->0.125<!-- /score -->\n"
    assert json.loads((tmp_path / "results" / "scoreboard.json").read_text())["x.one"]["value"] == 0.125
    assert "holds 1 numbers" in capsys.readouterr().out
