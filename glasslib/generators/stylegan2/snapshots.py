"""StyleGAN2 files of others, read without running the code inside them, and turned into safetensors once.

    python -m glasslib.generators.stylegan2.snapshots in.pkl out.safetensors

NVIDIA's .pkl of three repositories: stylegan2 (TensorFlow), stylegan2-ada-pytorch, and stylegan3 where it trains a
StyleGAN2; and the .pt of rosinality's stylegan2-pytorch (rosinality.py). A .pkl for PyTorch holds the source code of
its classes and asks for it to be executed; one for TensorFlow does the same with its build function. Only the arguments
and the weights are read here (safe_pickle.py). What comes out is one safetensors file with the three networks, so that
one hash covers them and they cannot be mixed with those of another file; it is read in parts, so the networks not asked
for cost nothing.

Source: Karras et al. 2020, https://github.com/NVlabs/stylegan2-ada-pytorch (torch_utils/persistence.py, legacy.py).
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from glasslib.generators.stylegan2 import rosinality
from glasslib.generators.stylegan2.arguments import (
    TENSORFLOW_VERSIONS,
    discriminator_config,
    generator_config,
    is_of_stylegan3,
    short,
    tensorflow_discriminator_config,
    tensorflow_generator_config,
)
from glasslib.generators.stylegan2.arrays import ARRAY_NAMES, TENSOR_NAMES, from_tensorflow, numpy_array, torch_array
from glasslib.generators.stylegan2.generator import StyleGAN2Generator, pack_networks, with_drawn_head
from glasslib.generators.stylegan2.layers import fir_filter
from glasslib.generators.stylegan2.networks import Discriminator, GeneratorNetwork
from glasslib.generators.stylegan2.safe_pickle import Record, Refused, read_plain
from glasslib.weights.integrity import ZIP, fault

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
PERSISTENCE_VERSION = 6
TENSORFLOW = "dnnlib.tflib.network.Network"
ALLOWED = TENSOR_NAMES | ARRAY_NAMES | {PERSISTENT, TENSORFLOW, "dnnlib.util.EasyDict", "builtins.set"}
CLASSES = {"G": "Generator", "G_ema": "Generator", "D": "Discriminator"}
MAX_BYTES = 2**29  # the largest released file has 0.4 GB

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class StyleGAN2Networks:
    """What a file holds.

    Attributes:
        G: the generator as trained, which CLIP-GLaSS used; None where a .pt was written without it.
        G_ema: its running average, which gives better pictures.
        D: the discriminator; None as for G.
        config: {"generator": ..., "discriminator": ...}, the arguments of our networks.
    """

    G: GeneratorNetwork | None
    G_ema: GeneratorNetwork
    D: Discriminator | None
    config: dict

    def generator(
        self, *, which: str = "G_ema", head_rng: torch.Generator | None = None, **options
    ) -> StyleGAN2Generator:
        """Wrap "G" or "G_ema" and the discriminator.

        Args:
            which: "G" or "G_ema".
            head_rng: draws the discriminator's last two layers anew, as CLIP-GLaSS did (`with_drawn_head`); None keeps
                the file's.
            options: those of StyleGAN2Generator.
        """
        if which not in ("G", "G_ema"):
            raise ValueError(f"which must be 'G' or 'G_ema', got {which!r}")
        if getattr(self, which) is None:
            raise ValueError("this file holds no raw generator; use which='G_ema'")
        if head_rng is not None and self.D is None:
            raise ValueError("head_rng needs a discriminator, and this file holds none")
        discriminator = self.D if head_rng is None else with_drawn_head(self.D, rng=head_rng)
        return StyleGAN2Generator(getattr(self, which), discriminator, config=self.config, **options)


def read_networks(path: str | Path) -> StyleGAN2Networks:
    """Read a .pkl of NVIDIA's: PyTorch's, or TensorFlow's of configs E and F without labels; or rosinality's .pt.

    Args:
        path: read in parts. A .pkl is never unpickled by Python or torch, a .pt only as tensors.

    Returns:
        Networks in float32 on the CPU, for inference.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged or malicious file, another kind of file, another architecture, a missing network, a wrong
            shape, or weights that are not finite. The message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no StyleGAN2 file at {path}; run: make weights")
    if path.suffix in (".pt", ".pth"):
        return StyleGAN2Networks(**rosinality.read_parts(path))
    try:
        return _networks(_records(path))
    except Refused as reason:
        raise ValueError(
            f"{path} is refused: {reason}. Nothing in it was run; fetch a whole StyleGAN2 file"
        ) from reason


