"""Files that open_clip is to read, held to the standard of all loaders before it reads them."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from glasslib.weights.integrity import read_config
from glasslib.weights.states import SPARE, built, check_finite, n_values, read_state

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
MISSING, ADVICE = "name a file with CLIP weights, or run: make weights", "fetch it again"


def check_files(model_name: str, weights: str | Path | None) -> None:
    """Refuse damaged weights, and a folder's config that asks for more than its weights hold.

    Args:
        model_name: open_clip's; of "local-dir:..." the config is compared with the weights.
        weights: a file, or None for the folder's own, if it is one.

    Raises:
        FileNotFoundError, ValueError: as `weights.states.read_state`; weights that are not finite; a config of another
            size.
    """
    folder = Path(model_name.removeprefix("local-dir:")) if model_name.startswith("local-dir:") else None
    if folder is not None:
        read_config(folder / CONFIG, missing=MISSING, advice=ADVICE)
        own = (folder / name for name in WEIGHTS if (folder / name).is_file())
        weights = weights if weights is not None else next(own, None)
    if weights is None:
        return
    state = read_state(weights, missing=MISSING, advice=ADVICE)
    check_finite(state, path=weights, advice=ADVICE)
    if folder is not None:
        network = built(lambda: _create(model_name), state, config=str(folder / CONFIG))
        asked, there = n_values(network.parameters()), n_values(state.values())
        if asked > 1.1 * there + SPARE:
            raise ValueError(f"{folder / CONFIG} describes {asked:,} weights, and {weights} holds {there:,}; {ADVICE}")


def _create(model_name: str) -> nn.Module:
    import open_clip

    logger = logging.getLogger()  # on which open_clip reports that the weights are not there
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return open_clip.create_model(model_name, device=torch.device("meta"), load_weights=False)
    finally:
        logger.setLevel(level)
