"""Weights, configs and checkpoints damaged in every way we could think of, offered to each loader.

A damage is a function that changes a file that was whole, and what the refusal must say. Which loader has which files
stands in `sources`.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor

from glasslib.captioning import captioner
from glasslib.captioning.decoder import CaptionDecoder, load_published
from glasslib.captioning.mapper import MlpMapper
from glasslib.clip.embedder import load_open_clip
from glasslib.generators import gpt2
from glasslib.generators.biggan.generator import BigGANGenerator
from glasslib.generators.stylegan2 import snapshots
from glasslib.generators.stylegan2.generator import StyleGAN2Generator, pack_networks
from glasslib.results import REPO
from glasslib.tinyworld import models

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
CLIP = {
    "embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A whole folder, the file in it that is damaged, and the loader: a function of the folder."""

    folder: Path
    file: str
    load: Callable[[Path], Any]
    part: str | None = None  # the key of the state dict in the file, if it holds several
    absurd: tuple[str, ...] = ()  # sizes in config.json, as dotted paths


class Code:
    """Pickles as a call that leaves a canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def decoder() -> CaptionDecoder:
    """A captioner's decoder of 4,000 weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_positions": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gpt = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
        return CaptionDecoder(gpt, MlpMapper(embedding_dim=8, gpt_dim=16, prefix_length=4))


def sources(folder: Path) -> dict[str, Source]:
    """Every loader with a whole folder of its own; files that the tiny world does not have are written to `folder`."""
    import open_clip

    tiny = models.WEIGHTS
    made = {name: folder / name for name in ("packed", "rosinality", "checkpoint", "captions", "clip", "clip_pt")}
    for path in made.values():
        path.mkdir()
    whole = StyleGAN2Generator.load(tiny / "stylegan2")
    networks = {"G": copy.deepcopy(whole._generator), "G_ema": whole._generator, "D": whole._discriminator}
    pack_networks(made["packed"] / "x.safetensors", networks, config=whole._config)
    parts: dict[str, dict] = {"g": {}, "g_ema": {}, "d": {}}
    for key, value in load_file(REPO / "tests/golden/rosinality_res32.weights.safetensors").items():
        parts[key.split(".")[0]][key.split(".", 1)[1]] = value
    torch.save(parts, made["rosinality"] / "x.pt")
    torch.save(decoder().state_dict(), made["checkpoint"] / "x.pt")
    save_model(decoder(), str(made["captions"] / "x.safetensors"))
    (folder / "glasslib-small.json").write_text(json.dumps(CLIP))
    open_clip.add_model_config(folder / "glasslib-small.json")
    small = load_open_clip("glasslib-small", None, weights="random", rng=torch.Generator().manual_seed(0))
    save_file(small._model.state_dict(), made["clip"] / "x.safetensors")
    torch.save(small._model.state_dict(), made["clip_pt"] / "x.pt")

    def clip(name: str, path: Path):
        return load_open_clip("glasslib-small", None, weights=path / name)

    return {
        "captioner": Source(tiny / "captioner", "model.safetensors", captioner.load, absurd=(
            "mapper.prefix_length", "mapper.gpt_dim", "language_model.n_layer", "language_model.n_positions",
            "language_model.vocab_size",
        )),
        "gpt2": Source(tiny / "gpt2", "model.safetensors", gpt2.load, absurd=(
            "n_layer", "n_positions", "vocab_size", "n_inner",
        )),
        "biggan": Source(tiny / "biggan", "model.safetensors", BigGANGenerator.load, absurd=(
            "channel_width", "num_classes", "n_stats", "z_dim", "output_dim",
        )),
        "stylegan2": Source(tiny / "stylegan2", "generator.safetensors", StyleGAN2Generator.load, absurd=(
            "generator.img_channels", "generator.z_dim", "generator.img_resolution",
            "generator.mapping_kwargs.num_layers", "discriminator.img_channels",
        )),
        "packed stylegan2": Source(made["packed"], "x.safetensors", lambda path: StyleGAN2Generator.load(
            path / "x.safetensors")),
        "rosinality": Source(made["rosinality"], "x.pt", lambda path: snapshots.read_networks(path / "x.pt"), "g_ema"),
        "checkpoint": Source(made["checkpoint"], "x.pt", lambda path: load_published(decoder(), path / "x.pt")),
        "captions": Source(made["captions"], "x.safetensors", lambda path: load_published(
            decoder(), path / "x.safetensors")),
        "clip": Source(made["clip"], "x.safetensors", partial(clip, "x.safetensors")),
        "clip.pt": Source(made["clip_pt"], "x.pt", partial(clip, "x.pt")),
    }  # fmt: skip


