"""A search of one seed is the same search whatever else happens; the whole count is run by `make bench`."""

import importlib.util
from pathlib import Path

import numpy as np

spec = importlib.util.spec_from_file_location("repeat_searches", Path(__file__).with_name("repeat_searches.py"))
repeat = importlib.util.module_from_spec(spec)
spec.loader.exec_module(repeat)


def test_every_search_is_the_same_in_every_way():
    rows = repeat.identical(30, n_generations=2, popsize=12)
    assert len(rows) == 30 and {row["way"] for row in rows} == set(repeat.WAYS)
    assert [row for row in rows if not row["identical"]] == []


def test_a_bit_that_depends_on_the_company_is_seen(monkeypatch):
    calls = iter(np.arange(1, 10_000))
    plain = repeat.objective

    def drifting(preset, method, seed):
        evaluate = plain(preset, method, seed)
        return lambda x: evaluate(x) + 1e-7 * float(next(calls))

    monkeypatch.setattr(repeat, "objective", drifting)
    assert not any(row["identical"] for row in repeat.identical(5, n_generations=2, popsize=12))
