"""A name -> models, search and budget: `presets.load("tiny-stylegan2")`."""

from glasslib.presets.search import ENCODINGS, Preset, for_notebook, load, names

__all__ = ["ENCODINGS", "Preset", "for_notebook", "load", "names"]
