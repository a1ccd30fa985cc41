"""The registry and what stands between a file and its use; the servers are in this process."""

import errno
import hashlib
import json
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import safetensors.numpy

from glasslib.results import REPO
from glasslib.weights import registry
from glasslib.weights.registry import WeightFile

TENSORS = safetensors.numpy.save({"a": np.arange(5000, dtype=np.float32)})
PICKLE = pickle.dumps(list(range(9000)))
SHA256 = hashlib.sha256(TENSORS).hexdigest()


@pytest.fixture(autouse=True)
def online(monkeypatch):
    for name in ("GLASSLIB_OFFLINE", "HF_HUB_OFFLINE", "GLASSLIB_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(serve):
    return serve({"/model.safetensors": TENSORS, "/net.pkl": PICKLE})


@pytest.fixture
def known(server):
    """A file whose size and hash are published."""
    return WeightFile(
        "toy/model.safetensors", f"{server.url}/model.safetensors", "MIT", "toy", n_bytes=len(TENSORS), sha256=SHA256
    )


@pytest.fixture
def unknown(server):
    """A file of which nothing is published."""
    return WeightFile("toy/net.pkl", f"{server.url}/net.pkl", "for noncommercial use", "toy")


def test_the_nine_configurations_and_capdec_have_their_files():
    glass = [f"StyleGAN2_{data}_{arm}" for data in ("ffhq", "church", "car") for arm in ("d", "nod")]
    assert set(registry.PRESETS) == {
        "DeepMindBigGAN256",
        "DeepMindBigGAN512",
        "GPT2",
        "CapDec",
        "SDTurbo",
        "paper",
        *glass,
    }
    assert all(registry.VIT_B_32 in files for files in registry.PRESETS.values())
    assert registry.RN50X4 in registry.files("CapDec")
    assert len({file.path for file in registry.files("paper")}) == len(registry.files("paper")) == 15
    with pytest.raises(ValueError, match=r"PRESET must be one of DeepMindBigGAN256, .*, got 'GPT3'"):
        registry.files("GPT3")


def test_the_registry_is_well_formed():
    for file in registry.files("paper"):
        assert file.source.startswith(("https://", "hub:")) and file.licence and file.fits
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert (file.sha256 is None) == (file.sha256_from == "nobody")
        assert file.revision is None or re.fullmatch("[0-9a-f]{40}", file.revision)
        assert ("non-commercial" in file.licence) == file.path.startswith("stylegan2/")


def test_a_file_is_fetched_verified_and_then_needs_no_network(known, server, tmp_path, monkeypatch):
    said = []
    path = registry.fetch(known, tmp_path, say=said.append)
    assert path.read_bytes() == TENSORS and registry.verify(known, tmp_path) == path
    assert "0.0 MB from http" in said[0] and "licence: MIT" in said[0] and len(said) == 1
    monkeypatch.setenv("GLASSLIB_OFFLINE", "1")
    assert registry.fetch(known, tmp_path) == path and len(server.ranges) == 1
    assert [each.name for each in path.parent.iterdir()] == [path.name] and not (tmp_path / registry.RECORD).exists()


def test_the_licence_is_shown_before_the_first_byte(unknown, server, tmp_path):
    def say(text):
        assert "noncommercial" in text and not server.ranges
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        registry.fetch(unknown, tmp_path, say=say)
    assert not server.ranges


def test_where_no_hash_is_published_the_first_download_is_trusted_and_recorded(unknown, server, tmp_path):
    said = []
    path = registry.fetch(unknown, tmp_path, say=said.append)
    sha256 = hashlib.sha256(PICKLE).hexdigest()
    assert said[1] == f"  nobody publishes its SHA-256: trusted this once and recorded as {sha256}"
    record = json.loads((tmp_path / registry.RECORD).read_text())["toy/net.pkl"]
    assert record == {"sha256": sha256, "n_bytes": len(PICKLE), "source": unknown.source}
    changed = bytearray(PICKLE)
    changed[100] ^= 1
    path.write_bytes(changed)
    with pytest.raises(ValueError, match=rf"must have SHA-256 {sha256} \(says the record"):
        registry.verify(unknown, tmp_path)
    path.unlink()
    server.files["/net.pkl"] = bytes(changed)  # the publisher's file changed as well: say so, do not trust it anew
    with pytest.raises(ValueError, match=f"must have SHA-256 {sha256}"):
        registry.fetch(unknown, tmp_path, say=said.append)
    assert not path.exists()


def test_a_file_put_there_by_hand_is_recorded_with_a_warning(unknown, tmp_path):
    path = tmp_path / unknown.path
    path.parent.mkdir()
    path.write_bytes(PICKLE)
    with pytest.warns(UserWarning, match=r"nobody publishes a hash of toy/net.pkl: trusted this once"):
        assert registry.verify(unknown, tmp_path) == path
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.verify(unknown, tmp_path)
    path.write_bytes(PICKLE[:-9] + PICKLE[-1:])
    with pytest.raises(ValueError, match=f"must have {len(PICKLE):,} bytes, got {len(PICKLE) - 8:,}"):
        registry.verify(unknown, tmp_path)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_read_only_folder_is_verified_without_writing(unknown, tmp_path, monkeypatch, code):
    path = tmp_path / unknown.path
    path.parent.mkdir()
    path.write_bytes(PICKLE)

    def refuse(*_):
        raise OSError(code, "no")

    monkeypatch.setattr(registry, "write_json_atomic", refuse)
    with pytest.warns(
        UserWarning, match=r"trusted this once, not recorded, for .* is read-only; its SHA-256 is [0-9a-f]{64}"
    ):
        assert registry.verify(unknown, tmp_path) == path
    assert registry.sha256_of(unknown, tmp_path) == hashlib.sha256(PICKLE).hexdigest()
    code = errno.ENOSPC
    with pytest.raises(OSError, match="no"):
        registry.verify(unknown, tmp_path)


@pytest.mark.parametrize("record", ["[]", '{"toy/net.pkl": 7}', "{", '{"a": {}, "a": {}}'])
def test_a_damaged_record_is_refused(unknown, tmp_path, record):
    (tmp_path / registry.RECORD).write_text(record)
    (tmp_path / "toy").mkdir()
    (tmp_path / unknown.path).write_bytes(PICKLE)
    with pytest.raises(ValueError, match=r"recorded\.json.* restore it, or delete it to trust the files anew"):
        registry.verify(unknown, tmp_path)


def test_a_planted_folder_of_the_hub_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / ".part").symlink_to(tmp_path / "elsewhere")
    file = WeightFile("toy/model.safetensors", "hub:owner/name", "MIT", "toy")
    with pytest.raises(ValueError, match=r"\.part is a link, expected a folder"):
        registry.fetch(file, tmp_path, say=list)


