"""Model files damaged, or made malicious, in every way we could think of, and how many of them the loaders refuse.

Here are StyleGAN2's pickles; damaged_weights.py has the rest. Every malicious file would create a canary file if
anything in it ran: `python -m glasslib.bench files`. Alone, `python -m glasslib.bench.damaged_files` prints the most
memory that refusing all of them took.
"""

import io
import os
import pickle
import re
import resource
import struct
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glasslib import metrics
from glasslib.bench import damaged_weights
from glasslib.bench.nvidia_files import TINY, EasyDict, easy, torch_data, torch_file, torch_networks
from glasslib.bench.tiny_searches import write
from glasslib.generators.stylegan2 import snapshots


class Call:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function: Callable, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


def op(*parts: bytes) -> bytes:
    """A protocol-4 pickle of these opcodes."""
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    """The opcode of a short string."""
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    """The opcodes of a class or function."""
    return text(module) + text(name) + b"\x93"


def arguments(**changes) -> dict:
    """A genuine file's dict whose generators say other arguments; a name with two underscores reaches inside."""
    data = torch_data()
    for name in ("G", "G_ema"):
        kwargs = easy(TINY["generator"])
        for key, value in changes.items():
            *outer, last = key.split("__")
            (kwargs[outer[0]] if outer else kwargs)[last] = value
        data[name].pickled_state["_init_kwargs"] = kwargs
    return data


def weights(key: str, change: Callable[[Tensor], Tensor]) -> dict:
    """A genuine file's dict in which one weight of G is changed."""
    data = torch_data()
    module, _, leaf = key.rpartition(".")
    layer = data["G"].get_submodule(module)
    setattr(layer, leaf, nn.Parameter(change(getattr(layer, leaf).data), requires_grad=False))
    return data


def changed_meta(**meta) -> dict:
    data = torch_data()
    data["G"].pickled_meta = meta
    return data


def changed_storage(change: Callable[[bytes], bytes]) -> dict:
    """A dict whose G keeps a tensor with a changed nested stream."""
    stream = io.BytesIO()
    torch.save(torch.ones(8).storage(), stream, _use_new_zipfile_serialization=False)
    storage = Call(torch.storage._load_from_bytes, change(stream.getvalue()))
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, 0, (8,), (1,), False, {})
    data = torch_data()
    data["G"].pickled_state["_buffers"] = {"noise": tensor}
    return data


def strided(offset: int, shape: tuple, strides: tuple) -> dict:
    """A dict whose G has a tensor that reads its storage in another way."""
    storage = torch.ones(8).storage()
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, {})
    data = torch_data()
    data["G"].pickled_state["_buffers"] = {"noise": tensor}
    return data


def shared_lists(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value] * 10
    return value


class Slots:
    """Pickles with a state for slots, which Python's unpickler sets by setattr."""

    def __reduce__(self):
        return EasyDict, (), (None, {"__class__": "x"})


