"""What a notebook's parameters mean: `preset` with the notebook's family of generators, and sizes at a `scale`."""

from __future__ import annotations

from glasslib.presets import clip_glass


def for_notebook(preset: str, family: str) -> str:
    """The name of the preset that a notebook on one family of generators runs.

    Args:
        preset: the notebook's parameter: "tiny", "paper", or one of CLIP-GLaSS's configurations by name.
        family: "stylegan2", "biggan" or "gpt2".

    Raises:
        ValueError: no such preset, or one of another family; the message lists those that fit.
    """
    fitting = [name for name, one in clip_glass.CONFIGURATIONS.items() if one.family == family]
    if preset in ("tiny", "paper"):
        return f"{preset}-{family}"
    if preset in fitting:
        return preset
    raise ValueError(f"preset of a {family} notebook must be one of {['tiny', 'paper', *fitting]}, got {preset!r}")


def at_scale(scale: str, *sizes: object) -> list:
    """A notebook's sizes at a scale: of {"quick": 2, "full": 5} the one of `scale`, anything else as it is.

    Raises:
        ValueError: a scale that is neither "quick" nor "full".
    """
    if scale not in ("quick", "full"):
        raise ValueError(f"scale must be 'quick' or 'full', got {scale!r}")
    return [size[scale] if isinstance(size, dict) else size for size in sizes]