def header(change) -> bytes:
    """TENSORS with another header."""
    length = int.from_bytes(TENSORS[:8], "little")
    text = change(TENSORS[8 : 8 + length])
    return len(text).to_bytes(8, "little") + text + TENSORS[8 + length :]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("m.safetensors", TENSORS[:-1], "a safetensors file of the wrong length"),
        ("m.safetensors", TENSORS[:30], "no safetensors file, or a piece of one"),
        ("m.safetensors", b"", "empty"),
        ("m.safetensors", b"<!DOCTYPE html><html>sign in</html>", "a web page, not a model"),
        ("m.pkl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a git-lfs pointer, not the"),
        ("m.safetensors", (50_000).to_bytes(8, "little") + b"[" * 50_000, "damaged header"),
        ("m.json", b"[" * 50_000, r"no JSON \(nested too deeply"),
        ("m.json", b'{"a": 1, "a": 2}', r"no JSON \(the key 'a' comes twice"),
        ("m.safetensors", header(lambda text: b"[" + text[1:]), "damaged header"),
        ("m.safetensors", header(lambda text: text.replace(b"data_offsets", b"data_offsetz")), "damaged header"),
        ("m.pkl", PICKLE[:-1], "no whole pickle"),
        ("m.pkl", b"<html>quota exceeded</html>", "a web page, not a model"),
        ("m.bin", b"\n<HTML>quota exceeded</html>", "a web page, not a model"),
        ("m.bin", b"quota exceeded", "no whole pickle"),
        ("m.json", b'{"a": 1', "no JSON"),
        ("m.json", b"{}", "empty JSON"),
    ],
)
def test_a_damaged_file_is_refused_by_its_form_alone(serve, tmp_path, name, content, match):
    file = WeightFile(f"toy/{name}", f"{serve({f'/{name}': content}).url}/{name}", "MIT", "toy")
    with pytest.raises(ValueError, match=f"is .*{match}.*; delete it and fetch it again"):
        registry.fetch(file, tmp_path, say=list)
    assert not list((tmp_path / "toy").iterdir()) and not (tmp_path / registry.RECORD).exists()
    (tmp_path / file.path).write_bytes(content)
    with pytest.raises(ValueError, match=match):
        registry.verify(file, tmp_path)


def test_another_file_than_the_published_one_is_refused(known, server, tmp_path):
    server.files["/model.safetensors"] = safetensors.numpy.save({"a": np.ones(5000, dtype=np.float32)})
    file = replace(known, sha256_from="the hub")
    with pytest.raises(ValueError, match=rf"must have SHA-256 {SHA256} \(says the hub\), got"):
        registry.fetch(file, tmp_path, say=list)
    server.files["/model.safetensors"] = safetensors.numpy.save({"a": np.ones(5, dtype=np.float32)})
    with pytest.raises(ValueError, match=rf"must have {len(TENSORS):,} bytes, got 8\d"):
        registry.fetch(file, tmp_path, say=list)
    assert not list((tmp_path / "toy").iterdir())


