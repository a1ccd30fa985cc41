"""Weights from a file into a network, for every loader: what the file holds, whose names it uses, and whether it fits.

A file is believed in this order: its form (integrity.py), the names and shapes that it lists, and only then the config
beside it, of which a network without memory is made to compare. Values come last: a file that does not fit costs no
more memory than its list of names. Tensors are mapped from the file until they are copied into a network.
"""

from __future__ import annotations

import argparse
import pickle
import re
import threading
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glasslib.weights.integrity import ZIP, check_whole

WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # under which training scripts keep a state dict
PREFIXES = ("module.", "model.")  # of DataParallel, and of Lightning and the like
COMPILED = "_orig_mod."  # of torch.compile, wherever it stands
# causal masks that older versions of transformers kept among GPT-2's weights
MASK_BUFFERS = re.compile(r"(^|\.)h\.\d+\.attn\.(bias|masked_bias)$")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_LEGACY_BYTES = 2**30  # torch's format before 1.6 cannot be mapped; the largest of ours has 0.24 GB
SPARE = 1_000_000  # numbers that a model may have and its file not: what its code computes
MAX_BUFFER_BYTES = 2**30  # that a network keeps beside its weights, such as masks
MODULES_PER_TENSOR = 10  # a network has fewer, and a config that asks for more is refused before it is built


def read_state(path: str | Path, *, missing: str, advice: str, part: str | None = None) -> dict[str, Tensor]:
    """Read a state dict from .safetensors, or from what torch.save wrote, without running code.

    Args:
        path, missing, advice: as for `integrity.check_whole`.
        part: the key of the state dict that is meant in a file of several; {} if it is not there.

    Returns:
        Names -> tensors, under the file's names without what wrappers add, mapped from the file: copy what is kept.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, a bomb, or one that holds no state dict.
    """
    path = check_whole(path, missing=missing, advice=advice)
    try:
        loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
        if part is not None:
            loaded = loaded.get(part) if isinstance(loaded, Mapping) else None
            if loaded is None:
                return {}
        state = unwrapped(loaded)
        _check_storages(state, path.stat().st_size)
    except ValueError as error:
        raise ValueError(f"{path} {error}; {advice}") from error
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return _renamed({key: file.get_tensor(key) for key in file.keys()})
    except (safetensors.SafetensorError, AttributeError, TypeError, RuntimeError) as error:
        raise ValueError(f"must be a whole safetensors file: {error!s:.200}") from error


