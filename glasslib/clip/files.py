"""Files that open_clip is to read, held to the standard of all loaders before it reads them."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from glasslib.weights.integrity import read_config
from glasslib.weights.states import SPARE, built, check_finite, check_numbers, n_values, read_state

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
MISSING, ADVICE = "name a file with CLIP weights, or run: make weights", "fetch it again"


def check_files(model_name: str, weights: str | Path | None) -> None:
    """Refuse damaged weights, and a config that its weights do not fit.

    open_clip itself would stretch position embeddings of another length, and round whole numbers into place.

    Args:
        model_name: open_clip's; of "local-dir:..." the config is the folder's.
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
    if model_name.startswith("hf-hub:"):
        return
    where = model_name if folder is None else str(folder / CONFIG)
    network = built(lambda: _create(model_name), state, config=where)
    wanted = network.state_dict()
    for name in sorted(wanted.keys() & state.keys()):  # some files have other names, which open_clip translates
        if wanted[name].shape != state[name].shape:
            shapes = f"{tuple(wanted[name].shape)}, got {tuple(state[name].shape)}"
            raise ValueError(
                f"{weights} must hold the weights of {model_name}: {name} must have shape {shapes}; {ADVICE}"
            )
        check_numbers(name, state[name], wanted[name].dtype, path=weights, advice=ADVICE)
    asked, there = n_values(network.parameters()), n_values(state.values())
    if asked > 1.1 * there + SPARE:
        raise ValueError(f"{where} describes {asked:,} weights, and {weights} holds {there:,}; {ADVICE}")


def _create(model_name: str) -> nn.Module:
    import open_clip

    logger = logging.getLogger()  # on which open_clip reports that the weights are not there
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return open_clip.create_model(model_name, device=torch.device("meta"), load_weights=False)
    finally:
        logger.setLevel(level)