def convert(source: str | Path, target: str | Path) -> None:
    """Write the networks of a .pkl as what `StyleGAN2Generator.load` reads.

    Args:
        source: for `read_networks`.
        target: a file that ends in .safetensors; written whole or not at all.

    Raises:
        FileNotFoundError, ValueError: as `read_networks`; or `target` has another ending.
    """
    if Path(target).suffix != ".safetensors":
        raise ValueError(f"the target must end in .safetensors, got {target}")
    networks = read_networks(source)
    if missing := [name for name in CLASSES if getattr(networks, name) is None]:
        raise ValueError(f"{source} must hold G, D and G_ema to be converted, and lacks {', '.join(missing)}")
    pack_networks(Path(target), {name: getattr(networks, name) for name in CLASSES}, config=networks.config)


def _records(path: Path) -> Any:
    n_bytes = path.stat().st_size
    if not 0 < n_bytes <= MAX_BYTES:
        raise Refused(f"it must have 1 to {MAX_BYTES} bytes, got {n_bytes}")
    if wrong := fault(path, suffix=""):
        raise Refused(f"it is {wrong}")
    with open(path, "rb") as file:
        if file.read(4) == ZIP:
            raise Refused("it is a zip archive, as torch.save writes: rename it to .pt if it is rosinality's")
        file.seek(0)
        return read_plain(file, ALLOWED)


def _networks(data: Any) -> StyleGAN2Networks:
    if type(data) is tuple and len(data) == 3:
        found = {name: _from_tensorflow(record, name) for name, record in zip(("G", "D", "G_ema"), data, strict=True)}
    elif type(data) is dict:
        missing = [name for name in CLASSES if data.get(name) is None]
        if missing:
            raise Refused(f"it has no {', '.join(missing)}; a StyleGAN2 file holds G, D and G_ema")
        of_stylegan3 = is_of_stylegan3(_persistent(data["G_ema"], "G_ema")[1].get("_init_kwargs"))
        found = {name: _from_torch(data[name], name, of_stylegan3=of_stylegan3) for name in CLASSES}
    else:
        raise Refused(f"it must hold a dict or a tuple of three networks, got {short(data)}")
    if found["G"][0] != found["G_ema"][0]:
        raise Refused("its G and G_ema are of different architectures")
    if any(found["D"][0][key] != found["G"][0][key] for key in ("img_resolution", "c_dim")):
        raise Refused("its G and D are for different image sizes or labels")
    return StyleGAN2Networks(
        G=_fill(GeneratorNetwork, *found["G"], name="G"),
        G_ema=_fill(GeneratorNetwork, *found["G_ema"], name="G_ema"),
        D=_fill(Discriminator, *found["D"], name="D"),
        config={"generator": found["G"][0], "discriminator": found["D"][0]},
    )


def _from_torch(record: Any, name: str, *, of_stylegan3: bool) -> tuple[dict, Weights]:
    """Give the arguments and the state dict of a network of StyleGAN2-ADA (PyTorch) or stylegan3."""
    class_name, state = _persistent(record, name)
    if class_name != CLASSES[name]:
        raise Refused(f"its {name} must be a {CLASSES[name]}, got a {class_name[:60]!r}")
    synthesis = state.get("_modules", {}).get("synthesis") if type(state.get("_modules")) is dict else None
    if synthesis is not None and "input" in (_persistent(synthesis, name)[1].get("_modules") or ()):
        raise Refused("it is a StyleGAN3 (its synthesis has an input layer), and only StyleGAN2 is read")
    if state.get("_init_args") != ():
        raise Refused(f"its {name} must have been made by named arguments")
    kwargs = state.get("_init_kwargs")
    config = discriminator_config(kwargs, of_stylegan3=of_stylegan3) if name == "D" else generator_config(kwargs)
    weights: Weights = {}
    _collect(state, name, "", weights)
    return config, weights


def _persistent(record: Any, where: str) -> tuple[str, dict]:
    """Give the class name and the state of a persistent object; its module_src is left alone."""
    meta = record.args[0] if type(record) is Record and record.name == PERSISTENT and len(record.args) == 1 else None
    if type(meta) is not dict or meta.get("type") != "class" or meta.get("version") != PERSISTENCE_VERSION:
        raise Refused(f"its {where} must be a network saved by torch_utils.persistence, version {PERSISTENCE_VERSION}")
    if type(meta.get("class_name")) is not str or type(meta.get("state")) is not dict:
        raise Refused(f"its {where} must have a class name and a state")
    return meta["class_name"], meta["state"]


