"""A language model and its tokenizer from a folder of transformers' files, held to the standard of all loaders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from glasslib.weights.integrity import check_whole, read_config
from glasslib.weights.states import (
    MASK_BUFFERS,
    SPARE,
    built,
    check_finite,
    check_numbers,
    n_values,
    read_state,
    without_prefix,
)

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in one file, or in pieces that <name>.index.json lists
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "special_tokens_map.json")
LEAST_SHARE = 0.9  # of the model's vocabulary that its tokenizer must know: some models pad theirs to a round number


def load_language_model(folder: str | Path) -> nn.Module:
    """Load a causal language model from a local folder, nothing from the network.

    Args:
        folder: config.json and model.safetensors, or pytorch_model.bin, or pieces with their index.

    Returns:
        The model in float32, in evaluation mode.

    Raises:
        FileNotFoundError: no such folder, or no weights in it.
        ValueError: a damaged file, a config that the weights do not fit, weights that do not fill the model or are not
            finite numbers.
    """
    folder = Path(folder)
    words = {
        "missing": f"no language model at {folder}; it must be a folder with config.json, model.safetensors and "
        "tokenizer files (for the tiny one run: make tinyworld)",
        "advice": "fetch it again",
    }
    read_config(folder / "config.json", **words)
    state = _read_pieces(folder, words)
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for reading one file
    config = None

    def make() -> nn.Module:
        nonlocal config
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)

    empty = built(make, state, config=f"{folder / 'config.json'}")
    state = _agreeing(state, empty, folder)
    check_finite(state, path=folder, advice=words["advice"])
    return _filled(type(empty), config, state, folder)


def _read_pieces(folder: Path, words: Mapping[str, str]) -> dict[str, Tensor]:
    for name in WEIGHTS:
        if (folder / name).is_file():
            return read_state(folder / name, **words)
        if (index := folder / f"{name}.index.json").is_file():
            pieces = read_config(index, **words).get("weight_map")
            if not isinstance(pieces, dict) or not all(isinstance(piece, str) for piece in pieces.values()):
                raise ValueError(f"{index} must have a weight_map of names -> files; {words['advice']}")
            state: dict[str, Tensor] = {}
            for piece in sorted(set(pieces.values())):
                if Path(piece).name != piece:
                    raise ValueError(f"{index} must name files of its own folder, got {piece[:60]!r}")
                state |= read_state(folder / piece, **words)
            return state
    raise FileNotFoundError(f"no {' or '.join(WEIGHTS)} at {folder}; {words['missing']}")


def _agreeing(state: dict[str, Tensor], empty: nn.Module, folder: Path) -> dict[str, Tensor]:
    """The weights without what older versions kept among them, after comparing sizes with the config's model."""
    wanted = empty.state_dict(keep_vars=True)
    base = f"{empty.base_model_prefix}."
    # the weights of some files, GPT-2's among them, are named from inside the base model
    wanted = wanted | {name.removeprefix(base): value for name, value in wanted.items()}
    state = without_prefix({name: value for name, value in state.items() if not MASK_BUFFERS.search(name)}, wanted)
    advice = "use the files that belong together, or fetch it again"
    for name, value in state.items():
        if name in wanted and wanted[name].shape != value.shape:
            raise ValueError(
                f"{folder}: {name} must have shape {tuple(wanted[name].shape)} as config.json says, got "
                f"{tuple(value.shape)}; {advice}"
            )
        if name in wanted:
            check_numbers(name, value, wanted[name].dtype, path=folder, advice=advice)
    asked, there = n_values(empty.parameters()), n_values(state.values())
    if asked > 1.1 * there + SPARE:
        raise ValueError(f"{folder}: config.json describes {asked:,} weights, and the files hold {there:,}; {advice}")
    return state


def _filled(kind: type[nn.Module], config, state: dict[str, Tensor], folder: Path) -> nn.Module:
    """Let transformers fill its own model: it knows the names that changed between its versions."""
    state = {name: value.clone() for name, value in state.items()}  # no longer mapped from the file
    try:
        model, report = kind.from_pretrained(
            None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True
        )
    except (RuntimeError, ValueError, KeyError) as error:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {error!s:.300}") from error
    if missing := sorted(report["missing_keys"]):  # transformers would go on with random numbers in their place
        raise ValueError(f"{folder} lacks {len(missing)} of the model's weights, first {missing[0]!r}; fetch it again")
    if besides := sorted(report["unexpected_keys"]):
        raise ValueError(
            f"{folder} has {len(besides)} weights besides the model's, first {besides[0][:80]!r}; "
            "use the files that belong together"
        )
    return model.eval()


def load_tokenizer(folder: str | Path, *, n_tokens: int):
    """Load the tokenizer of transformers that lies in a folder, running none of the folder's code.

    Args:
        folder: tokenizer.json and tokenizer_config.json, or vocab.json and merges.txt.
        n_tokens: of the model, whose vocabulary may be padded to a round number.

    Raises:
        ValueError: a damaged file, or a tokenizer of another vocabulary.
    """
    from transformers import AutoTokenizer

    folder = Path(folder)
    advice = "put the model's own tokenizer.json and tokenizer_config.json there"
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            check_whole(folder / name, missing=advice, advice=advice)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ValueError(f"no whole tokenizer in {folder}: {error!s:.200}; {advice}") from error
    if not LEAST_SHARE * n_tokens <= len(tokenizer) <= n_tokens:  # without its files a tokenizer has length 1
        raise ValueError(
            f"{folder}: the tokenizer must have the model's {n_tokens} tokens, got {len(tokenizer)}; {advice}"
        )
    return tokenizer
