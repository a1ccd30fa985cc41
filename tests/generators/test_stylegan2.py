"""StyleGAN2: equal to the reference's golden values, the same whatever the batch, and clear about bad input."""

import json

import numpy as np
import pytest
import torch

from glasslib.bench.contests import deviation
from glasslib.bench.parity import GOLDEN, faithful_stylegan2
from glasslib.bench.parity import golden_stylegan2 as golden
from glasslib.bench.references import stylegan2
from glasslib.generators.stylegan2.generator import StyleGAN2Generator, with_drawn_head
from glasslib.generators.stylegan2.layers import FullyConnected, SynthesisLayer, fir_filter, fir_upsample, shrink_kernel
from glasslib.generators.stylegan2.networks import Discriminator, GeneratorNetwork

CONFIGURATIONS = ("skip_res64", "cond_res32")
TOLERANCE = 1e-4  # of the reference's standard deviation

TINY = {
    "generator": {
        "z_dim": 8, "c_dim": 0, "w_dim": 8, "img_resolution": 16, "img_channels": 3,
        "mapping_kwargs": {"num_layers": 2}, "synthesis_kwargs": {"channel_base": 64, "channel_max": 8},
    },
    "discriminator": {"c_dim": 0, "img_resolution": 16, "img_channels": 3, "channel_base": 64, "channel_max": 8},
}  # fmt: skip


def tiny_networks(seed: int = 0, config: dict = TINY) -> tuple[GeneratorNetwork, Discriminator]:
    torch.manual_seed(seed)
    generator = GeneratorNetwork(**config["generator"])
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.5)
    return generator, Discriminator(**config["discriminator"])


def tiny(**options) -> StyleGAN2Generator:
    return StyleGAN2Generator(*tiny_networks(), config=TINY, **options)


def tiny_latents(n: int = 7) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, 8))


@pytest.mark.parametrize("name", CONFIGURATIONS)
@torch.no_grad()
def test_mapping_equals_the_reference(name):
    generator, _, values = golden(name)
    label = values.get("label")
    assert deviation(generator.mapping(values["z"], label), values["w"]) <= TOLERANCE
    assert deviation(generator.mapping(values["z"], label, truncation_psi=0.7), values["w_psi07"]) <= TOLERANCE


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("image_const", {"noise_mode": "const"}),
        ("image_psi07_const", {"noise_mode": "const", "truncation_psi": 0.7}),
        ("image_none", {"noise_mode": "none"}),
    ],
)
@torch.no_grad()
def test_images_equal_the_reference(name, value, options):
    generator, _, values = golden(name)
    ours = generator(values["z"], values.get("label"), **options)
    assert deviation(ours[:2], values[value]) <= TOLERANCE


@pytest.mark.parametrize("name", CONFIGURATIONS)
@torch.no_grad()
def test_logits_equal_the_reference(name):
    generator, discriminator, values = golden(name)
    images = generator(values["z"], values.get("label"))  # two of the eight are proven above
    assert deviation(discriminator(images, values.get("label")), values["logits"]) <= TOLERANCE


@torch.no_grad()
def test_the_minibatch_standard_deviation_reaches_the_logits():
    generator, discriminator, values = golden("skip_res64")
    images = generator(values["z"])
    regrouped = discriminator(images[[0, 2, 1, 3, 4, 5, 6, 7]])[[0, 2, 1, 3, 4, 5, 6, 7]]
    assert deviation(regrouped, values["logits"]) > TOLERANCE


