"""A name -> models, search and budget: `presets.load("tiny-stylegan2")`."""

from glasslib.presets.parameters import at_scale, for_notebook
from glasslib.presets.search import ENCODINGS, Preset, load, names

__all__ = ["ENCODINGS", "Preset", "at_scale", "for_notebook", "load", "names"]