def rewrite(path: Path, part: str | None, change: Callable[[dict[str, Tensor], str], Any]) -> None:
    """Write a file anew with its state dict changed. `change` is given it, and the name of a matrix in it."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        saved: Any = load_file(path)
    else:
        saved = torch.load(path, weights_only=True)
    state = saved if part is None else saved[part]
    key = next(name for name in sorted(state) if state[name].ndim >= 2 and state[name].is_floating_point())
    changed = change(dict(state), key)
    if path.suffix == ".safetensors":
        save_file(changed, path, metadata=metadata)
    else:
        torch.save(changed if part is None else saved | {part: changed}, path)


def one(function: Callable[[Tensor], Tensor]) -> Callable:
    """A change of one weight."""
    return lambda state, key: state | {key: function(state[key])}


FIT = "another architecture|must have shape|lacks|must hold the weights|besides|must describe|fit"
STATES = {  # damages of a state dict -> what the refusal must say
    "NaN": (one(lambda w: w * torch.nan), "must be finite"),
    "infinity": (one(lambda w: w / 0), "must be finite"),
    "whole numbers": (one(lambda w: w.long()), f"must be of type|{FIT}"),
    "truth values": (one(lambda w: w > 0), f"must be of type|{FIT}"),
    "another shape": (one(lambda w: w[:-1].clone()), FIT),
    "a dimension more": (one(lambda w: w[None].clone()), f"{FIT}|lacks what"),
    "a weight less": (lambda state, key: {name: state[name] for name in state if name != key}, f"{FIT}|lacks what"),
    "a weight more": (lambda state, key: state | {"zzz.weight": torch.ones(3)}, f"{FIT}|which its generator does not"),
    "no weight": (lambda state, key: {}, f"{FIT}|must hold a state dict|has no g_ema|empty|describes"),
    "other names": (lambda state, key: {f"zzz.{name}": state[name] for name in state}, f"{FIT}|which its generator"),
}  # fmt: skip
TENSORS = {  # damages that only torch.save can write
    "repeated values": (one(lambda w: w.flatten()[:1].expand(10**5, 10**5)), "is a bomb"),
    "shared values": (one(lambda w: torch.as_strided(w.flatten(), (w.numel() - 9, 10), (1, 1))), "is a bomb"),
    "a sparse tensor": (one(lambda w: w.to_sparse()), "plain tensors|nothing but tensors|damaged"),
    "a list": (lambda state, key: list(state.values()), "must hold a state dict"),
    "numbers": (lambda state, key: {name: 1.0 for name in state}, "must hold a state dict"),
}  # fmt: skip


def cut(n: int | float) -> Callable[[Path], None]:
    """Keep a share, or all but so many bytes at the end."""
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * n) if n < 1 else -int(n)])


def put(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def compress(path: Path) -> None:
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_suffix(".new"), "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    path.with_suffix(".new").replace(path)


WHOLE = "safetensors file|PyTorch file|whole pickle"
FILES = {
    "missing": (Path.unlink, "no "),
    "empty": (put(b""), "is empty"),
    "a web page": (put(b"<!DOCTYPE html><html>sign in</html>"), "a web page, not a model"),
    "a git-lfs pointer": (put(POINTER), "a git-lfs pointer"),
    "half": (cut(0.5), WHOLE),
    "cut at the end": (cut(1), WHOLE),
    "noise": (put(bytes(range(1, 256)) * 9), WHOLE),
}
SAFETENSORS = {
    "a huge header": (put((2**60).to_bytes(8, "little") + b"{}"), WHOLE),
    "a deep header": (put((2**20).to_bytes(8, "little") + b"[" * 2**20), WHOLE),
}
CONFIGS = {
    "missing": (Path.unlink, "no "),
    "empty": (put(b""), "is empty"),
    "a web page": (put(b"<html>quota exceeded</html>"), "a web page"),
    "a git-lfs pointer": (put(POINTER), "a git-lfs pointer"),
    "a list": (put(b"[1, 2]"), "must hold a JSON object"),
    "half": (cut(0.5), "no JSON"),
    "binary": (put(b"\x80\x04N."), "no JSON"),
    "nested deeply": (put(b'{"a":' * 60 + b"1" + b"}" * 60), "must nest at most 50 deep"),
    "nested without end": (put(b"[" * 10**6), "no JSON"),
    "not a number": (put(b'{"eps": NaN}'), "must hold finite numbers"),
    "a huge number": (put(b'{"generator": 1' + b"0" * 40 + b"}"), "must hold sizes of at most"),
    "a huge file": (put(b'{"a": "' + b"a" * 2**21 + b'"}'), "must have at most 1,048,576 bytes"),
    "another object": (put(b'{"a": 1}'), "must|describe|model_type|hold"),
}


def absurd(config: dict, path: str) -> None:
    """Set the size at a dotted path to ten million, or a picture's to a power of two."""
    *outer, last = path.split(".")
    for key in outer:
        config = config[key]
    config[last] = 2**20 if last in ("img_resolution", "output_dim") else 10**7