def pickles(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Every kind of damaged or malicious pickle: name -> (content, what the refusal must say)."""
    touch = f"open({str(canary)!r}, 'w').close()"

    def made(data) -> bytes:
        return torch_file(data, canary=canary)

    whole = made(torch_data())
    unknown_layer = torch_data()
    unknown_layer["G"].mapping.fc9 = nn.Linear(2, 2)
    raw_numbers = struct.pack("<q", 2**62)
    return {
        "os.system": (made(Call(os.system, f"touch {canary}")), r"it names 'posix\.system'"),
        "eval": (made(torch_data(augment_pipe=Call(eval, touch))), r"it names 'builtins\.eval'"),
        "exec inside a network": (made(arguments(mapping_kwargs=Call(exec, touch))), r"it names 'builtins\.exec'"),
        "getattr": (op(named("builtins", "getattr"), named("os", "system"), b"\x86R"), r"'builtins\.getattr'"),
        "import": (op(named("builtins", "__import__"), text("os"), b"\x85R"), r"'builtins\.__import__'"),
        "a class outside the list": (made(torch_data(x=Path("a"))), r"it names 'pathlib"),
        "a dotted name": (op(named("collections", "OrderedDict.fromkeys")), r"'collections\.OrderedDict\.fromkeys'"),
        "torch.load inside": (made(Call(torch.load, str(canary))), r"it names 'torch\.serialization\.load'"),
        "code in a storage": (
            made(changed_storage(lambda _: pickle.dumps(Call(os.system, f"touch {canary}"), protocol=2))),
            r"it names 'posix\.system'",
        ),
        "an allowed class with arguments": (
            op(named("collections", "OrderedDict"), b"]K\x01a\x85R"),
            r"collections\.OrderedDict must be made without arguments, got 1",
        ),
        "arguments that are no tuple": (op(named("collections", "OrderedDict"), b"]R"), "must be a tuple, got list"),
        "a call of data": (op(text("open"), b")R"), "it calls a str"),
        "state for a dict": (made(Slots()), "it sets the state of a dict"),
        "state for a function": (op(named("torch._utils", "_rebuild_parameter"), b"}b"), "the state of a Name"),
        "state twice": (
            op(named("dnnlib.tflib.network", "Network"), b")\x81}", text("__setstate__"), b"K\x01sb}b"),
            "it sets the state of a Record",
        ),
        "old class opcode": (b"(S'touch x'\nios\nsystem\n.", "opcode STRING"),
        "build by arguments": (op(b"(", named("os", "system"), b"o"), r"it names 'os\.system'"),
        "extension code": (op(b"\x82\x01"), "opcode EXT1"),
        "persistent id": (op(text("a"), b"Q"), "opcode BINPERSID"),
        "out-of-band buffer": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        "protocol": (b"\x80\xffN.", "protocol must be at most 5, got 255"),
        "unknown opcode": (op(b"\xff"), "truncated or damaged: ValueError.*unknown"),
        "empty stack": (op(b"R"), "truncated or damaged: IndexError"),
        "missing memo": (op(b"h\x07"), "truncated or damaged: KeyError"),
        "two values": (op(b"NN"), "must leave one value"),
        "shared lists": (made(torch_data(x=shared_lists(12))), "it is a bomb: it unfolds to more than"),
        "deep nesting": (op(b")", b"\x85" * 100_000), "it is a bomb: it nests deeper than 100"),
        "a list in itself": (op(b"]\x94h\x00a"), "it is a bomb"),
        "endless opcodes": (op(b"N0" * 10, b"N\x94" * 600_000), "opcode POP"),
        "too many opcodes": (op(b"N\x94" * 600_000), "it has more than 1000000 opcodes"),
        "hash of a tuple": (op(b"}))K\x01\x87K\x01s"), "keys of dicts and items of sets must be strings"),
        "huge length": (op(b"\x8e" + struct.pack("<Q", 2**50) + b"abc"), "a literal of 1125899906842624 bytes"),
        "huge memo": (op(b"Nr\xff\xff\xff\x7f"), "must hold a dict or a tuple of three networks, got None"),
        "truncated": (whole[: len(whole) // 2], "truncated or damaged"),
        "cut at the end": (whole[:-1], "truncated or damaged"),
        "empty": (b"", "must have 1 to"),
        "a web page": (b"<html>quota exceeded</html>", "a web page, not a model"),
        "a git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-lfs pointer"),
        "a text file": (b"quota exceeded", "truncated or damaged"),
        "a zip archive": (b"PK\x03\x04" + bytes(99), "a zip archive, as torch.save writes"),
        "a claim of 3 GiB of text": (op(b"\x8d" + struct.pack("<Q", 3 * 2**30)), "a literal of 3221225472 bytes"),
        "a claim of 3 GiB of bytes": (op(b"B" + struct.pack("<I", 3 * 2**30)), "a literal of 3221225472 bytes"),
        "a long line": (b"\x80\x04V" + b"a" * 5000 + b"\n.", "a line longer than 4096"),
        "much text": (op(*(b"X" + struct.pack("<I", 2**23) + b"a" * 2**23 for _ in range(3))), "its strings have more"),
        "a StyleGAN3": (made(arguments(magnitude_ema_beta=0.999)), "it is a StyleGAN3"),
        "huge storage": (
            made(changed_storage(lambda s: s.replace(b"K\x08Nt", b"\x8a\x08" + raw_numbers + b"Nt"))),
            "must hold at least one value, got 4611686018427387904",
        ),
        "short storage": (made(changed_storage(lambda s: s[:-4])), "must hold 8 values, got 28 bytes"),
        "storage of no known format": (made(changed_storage(lambda s: op(b"K\x01") + s)), "torch's format 1001"),
        "big-endian storage": (
            made(changed_storage(lambda s: s.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"))),
            "must be little-endian",
        ),
        "integers as weights": (made(weights("mapping.fc0.bias", lambda w: w.long())), r"it names 'torch\.Long"),
        "reads past its storage": (made(strided(4, (8,), (1,))), "up to number 11 from a storage of 8"),
        "repeats its storage": (made(strided(0, (10**6, 10**6), (0, 0))), "reads 1000000000000 values"),
        "overlapping strides": (made(strided(0, (2, 4), (1, 1))), "must have its values apart"),
        "negative stride": (made(strided(7, (8,), (-1,))), "whole numbers as offset, shape and strides"),
        "wrong shape": (
            made(weights("synthesis.b8.conv0.bias", lambda w: w[:-1].clone())),
            r"G's synthesis\.b8\.conv0\.bias must have shape \(8,\), got \(7,\)",
        ),
        "NaN": (made(weights("mapping.fc1.weight", lambda w: w * np.nan)), "64 NaN or infinite of 64"),
        "infinity": (made(weights("synthesis.b4.const", lambda w: w / 0)), r"b4\.const must be finite"),
        "an unknown weight": (made(unknown_layer), r"G has unknown weights: 2, first mapping\.fc9\.bias"),
        "a missing weight": (
            made(torch_data(G=torch_networks()["G"].synthesis)), "its G must be a Generator, got a 'SynthesisNetwork'"
        ),
        "missing G_ema": (made(torch_data(G_ema=None)), "it has no G_ema; a StyleGAN2 file holds G, D and G_ema"),
        "G for D": (made(torch_data(D=torch_networks()["G"])), "its D must be a Discriminator"),
        "only a state dict": (made({"G": {"a": 1}, "D": 2, "G_ema": 3}), "its G must be a network saved by"),
        "another version": (made(changed_meta(version=5)), "version 6"),
        "another class": (made(changed_meta(class_name="Mapper")), "its G must be a Generator, got a 'Mapper'"),
        "another architecture": (made(arguments(synthesis_kwargs__architecture="resnet")), "architecture must be skip"),
        "an unknown argument": (made(arguments(freq=3)), "the argument 'freq', which we do not know"),
        "another activation": (made(arguments(mapping_kwargs__activation="relu")), "activation must be lrelu"),
        "a huge network": (made(arguments(z_dim=10**12)), "z_dim of the generator must be a whole number in"),
        "a network larger than its weights": (
            made(arguments(synthesis_kwargs__channel_max=8192, synthesis_kwargs__channel_base=2**20)), "must have shape"
        ),
        "a mapping of many layers": (made(arguments(mapping_kwargs__num_layers=10**9)), "num_layers of"),
        "an odd resolution": (made(arguments(img_resolution=24)), "must be a power of two, got 24"),
        "a bomb as an argument": (made(arguments(mapping_kwargs=shared_lists(3))), "must be a dict, got a list"),
    }  # fmt: skip


def pickle_refusals(folder: Path) -> list[dict]:
    """Offer every kind of pickle to the reader.

    Args:
        folder: empty, for the files and the canary.

    Returns:
        A row a kind: whether it was refused with the right message and without side effect, and what was said.
    """
    canary, rows = folder / "canary", []
    for name, (content, message) in pickles(canary).items():
        path = folder / "network.pkl"
        path.write_bytes(content)
        try:
            snapshots.read_networks(path)
        except ValueError as error:
            said = str(error)
        else:
            said = "accepted"
        left = sorted(file.name for file in folder.iterdir() if file != path)
        right = bool(re.search(message, said, re.DOTALL)) and f"{path} is refused" in said and not left
        said = said.replace(f"{folder}/", "") if not left else f"it left {left}"
        rows.append({"kind": f"pickle: {name}", "refused": right, "message": said})
        for file in left:
            (folder / file).unlink()
    return rows


def refusals() -> list[dict]:
    """All rows: pickles, and the files of all other loaders."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TypedStorage is deprecated")  # the format of NVIDIA's files has them
        (pickles_in := Path(folder, "pickles")).mkdir()
        return pickle_refusals(pickles_in) + damaged_weights.refusals(Path(folder))


def bench_files() -> None:
    """Measure files.refused and write results/bench_files/."""
    rows = refusals()
    found = {"files.refused": metrics.share([row["refused"] for row in rows])}
    write("bench_files", {"n_kinds": len(rows)}, found, {"refusals": rows})


if __name__ == "__main__":
    all_rows = refusals()
    for row in all_rows:
        if not row["refused"]:
            print(row)
    print(len(all_rows), "files")
    print("peak bytes", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
