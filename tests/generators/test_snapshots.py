"""NVIDIA's StyleGAN2 files: read exactly, converted once, and refused by name when anything is wrong with them."""

import json
import runpy
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from glasslib.bench import nvidia_files
from glasslib.bench.contests import deviation
from glasslib.generators.stylegan2.arrays import _are_apart, from_tensorflow
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


@torch.no_grad()
def test_stylegan2_of_stylegan3_s_repository_equals_it(tmp_path):
    """Its synthesis arguments stand at the top level, and its classes clamp at 256 when nothing is said."""
    start = GOLDEN.with_name("stylegan2_of3_res32")
    kwargs, weights = json.loads(start.with_suffix(".json").read_text()), load_file(f"{start}.weights.safetensors")
    synthesis = {key: kwargs["G"][key] for key in ("channel_base", "channel_max")}
    ours = {key: kwargs["G"][key] for key in ("z_dim", "w_dim", "c_dim", "img_resolution", "img_channels")}
    ours |= {"mapping_kwargs": kwargs["G"]["mapping_kwargs"], "synthesis_kwargs": synthesis}
    size = {"c_dim": 0, "img_resolution": 32, **synthesis}
    data = nvidia_files.torch_data(**nvidia_files.torch_networks({"generator": ours, "discriminator": size}))
    for name, letter in (("G", "G"), ("G_ema", "G"), ("D", "D")):
        data[name].load_state_dict({k[2:]: v for k, v in weights.items() if k.startswith(f"{letter}.")})
        data[name].pickled_state = {"_init_kwargs": nvidia_files.easy(kwargs[letter])}
    path, golden = tmp_path / "network.pkl", load_file(f"{start}.golden.safetensors")
    path.write_bytes(nvidia_files.torch_file(data, canary=tmp_path / "canary"))
    networks = read_networks(path)
    assert deviation(networks.G_ema(golden["z"]), golden["image_const"]) <= 1e-4
    assert deviation(networks.D(golden["image_const"]), golden["logits"]) <= 1e-4
    del networks.G_ema.synthesis.b32.conv1.conv_clamp  # that the clamp counts
    networks.G_ema.synthesis.b32.conv1.conv_clamp = None
    assert deviation(networks.G_ema(golden["z"]), golden["image_const"]) > 1e-2


@pytest.fixture
def rosinality(tmp_path):
    """Changes -> a checkpoint as rosinality's train.py writes it, with the golden weights."""
    start = GOLDEN.with_name("rosinality_res32")
    weights = load_file(f"{start}.weights.safetensors")
    saved = {
        part: {key.removeprefix(f"{part}."): value for key, value in weights.items() if key.startswith(f"{part}.")}
        for part in ("g", "g_ema", "d")
    }
    saved |= {"g_optim": {"state": {}, "param_groups": [{"lr": 0.002}]}, "args": Namespace(size=32), "ada_aug_p": 0.0}

    def write(change=lambda saved: saved):
        torch.save(change(saved), tmp_path / "550000.pt")
        return tmp_path / "550000.pt"

    return write, load_file(f"{start}.golden.safetensors")


@torch.no_grad()
def test_rosinality_s_checkpoint_equals_its_own_networks(rosinality, tmp_path):
    write, golden = rosinality
    networks = read_networks(write())
    assert deviation(networks.G(golden["z"])[:2], golden["image_g"]) <= 1e-4
    assert deviation(networks.G_ema(golden["z"]), golden["image_g_ema"]) <= 1e-4
    assert deviation(networks.D(golden["image_g_ema"]), golden["logits"]) <= 1e-4
    styles = networks.G_ema.mapping(torch.randn(20_000, 16, generator=torch.Generator().manual_seed(5)))
    assert (networks.G_ema.mapping.w_avg - styles.mean(dim=0)).abs().max() < 0.1
    convert(write(), tmp_path / "a.safetensors")
    assert StyleGAN2Generator.load(tmp_path / "a.safetensors").image_size == 32


def without(key):
    return lambda saved: {name: value for name, value in saved.items() if name != key}


def test_rosinality_s_checkpoint_may_lack_g_and_d(rosinality, tmp_path):
    write, golden = rosinality
    networks = read_networks(write(lambda saved: {"g_ema": saved["g_ema"], "latent_avg": torch.zeros(16)}))
    assert networks.G is None and networks.D is None
    assert networks.generator()(golden["z"]).shape == (8, 3, 32, 32)
    with pytest.raises(ValueError, match="this file holds no raw generator; use which='G_ema'"):
        networks.generator(which="G")
    with pytest.raises(ValueError, match="must hold G, D and G_ema to be converted, and lacks G, D"):
        convert(tmp_path / "550000.pt", tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("g_ema"), "has no g_ema; it must be a checkpoint of rosinality"),
        (
            lambda saved: saved | {"d": {**saved["d"], "odd.weight": torch.ones(1)}},
            "the weight odd.weight, which",
        ),
        (
            lambda saved: saved | {"g": {**saved["g"], "style.1.weight": torch.ones(16, 9)}},
            "are of different",
        ),
        (lambda saved: saved | {"g": without("input.input")(saved["g"])}, "lacks what a StyleGAN2 has"),
        (lambda saved: saved | {"g": {**saved["g"], "convs.0.conv.blur.kernel": torch.eye(4)}}, "must have the filter"),
        (lambda saved: saved | {"d": {k: v * torch.nan for k, v in saved["d"].items()}}, "must have the filter|finite"),
        (lambda saved: [saved], "has no g_ema"),
    ],
)
def test_other_checkpoints_are_refused_by_name(rosinality, change, message):
    write, _ = rosinality
    with pytest.raises(ValueError, match=rf"550000\.pt.*({message})"):
        read_networks(write(change))


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_overlapping_strides_are_refused_and_separate_ones_in_any_order_are_not():
    for shape, strides, apart in [
        ((2, 4), (4, 1), True), ((4, 2), (1, 4), True), ((1, 8), (0, 1), True), ((4,), (2,), True),
        ((2, 4), (1, 1), False), ((2, 2, 2), (1, 2, 3), False), ((3,), (0,), False), ((2, 2), (3, 2), True),
    ]:  # fmt: skip
        places = [sum(i * s for i, s in zip(index, strides, strict=True)) for index in np.ndindex(*shape)]
        assert (len(set(places)) == len(places)) >= _are_apart(shape, strides) == apart, (shape, strides)


def test_missing_and_misnamed_files(torch_pkl, tmp_path):
    _, path = torch_pkl
    with pytest.raises(FileNotFoundError, match=r"no StyleGAN2 file at .*nothing\.pkl; run: make weights"):
        read_networks(tmp_path / "nothing.pkl")
    with pytest.raises(ValueError, match="the target must end in .safetensors"):
        convert(path, tmp_path / "network.pt")
    with pytest.raises(ValueError, match="which must be 'G' or 'G_ema', got 'D'"):
        read_networks(path).generator(which="D")