def test_a_download_that_broke_goes_on(known, server, tmp_path):
    server.cut_after, server.n_answers = 7000, 1
    with pytest.raises(ConnectionError):
        registry.fetch(known, tmp_path, say=list)
    assert not (tmp_path / known.path).exists()
    server.cut_after = server.n_answers = None
    assert registry.fetch(known, tmp_path, say=list).read_bytes() == TENSORS
    assert server.n_sent == len(TENSORS)


@pytest.mark.parametrize("variable", ["GLASSLIB_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked_for(known, server, tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(RuntimeError, match=rf"offline, .*: put {known.source} at .*toy/model.safetensors"):
        registry.fetch(known, tmp_path)
    assert not server.ranges


def test_a_missing_file_is_named_with_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setenv("GLASSLIB_WEIGHTS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=rf"no weights at {tmp_path}/clip.*; run: make weights PRESET=GPT2 "):
        registry.require("GPT2")
    assert registry.weights_folder("elsewhere").name == "elsewhere"
    monkeypatch.delenv("GLASSLIB_WEIGHTS")
    assert registry.weights_folder() == REPO / "weights"


def test_hub_files_come_at_their_revision_and_are_held_to_the_hubs_own_hash(serve, tmp_path, monkeypatch):
    import huggingface_hub

    commit = "c" * 40
    server = serve({f"/owner/name/resolve/{commit}/model.safetensors": TENSORS})
    server.files["/owner/name/resolve/main/model.safetensors"] = TENSORS
    server.headers["X-Repo-Commit"] = commit
    for name in ("hf_hub_url", "hf_hub_download"):
        monkeypatch.setattr(huggingface_hub, name, partial(getattr(huggingface_hub, name), endpoint=server.url))
    pinned = WeightFile("toy/model.safetensors", "hub:owner/name", "MIT", "toy", revision=commit, sha256=SHA256)
    assert registry.fetch(pinned, tmp_path / "pinned", say=list).read_bytes() == TENSORS
    newest = replace(pinned, revision=None, sha256=None)
    said = []
    assert registry.fetch(newest, tmp_path / "newest", say=said.append).read_bytes() == TENSORS
    record = json.loads((tmp_path / "newest" / registry.RECORD).read_text())["toy/model.safetensors"]
    assert record["revision"] == commit and record["sha256"] == SHA256
    assert len(said) == 1  # nothing was trusted blindly: the hub gave the hash
    with pytest.raises(ConnectionError, match="hub:owner/other/model.safetensors: .*404"):
        registry.fetch(replace(pinned, source="hub:owner/other"), tmp_path / "other", say=list)


def test_the_table_says_what_is_there(tmp_path):
    def row(path):
        return next(line for line in registry.table(tmp_path).splitlines() if line.startswith(path))

    assert "605.1 MB  no    verified: hash of the hub, at this revision " in row("clip-vit-b-32/")
    assert " all  " in row("clip-vit-b-32/") and row("clip-vit-b-32/").endswith(
        "MIT; its model card rules out deployed uses"
    )
    assert "unknown   no    trusted at first download " in row("stylegan2/stylegan2-ffhq")
    assert row("stylegan2/stylegan2-ffhq").endswith("Nvidia Source Code License-NC: non-commercial use only")
    assert "verified: hash of a third party" in row("biggan-deep-256/config")
    assert "GPT2, CapDec" in row("gpt2/model.safetensors")
    # 605,143,284 + 715 + 234,411,737 + 665 + 548,105,171 + 1,042,301 + 456,318 bytes
    assert row("total: ") == "total: 15 files; 1,389.2 MB in 7 of them, and 8 of unknown size; 0.0 MB here"
    for name in ("gpt2/merges.txt", "stylegan2/stylegan2-car-config-f.pkl.part"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"short")
    assert "WRONG SIZE" in row("gpt2/merges.txt") and "  begun " in row("stylegan2/stylegan2-car")


def test_the_command_says_what_is_wrong_and_fails(tmp_path):
    environment = {"GLASSLIB_WEIGHTS": str(tmp_path), "GLASSLIB_OFFLINE": "1", "PYTHONPATH": str(REPO)}
    for arguments, code, text in ((["GPT2"], 1, "offline"), (["GPT3"], 1, "got 'GPT3'"), ([], 0, "gpt2/vocab.json")):
        command = [sys.executable, "-m", "glasslib.weights", *arguments]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert run.returncode == code and text in run.stdout + run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize(("arguments", "seen"), [([], "glasslib.weights "), (["PRESET=GPT2"], "glasslib.weights GPT2")])
def test_make_weights_lists_or_fetches(tmp_path, arguments, seen):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nshift\nprintf "%s " "$@"\n')
    python.chmod(0o755)
    command = ["make", "weights", f"PY={python}", f"READY={python}", *arguments]
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert (run.stdout.strip(), run.stderr) == (seen.strip(), "")
