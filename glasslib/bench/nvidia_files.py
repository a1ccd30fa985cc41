"""Writes StyleGAN2 files in NVIDIA's two formats, for `files.refused`, `parity.stylegan2_tf` and the tests.

The classes that a genuine file names (torch_utils.persistence, dnnlib) are stood in for by empty modules while a file
is written; the reader under test never sees them.
"""

import contextlib
import io
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glasslib.generators.stylegan2.networks import Discriminator, GeneratorNetwork

TINY = {
    "generator": {
        "z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "img_channels": 3,
        "mapping_kwargs": {"num_layers": 2}, "synthesis_kwargs": {"channel_base": 64, "channel_max": 8},
    },
    "discriminator": {"c_dim": 0, "img_resolution": 16, "img_channels": 3, "channel_base": 64, "channel_max": 8},
}  # fmt: skip
CLASS_NAMES = {GeneratorNetwork: "Generator", Discriminator: "Discriminator"}
# As in a genuine file, executing it would do something: here it leaves a canary.
MODULE_SRC = "open({canary!r}, 'w').close()\nclass Generator: pass\nclass Discriminator: pass\n"


class EasyDict(dict):
    """Stands for dnnlib.util.EasyDict."""


class Network:
    """Stands for dnnlib.tflib.network.Network."""

    def __init__(self, state: dict) -> None:
        self.state = state

    def __getstate__(self) -> dict:
        return self.state


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the reader called a function that the file names")


EasyDict.__module__, Network.__module__ = "dnnlib.util", "dnnlib.tflib.network"
_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


@contextlib.contextmanager
def nvidia_modules() -> Iterator[None]:
    """Make the names that NVIDIA's files contain importable, for writing only."""
    found = {
        "dnnlib": {}, "dnnlib.util": {"EasyDict": EasyDict}, "dnnlib.tflib": {},
        "dnnlib.tflib.network": {"Network": Network}, "torch_utils": {},
        "torch_utils.persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
    }  # fmt: skip
    for name, members in found.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)
    try:
        yield
    finally:
        for name in found:
            del sys.modules[name]


class TorchPickler(pickle.Pickler):
    """Writes modules as torch_utils.persistence does: source text, class name, and the module's whole state."""

    def __init__(self, stream, protocol: int, module_src: str) -> None:
        super().__init__(stream, protocol)
        self.module_src = module_src

    def reducer_override(self, value):
        if not isinstance(value, nn.Module):
            return NotImplemented
        state = dict(value.__dict__) | {"_init_args": (), "_init_kwargs": EasyDict()}
        state["weight_gain"] = np.float64(0.5)  # NVIDIA's layers keep such numbers
        state |= getattr(value, "pickled_state", {})
        state.pop("pickled_state", None)
        meta = {
            "type": "class", "version": 6, "module_src": self.module_src,
            "class_name": CLASS_NAMES.get(type(value), type(value).__name__), "state": state,
        } | getattr(value, "pickled_meta", {})  # fmt: skip
        return _reconstruct_persistent_obj, (meta,), None


def easy(value):
    """Dicts as EasyDicts, at every depth."""
    return EasyDict({k: easy(v) for k, v in value.items()}) if isinstance(value, dict) else value


def torch_file(data: dict, *, canary: Path, protocol: int = 4) -> bytes:
    """Write what StyleGAN2-ADA's training loop writes; protocol 3 as on Python 3.7, with NumPy 1's names."""
    stream = io.BytesIO()
    with nvidia_modules():
        TorchPickler(stream, protocol, MODULE_SRC.format(canary=str(canary))).dump(data)
    content = stream.getvalue()
    return content.replace(b"cnumpy._core.", b"cnumpy.core.") if protocol == 3 else content


def torch_networks(config: dict = TINY, seed: int = 0) -> dict[str, nn.Module]:
    """Networks with random weights, each knowing the arguments that its file will say."""
    torch.manual_seed(seed)
    networks = {"G": GeneratorNetwork(**config["generator"]), "D": Discriminator(**config["discriminator"])}
    networks["G_ema"] = GeneratorNetwork(**config["generator"])
    for name, network in networks.items():
        arguments = config["discriminator" if name == "D" else "generator"]
        network.pickled_state = {"_init_kwargs": easy(arguments)}
        network.eval().requires_grad_(False)
    return networks


def torch_data(**changes) -> dict:
    """The dict of a genuine file."""
    augment = nn.Module()
    augment.register_buffer("p", torch.ones([]))
    training_set = {"class_name": "training.dataset.ImageFolderDataset", "path": "ffhq.zip", "xflip": True}
    return {"training_set_kwargs": training_set, **torch_networks(), "augment_pipe": augment} | changes


def tensorflow_file(variables: dict[str, Tensor], facts: dict, *, canary: Path, protocol: int = 4) -> bytes:
    """Write the tuple (G, D, Gs) of StyleGAN2's TensorFlow code. `variables` carry "G/" or "D/" in front."""

    def network(prefix: str, kwargs: dict, components: dict) -> Network:
        own = [
            (name.removeprefix(prefix), value.numpy())
            for name, value in variables.items()
            if name.startswith(prefix) and not any(name.startswith(f"{prefix}{c}/") for c in components)
        ]
        # Scalars leave a TensorFlow session as NumPy scalars.
        own = [(name, np.float32(a.item()) if name.endswith("noise_strength") else a) for name, a in own]
        return Network({
            "version": facts["version"], "name": prefix[0], "static_kwargs": kwargs, "components": components,
            "build_module_src": MODULE_SRC.format(canary=str(canary)), "build_func_name": "G_main", "variables": own,
        })  # fmt: skip

    def generator() -> Network:
        parts = {part: network(f"G/{part}/", facts["G"]["static_kwargs"], {}) for part in ("synthesis", "mapping")}
        made = network("G/", facts["G"]["static_kwargs"], parts)
        made.state["variables"].append(("lod", np.float32(0)))
        return made

    with nvidia_modules():
        trio = (generator(), network("D/", facts["D"]["static_kwargs"], {}), generator())
        return pickle.dumps(trio, protocol=protocol)
