"""The real models' files: where each comes from, what it must be, and its licence; fetch, verify, work offline.

`make weights` lists them, `make weights PRESET=StyleGAN2_ffhq_d` fetches. A file is used only after `verify`: size,
form and SHA-256. Where nobody publishes a hash, the first complete download records it (trust on first use), and from
then on the file must not change. After fetching nothing needs the network.

CapDec's own checkpoints are not listed: they lie in a shared folder without fixed addresses, sizes or hashes.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from glasslib import strict_json
from glasslib.results import REPO, sha256_file, write_json_atomic
from glasslib.weights.download import download
from glasslib.weights.integrity import fault

RECORD = "recorded.json"
NVIDIA = "Nvidia Source Code License-NC: non-commercial use only (https://nvlabs.github.io/stylegan2/license.html)"
OPENAI_CLIP = "MIT (https://github.com/openai/CLIP); its model card rules out deployed uses"
OPENAI_GPT2 = "MIT (https://github.com/openai/gpt-2)"
STABILITY = "Stability AI Community License (https://stability.ai/license)"
DEEPMIND = "not stated with the files; the port is MIT (https://github.com/huggingface/pytorch-pretrained-BigGAN)"


@dataclass(frozen=True)
class WeightFile:
    """One file that models are read from.

    path: where it is kept, below the weights folder. source: an https address, or "hub:owner/name" for a file of that
    name on the Hugging Face hub. revision: the hub's commit; None: the newest, which the record then names. n_bytes,
    sha256: None where nobody publishes them. sha256_from: who publishes the hash. fits: the architecture inside.
    """

    path: str
    source: str
    licence: str
    fits: str
    revision: str | None = None
    n_bytes: int | None = None
    sha256: str | None = None
    sha256_from: str = "nobody"


def _gpt2(name: str, sha256: str, n_bytes: int | None = None) -> WeightFile:
    return WeightFile(
        f"gpt2/{name}", "hub:openai-community/gpt2", OPENAI_GPT2, "GPT-2 124M", n_bytes=n_bytes, sha256=sha256,
        revision="607a30d783dfa663caf39e06633721c8d4cfcd7e", sha256_from="the hub, at this revision",
    )  # fmt: skip


def _biggan(resolution: int, name: str, **known) -> WeightFile:
    address = f"https://s3.amazonaws.com/models.huggingface.co/biggan/biggan-deep-{resolution}-{name}"
    return WeightFile(f"biggan-deep-{resolution}/{name}", address, DEEPMIND, f"BigGAN-deep {resolution}", **known)


def _stylegan2(dataset: str, resolution: int) -> WeightFile:
    name = f"stylegan2-{dataset}-config-f.pkl"
    address = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2/networks/{name}"
    return WeightFile(f"stylegan2/{name}", address, NVIDIA, f"StyleGAN2 config-f {resolution} (G, D, Gs; TensorFlow)")


VIT_B_32 = WeightFile(
    "clip-vit-b-32/open_clip_model.safetensors", "hub:timm/vit_base_patch32_clip_224.openai", OPENAI_CLIP,
    "CLIP ViT-B/32 (open_clip: ViT-B-32, openai)", revision="a6f597a30f7b82c51704746581f9a4e41421e878",
    n_bytes=605_143_284, sha256="e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
    sha256_from="the hub, at this revision",
)  # fmt: skip
RN50X4 = WeightFile(
    "clip-rn50x4/open_clip_model.safetensors", "hub:timm/resnet50x4_clip.openai", OPENAI_CLIP,
    "CLIP RN50x4 (open_clip: RN50x4, openai)",
)  # fmt: skip
BIGGAN_256 = (
    _biggan(256, "config.json", n_bytes=715, sha256_from="a third party (catalogue of Uncanny Lab)",
            sha256="edd106f65ff28ee1638491a978cfa6bc50dfa0344aab70749a7b8eb08bbec677"),
    _biggan(256, "pytorch_model.bin", n_bytes=234_411_737, sha256_from="a third party (catalogue of Uncanny Lab)",
            sha256="5900ef4065047e3aa0d1b66197b7f2664dceb59b27080e414ad57e203c485bc5"),
)  # fmt: skip
BIGGAN_512 = (_biggan(512, "config.json"), _biggan(512, "pytorch_model.bin"))
FFHQ, CHURCH, CAR = _stylegan2("ffhq", 1024), _stylegan2("church", 256), _stylegan2("car", 512)
GPT2 = (
    _gpt2("config.json", "0daed7749b4f02b8f76240d5444551d7b08712dab4d0adb8239c56ba823bb7b4", 665),
    _gpt2("model.safetensors", "248dfc3911869ec493c76e65bf2fcf7f615828b0254c12b473182f0f81d3a707", 548_105_171),
    _gpt2("tokenizer.json", "8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6"),
    _gpt2("tokenizer_config.json", "5e04eb606e3a1583530a42e36c2a6b6615c86f34fe77e44d9ddeb43ff940931f"),
    _gpt2("vocab.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783", 1_042_301),
    _gpt2("merges.txt", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5", 456_318),
)
SD_TURBO = tuple(
    WeightFile(f"sd-turbo/{name}", "hub:stabilityai/sd-turbo", STABILITY, "sd-turbo (Stable Diffusion 2.1, distilled)")
    for name in (
        "model_index.json scheduler/scheduler_config.json text_encoder/config.json text_encoder/model.safetensors "
        "tokenizer/merges.txt tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json tokenizer/vocab.json "
        "unet/config.json unet/diffusion_pytorch_model.safetensors "
        "vae/config.json vae/diffusion_pytorch_model.safetensors"
    ).split()
)

CLIPS = (VIT_B_32, RN50X4)  # the one that scores and the one that judges
PRESETS: dict[str, tuple[WeightFile, ...]] = {
    "DeepMindBigGAN256": (*CLIPS, *BIGGAN_256),
    "DeepMindBigGAN512": (*CLIPS, *BIGGAN_512),
    **{f"StyleGAN2_ffhq_{arm}": (*CLIPS, FFHQ) for arm in ("d", "nod")},
    **{f"StyleGAN2_church_{arm}": (*CLIPS, CHURCH) for arm in ("d", "nod")},
    **{f"StyleGAN2_car_{arm}": (*CLIPS, CAR) for arm in ("d", "nod")},
    "GPT2": (*CLIPS, *GPT2),
    "CapDec": (*CLIPS, *GPT2),
}
PRESETS["paper"] = tuple(dict.fromkeys(file for files in PRESETS.values() for file in files))
PRESETS["SDTurbo"] = (*CLIPS, *SD_TURBO)  # in neither paper


def files(preset: str) -> tuple[WeightFile, ...]:
    """The files of a preset; "paper" means all. ValueError for an unknown name."""
    if preset not in PRESETS:
        raise ValueError(f"PRESET must be one of {', '.join(PRESETS)}, got {preset!r}")
    return PRESETS[preset]


def weights_folder(directory: str | Path | None = None) -> Path:
    """Where the files are: `directory`, else the environment's GLASSLIB_WEIGHTS, else weights/ in the repository."""
    return Path(directory or os.environ.get("GLASSLIB_WEIGHTS") or REPO / "weights").expanduser()


