"""BigGAN-deep: equal to the reference's golden values and to the published package, and clear about bad input."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_pretrained_biggan import BigGAN, BigGANConfig
from pytorch_pretrained_biggan.model import BigGANBatchNorm

from glasslib.bench.contests import deviation
from glasslib.bench.parity import biggan_package, golden_biggan
from glasslib.generators.biggan.generator import BigGANGenerator, class_weights
from glasslib.generators.biggan.layers import BatchNorm, RGBConv, UpConv, rows_at
from glasslib.generators.biggan.networks import (
    GeneratorNetwork,
    add_spectral_norm,
    fold_spectral_norm,
    published_config,
)
from glasslib.latents import ClassMixture

TOLERANCE = 1e-4  # of the reference's standard deviation
TINY = {
    "output_dim": 8, "z_dim": 6, "class_embed_dim": 6, "channel_width": 4, "num_classes": 7,
    "layers": [[False, 16, 2], [True, 2, 1]], "attention_layer_position": 1, "eps": 1e-4, "n_stats": 51,
}  # fmt: skip
# Where truncation / 0.02 is no whole number in floating point although it should be.
OFF_GRID_BY_ROUNDING = [0.14, 0.28, 0.56, 0.58, 0.94]


def golden_network() -> GeneratorNetwork:
    config, weights, _ = golden_biggan()
    network = GeneratorNetwork(**config)
    network.load_state_dict(fold_spectral_norm(weights), strict=True)
    return network.freeze()


@torch.no_grad()
def tiny_network(seed: int = 0) -> GeneratorNetwork:
    """Random weights and statistics, with spectral norm, in evaluation mode."""
    torch.manual_seed(seed)
    network = add_spectral_norm(GeneratorNetwork(**TINY))
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("running_means"):
            tensor.normal_(0, 0.1)
        elif name.endswith(("running_vars", "gamma")):
            tensor.uniform_(0.5, 1.5)
    network(torch.randn(4, 6), torch.eye(7)[:4])  # in training mode: one power iteration
    return network.eval()


def tiny(seed: int = 0, **options) -> BigGANGenerator:
    network = GeneratorNetwork(**TINY)
    network.load_state_dict(fold_spectral_norm(tiny_network(seed).state_dict()))
    return BigGANGenerator(network, config=TINY, **options)


def tiny_latents(n: int = 5, **options) -> np.ndarray:
    return tiny(**options).latent_space.sample(n, rng=np.random.default_rng(1))


@pytest.mark.parametrize(("truncation", "value"), [(1.0, "image_truncation1"), (0.4, "image_truncation04")])
@torch.no_grad()
def test_images_equal_the_reference(truncation, value):
    _, _, values = golden_biggan()
    assert deviation(golden_network()(values["z"], values["class_vector"], truncation), values[value]) <= TOLERANCE


@torch.no_grad()
def test_with_spectral_norm_the_state_dict_is_the_published_one():
    config, weights, values = golden_biggan()
    network = add_spectral_norm(GeneratorNetwork(**config))
    network.load_state_dict(weights, strict=True)
    ours = network.eval()(values["z"], values["class_vector"], 0.4)
    assert deviation(ours, values["image_truncation04"]) <= TOLERANCE


@pytest.mark.parametrize(("resolution", "n_entries"), [(128, 506), (256, 602), (512, 698)])
def test_published_networks_have_the_published_keys_and_shapes(resolution, n_entries):
    config = published_config(resolution)
    with torch.device("meta"):
        ours = add_spectral_norm(GeneratorNetwork(**config)).state_dict()
        theirs = BigGAN(BigGANConfig(**config)).state_dict()
    assert len(ours) == n_entries
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@torch.no_grad()
def test_the_128_network_equals_the_package():
    assert biggan_package(128, truncations=(0.6,)).popitem()[1] <= TOLERANCE


@pytest.mark.parametrize("faithful", [True, False])
@torch.no_grad()
def test_statistics_of_every_truncation(faithful):
    torch.manual_seed(0)
    ours, theirs = BatchNorm(3, None, n_stats=51, eps=1e-4), BigGANBatchNorm(3, n_stats=51, conditional=False)
    means, variances = torch.arange(51.0)[:, None].expand(51, 3), 1 + torch.rand(51, 3)
    state = {"running_means": means, "running_vars": variances, "weight": torch.ones(3), "bias": torch.full((3,), 60.0)}
    for norm in (ours.eval(), theirs):
        norm.load_state_dict(state)
    x = torch.randn(2, 3, 4, 4)
    differ = []
    for step in range(1, 201):  # every 0.005; a fourth of them has statistics of its own
        truncation = step / 200
        mine = ours(x, rows_at(truncation, 51, faithful=faithful))
        if not torch.allclose(mine, F.relu(theirs(x, truncation)), rtol=1e-4, atol=1e-4):
            differ.append(truncation)
    on_grid = [truncation for truncation in differ if round(truncation * 200) % 4 == 0]
    half_way = [truncation for truncation in differ if round(truncation * 200) % 4 == 2]
    assert on_grid == ([] if faithful else OFF_GRID_BY_ROUNDING)
    assert half_way == []  # half and half is the same either way round
    assert len(differ) == (0 if faithful else 100 + len(OFF_GRID_BY_ROUNDING))


@pytest.mark.parametrize(
    ("truncation", "position"), [(0.0, 0), (0.14, 7), (0.58, 29), (1.0, 50), (0.135, 6.75), (0.005, 0.25)]
)
def test_statistics_are_interpolated_the_right_way(truncation, position):
    first, second, share = rows_at(truncation, 51)
    assert 0 <= first < second <= 50
    assert first * (1 - share) + second * share == pytest.approx(position, abs=1e-9)


def test_the_published_way_takes_the_neighbour_and_the_mirror():
    assert [rows_at(t, 51, faithful=True).first for t in (0.28, 0.56, 0.58, 0.94)] == [14, 28, 28, 46]
    assert [round(rows_at(t, 51, faithful=True).share, 6) for t in (0.14, 0.28, 0.135)] == [1, 1, 0.25]


@torch.no_grad()
def test_folding_keeps_the_function():
    network = tiny_network()
    z, classes = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)), torch.eye(7)[:3]
    folded = GeneratorNetwork(**TINY)
    state = fold_spectral_norm(network.state_dict())
    folded.load_state_dict(state)
    torch.testing.assert_close(folded.freeze()(z, classes, 0.5), network(z, classes, 0.5))
    assert all(torch.equal(value, state[key]) for key, value in fold_spectral_norm(state).items())


def test_folding_refuses_what_is_no_spectral_norm():
    state = dict(tiny_network().state_dict())
    name = "generator.layers.0.conv_1.weight"
    with pytest.raises(ValueError, match=rf"{name}_u and .* got \[\(16,\), None\]"):
        fold_spectral_norm({key: value for key, value in state.items() if key != f"{name}_v"})
    with pytest.raises(ValueError, match=rf"norm of {name} must be a finite number and not 0, got 0"):
        fold_spectral_norm(state | {f"{name}_u": torch.zeros(16)})


@pytest.mark.parametrize("frozen", [False, True])
def test_upsampling_convolution_equals_the_plain_one(frozen):
    torch.manual_seed(0)
    layer = UpConv(3).double()
    x = torch.randn(2, 3, 4, 5).double().requires_grad_(True)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, layer.bias, padding=1)
    (wanted,) = torch.autograd.grad(plain.square().sum(), x, retain_graph=True)
    if frozen:
        layer.freeze()
    ours = layer(x)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.autograd.grad(ours.square().sum(), x)[0], wanted)


@torch.no_grad()
def test_only_three_channels_of_the_last_convolution_count():
    layer = RGBConv(5)
    x = torch.randn(1, 5, 4, 4)
    before = layer(x)
    assert before.shape == (1, 3, 4, 4)
    layer.weight[3:] += 1
    layer.bias[3:] += 1
    assert torch.equal(layer(x), before)


def test_in_training_a_batch_norms_by_its_own_statistics():
    torch.manual_seed(0)
    norm = BatchNorm(3, 4, n_stats=51, eps=1e-4)
    torch.nn.init.zeros_(norm.scale.weight)
    torch.nn.init.zeros_(norm.offset.weight)
    x = torch.randn(16, 3, 4, 4) * 5 + 2
    wanted = F.relu((x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), correction=0, keepdim=True))
    torch.testing.assert_close(norm(x, rows_at(1.0, 51), torch.randn(16, 4)), wanted, rtol=1e-3, atol=1e-3)


def test_pictures_are_the_network_s_of_scaled_z_moved_to_the_unit_range():
    x = tiny_latents(encoding="softmax_bits")
    network = tiny_network()
    z, bits = torch.as_tensor(x, dtype=torch.float32).split([6, 7], dim=1)
    with torch.no_grad():
        raw = network(z * 0.4, bits.softmax(dim=1), 0.4)
    ours = tiny(encoding="softmax_bits", truncation=0.4)(x)
    assert 0 <= ours.min() and ours.max() <= 1 and ours.std() > 0.01
    torch.testing.assert_close(ours, (raw + 1) / 2)


@pytest.mark.parametrize("encoding", ["simplex", "softmax_bits"])
def test_class_weights_equal_the_latent_space_s(encoding):
    mixture = ClassMixture(n_classes=7, n_active=3, encoding=encoding)
    rng = np.random.default_rng(0)
    x = np.concatenate([mixture.sample(20, rng=rng), np.zeros((1, 7)), np.ones((1, 7)), rng.random((5, 7))])
    ours = class_weights(torch.as_tensor(x), mixture)
    np.testing.assert_allclose(ours.numpy(), mixture.weights(x), atol=1e-12)


def test_a_single_class_is_reachable_on_the_simplex_only():
    x = np.zeros((1, 13))
    x[0, 6 + 2] = 1.0
    z, one_hot = torch.zeros(1, 6), torch.eye(7)[2:3]
    with torch.no_grad():
        wanted = tiny_network()(z, one_hot).add(1).div(2)
    torch.testing.assert_close(tiny()(x), wanted)
    torch.testing.assert_close(tiny(n_active=1)(x * 0.3), wanted)
    assert not torch.allclose(tiny(encoding="softmax_bits")(x), wanted, atol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batch_size_and_order_do_not_matter(batch_size):
    x = tiny_latents()
    images = tiny()(x)
    assert images.shape == (5, 3, 8, 8) and images.dtype == torch.float32
    torch.testing.assert_close(tiny(batch_size=batch_size)(x), images)
    torch.testing.assert_close(tiny()(x[::-1].copy()).flip(0), images)


def test_latent_space_is_z_and_classes():
    space = tiny(n_active=2).latent_space
    z, classes = space.split(space.sample(50, rng=np.random.default_rng(0)))
    assert z.shape == (50, 6) and np.abs(z).max() <= 2 and np.abs(z).max() > 1.5
    assert classes.shape == (50, 7) and set((classes > 0).sum(1)) == {1, 2}
    assert list(space.lower) == [-2.0] * 6 + [0.0] * 7
    assert (tiny(encoding="softmax_bits").latent_space.kinds[6:] == "binary").all()


def test_latents_receive_gradients():
    x = torch.as_tensor(tiny_latents(4, n_active=2)).requires_grad_(True)
    weights = torch.linspace(0, 1, 4 * 3 * 64).reshape(4, 3, 8, 8)
    generator = tiny(n_active=2)
    (generator(x) * weights).sum().backward()
    assert (x.grad[:, :6].abs().sum(dim=1) > 0).all()
    mixed = (x.detach()[:, 6:] > 0).sum(dim=1) == 2  # a class alone has weight 1 whatever its variable
    assert mixed.any() and (x.grad[mixed, 6:].abs().sum(dim=1) > 0).all()
    inside = x.detach().abs() > 0.01  # no step leads to a third class, or out of the box
    inside[:, 6:] &= x.detach()[:, 6:] < 0.99
    slope = x.grad * inside
    step = 1e-3 * slope / slope.norm()
    gain = ((generator(x.detach() + step) - generator(x.detach() - step)) * weights).sum()
    assert float(gain) == pytest.approx(2e-3 * float(slope.norm()), rel=0.05)


def test_faithful_changes_pictures_between_grid_points_only():
    x = tiny_latents()
    assert torch.equal(tiny(faithful=True, truncation=0.5)(x), tiny(truncation=0.5)(x))
    for truncation in (0.505, 0.58):
        assert not torch.allclose(tiny(faithful=True, truncation=truncation)(x), tiny(truncation=truncation)(x))


def test_save_and_load_give_the_same_pictures(tmp_path):
    ours = tiny()
    ours.save(tmp_path)
    loaded = BigGANGenerator.load(tmp_path)
    assert torch.equal(loaded(tiny_latents()), ours(tiny_latents()))
    loaded.save(tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_the_published_files_load(tmp_path):
    config, weights, values = golden_biggan()
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save(weights, tmp_path / "pytorch_model.bin")
    ours = BigGANGenerator.load(tmp_path, n_active=10, truncation=0.4)
    x = torch.cat([values["z"] / 0.4, values["class_vector"]], dim=1)
    torch.testing.assert_close(values["class_vector"].sum(dim=1), torch.ones(4))  # so that it is its own mixture
    assert deviation(ours(x) * 2 - 1, values["image_truncation04"]) <= TOLERANCE


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((2, 9)), r"latents must have shape \(n, 13\), got \(2, 9\)"),
        (np.full((2, 13), np.nan), "latents must be finite, got 26 bad of 26"),
        (np.full((2, 13), -0.5), r"class variables must lie in \[0, 1\], got 14 of 14 values outside"),
    ],
)
def test_bad_latents_are_refused(latents, message):
    with pytest.raises(ValueError, match=message):
        tiny()(latents)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": 0.0}, "truncation must be above 0 and at most 1, got 0.0"),
        ({"truncation": math.nan}, "truncation must be above 0 and at most 1, got nan"),
        ({"n_active": 8}, "n_active must be at most n_classes=7, got 8"),
        ({"encoding": "onehot"}, "encoding must be 'simplex' or 'softmax_bits', got 'onehot'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny(**options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [[False, 16, 2], [True, 4, 1]]}, "each from the width before it"),
        ({"output_dim": 16}, r"double 4 pixels up to output_dim=16, got 8"),
        ({"layers": [[False, 16, 2], [False, 2, 4], [True, 4, 1]]}, "must not widen"),
    ],
)
def test_layers_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GeneratorNetwork(**TINY | changes)


def test_other_resolutions_and_truncations_are_refused():
    with pytest.raises(ValueError, match="resolution must be 128, 256 or 512, got 64"):
        published_config(64)
    with pytest.raises(ValueError, match=r"truncation must lie in \[0, 1\], got 1.02"):
        rows_at(1.02, 51)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_missing_damaged_and_malicious_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no BigGAN weights at .*nowhere; run: make"):
        BigGANGenerator.load(tmp_path / "nowhere")
    tiny().save(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="model.safetensors is a safetensors file of the wrong length; copy"):
        BigGANGenerator.load(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match="no model.safetensors or pytorch_model.bin at"):
        BigGANGenerator.load(tmp_path)
    pickled = tmp_path / "pytorch_model.bin"
    torch.save({"generator.conv_to_rgb.weight": Payload(tmp_path / "ran")}, pickled)
    with pytest.raises(ValueError, match="pytorch_model.bin must be .* that holds nothing but tensors"):
        BigGANGenerator.load(tmp_path)
    assert not (tmp_path / "ran").exists()
    pickled.write_bytes(b"")
    with pytest.raises(ValueError, match="pytorch_model.bin is empty"):
        BigGANGenerator.load(tmp_path)
    torch.save([torch.zeros(1)], pickled)
    with pytest.raises(ValueError, match=r"must hold a state dict \(names -> tensors\), .* got list"):
        BigGANGenerator.load(tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    tiny().save(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(TINY | {"z_dim": 5}))
    with pytest.raises(ValueError, match=r"another architecture: 17 .*gen_z.weight \(1024, 12\) for \(1024, 11\)"):
        BigGANGenerator.load(tmp_path)
    config.write_text(json.dumps(TINY | {"depth": 5}))
    with pytest.raises(ValueError, match=r"config.json must describe a network that fits the weights: .*'depth'"):
        BigGANGenerator.load(tmp_path)
    config.write_text("[]")
    with pytest.raises(ValueError, match="config.json is empty JSON"):
        BigGANGenerator.load(tmp_path)
