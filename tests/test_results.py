"""The results folder, the metric check, the atomic writes and the result card of glasslib.results."""

import hashlib
import json
import os
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from glasslib import results

METRIC = {"value": 0.5, "n": 10, "ci": [0.2, 0.8], "unit": "share"}


def write(folder, **changes):
    figure = Figure(figsize=(1, 1))
    figure.subplots().plot([0.0, 1.0], [2.0, 1.0])
    content = {
        "source": "notebooks/01_clip_space.ipynb",
        "params": {"seed": 1, "rate": np.float32(0.5), "results_dir": results.REPO / "results" / "x"},
        "metrics": {
            "clip.colour": results.metric(np.float64(0.5), n=np.int64(10), unit="share", ci=np.array([0.2, 0.8]))
        },
        "tables": {
            "rows": [{"a": 1, "b": np.float64(0.1), "c": None}],
            "cols": {"x": np.arange(2), "y": ["p", "q,"]},
        },
        "figures": {"curve": figure, "strip.gif": b"GIF89a"},
    }
    return results.write_results(folder, **(content | changes))


def bytes_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_results_folder_holds_what_was_given(tmp_path):
    folder = write(tmp_path / "01_clip_space", timings={"search": 1.25})
    found = bytes_in(folder)
    assert found.keys() == {
        *("params.json", "metrics.json", "timings.json", "rows.csv", "cols.csv", "curve.png", "strip.gif")
    }
    assert found["rows.csv"] == b"a,b,c\n1,0.1,\n"
    assert found["cols.csv"] == b'x,y\n0,p\n1,"q,"\n'
    assert json.loads(found["params.json"]) == {"rate": 0.5, "results_dir": "results/x", "seed": 1}
    assert json.loads(found["metrics.json"]) == {
        "source": "notebooks/01_clip_space.ipynb",
        "files": ["cols.csv", "curve.png", "rows.csv", "strip.gif"],
        "metrics": {"clip.colour": METRIC},
    }
    assert json.loads(found["timings.json"]) == {"search": 1.25}


def test_same_results_are_the_same_bytes(tmp_path):
    assert bytes_in(write(tmp_path / "first")) == bytes_in(write(tmp_path / "second"))


ROWS = [
    {"caption": "7", "score": 0.1, "seed": 0, "colour": True, "named": None, "hash": "007", "mixed": 1},
    {
        "caption": "a red star, left",
        "score": -1e-05,
        "seed": -2,
        "colour": False,
        "named": 3,
        "hash": "010",
        "mixed": 0.5,
    },
]


def test_a_table_is_read_as_it_was_written(tmp_path):
    write(tmp_path, tables={"rows": ROWS})
    read = results.read_table(tmp_path / "rows.csv")
    assert read == ROWS
    assert [[type(value) for value in row.values()] for row in read] == [
        [str, float, int, bool, type(None), str, int],
        [str, float, int, bool, int, str, float],
    ]


@pytest.mark.parametrize("text", ["", "a,a\n1,2\n", "a,b\n1\n", "a\n1,2\n"])
def test_what_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match="t.csv must be a csv with one header"):
        results.read_table(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError):
        results.read_table(tmp_path / "none.csv")