def is_offline() -> bool:
    """Whether GLASSLIB_OFFLINE or HF_HUB_OFFLINE forbids downloads."""
    said = (os.environ.get(name, "").lower() for name in ("GLASSLIB_OFFLINE", "HF_HUB_OFFLINE"))
    return any(word in ("1", "true", "yes", "on") for word in said)


def verify(file: WeightFile, directory: str | Path | None = None, *, preset: str = "...") -> Path:
    """The path of a file that is there, whole and the right one. Touches no network.

    Args:
        file: what it must be.
        directory: the weights folder; see `weights_folder`.
        preset: what the message of a missing file says to fetch.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: another size, form or hash than it must have.
    """
    folder = weights_folder(directory)
    path = folder / file.path
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}; run: make weights PRESET={preset} (or put the file from {file.source} there)"
        )
    _record(folder, file, _checked(path, file, _recorded(folder).get(file.path, {})))
    return path


def require(preset: str, directory: str | Path | None = None) -> dict[str, Path]:
    """All files of a preset, verified: path below the weights folder -> path. Raises as `verify` does."""
    return {file.path: verify(file, directory, preset=preset) for file in files(preset)}


def sha256_of(file: WeightFile, directory: str | Path | None = None) -> str:
    """The hash that a verified file has: the published one, what was recorded, or in a read-only folder its own."""
    folder = weights_folder(directory)
    return file.sha256 or _recorded(folder).get(file.path, {}).get("sha256") or sha256_file(folder / file.path)


