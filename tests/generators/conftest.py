"""Helpers that lie outside any package: NVIDIA's file formats, and the generator computed as it was published."""

import importlib.util
import sys
from pathlib import Path

import pytest


def _load(name: str):
    path = Path(__file__).parents[1] / "references" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # pickle looks classes up by their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def stylegan2_pickles():
    return _load("stylegan2_pickles")


@pytest.fixture(scope="session")
def stylegan2_published():
    return _load("stylegan2_published")
