"""NVIDIA's StyleGAN2 files: read exactly, converted once, and refused by name when anything is wrong with them."""

import json
import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from glasslib.bench import damaged_files, nvidia_files
from glasslib.generators.stylegan2.arrays import from_tensorflow
from glasslib.generators.stylegan2.generator import StyleGAN2Generator
from glasslib.generators.stylegan2.safe_pickle import Refused
from glasslib.generators.stylegan2.snapshots import convert, read_networks

GOLDEN = Path(__file__).parents[1] / "golden" / "stylegan2_tf_res32"


@pytest.fixture
def torch_pkl(tmp_path):
    """The networks' data and a genuine file of them."""
    data = nvidia_files.torch_data()
    path = tmp_path / "network.pkl"
    path.write_bytes(nvidia_files.torch_file(data, canary=tmp_path / "canary"))
    return data, path


@pytest.fixture
def write_tensorflow(tmp_path):
    """Changes to the golden facts -> a file of the golden variables."""
    variables = load_file(f"{GOLDEN}.variables.safetensors")

    def write(*, protocol: int = 4, version: int = 4, **generator_arguments) -> Path:
        facts = json.loads(GOLDEN.with_suffix(".json").read_text()) | {"version": version}
        facts["G"]["static_kwargs"] |= generator_arguments
        path = tmp_path / "tensorflow.pkl"
        path.write_bytes(nvidia_files.tensorflow_file(variables, facts, canary=tmp_path / "canary", protocol=protocol))
        return path

    return write


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_torch_file_gives_the_weights_it_holds(tmp_path, protocol):
    data, path, canary = nvidia_files.torch_data(), tmp_path / "network.pkl", tmp_path / "canary"
    path.write_bytes(nvidia_files.torch_file(data, canary=canary, protocol=protocol))
    networks = read_networks(path)
    for name in ("G", "G_ema", "D"):
        ours, theirs = getattr(networks, name).state_dict(), data[name].state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    assert networks.config["generator"]["mapping_kwargs"] == {"num_layers": 2}
    assert not torch.equal(networks.G.synthesis.b4.const, networks.G_ema.synthesis.b4.const)
    assert not canary.exists()


def test_half_precision_and_channels_last_weights_are_read(tmp_path):
    data = nvidia_files.torch_data()
    layer = data["G"].synthesis.b8.conv1
    layer.weight.data = layer.weight.data.half().contiguous(memory_format=torch.channels_last)
    path = tmp_path / "network.pkl"
    path.write_bytes(nvidia_files.torch_file(data, canary=tmp_path / "canary"))
    weight = read_networks(path).G.synthesis.b8.conv1.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, layer.weight.float())


@torch.no_grad()
@pytest.mark.parametrize("protocol", [3, 4])
def test_tensorflow_file_equals_the_reference(tmp_path, write_tensorflow, protocol):
    networks, golden = read_networks(write_tensorflow(protocol=protocol)), load_file(f"{GOLDEN}.golden.safetensors")
    for generator in (networks.G, networks.G_ema):
        deviation = (generator(golden["z"]) - golden["image_const"]).abs().max() / golden["image_const"].std()
        assert deviation <= 1e-4
    deviation = (networks.D(golden["image_const"]) - golden["logits"]).abs().max() / golden["logits"].std()
    assert deviation <= 1e-4
    assert not (tmp_path / "canary").exists()