def _collect(state: dict, network: str, prefix: str, weights: Weights) -> None:
    """Add a module's parameters and buffers, and those of the modules in it, to `weights`."""
    for kind in ("_parameters", "_buffers", "_modules"):
        if type(state.get(kind)) is not dict:
            raise Refused(f"its {network} must have {kind} in {prefix or 'the network'}")
    for kind in ("_parameters", "_buffers"):
        for key, record in state[kind].items():
            if record is not None:
                weights[prefix + key] = torch_array(record, f"{network}'s {prefix}{key[:60]}")
    for key, module in state["_modules"].items():
        if module is not None:
            inner = f"{prefix}{key[:60]}"
            _collect(_persistent(module, f"{network}'s {inner}")[1], network, f"{inner}.", weights)


def _from_tensorflow(record: Any, name: str) -> tuple[dict, Weights]:
    """Give the arguments and the state dict of a dnnlib.tflib Network, in our names and layout."""
    state = _tensorflow_state(record, name)
    if type(state.get("version")) is not int or state["version"] not in TENSORFLOW_VERSIONS:
        raise Refused(f"its {name} must be of format 4 or 5, got {short(state.get('version'))}")
    if name == "D":
        config = tensorflow_discriminator_config(state.get("static_kwargs"), version=state["version"])
    else:
        config = tensorflow_generator_config(state.get("static_kwargs"))
    weights: Weights = {}
    _collect_variables(state, name, "", weights)
    network = _empty(Discriminator if name == "D" else GeneratorNetwork, config)
    filters = [key for key in network.state_dict() if key.endswith("resample_filter")]
    return config, weights | {key: fir_filter().numpy() for key in filters}  # TensorFlow keeps it in its code


def _tensorflow_state(record: Any, where: str) -> dict:
    if type(record) is not Record or record.name != TENSORFLOW or type(record.state) is not dict:
        raise Refused(f"its {where} must be a {TENSORFLOW} with a state")
    return record.state


def _collect_variables(state: dict, network: str, prefix: str, weights: Weights) -> None:
    variables, components = state.get("variables"), state.get("components", {})
    if type(variables) is not list or type(components) is not dict:
        raise Refused(f"its {network} must have a list of variables and a dict of components")
    for pair in variables:
        if type(pair) is not tuple or len(pair) != 2 or type(pair[0]) is not str:
            raise Refused(f"its {network} must have variables as pairs of name and array")
        what = prefix + pair[0][:100]
        converted = from_tensorflow(what, numpy_array(pair[1], f"{network}'s {what}"))
        if converted is not None:
            weights[converted[0]] = converted[1]
    for name, component in components.items():
        inner = prefix + name[:60]
        _collect_variables(_tensorflow_state(component, f"{network}'s {inner}"), network, f"{inner}/", weights)


def _empty(network: Callable[..., nn.Module], config: dict) -> nn.Module:
    """Give a network that has shapes but no memory: a file cannot ask for more than it brings."""
    with torch.device("meta"):
        return network(**config)


def _fill(network: Callable[..., nn.Module], config: dict, weights: Weights, *, name: str) -> nn.Module:
    """Give the network its weights after checking that all are there, of the right shape and finite."""
    built = _empty(network, config)
    wanted = {key: tuple(value.shape) for key, value in built.state_dict().items()}
    for problem, keys in (("lacks", wanted.keys() - weights.keys()), ("has unknown", weights.keys() - wanted.keys())):
        if keys:
            raise Refused(f"its {name} {problem} weights: {len(keys)}, first {min(keys)}")
    for key, shape in wanted.items():
        if weights[key].shape != shape:
            raise Refused(f"its {name}'s {key} must have shape {shape}, got {weights[key].shape}")
        n_bad = int((~np.isfinite(weights[key])).sum())
        if n_bad:
            raise Refused(f"its {name}'s {key} must be finite, got {n_bad} NaN or infinite of {weights[key].size}")
    tensors = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in weights.items()}
    built.load_state_dict({key: value.reshape(wanted[key]) for key, value in tensors.items()}, assign=True)
    return built.eval().requires_grad_(False)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m glasslib.generators.stylegan2.snapshots in.pkl out.safetensors")
    try:
        convert(*sys.argv[1:])
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
