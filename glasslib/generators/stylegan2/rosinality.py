"""Checkpoints of rosinality's stylegan2-pytorch (.pt with g_ema, g and d), under our names and with our networks.

Source: https://github.com/rosinality/stylegan2-pytorch, model.py (names and shapes) and train.py (what is saved).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from glasslib.generators.stylegan2.generator import filled
from glasslib.generators.stylegan2.layers import fir_filter
from glasslib.generators.stylegan2.networks import Discriminator, GeneratorNetwork
from glasslib.weights.states import built, read_state

N_MEAN = 4096  # styles that its own generate.py averages for the truncation
ADVICE = "it must be a checkpoint of rosinality's stylegan2-pytorch, with g_ema (and g and d); download it again"
LAYER = {"conv.weight": "weight", "conv.modulation.weight": "affine.weight", "conv.modulation.bias": "affine.bias",
         "noise.weight": "noise_strength", "activate.bias": "bias", "bias": "bias"}  # fmt: skip
DISCRIMINATOR = {  # of a residual block
    "conv1.0.weight": "conv0.weight", "conv1.1.bias": "conv0.bias", "conv2.1.weight": "conv1.weight",
    "conv2.2.bias": "conv1.bias", "skip.1.weight": "skip.weight",
}  # fmt: skip
ENDS = {  # of the discriminator
    "convs.0.0.weight": "fromrgb.weight", "convs.0.1.bias": "fromrgb.bias", "final_conv.0.weight": "b4.conv.weight",
    "final_conv.1.bias": "b4.conv.bias", "final_linear.0.weight": "b4.fc.weight", "final_linear.0.bias": "b4.fc.bias",
    "final_linear.1.weight": "b4.out.weight", "final_linear.1.bias": "b4.out.bias",
}  # fmt: skip


def read_parts(path: Path) -> dict[str, Any]:
    """Read a checkpoint into the fields of `snapshots.StyleGAN2Networks`; "G" and "D" are None where it lacks them.

    The average style of the truncation is the mean of N_MEAN styles of a fixed draw: the files do not keep one.

    Raises:
        FileNotFoundError, ValueError: as `weights.states.read_state`; no g_ema, or weights of another architecture.
    """
    words = {"missing": "see the repository's README for where its checkpoints are", "advice": ADVICE}
    states = {name: read_state(path, part=key, **words) for name, key in (("G_ema", "g_ema"), ("G", "g"), ("D", "d"))}
    if not states["G_ema"]:
        raise ValueError(f"{path} has no g_ema; {ADVICE}")
    found: dict[str, Any] = {"G": None, "D": None, "config": {"generator": None, "discriminator": None}}
    try:
        for name in ("G_ema", "G"):
            if states[name]:
                before = found["config"]["generator"]
                found[name], found["config"]["generator"] = _generator(states[name], path, name)
                if before not in (None, found["config"]["generator"]):
                    raise ValueError(f"{path}: its g and g_ema are of different architectures; {ADVICE}")
        size = found["G_ema"].img_resolution
        if states["D"]:
            found["D"], found["config"]["discriminator"] = _discriminator(states["D"], size, path)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} lacks what a StyleGAN2 has ({error!s:.80}); {ADVICE}") from error
    return found


def _filled(network: type[nn.Module], config: dict, state: dict[str, Tensor], path: Path, name: str) -> nn.Module:
    """The network with these weights and our filters, which it keeps in every layer that smooths."""
    where = f"{name} of {path}"
    empty = built(lambda: network(**config), state, config=where)
    filters = {key: fir_filter() for key in empty.state_dict() if key.endswith("resample_filter")}
    return filled(network, config, state | filters, path=path, config=where).eval().requires_grad_(False)


def _generator(state: dict[str, Tensor], path: Path, name: str) -> tuple[GeneratorNetwork, dict]:
    n_layers = sum(bool(re.fullmatch(r"style\.\d+\.weight", key)) for key in state)
    n_doublings = sum(bool(re.fullmatch(r"to_rgbs\.\d+\.bias", key)) for key in state)
    size, style = 2 ** (2 + n_doublings), state["style.1.weight"]
    last = state[f"convs.{2 * n_doublings - 1}.conv.weight"] if n_doublings else state["conv1.conv.weight"]
    widths = {"channel_base": last.shape[1] * size, "channel_max": state["input.input"].shape[1]}
    config = {
        "z_dim": style.shape[1], "c_dim": 0, "w_dim": style.shape[0], "img_resolution": size, "img_channels": 3,
        "mapping_kwargs": {"num_layers": n_layers}, "synthesis_kwargs": widths,
    }  # fmt: skip
    renamed = {"mapping.w_avg": torch.zeros(style.shape[0])}
    for key, value in state.items():
        if new := _generator_name(key, value, path):
            renamed[new[0]] = new[1]
    network = _filled(GeneratorNetwork, config, renamed, path, name)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network.mapping.w_avg.copy_(network.mapping(torch.randn(N_MEAN, style.shape[1], generator=rng)).mean(dim=0))
    return network, config


def _generator_name(key: str, value: Tensor, path: Path) -> tuple[str, Tensor] | None:
    """Our name and layout of a generator's weight; None for a filter, which must be ours."""
    if key.endswith(".kernel"):
        return _check_filter(key, value, path)
    if found := re.fullmatch(r"style\.(\d+)\.(weight|bias)", key):
        return f"mapping.fc{int(found[1]) - 1}.{found[2]}", value
    if key == "input.input":
        return "synthesis.b4.const", value[0]
    if found := re.fullmatch(r"noises\.noise_(\d+)", key):
        number = int(found[1])  # 0 at 4x4, then two at each size
        return f"synthesis.b{2 ** ((number + 5) // 2)}.conv{1 - number % 2}.noise_const", value[0, 0]
    found = re.fullmatch(r"(conv1|to_rgb1|convs\.(\d+)|to_rgbs\.(\d+))\.(.+)", key)
    if not found or found[4] not in LAYER:
        raise ValueError(f"{path} has the weight {key[:80]}, which its generator does not; {ADVICE}")
    leaf = LAYER[found[4]]
    if found[2]:
        layer = f"b{2 ** (int(found[2]) // 2 + 3)}.conv{int(found[2]) % 2}"
    elif found[3]:
        layer = f"b{2 ** (int(found[3]) + 3)}.torgb"
    else:
        layer = "b4.conv1" if found[1] == "conv1" else "b4.torgb"
    shaped = {"weight": lambda: value[0], "bias": lambda: value.flatten(), "noise_strength": lambda: value.reshape(())}
    return f"synthesis.{layer}.{leaf}", shaped.get(leaf, lambda: value)()