@torch.no_grad()
def test_shared_kernel_equals_one_kernel_per_image():
    torch.manual_seed(0)
    layer = SynthesisLayer(3, 5, w_dim=4, resolution=6)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
    ours = layer(x, w, noise_mode="none", rng=None)
    for i in range(2):
        styles = w[i] @ layer.affine.weight.T / 2 + 1  # 1 / sqrt(4), and the bias starts at one
        kernel = layer.weight * styles[None, :, None, None]
        kernel = kernel / (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        naive = torch.nn.functional.conv2d(x[i : i + 1], kernel, padding=1)
        naive = torch.where(naive > 0, naive, 0.2 * naive) * 2**0.5
        torch.testing.assert_close(ours[i : i + 1], naive, rtol=1e-4, atol=1e-5)


def test_modulation_has_the_right_slopes():
    torch.manual_seed(0)
    layer = SynthesisLayer(2, 3, w_dim=3, resolution=4, up=2).double()
    x, w = torch.randn(2, 2, 2, 2).double().requires_grad_(True), torch.randn(2, 3).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x, w: layer(x, w, noise_mode="const", rng=None), (x, w))


@torch.no_grad()
def test_the_last_w_reaches_only_the_last_colours():
    generator, _ = tiny_networks()
    ws = torch.randn(1, generator.num_ws, 8, generator=torch.Generator().manual_seed(0))
    other = ws.clone()
    other[:, -1] += 1
    assert not torch.allclose(generator.synthesis(ws), generator.synthesis(other))
    generator.synthesis.b16.torgb.affine.weight.zero_()
    assert torch.equal(generator.synthesis(ws), generator.synthesis(other))


def test_upsampling_keeps_a_flat_image_flat_inside():
    doubled = fir_upsample(torch.full((2, 3, 4, 4), 0.5), fir_filter())
    assert doubled.shape == (2, 3, 8, 8)
    torch.testing.assert_close(doubled[:, :, 1:-1, 1:-1], torch.full((2, 3, 6, 6), 0.5))


def test_equalised_learning_rate_divides_by_the_fan_in():
    layer = FullyConnected(4, 1, linear=True, lr_multiplier=0.5)
    layer.weight.data.fill_(2.0)
    layer.bias.data.fill_(3.0)
    # 4 inputs x (2 * 0.5 / sqrt(4)) + 3 * 0.5
    assert layer(torch.ones(1, 4)).item() == pytest.approx(3.5)


