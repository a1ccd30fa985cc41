"""How far our networks are from the references: golden values of small ones, and a published package at full size.

`python -m glasslib.bench parity`. A deviation is the largest difference over all values, in the reference's standard
deviations; an id's value is the largest of its comparisons.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from glasslib import results
from glasslib.bench import nvidia_files
from glasslib.bench.contests import deviation
from glasslib.bench.references import stylegan2 as references
from glasslib.bench.tiny_searches import write
from glasslib.generators.biggan.networks import GeneratorNetwork as BigGANNetwork
from glasslib.generators.biggan.networks import fold_spectral_norm, published_config
from glasslib.generators.stylegan2 import snapshots
from glasslib.generators.stylegan2.generator import StyleGAN2Generator, with_drawn_head
from glasslib.generators.stylegan2.networks import Discriminator, GeneratorNetwork
from glasslib.latents import ClassMixture, Product, TruncatedNormal
from glasslib.search.operators import AS_IT_RAN, Breeder, Operators

GOLDEN = results.REPO / "tests" / "golden"
GLASS_GROUP = 4  # pictures that CLIP-GLaSS's discriminator sees at a time
N_MATINGS = 1500
GRID_TRUNCATIONS = (1.0, 0.6, 0.02)  # that have statistics of their own, and on which rounding plays no trick
IMAGES = {  # golden value -> how the image is made
    "image_const": {"noise_mode": "const"},
    "image_psi07_const": {"noise_mode": "const", "truncation_psi": 0.7},
    "image_none": {"noise_mode": "none"},
}


def golden_stylegan2(name: str) -> tuple[GeneratorNetwork, Discriminator, dict[str, Tensor]]:
    """The reference's weights, loaded strictly into our networks, and its values; "skip_res64" or "cond_res32"."""
    start = GOLDEN / f"stylegan2_{name}"
    config = json.loads(start.with_suffix(".json").read_text(encoding="utf-8"))
    weights = load_file(f"{start}.weights.safetensors")
    generator, discriminator = GeneratorNetwork(**config["G"]), Discriminator(**config["D"])
    for letter, network in (("G", generator), ("D", discriminator)):
        own = {key[2:]: value for key, value in weights.items() if key.startswith(f"{letter}.")}
        network.load_state_dict(own, strict=True)
    return generator, discriminator, load_file(f"{start}.golden.safetensors")


def stylegan2(name: str) -> dict[str, float]:
    """Deviations of styles, images and logits of a golden network: value -> deviation."""
    generator, discriminator, values = golden_stylegan2(name)
    z, label = values["z"], values.get("label")
    found = {"w": generator.mapping(z, label), "w_psi07": generator.mapping(z, label, truncation_psi=0.7)}
    found |= {key: generator(z, label, **options)[: len(values[key])] for key, options in IMAGES.items()}
    found["logits"] = discriminator(generator(z, label), label)
    return {key: deviation(ours, values[key]) for key, ours in found.items()}


def stylegan2_tensorflow() -> dict[str, float]:
    """The same of a file in the TensorFlow format, written from golden variables and read by our reader."""
    start = GOLDEN / "stylegan2_tf_res32"
    variables, values = load_file(f"{start}.variables.safetensors"), load_file(f"{start}.golden.safetensors")
    facts = json.loads(start.with_suffix(".json").read_text(encoding="utf-8")) | {"version": 4}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.pkl")
        path.write_bytes(nvidia_files.tensorflow_file(variables, facts, canary=Path(folder, "canary")))
        networks = snapshots.read_networks(path)
    found = {name: (getattr(networks, name)(values["z"]), values["image_const"]) for name in ("G", "G_ema")}
    found["D"] = networks.D(values["image_const"]), values["logits"]
    return {name: deviation(ours, wanted) for name, (ours, wanted) in found.items()}


def faithful_stylegan2() -> dict[str, float]:
    """Pictures and realism of the faithful options against CLIP-GLaSS's way, written anew, on the same weights."""
    generator, discriminator, values = golden_stylegan2("skip_res64")
    drawn = with_drawn_head(discriminator, rng=torch.Generator().manual_seed(0))
    ours = StyleGAN2Generator(generator, drawn, config={}, shifted_skip=True, judged_in=GLASS_GROUP)
    pictures = references.generate(generator, values["z"], as_glass=True).add(1).div(2).clamp(0, 1)
    found = {"pictures": (ours(values["z"]), pictures)}
    found["realism"] = ours.realism(pictures), references.judge(drawn, pictures, group=GLASS_GROUP)
    return {name: deviation(mine, wanted) for name, (mine, wanted) in found.items()}