def _discriminator(state: dict[str, Tensor], size: int, path: Path) -> tuple[Discriminator, dict]:
    first = state["final_conv.0.weight"].shape[0]
    widths = {"channel_base": state["convs.0.0.weight"].shape[0] * size, "channel_max": first}
    config = {"c_dim": 0, "img_resolution": size, "img_channels": 3, **widths}
    renamed = {}
    for key, value in state.items():
        if key.endswith(".kernel"):
            _check_filter(key, value, path)
            continue
        found = re.fullmatch(r"convs\.([1-9]\d?)\.(.+)", key)
        if found and found[2] in DISCRIMINATOR:
            renamed[f"b{size >> (int(found[1]) - 1)}.{DISCRIMINATOR[found[2]]}"] = value
        elif key in ENDS:
            renamed[ENDS[key] if ENDS[key].startswith("b4") else f"b{size}.{ENDS[key]}"] = value
        else:
            raise ValueError(f"{path} has the weight {key[:80]}, which its discriminator does not; {ADVICE}")
    return _filled(Discriminator, config, renamed, path, "D"), config


def _check_filter(key: str, value: Tensor, path: Path) -> None:
    """Refuse another low-pass filter than ours; where a layer doubles the size it is stored four times as large."""
    if value.shape != (4, 4) or not torch.allclose(value.float() / value.float().sum(), fir_filter(), atol=1e-5):
        raise ValueError(f"{path} must have the filter [1, 3, 3, 1], got another at {key[:80]}; {ADVICE}")