def fetch(file: WeightFile, directory: str | Path | None = None, *, say: Callable[[str], object] = print) -> Path:
    """Download one file if it is not there, and verify it before it gets its name.

    Args:
        file: what to fetch. An interrupted download goes on where it was.
        directory: the weights folder; see `weights_folder`.
        say: told size, source and licence before the download begins.

    Raises:
        RuntimeError: downloads are forbidden, by GLASSLIB_OFFLINE or HF_HUB_OFFLINE.
        ConnectionError: the download broke; what came is kept.
        ValueError: the file is not what it must be; what came is thrown away.
    """
    folder = weights_folder(directory)
    if (folder / file.path).exists():
        return verify(file, folder)
    if is_offline():
        raise RuntimeError(
            f"offline, as GLASSLIB_OFFLINE or HF_HUB_OFFLINE says: put {file.source} at {folder / file.path}"
        )
    size = "unknown size" if file.n_bytes is None else _mb(file.n_bytes)
    say(f"{file.path}: {size} from {file.source}\n  licence: {file.licence}")
    part, told = _fetch_from_hub(file, folder) if file.source.startswith("hub:") else _fetch_from_url(file, folder)
    try:
        entry = _checked(part, file, _recorded(folder).get(file.path) or told)
    except ValueError:
        part.unlink()
        raise
    if file.sha256 is None and "sha256" not in told:
        say(f"  nobody publishes its SHA-256: trusted this once and recorded as {entry['sha256']}")
    _record(folder, file, entry | {key: told[key] for key in ("revision",) if key in told}, quiet=True)
    os.replace(part, folder / file.path)
    return folder / file.path


def _fetch_from_url(file: WeightFile, folder: Path) -> tuple[Path, dict]:
    part = folder / f"{file.path}.part"
    return part, {"n_bytes": download(file.source, part, n_bytes=file.n_bytes, progress=sys.stderr.isatty())}