def test_shown_metrics_are_aligned(capsys):
    results.show({
        "clip.colour": METRIC,
        "gpt2.perplexity": results.metric(58.1666, n=1000, unit="perplexity"),
        "d.in": results.metric(-0.04, n=15, unit="difference", ci=[-0.1, 0]),
    })  # fmt: skip
    assert capsys.readouterr().out.splitlines() == [
        "id                value  95 % interval        n  unit",
        "clip.colour       0.500  [0.200, 0.800]      10  share",
        "gpt2.perplexity  58.167                   1,000  perplexity",
        "d.in             -0.040  [-0.100, 0.000]     15  difference",
    ]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository in which results/01_clip_space was committed with seed 1."""
    monkeypatch.setattr(results, "REPO", tmp_path)
    monkeypatch.setenv("GLASSLIB_REFRESH", "1")
    write("results/01_clip_space", params={"seed": 1, "results_dir": "results/01_clip_space"})
    monkeypatch.delenv("GLASSLIB_REFRESH")
    return tmp_path


SAME = {"seed": 1, "results_dir": "anything"}


@pytest.mark.parametrize(
    ("params", "results_dir", "folder"),
    [
        (SAME, "results/01_clip_space", "results/01_clip_space"),
        (SAME, "results/../results/01_clip_space/", "results/01_clip_space"),
        ({"seed": 2}, "results/01_clip_space", "runs/01_clip_space-cc7efd37"),
        ({"seed": 1.0}, "results/01_clip_space", "runs/01_clip_space-4fed241b"),
        ({"seed": 1, "n": 2}, "results/01_clip_space", "runs/01_clip_space-43d4ea1c"),
        ({"seed": 1}, "results/02_new", "runs/02_new-1982e76b"),
        ({"seed": 1, "scale": "full"}, "results/01_clip_space", "runs/01_clip_space-296df85c"),
        ({"seed": 1, "preset": "paper"}, "results/01_clip_space", "runs/paper/01_clip_space"),
        ({"seed": 1, "preset": "paper", "scale": "full"}, "results/01_clip_space", "runs/paper/01_clip_space/full"),
        ({"seed": 2}, "elsewhere/mine", "elsewhere/mine"),
    ],
)
def test_only_the_committed_parameters_write_into_results(checkout, capsys, params, results_dir, folder):
    before = bytes_in(checkout / "results" / "01_clip_space")
    assert write(results_dir, params=params).relative_to(checkout).as_posix() == folder
    notice = "" if params is SAME or folder.startswith("elsewhere") else f"results are in {folder}/\n"
    assert capsys.readouterr().out.endswith(notice) and (checkout / folder / "metrics.json").is_file()
    after = bytes_in(checkout / "results" / "01_clip_space")
    assert after == before or params is SAME
    assert {path.name for path in (checkout / "results").iterdir()} == {"01_clip_space"}


def test_a_full_run_has_its_own_committed_parameters(checkout, monkeypatch):
    full = {"seed": 3, "scale": "full"}
    monkeypatch.setenv("GLASSLIB_REFRESH", "1")
    assert write("results/01_clip_space", params=full) == checkout / "results/01_clip_space/full"
    monkeypatch.delenv("GLASSLIB_REFRESH")
    assert write("results/01_clip_space", params=full) == checkout / "results/01_clip_space/full"
    assert write("results/01_clip_space", params={"seed": 1}) == checkout / "results/01_clip_space"
    assert write("results/01_clip_space", params=full | {"seed": 1}).parent == checkout / "runs"


def test_make_bench_takes_no_parameters_and_writes_where_it_says(checkout):
    folder = write("results/bench_x", params={"cores": 2}, source="make bench")
    assert folder == write("results/bench_x", params={"cores": 4}, source="make bench") == checkout / "results/bench_x"


def test_relative_results_dir_starts_at_the_repository_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = os.path.relpath(tmp_path / "there", results.REPO)
    assert write(relative).resolve() == tmp_path / "there"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tables": {"t": [{"a": 1}, {"b": 2}]}}, r"table 't': row 1 has keys \['b'\]"),
        ({"tables": {"t": []}}, "table 't' has no rows"),
        ({"tables": {"t": [{"a": float("nan")}]}}, "table 't', row 0, a: numbers must be finite, got nan"),
        ({"tables": {"t": [{"a": np.float32("inf")}]}}, "numbers must be finite, got inf"),
        ({"tables": {"t": [{"a": [1, 2]}]}}, "a field must be a number or a string, got list"),
        ({"tables": {"t": {"a": [1, 2], "b": [1]}}}, "shorter"),
        ({"tables": {"../t": [{"a": 1}]}}, r"plain file names, got \['../t.csv'\]"),
        ({"figures": {"strip": b"GIF89a"}}, "'strip' is bytes, so its name needs a suffix"),
        ({"metrics": {"Clip colour": METRIC}}, r"must look like \"clip.colour\".*got \['Clip colour'\]"),
        ({"metrics": {"clip.colour": {"value": 0.5}}}, r"need exactly .*wrong in \['clip.colour'\]"),
        ({"metrics": {"clip.colour": METRIC | {"value": float("nan")}}}, "must be finite"),
        ({"params": {"rate": float("nan")}}, "not JSON compliant"),
    ],
)
def test_bad_results_are_refused_before_anything_is_replaced(tmp_path, changes, message):
    before = bytes_in(write(tmp_path))
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **({"params": {"seed": 2}} | changes))
    assert bytes_in(tmp_path) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": float("inf")}, "must be finite, got .*inf"),
        ({"ci": (0.1, float("nan"))}, "must be finite"),
        ({"ci": (0.9, 0.1)}, r"low <= high, got \[0.9, 0.1\]"),
        ({"ci": (0.1, 0.2, 0.3)}, "low, high"),
        ({"n": 0}, "at least 1 .*got 0"),
        ({"n": 2.5}, "whole number .*got 2.5"),
        ({"unit": " "}, "needs a unit"),
    ],
)
def test_metric_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        results.metric(**({"value": 0.5, "n": 3, "unit": "share"} | changes))


def test_atomic_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "state.json"
    results.write_json_atomic(target, {"generation": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        results.write_json_atomic(target, {"generation": 2})
    assert bytes_in(tmp_path) == {"state.json": b'{\n "generation": 1\n}\n'}


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert results.sha256_file(tmp_path / "abc") == digest == hashlib.sha256(b"abc").hexdigest()


def test_repo_is_the_repository_root():
    assert (results.REPO / "pyproject.toml").is_file()


def test_versions_name_the_libraries_that_can_change_a_number():
    assert set(results.versions()) == {
        *("glasslib", "python", "cma", "numpy", "open_clip_torch", "pymoo", "torch", "transformers")
    }


def test_pick_device():
    assert results.pick_device("cpu").type == "cpu"
    assert results.pick_device().type in {"cuda", "mps", "cpu"}
    with pytest.raises(ValueError, match=r"finds here \(.*cpu\), got 'abacus'"):
        results.pick_device("abacus")


CARD = results.ResultCard(
    target="a large red star",
    preset="tiny",
    seed=3,
    weights={"clip": "ab" * 32},
    versions={"torch": "2.15.0"},
    evaluations=1600,
    wall_time_s=12.5,
    score=0.4123456789012345,
    judge_score=0.4,
    lineage=({"generation": 0, "score": 0.1}, {"generation": 7, "score": 0.4}),
)


def test_card_survives_the_disk_bit_for_bit(tmp_path):
    CARD.write(tmp_path / "card.json")
    assert results.same(results.ResultCard.read(tmp_path / "card.json"), CARD)
    assert results.ResultCard.read(tmp_path / "card.json").score == CARD.score


def test_cards_differ_in_what_was_found_and_not_in_how_long_it_took():
    assert results.same(CARD, replace(CARD, wall_time_s=99.0, versions={"torch": "3.0"}))
    nudged = replace(CARD, score=float(np.nextafter(CARD.score, 1)))
    assert results.differences(CARD, nudged) == {"score": (CARD.score, nudged.score)}
    assert results.replay(CARD, lambda card: replace(card, lineage=())).keys() == {"lineage"}
    assert results.replay(CARD, lambda card: card) == {}


@pytest.mark.parametrize("text", ['{"target": "x"}', "[1]"])
def test_another_file_is_not_a_card(tmp_path, text):
    (tmp_path / "card.json").write_text(text)
    with pytest.raises(ValueError, match="is not a result card"):
        results.ResultCard.read(tmp_path / "card.json")