def test_minibatch_groups_follow_the_tensorflow_version(tmp_path):
    """The two TensorFlow codes have different defaults, and a released file says nothing of it."""
    facts = json.loads(GOLDEN.with_suffix(".json").read_text())
    del facts["D"]["static_kwargs"]["mbstd_group_size"]
    variables, groups = load_file(f"{GOLDEN}.variables.safetensors"), {}
    for version in (4, 5):
        path, facts["version"] = tmp_path / "network.pkl", version
        path.write_bytes(nvidia_files.tensorflow_file(variables, facts, canary=tmp_path / "canary"))
        groups[version] = read_networks(path).D.b4.mbstd.group_size
    assert groups == {4: 4, 5: None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "its G must be of format 4 or 5, got 3"),
        ({"label_size": 10}, "label_size must be 0, got 10"),
        ({"architecture": "orig"}, "architecture must be skip, got 'orig'"),
        ({"resolution": 64}, "its G and D are for different image sizes"),
        ({"mapping_layers": 4}, r"its G lacks weights: 2, first mapping\.fc3\.bias"),
        ({"fmap_max": 16}, "must have shape"),
    ],
)
def test_other_tensorflow_networks_are_refused(write_tensorflow, changes, message):
    with pytest.raises(ValueError, match=message):
        read_networks(write_tensorflow(**changes))


def test_unknown_tensorflow_variables_are_refused():
    with pytest.raises(Refused, match="variable '16x16/Conv7/weight', which a StyleGAN2 of config E or F does not"):
        from_tensorflow("16x16/Conv7/weight", np.zeros((3, 3, 2, 2)))


def test_upsampling_kernels_are_flipped_and_others_are_not():
    values = np.arange(9.0).reshape(3, 3, 1, 1)
    assert from_tensorflow("synthesis/8x8/Conv1/weight", values)[1][0, 0, 0].tolist() == [0, 1, 2]
    assert from_tensorflow("synthesis/8x8/Conv0_up/weight", values)[1][0, 0, 0].tolist() == [8, 7, 6]


def test_converted_file_gives_the_same_pictures(torch_pkl, tmp_path):
    _, path = torch_pkl
    target, z = tmp_path / "network.safetensors", np.random.default_rng(0).standard_normal((3, 8))
    convert(path, target)
    networks = read_networks(path)
    pictures = {}
    for which in ("G", "G_ema"):
        loaded = StyleGAN2Generator.load(target, which=which)
        pictures[which] = loaded(z)
        direct = networks.generator(which=which)
        assert torch.equal(pictures[which], direct(z))
        assert torch.equal(loaded.realism(pictures[which]), direct.realism(pictures[which]))
    assert not torch.allclose(pictures["G"], pictures["G_ema"])
    assert torch.equal(StyleGAN2Generator.load(target)(z), pictures["G_ema"])


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_command_converts_and_refuses(torch_pkl, tmp_path, monkeypatch):
    _, path = torch_pkl

    def command(target: str) -> None:
        monkeypatch.setattr(sys, "argv", ["snapshots", str(path), str(tmp_path / target)])
        runpy.run_module("glasslib.generators.stylegan2.snapshots", run_name="__main__")

    command("a.safetensors")
    assert StyleGAN2Generator.load(tmp_path / "a.safetensors").image_size == 16
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SystemExit, match="network.pkl is refused: its pickle is truncated"):
        command("b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_the_damaged_files_would_run_code_in_python_s_unpickler(tmp_path):
    """Without this the canary could prove nothing."""
    content, _ = damaged_files.kinds(tmp_path / "canary")["os.system"]
    pickle.loads(content)
    assert (tmp_path / "canary").exists()


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_every_damaged_or_malicious_file_is_refused_by_name_and_runs_nothing(tmp_path):
    rows = damaged_files.refusals(tmp_path)
    assert [row for row in rows if not row["refused"]] == []
    assert len(rows) >= 60


def test_missing_and_misnamed_files(torch_pkl, tmp_path):
    _, path = torch_pkl
    with pytest.raises(FileNotFoundError, match=r"no StyleGAN2 file at .*nothing\.pkl; run: make weights"):
        read_networks(tmp_path / "nothing.pkl")
    with pytest.raises(ValueError, match="the target must end in .safetensors"):
        convert(path, tmp_path / "network.pt")
    with pytest.raises(ValueError, match="which must be 'G' or 'G_ema', got 'D'"):
        read_networks(path).generator(which="D")