def _fetch_from_hub(file: WeightFile, folder: Path) -> tuple[Path, dict]:
    """Into a folder aside, with what the hub itself says of the file; its ETag of a large file is the SHA-256."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    repo, name = file.source.removeprefix("hub:"), Path(*Path(file.path).parts[1:]).as_posix()
    aside = (folder / file.path).parent / ".part"
    if aside.is_symlink():
        raise ValueError(f"{aside} is a link, expected a folder of unfinished downloads; remove it")
    try:
        at = get_hf_file_metadata(hf_hub_url(repo, name, revision=file.revision))
        part = Path(hf_hub_download(repo, name, revision=file.revision or at.commit_hash, local_dir=aside))
    except Exception as error:  # the hub's client lets through what its http library raises
        raise ConnectionError(f"{file.source}/{name}: {error}; is this machine online? Run again to go on") from error
    told = {"n_bytes": at.size, "revision": at.commit_hash}
    return part, told | ({"sha256": at.etag} if len(at.etag or "") == 64 else {})


def _checked(path: Path, file: WeightFile, known: dict) -> dict:
    """Refuse a file that is not what the registry, the record or the server (`known`) says; its size and hash else."""
    size, advice = path.stat().st_size, "delete it and fetch it again"
    n_bytes = file.n_bytes if file.n_bytes is not None else known.get("n_bytes", size)
    if size != n_bytes:
        raise ValueError(f"{path} must have {n_bytes:,} bytes, got {size:,}; {advice}")
    if wrong := fault(path, suffix=Path(file.path).suffix):
        raise ValueError(f"{path} is {wrong}; {advice}")
    found, sha256 = sha256_file(path), file.sha256 or known.get("sha256")
    if sha256 is not None and found != sha256:
        origin = file.sha256_from if file.sha256 else "the record, or the server"
        raise ValueError(f"{path} must have SHA-256 {sha256} (says {origin}), got {found}; {advice}")
    return {"n_bytes": size, "sha256": found, "source": file.source}


def _recorded(folder: Path) -> dict[str, dict]:
    path = folder / RECORD
    advice = "restore it, or delete it to trust the files anew"
    try:
        record = strict_json.read(path, "the record of trusted files") if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{error} {advice}") from error
    if not isinstance(record, dict) or not all(isinstance(entry, dict) for entry in record.values()):
        raise ValueError(f"{path} must hold an object for each file; {advice}")
    return record


def _record(folder: Path, file: WeightFile, entry: dict, *, quiet: bool = False) -> None:
    """Remember a file of which nobody publishes a hash, the first time that it is seen whole."""
    record = _recorded(folder)
    if file.sha256 is not None or file.path in record:
        return
    try:
        write_json_atomic(folder / RECORD, record | {file.path: entry})
        kept = f"recorded in {RECORD}"
    except OSError as error:  # a read-only folder, such as a cluster's: what needs no download needs no writing
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        kept = f"not recorded, for {folder} is read-only; its SHA-256 is {entry['sha256']}"
    if not quiet:
        warnings.warn(f"nobody publishes a hash of {file.path}: trusted this once, {kept}", stacklevel=3)


def table(directory: str | Path | None = None) -> str:
    """Every file, its licence and whether it is there, as text, and the total; sizes are compared, hashes are not."""
    folder = weights_folder(directory)
    record = _recorded(folder)
    rows, known = [("file", "size", "here", "its content", "presets", "licence")], {}
    for file in files("paper"):
        path, n_bytes = folder / file.path, file.n_bytes or record.get(file.path, {}).get("n_bytes")
        here = "yes" if path.is_file() and n_bytes in (None, path.stat().st_size) else "WRONG SIZE"
        here = here if path.exists() else "begun" if (folder / f"{file.path}.part").exists() else "no"
        users = [name for name in PRESETS if name != "paper" and file in PRESETS[name]]
        presets = "all" if len(users) == len(PRESETS) - 1 else ", ".join(users)
        checked = "the hub's hash at first download" if file.source[:4] == "hub:" else "trusted at first download"
        checked = f"verified: hash of {file.sha256_from}" if file.sha256 else checked
        licence = re.sub(r" \(https?://[^)]*\)", "", file.licence)
        rows.append((file.path, "unknown" if n_bytes is None else _mb(n_bytes), here, checked, presets, licence))
        known[file] = n_bytes
    sizes = [n_bytes for n_bytes in known.values() if n_bytes]
    present = sum(path.stat().st_size for path in (folder / file.path for file in known) if path.is_file())
    unknown = f", and {len(known) - len(sizes)} of unknown size" if len(sizes) < len(known) else ""
    total = f"total: {len(known)} files; {_mb(sum(sizes))} in {len(sizes)} of them{unknown}; {_mb(present)} here"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    where = f"in {folder}; fetch with: make weights PRESET=<one of the presets, or paper for all>"
    return "\n".join([*lines, total, where])


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"