def _read_torch(path: Path) -> Any:
    """What torch.save wrote, of tensors and plain values only."""
    with open(path, "rb") as file:
        is_zip = file.read(4) == ZIP
    if is_zip:
        _check_zip(path)
    elif (n_bytes := path.stat().st_size) > MAX_LEGACY_BYTES:
        raise ValueError(f"is of torch's old format and must have at most {MAX_LEGACY_BYTES:,} bytes, got {n_bytes:,}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the script's arguments, plain data
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except (pickle.UnpicklingError, RuntimeError, EOFError, RecursionError, MemoryError) as error:
        named = re.search(r"GLOBAL (\S+)", str(error))  # what a file asked for that is no tensor
        reason = f"it names {named[1]:.80}" if named else str(error).split("\n")[0]
        raise ValueError(f"must be a complete PyTorch file that holds nothing but tensors: {reason:.200}") from error
    except (AttributeError, IndexError, KeyError, OSError, TypeError, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"must be a complete PyTorch file, and is damaged: {type(error).__name__}") from error


def _check_zip(path: Path) -> None:
    """Refuse an archive that unpacks to more than it has: torch stores, and never compresses."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ValueError(f"must be a complete PyTorch file (a zip archive), and is a piece of one: {error}") from error
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("must be a PyTorch file, and is a compressed zip archive; unpack it first")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise ValueError("is a bomb: its entries overlap")


def unwrapped(loaded: Any) -> dict[str, Tensor]:
    """The state dict in what a training script saved; ValueError in words that follow the name of the file."""
    while isinstance(loaded, Mapping) and not _is_state(loaded):
        inner = [loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            break
        loaded = inner[0]
    if not isinstance(loaded, Mapping) or not _is_state(loaded):
        found = f"the keys {', '.join(map(str, list(loaded)[:5]))}" if isinstance(loaded, Mapping) else ""
        raise ValueError(
            f"must hold a state dict (names -> tensors), or one under {', '.join(WRAPPERS)}; got "
            f"{found or type(loaded).__name__:.80}"
        )
    return _renamed(loaded)


def _is_state(value: Mapping) -> bool:
    return bool(value) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.replace(COMPILED, ""): value for key, value in state.items()}


def _check_storages(state: Mapping[str, Tensor], n_bytes: int) -> None:
    """Refuse tensors that read one place several times: a kilobyte could become a terabyte."""
    total = 0
    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized:
            raise ValueError(f"must hold plain tensors, and {name[:60]} is of layout {value.layout}")
        size = value.numel() * value.element_size()
        total += size
        if size > value.untyped_storage().nbytes() or total > 4 * n_bytes:
            raise ValueError(f"is a bomb: {name[:60]} has {tuple(value.shape)} values in a file of {n_bytes:,} bytes")


def built(make: Callable[[], nn.Module], state: Mapping[str, Tensor], *, config: str) -> nn.Module:
    """Make a network without memory, and no more of it than `state` could fill.

    Args:
        make: builds the network from its config.
        state: the weights beside the config.
        config: the name of where the config stands, for messages.

    Raises:
        ValueError: a config that no network can be built of, or one of far more modules than there are weights.
    """
    most, thread, n_modules = 1000 + MODULES_PER_TENSOR * len(state), threading.get_ident(), 0

    def count(*_) -> None:
        nonlocal n_modules
        n_modules += threading.get_ident() == thread
        if n_modules > most:
            raise ValueError(f"it asks for more than {most} modules, and there are {len(state)} weights")

    hook = nn.modules.module.register_module_module_registration_hook(count)
    try:
        with torch.device("meta"):
            network = make()
        n_bytes = sum(buffer.numel() * buffer.element_size() for buffer in network.buffers())
        if n_bytes > MAX_BUFFER_BYTES + sum(value.numel() * value.element_size() for value in state.values()):
            raise ValueError(f"it asks for {n_bytes:,} bytes beside its weights")
        return network
    except Exception as error:  # a foreign config reaches into other libraries, which raise what they like
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{config} must describe a network that fits the weights: {reason:.300}") from error
    finally:
        hook.remove()


def fitted(
    state: Mapping[str, Tensor], network: nn.Module, *, path: str | Path, advice: str, ignored: Collection[str] = ()
) -> dict[str, Tensor]:
    """Give a file's weights the names of a network, after checking that they fill it and are numbers.

    A prefix that all names share and the network's do not is taken off ("module.", "model."). A weight that the network
    has twice ("tied") may stand in the file once.

    Args:
        state: as `read_state` gives it.
        network: built with any device; only its names and shapes are read.
        path, advice: for messages.
        ignored: names that may be missing.

    Returns:
        The network's names -> tensors of its types, for `load_state_dict(..., assign=True)`; copies.

    Raises:
        ValueError: names, shapes or types that differ, tied weights that differ, or weights that are not finite.
    """
    wanted = network.state_dict(keep_vars=True)
    state = without_prefix(state, wanted)
    _fill_tied(state, network, path)
    state = {key: value for key, value in state.items() if key in wanted or key not in ignored}
    if problems := mismatch(state, {key: value for key, value in wanted.items() if key not in ignored or key in state}):
        raise ValueError(f"{path} is of another architecture: {problems}; {advice}")
    copies: dict[int, Tensor] = {}
    for name, value in state.items():
        check_numbers(name, value, wanted[name].dtype, path=path, advice=advice)
        shared = id(wanted[name])  # tied weights stay one
        if shared not in copies:
            copies[shared] = value.to(wanted[name].dtype, copy=True).contiguous()
    return {name: copies[id(wanted[name])] for name in state}


def without_prefix(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state under the names of `wanted`: each prefix that all names have is tried off."""
    best = current = dict(state)
    while prefix := next((p for p in PREFIXES if current and all(key.startswith(p) for key in current)), None):
        current = {key.removeprefix(prefix): value for key, value in current.items()}
        if len(current.keys() & wanted.keys()) > len(best.keys() & wanted.keys()):
            best = current
    return dict(best)


def _fill_tied(state: dict[str, Tensor], network: nn.Module, path: str | Path) -> None:
    """Add the weights that the network shares under another name; refuse two values for one."""
    groups: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    for names in groups.values():
        there = [name for name in names if name in state]
        if not there:
            continue
        first = state[there[0]]
        for name in there[1:]:
            if not (state[name].shape == first.shape and torch.equal(state[name], first)):
                raise ValueError(
                    f"{path} holds two values for one weight, {there[0]} and {name}, which this network shares; "
                    "build the network with the two apart"
                )
        state.update({name: first for name in names})


def check_numbers(name: str, value: Tensor, dtype: torch.dtype, *, path: str | Path, advice: str) -> None:
    """Refuse a weight of a type that `dtype` does not stand for, or with a value that is not finite in it."""
    accepted = FLOATS if dtype.is_floating_point else (dtype, torch.int64, torch.int32)
    if value.dtype not in accepted:
        kinds = ", ".join(str(kind).removeprefix("torch.") for kind in dict.fromkeys(accepted))
        raise ValueError(f"{path}: {name} must be of type {kinds}, got {value.dtype}; {advice}")
    if dtype.is_floating_point and (n_bad := int((~torch.isfinite(value.to(dtype))).sum())):
        raise ValueError(f"{path}: {name} must be finite, got {n_bad} NaN or infinite of {value.numel()}; {advice}")


def check_finite(state: Mapping[str, Tensor], *, path: str | Path, advice: str) -> None:
    """Refuse floating-point weights that are not finite, for loaders whose names another library maps."""
    for name, value in state.items():
        check_numbers(name, value, torch.float32 if value.dtype in FLOATS else value.dtype, path=path, advice=advice)


def mismatch(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What keeps `state` from filling `wanted`, "" if nothing does."""
    problems = []
    for what, names in (("lacks", wanted.keys() - state.keys()), ("has besides", state.keys() - wanted.keys())):
        if names:
            problems.append(f"it {what} {len(names)} weights, first {min(names)[:80]}")
    shapes = [name for name in sorted(state.keys() & wanted.keys()) if state[name].shape != wanted[name].shape]
    if shapes:
        pair = f"{tuple(state[shapes[0]].shape)} for {tuple(wanted[shapes[0]].shape)}"
        problems.append(f"{len(shapes)} of other shapes, first {shapes[0]} {pair}")
    return "; ".join(problems)


def n_values(tensors: Iterable[Tensor]) -> int:
    """How many numbers distinct tensors hold together."""
    return sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in tensors}.values())