def damages(source: Source, canary: Path) -> Iterator[tuple[str, str, Callable[[Path], Any], str]]:
    """(name, file, damage, what the refusal must say) of one loader."""
    suffix = Path(source.file).suffix
    for name, (damage, said) in (FILES | (SAFETENSORS if suffix == ".safetensors" else {})).items():
        yield name, source.file, damage, said
    for name, (change, said) in (STATES | (TENSORS if suffix == ".pt" else {})).items():
        yield name, source.file, partial(rewrite, part=source.part, change=change), said
    if suffix == ".pt":
        yield "code", source.file, lambda path: torch.save({"a": Code(canary)}, path), "nothing but tensors: it names"
        yield "a compressed archive", source.file, compress, "a compressed zip archive"
    if (source.folder / "config.json").is_file():
        for name, (damage, said) in CONFIGS.items():
            yield f"config {name}", "config.json", damage, said

    def enlarge(path: Path, where: str) -> None:
        config = json.loads(path.read_text(encoding="utf-8"))
        absurd(config, where)
        path.write_text(json.dumps(config), encoding="utf-8")

    for where in source.absurd:
        yield f"config {where}=10**7", "config.json", partial(enlarge, where=where), f"{FIT}|describes|must have shape"


def refusals(folder: Path) -> list[dict]:
    """Offer every damaged file to its loader.

    Args:
        folder: for the files and the canary.

    Returns:
        A row a file: whether it was refused with ValueError or FileNotFoundError, by its name and with the right words,
        and what was said.
    """
    canary, rows = folder / "canary", []
    for loader, source in sources(folder).items():
        source.load(source.folder)  # whole, it is accepted
        for name, file, damage, message in damages(source, canary):
            copied = folder / "copy"
            shutil.copytree(source.folder, copied)
            damage(copied / file)
            try:
                source.load(copied)
            except (ValueError, FileNotFoundError) as error:
                said = str(error)
            except Exception as error:
                said = f"{type(error).__name__}, not refused: {error}"
            else:
                said = "accepted"
            named = str(copied) in said and "not refused" not in said and not canary.exists()
            right = named and re.search(message, said, re.DOTALL) is not None
            rows.append(
                {"kind": f"{loader}: {name}", "refused": right, "message": said.replace(f"{folder}/", "")[:400]}
            )
            canary.unlink(missing_ok=True)
            shutil.rmtree(copied)
    return rows