def test_gradient_penalty_reaches_every_discriminator_weight():
    _, discriminator = tiny_networks()
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    (slope,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    slope.square().sum().backward()
    for name, parameter in discriminator.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_pictures_are_the_network_s_moved_to_the_unit_range():
    generator, discriminator = tiny_networks()
    raw = generator(torch.as_tensor(tiny_latents(), dtype=torch.float32))
    assert raw.min() < -1  # so that clipping is seen
    ours = StyleGAN2Generator(generator, discriminator, config=TINY)(tiny_latents())
    torch.testing.assert_close(ours, ((raw + 1) / 2).clamp(0, 1))


def test_images_are_in_range_and_repeat():
    generator = tiny()
    images = generator(tiny_latents())
    assert images.shape == (7, 3, 16, 16) and images.dtype == torch.float32
    assert 0 <= images.min() and images.max() <= 1 and images.std() > 0.01
    assert torch.equal(images, generator(tiny_latents()))
    assert generator.latent_space.dim == 8
    assert (generator.latent_space.upper == 10).all()


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_batch_size_and_order_do_not_matter(batch_size):
    whole, cut = tiny(), tiny(batch_size=batch_size)
    z = tiny_latents()
    images = whole(z)
    torch.testing.assert_close(cut(z), images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cut(z[::-1].copy()).flip(0), images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cut.realism(images), whole.realism(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cut.realism(images.flip(0)).flip(0), whole.realism(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_realism_is_the_logit_of_a_group_of_one():
    generator, discriminator = tiny_networks()
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([discriminator(image[None] * 2 - 1)[:, 0] for image in images])
    ours = StyleGAN2Generator(generator, discriminator, config=TINY).realism(images)
    assert ours.shape == (3,)
    torch.testing.assert_close(ours, alone, rtol=1e-4, atol=1e-5)


def test_noise_modes_differ_and_random_follows_its_rng():
    z = tiny_latents(2)
    random = [tiny(noise_mode="random", rng=torch.Generator().manual_seed(seed))(z) for seed in (0, 0, 1)]
    assert torch.equal(random[0], random[1])
    assert not torch.allclose(random[0], random[2])
    assert not torch.allclose(tiny(noise_mode="none")(z), tiny()(z))


def test_truncation_zero_gives_the_average_picture():
    generator, discriminator = tiny_networks()
    images = StyleGAN2Generator(generator, discriminator, config=TINY, truncation_psi=0.0)(tiny_latents())
    torch.testing.assert_close(images, images[:1].expand_as(images))


def test_a_truncated_generator_shares_the_networks_and_leaves_the_first_alone():
    whole, x = tiny(), tiny_latents()
    before, half = whole(x), whole.truncated(0.5)
    torch.testing.assert_close(half(x), tiny(truncation_psi=0.5)(x))
    assert half._generator is whole._generator and torch.equal(whole(x), before) and not torch.equal(half(x), before)


def test_latents_receive_gradients():
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    tiny()(z).sum().backward()
    assert (z.grad.abs().sum(dim=1) > 0).all()


def test_class_conditional_network_uses_its_label():
    generator, discriminator, values = golden("cond_res32")
    config = json.loads((GOLDEN / "stylegan2_cond_res32.json").read_text())
    config = {"generator": config["G"], "discriminator": config["D"]}
    ours = [
        StyleGAN2Generator(generator, discriminator, config=config, label=torch.eye(5)[i])(values["z"]) for i in (0, 1)
    ]
    assert not torch.allclose(*ours)
    with pytest.raises(ValueError, match=r"class-conditional: pass label of shape \(5,\), got None"):
        StyleGAN2Generator(generator, discriminator, config=config)
    with pytest.raises(ValueError, match=r"label must have shape \(5,\), got \(4,\)"):
        StyleGAN2Generator(generator, discriminator, config=config, label=torch.zeros(4))


def test_save_and_load_give_the_same_pictures_and_logits(tmp_path):
    ours = tiny()
    ours.save(tmp_path)
    loaded = StyleGAN2Generator.load(tmp_path)
    images = ours(tiny_latents())
    assert torch.equal(loaded(tiny_latents()), images)
    assert torch.equal(loaded.realism(images), ours.realism(images))
    loaded.save(tmp_path / "again")
    for name in ("generator.safetensors", "discriminator.safetensors", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_without_a_discriminator(tmp_path):
    config = {"generator": TINY["generator"]}
    StyleGAN2Generator(tiny_networks()[0], None, config=config).save(tmp_path)
    loaded = StyleGAN2Generator.load(tmp_path)
    with pytest.raises(RuntimeError, match="realism needs a discriminator, got None"):
        loaded.realism(loaded(tiny_latents()))


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((2, 9)), r"latents must have shape \(n, 8\), got \(2, 9\)"),
        (np.full((2, 8), np.nan), "latents must be finite, got 16 bad of 16"),
    ],
)
def test_bad_latents_are_refused(latents, message):
    with pytest.raises(ValueError, match=message):
        tiny()(latents)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 3, 8, 8), r"images must have shape \(n, 3, 16, 16\), got \(2, 3, 8, 8\)"),
        (torch.full((1, 3, 16, 16), -1.0), r"images must lie in \[0, 1\]"),
    ],
)
def test_bad_images_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        tiny().realism(images)


@torch.no_grad()
def test_published_computation_gives_the_same_pictures():
    generator, _, values = golden("skip_res64")
    for resolution in (16, 64):
        published = stylegan2.generate(generator, values["z"], resolution=resolution)
        assert deviation(generator(values["z"], resolution=resolution), published) <= TOLERANCE