def exchanged_bits(operators: Operators, *, n_matings: int = N_MATINGS) -> tuple[float, float]:
    """Share of the bits that differ between two parents which a child takes from the other one, and of matings crossed.

    On the space of CLIP-GLaSS's BigGAN, 128 normal numbers and 1,000 bits, without mutation.
    """
    space = Product((TruncatedNormal(128), ClassMixture(1000, encoding="softmax_bits")))
    still = dataclasses.replace(operators, mutation_prob=0.0, bitflip_prob=0.0)
    rng = np.random.default_rng(0)
    parents = space.sample(2 * n_matings, rng=rng)
    parents[:, 128:] = rng.integers(0, 2, (len(parents), 1000))  # many that differ: of an odd number HUX rounds half up
    pairs = np.arange(2 * n_matings).reshape(-1, 2)
    children = Breeder(space, still).children(parents, pairs, rng)[:n_matings, 128:]
    own, other = parents[::2, 128:], parents[1::2, 128:]
    taken = ((children == other) & (own != other)).sum(axis=1)
    return float(taken.sum() / (own != other).sum()), float((taken > 0).mean())


def golden_biggan() -> tuple[dict, dict[str, Tensor], dict[str, Tensor]]:
    """The reference's config, state dict with spectral norm, and values."""
    start = GOLDEN / "biggan_res32"
    config = json.loads(start.with_suffix(".json").read_text(encoding="utf-8"))
    return config, load_file(f"{start}.weights.safetensors"), load_file(f"{start}.golden.safetensors")


def biggan() -> dict[str, float]:
    """Deviations of the golden network's images."""
    config, weights, values = golden_biggan()
    network = BigGANNetwork(**config)
    network.load_state_dict(fold_spectral_norm(weights), strict=True)
    network.freeze()
    found = {}
    for key, truncation in {"image_truncation1": 1.0, "image_truncation04": 0.4}.items():
        found[key] = deviation(network(values["z"], values["class_vector"], truncation), values[key])
    return found


@torch.no_grad()
def package_network(config: dict) -> nn.Module:
    """pytorch-pretrained-biggan's network with random weights and statistics, in evaluation mode.

    Its spectral vectors are near their limit, as after training, so that the signal neither dies nor explodes.
    """
    from pytorch_pretrained_biggan import BigGAN, BigGANConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BigGAN(BigGANConfig(**config))
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if name.endswith("running_means"):
                tensor.normal_(0, 0.1)
            elif name.endswith("running_vars"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("bn.weight", "bn.bias", "gamma")):  # the package leaves these as memory holds them
                tensor.fill_(0.5)
            elif name.endswith("weight_v"):
                _iterate(network.get_submodule(name.removesuffix(".weight_v")))
    return network.eval()


def _iterate(layer: nn.Module, n: int = 3) -> None:
    """The power method on a layer with spectral norm, in place."""
    matrix = layer.weight_orig.flatten(1)
    for _ in range(n):
        layer.weight_v.copy_(F.normalize(matrix.T @ layer.weight_u, dim=0))
        layer.weight_u.copy_(F.normalize(matrix @ layer.weight_v, dim=0))


def biggan_package(resolution: int, truncations: tuple[float, ...] = GRID_TRUNCATIONS) -> dict[str, float]:
    """Deviations from the package at full size: a mixture of two classes at each truncation."""
    theirs = package_network(published_config(resolution))
    ours = BigGANNetwork(**published_config(resolution))
    ours.load_state_dict(fold_spectral_norm(theirs.state_dict()), strict=True)
    ours.freeze()
    z, classes = torch.randn(1, 128, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1000)
    classes[0, [3, 700]] = torch.tensor([0.25, 0.75])
    found = {}
    for truncation in truncations:
        pictures = (network(truncation * z, classes, truncation) for network in (ours, theirs))
        found[f"truncation {truncation}"] = deviation(*pictures)
    return found


def bench_parity() -> None:
    """Measure parity.* and write results/bench_parity/."""
    compared = {
        "parity.stylegan2_skip": lambda: stylegan2("skip_res64"),
        "parity.stylegan2_cond": lambda: stylegan2("cond_res32"),
        "parity.stylegan2_tf": stylegan2_tensorflow,
        "parity.faithful_stylegan2": faithful_stylegan2,
        "parity.biggan": biggan,
        "parity.biggan128_package": lambda: biggan_package(128),
        "parity.biggan256_package": lambda: biggan_package(256),
    }
    share, crossed = exchanged_bits(AS_IT_RAN)
    found = {"parity.faithful_biggan": results.metric(share, n=N_MATINGS, unit="share")}
    rows = [{"id": "parity.faithful_biggan", "compared": "matings that cross", "deviation": crossed}]
    with torch.inference_mode():
        for name, compare in compared.items():
            deviations = compare()
            found[name] = results.metric(max(deviations.values()), n=len(deviations), unit="standard deviations")
            rows += [{"id": name, "compared": what, "deviation": value} for what, value in deviations.items()]
    params = {"truncations_of_the_package": GRID_TRUNCATIONS, "golden": "tests/golden"}
    write("bench_parity", params, found, {"deviations": rows})
