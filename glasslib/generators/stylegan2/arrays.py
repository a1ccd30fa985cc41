"""Arrays from the records of a StyleGAN2 pickle: PyTorch's tensors, NumPy's arrays, TensorFlow's names and layout."""

import io
import math
import re
import struct
from typing import Any

import numpy as np

from glasslib.generators.stylegan2.arguments import short
from glasslib.generators.stylegan2.safe_pickle import Name, Record, Refused, read_plain

# torch.save before version 1.6, which torch still uses for a storage inside a plain pickle.
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001
STORAGES = {"torch.FloatStorage": "<f4", "torch.HalfStorage": "<f2", "torch.DoubleStorage": "<f8"}
NUMPY_TYPES = ("f2", "f4", "f8")
NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and after NumPy 2
TENSOR_NAMES = {
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.storage._load_from_bytes",
}
ARRAY_NAMES = {"numpy.ndarray", "numpy.dtype"} | {f"{m}.{f}" for m in NUMPY_MODULES for f in ("_reconstruct", "scalar")}


def torch_array(record: Any, what: str) -> np.ndarray:
    """Give the float32 values of a pickled tensor or parameter."""
    if _is_record(record, "torch._utils._rebuild_parameter", n_args=3):
        record = record.args[0]
    if not _is_record(record, "torch._utils._rebuild_tensor_v2", n_args=6):
        raise Refused(f"{what} must be a tensor, got {_kind(record)}")
    storage, offset, shape, strides = record.args[:4]
    values = _storage(storage, what)
    if not (_are_sizes(shape) and _are_sizes(strides) and len(shape) == len(strides) and _are_sizes((offset,))):
        raise Refused(f"{what} must have whole numbers as offset, shape and strides")
    n_values = math.prod(shape)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if n_values == 0 or n_values > len(values) or last >= len(values):
        raise Refused(f"{what} reads {n_values} values up to number {last} from a storage of {len(values)}")
    if not _are_apart(shape, strides):
        raise Refused(f"{what} must have its values apart; with strides {strides} some of {shape} share a place")
    steps = [stride * values.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(values[offset:], shape, steps, writeable=False).astype(np.float32)


def _are_apart(shape: tuple, strides: tuple) -> bool:
    """Whether each value has a place of its own: from the smallest stride on, each passes over what lies below it."""
    reach = 0
    for stride, length in sorted((stride, length) for length, stride in zip(shape, strides, strict=True) if length > 1):
        if stride <= reach:
            return False
        reach += (length - 1) * stride
    return True


def _storage(record: Any, what: str) -> np.ndarray:
    """Read the nested stream: five small pickles, the number of values, and the values."""
    if not _is_record(record, "torch.storage._load_from_bytes", n_args=1) or type(record.args[0]) is not bytes:
        raise Refused(f"{what} must have a storage of bytes, got {_kind(record)}")
    stream = io.BytesIO(record.args[0])
    if read_plain(stream, ()) != TORCH_MAGIC or read_plain(stream, ()) != TORCH_PROTOCOL:
        raise Refused(f"the storage of {what} must be of torch's format {TORCH_PROTOCOL}")
    system = read_plain(stream, ())
    if type(system) is not dict or system.get("little_endian") is not True:
        raise Refused(f"the storage of {what} must be little-endian")
    saved, keys = read_plain(stream, STORAGES, persistent_ids=True), read_plain(stream, ())
    pid = saved.args[0] if _is_record(saved, "persistent id", n_args=1) else None
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage" or type(pid[1]) is not Name:
        raise Refused(f"the storage of {what} must say its type, key, place and length")
    if type(pid[4]) is not int or not 0 < pid[4] < 2**40:
        raise Refused(f"the storage of {what} must hold at least one value, got {short(pid[4])}")
    # The sixth entry describes a view into a larger storage; networks are saved without.
    if keys != [pid[2]] or (len(pid) == 6 and pid[5] is not None):
        raise Refused(f"the storage of {what} must hold one storage and no views")
    dtype, start, n_values = np.dtype(STORAGES[pid[1].text]), stream.tell() + 8, pid[4]
    content = record.args[0]
    n_bytes = len(content) - start
    if content[start - 8 : start] != struct.pack("<q", n_values) or n_bytes != n_values * dtype.itemsize:
        raise Refused(f"the storage of {what} must hold {n_values} values, got {n_bytes} bytes")
    return np.frombuffer(content, dtype, count=n_values, offset=start)


def numpy_array(record: Any, what: str) -> np.ndarray:
    """Give the float32 values of a pickled NumPy array or scalar."""
    for module in NUMPY_MODULES:
        if _is_record(record, f"{module}.scalar", n_args=2):
            return _from_bytes(record.args[1], record.args[0], (), fortran=False, what=what)
        if _is_record(record, f"{module}._reconstruct", n_args=3):
            state = record.state
            if type(state) is not tuple or len(state) != 5 or type(state[3]) not in (bool, int):
                raise Refused(f"{what} must be a whole NumPy array; its state is missing or damaged")
            return _from_bytes(state[4], state[2], state[1], fortran=bool(state[3]), what=what)
    raise Refused(f"{what} must be a NumPy array, got {_kind(record)}")


def _from_bytes(content: Any, dtype: Any, shape: Any, *, fortran: bool, what: str) -> np.ndarray:
    known = _is_record(dtype, "numpy.dtype", n_args=3) and dtype.args[0] in NUMPY_TYPES
    if not known or type(dtype.state) is not tuple or dtype.state[1:2] not in (("<",), ("|",)):
        raise Refused(f"{what} must hold little-endian numbers of type {' or '.join(NUMPY_TYPES)}")
    number = np.dtype(f"<{dtype.args[0]}")
    if not _are_sizes(shape) or type(content) is not bytes or len(content) != math.prod(shape) * number.itemsize:
        raise Refused(f"{what} must hold as many bytes as its shape says")
    order = "F" if fortran else "C"
    return np.frombuffer(content, number).reshape(shape, order=order).astype(np.float32)


def _is_record(value: Any, name: str, *, n_args: int) -> bool:
    return type(value) is Record and value.name == name and len(value.args) == n_args


def _are_sizes(values: Any) -> bool:
    return type(values) is tuple and len(values) <= 8 and all(type(v) is int and 0 <= v < 2**40 for v in values)


def _kind(value: Any) -> str:
    return value.name if type(value) is Record else short(value)


GENERATOR_LAYERS = {"Conv0_up": "conv0", "Conv1": "conv1", "Conv": "conv1", "ToRGB": "torgb"}
DISCRIMINATOR_LAYERS = {
    "FromRGB": "fromrgb", "Conv0": "conv0", "Conv1_down": "conv1", "Skip": "skip", "Conv": "conv", "Dense0": "fc"
}  # fmt: skip
LEAVES = {"mod_weight": "affine.weight", "mod_bias": "affine.bias"}


def from_tensorflow(name: str, values: np.ndarray) -> tuple[str, np.ndarray] | None:
    """Give a TensorFlow variable our name and our layout; None for one that a finished network does not read.

    Args:
        name: with its component in front, such as "synthesis/16x16/Conv0_up/weight".
        values: kernels (h, w, in, out), matrices (in, out), noise (1, 1, h, w).

    Returns:
        The key in our state dict, and kernels (out, in, h, w), matrices (out, in), noise (h, w).

    Raises:
        Refused: a name that StyleGAN2 does not have.

    Source:
        The variables of Karras et al. 2020, https://github.com/NVlabs/stylegan2, training/networks_stylegan2.py.
    """
    if name == "lod":  # of progressive growing; always 0 here
        return None
    if name == "dlatent_avg":
        return "mapping.w_avg", values
    if found := re.fullmatch(r"mapping/Dense(\d{1,2})/(weight|bias)", name):
        return f"mapping.fc{found[1]}.{found[2]}", values.T
    if found := re.fullmatch(r"Output/(weight|bias)", name):
        return f"b4.out.{found[1]}", values.T
    if found := re.fullmatch(r"synthesis/noise(\d{1,2})", name):
        number = int(found[1])  # 0 at 4x4, then two at each size
        size, layer = 2 ** ((number + 5) // 2), "conv0" if number % 2 else "conv1"
        return f"synthesis.b{size}.{layer}.noise_const", values.reshape(values.shape[-2:])
    if name == "synthesis/4x4/Const/const":
        return "synthesis.b4.const", values.reshape(values.shape[1:])
    found = re.fullmatch(r"(synthesis/)?(\d{1,4})x\2/(\w+)/(\w+)", name)
    layers = GENERATOR_LAYERS if found and found[1] else DISCRIMINATOR_LAYERS
    if not found or found[3] not in layers:
        raise Refused(f"it has the variable {name[:100]!r}, which a StyleGAN2 of config E or F does not")
    key = f"{'synthesis.' if found[1] else ''}b{found[2]}.{layers[found[3]]}.{LEAVES.get(found[4], found[4])}"
    if values.ndim == 4:
        # Upsampling is a convolution in TensorFlow and a correlation in PyTorch, hence the flip.
        values = (values[::-1, ::-1] if found[3] == "Conv0_up" else values).transpose(3, 2, 0, 1)
    elif values.ndim == 2:
        values = values.T
    elif found[4] == "mod_bias":
        values = values + 1  # TensorFlow adds it when it runs
    elif found[4] == "noise_strength" and values.size == 1:
        values = values.reshape(())
    return key, values