def test_smaller_pictures_are_about_the_whole_ones_scaled_down():
    whole, small = tiny(), tiny(render_size=8)
    pictures = small(tiny_latents())
    assert pictures.shape == (7, 3, 8, 8) and small.image_size == 8
    assert torch.equal(small.at_full_size()(tiny_latents()), whole(tiny_latents()))


@pytest.mark.parametrize("up", [1, 2])
@torch.no_grad()
def test_a_coarse_layer_is_about_the_average_of_the_layer(up):
    """On a smooth map; with its kernel the other way round it is not."""
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.randn(2, 3, 2, 2), size=(16, 16), mode="bicubic")
    layer, w = SynthesisLayer(3, 5, w_dim=4, resolution=16 * up, up=up), torch.randn(2, 4)
    average = torch.nn.functional.avg_pool2d(layer(smooth.clone(), w, noise_mode="const", rng=None), 2)
    x = smooth if up == 2 else torch.nn.functional.avg_pool2d(smooth, 2)

    def error() -> float:
        coarse = layer(x, w, noise_mode="const", rng=None, shrink=2)
        assert coarse.shape == average.shape
        return float((coarse - average)[..., 2:-2, 2:-2].std() / average.std())

    assert error() < 0.03
    layer.weight.data = layer.weight.data.flip((2, 3))
    assert error() > 0.1


@torch.no_grad()
def test_coarse_layers_average_their_noise():
    layer = SynthesisLayer(2, 3, w_dim=3, resolution=8)
    layer.noise_strength.fill_(1.0)
    layer.noise_const.copy_(torch.arange(64.0).reshape(8, 8))
    x, w = torch.zeros(1, 2, 4, 4), torch.zeros(1, 3)
    found = layer(x, w, noise_mode="const", rng=None, shrink=2)[0, 0]
    assert found[0, :2].tolist() == pytest.approx([4.5 * 2**0.5, 6.5 * 2**0.5])  # means of 0, 1, 8, 9 and 2, 3, 10, 11
    drawn = layer(x, w, noise_mode="random", rng=torch.Generator().manual_seed(0), shrink=2)
    assert drawn.shape == (1, 3, 4, 4) and drawn.std() > 0


def test_a_shrunk_kernel_by_hand():
    kernel = torch.zeros(1, 1, 3, 3)
    kernel[0, 0, 0, 1], kernel[0, 0, 1, 1] = 4.0, 1.0  # one pixel up, and the middle
    assert shrink_kernel(kernel, 4)[0, 0].tolist() == [[0, 1, 0], [0, 4, 0], [0, 0, 0]]
    assert torch.equal(shrink_kernel(kernel, 1), kernel)


def test_realism_needs_the_full_size():
    small = tiny(render_size=8)
    with pytest.raises(RuntimeError, match="realism needs pictures of 16 pixels, and this generator renders 8"):
        small.realism(small(tiny_latents()))
    whole = small.at_full_size()
    assert whole.realism(whole(tiny_latents())).shape == (7,)


def test_the_shifted_skip_moves_one_pixel_right_and_down():
    image = torch.rand(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    plain, moved = (fir_upsample(image, fir_filter(), shifted=shifted) for shifted in (False, True))
    assert moved.shape == plain.shape == (2, 3, 10, 10)
    assert torch.equal(moved[:, :, 1:, 1:], plain[:, :, :-1, :-1])


@torch.no_grad()
def test_the_faithful_options_equal_the_published_way():
    assert max(faithful_stylegan2().values()) <= 1e-4
    generator, discriminator, values = golden("skip_res64")
    shifted = StyleGAN2Generator(generator, discriminator, config={}, shifted_skip=True)(values["z"])
    assert deviation(shifted, StyleGAN2Generator(generator, discriminator, config={})(values["z"])) > 0.1


@torch.no_grad()
def test_judged_in_fours_a_logit_depends_on_its_group_and_on_no_other():
    generator, discriminator, values = golden("skip_res64")
    model = StyleGAN2Generator(generator, discriminator, config={}, judged_in=4, batch_size=3)
    pictures = model(values["z"])
    logits, swapped = model.realism(pictures), model.realism(pictures[[4, 5, 6, 7, 0, 1, 2, 3]])
    torch.testing.assert_close(swapped, logits[[4, 5, 6, 7, 0, 1, 2, 3]])
    mixed = model.realism(pictures[[0, 1, 2, 4, 3, 5, 6, 7]])
    assert (mixed[:3] - logits[:3]).abs().min() > 1e-3
    with pytest.raises(ValueError, match="must come in groups of judged_in=4, got 6"):
        model.realism(pictures[:6])
    assert model.realism(pictures[:0]).shape == (0,)


@torch.no_grad()
def test_a_drawn_head_changes_the_last_two_layers_alone():
    _, discriminator, _ = golden("skip_res64")
    first, again, other = (with_drawn_head(discriminator, rng=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    before = discriminator.state_dict()
    differ = {key for key, value in first.state_dict().items() if not torch.equal(value, before[key])}
    assert differ == {"b4.fc.weight", "b4.fc.bias", "b4.out.weight", "b4.out.bias"}
    assert torch.equal(first.b4.fc.weight, again.b4.fc.weight)
    assert not torch.equal(first.b4.fc.weight, other.b4.fc.weight)
    assert first.b4.fc.weight.std().item() == pytest.approx(1, abs=0.05) and first.b4.out.bias.item() == 0


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="shifted_skip=True needs render_size=None, got 8"):
        tiny(shifted_skip=True, render_size=8)
    with pytest.raises(ValueError, match="judged_in must be None or at least 1 picture, got 0"):
        tiny(judged_in=0)
    with pytest.raises(ValueError, match=r"render_size must be one of \[4, 8, 16\], got 12"):
        tiny(render_size=12)
    with pytest.raises(ValueError, match=r"noise_mode must be one of .*, got 'constant'"):
        tiny(noise_mode="constant")
    with pytest.raises(ValueError, match="noise_mode='random' needs rng"):
        tiny(noise_mode="random")
    with pytest.raises(ValueError, match="architecture must be 'skip', got 'orig'"):
        synthesis = TINY["generator"]["synthesis_kwargs"] | {"architecture": "orig"}
        GeneratorNetwork(**TINY["generator"] | {"synthesis_kwargs": synthesis})
    with pytest.raises(ValueError, match="must be a multiple of the group of 4 images, got 6"):
        tiny_networks()[1](torch.zeros(6, 3, 16, 16))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no StyleGAN2 weights at .*nowhere; run: make tinyworld"):
        StyleGAN2Generator.load(tmp_path / "nowhere")
    tiny().save(tmp_path)
    (tmp_path / "discriminator.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no discriminator.safetensors at .*; run: make tinyworld"):
        StyleGAN2Generator.load(tmp_path)


def test_damaged_and_mismatched_files_are_refused(tmp_path):
    tiny().save(tmp_path)
    weights = tmp_path / "generator.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"generator.safetensors is a safetensors file of the wrong length; copy"):
        StyleGAN2Generator.load(tmp_path)
    weights.write_bytes(whole)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 2', '"num_layers": 3'))
    with pytest.raises(ValueError, match=r"generator.safetensors .* lacks 2 weights, first mapping.fc2.bias; it must"):
        StyleGAN2Generator.load(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match=r"config.json is no JSON"):
        StyleGAN2Generator.load(tmp_path)
    config.write_text('{"discriminator": {}}')
    with pytest.raises(ValueError, match="must hold the key 'generator'"):
        StyleGAN2Generator.load(tmp_path)
    with pytest.raises(ValueError, match="is a folder and holds only G_ema"):
        StyleGAN2Generator.load(tmp_path, which="G")
    with pytest.raises(
        ValueError, match="generator.safetensors must be a file of .*stylegan2.snapshots, and has no config"
    ):
        StyleGAN2Generator.load(weights)
