"""What `make bench` times at full size with random weights: ours, and the plain way that it must equal.

A contest holds callables without arguments, each one piece of work of one generation. All of it is built from a seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from glasslib import presets
from glasslib.bench.references import biggan as published_biggan
from glasslib.bench.references import glass as published_glass
from glasslib.bench.references import stylegan2 as published_stylegan2
from glasslib.clip.embedder import ClipEmbedder, load_open_clip
from glasslib.generators.biggan.generator import BigGANGenerator
from glasslib.generators.biggan.networks import GeneratorNetwork, fold_spectral_norm, published_config
from glasslib.tinyworld import captions, scenes

POPULATION = {"biggan": 4, "stylegan2": 2, "gpt2": 100, "clip_text": 100, "clip_image": 32}
SEED = 0


@dataclass(frozen=True)
class Contest:
    """The plain way, ours under the ids of its results, and what ours must equal where that is not the plain way.

    Every callable returns tensors and lists of strings, the same for the same id.
    """

    reference: Callable[[], tuple]
    ours: dict[str, Callable[[], tuple]]
    wanted: dict[str, Callable[[], tuple]] = field(default_factory=dict)


def deviation(ours: Tensor | list[str], wanted: Tensor | list[str]) -> float:
    """Largest difference of tensors, in standard deviations of what is wanted; of texts infinite, or 0 if all agree."""
    if isinstance(wanted, list):
        return 0.0 if ours == wanted else float("inf")
    if ours.shape != wanted.shape:
        raise ValueError(f"ours must have the reference's shape {tuple(wanted.shape)}, got {tuple(ours.shape)}")
    return float((ours - wanted).abs().max() / wanted.std())


def _clip() -> tuple[ClipEmbedder, nn.Module]:
    """CLIP-GLaSS's ViT-B/32 as it feeds pictures to it, which remembers no text; and the plain model."""
    rng, quirks = torch.Generator().manual_seed(SEED), {"normalize": False, "resize": "bilinear"}
    clip = load_open_clip("ViT-B-32", "openai", weights="random", rng=rng, text_cache_size=0, **quirks)
    return clip, published_glass.as_published(clip._model)


def clip_image() -> Contest:
    """32 pictures of 256 pixels."""
    clip, plain = _clip()
    images = torch.rand(POPULATION["clip_image"], 3, 256, 256, generator=torch.Generator().manual_seed(SEED))
    return Contest(
        lambda: (published_glass.embed_images(plain, images),),
        {"bench.clip_image": lambda: (clip.embed_images(images),)},
    )


def sentences(n: int) -> list[str]:
    """n texts as evolution scores them: "the picture of ...", cut to 50 characters."""
    rng = np.random.default_rng(SEED)
    said = captions.describe(scenes.sample(n, rng=rng), rng=rng)
    return [f"the picture of {text.removeprefix('the picture of ')}"[:50] for text in said]


def clip_text() -> Contest:
    """100 texts of at most 50 characters."""
    (clip, plain), texts = _clip(), sentences(POPULATION["clip_text"])
    return Contest(
        lambda: (published_glass.embed_texts(plain, clip.tokenizer, texts),),
        {"bench.clip_text": lambda: (clip.embed_texts(texts),)},
    )


@torch.no_grad()
def _biggan_state(config: dict) -> dict[str, Tensor]:
    """A published state dict of random weights, and of statistics and gains that let the signal through."""
    rng = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        state = GeneratorNetwork(**config).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_means"):
            tensor.normal_(0, 0.1, generator=rng)
        elif name.endswith(("running_vars", "gamma")):
            tensor.uniform_(0.5, 1.5, generator=rng)
    return published_biggan.spectral_state(state, rng=rng)


def biggan(resolution: int) -> Contest:
    """One generation: BigGAN-deep's pictures of a population, and CLIP's embeddings of them."""
    config, (clip, plain) = published_config(resolution), _clip()
    state = _biggan_state(config)
    network = GeneratorNetwork(**config)
    network.load_state_dict(fold_spectral_norm(state))
    generator = BigGANGenerator(network, config=config, encoding="softmax_bits", faithful=True)
    x = generator.latent_space.sample(POPULATION["biggan"], rng=np.random.default_rng(SEED))

    def ours() -> tuple:
        images = generator(x)
        return images, clip.embed_images(images)

    def reference() -> tuple:
        z, bits = torch.as_tensor(x, dtype=torch.float32).split([config["z_dim"], config["num_classes"]], dim=1)
        images = published_biggan.generate(state, config, z, bits.softmax(dim=1)).add(1).div(2)
        return images, published_glass.embed_images(plain, images)

    return Contest(reference, {f"bench.biggan{resolution}": ours})


def stylegan2_1024() -> Contest:
    """The generator of configuration F, whole and stopped at 256 pixels."""
    from glasslib.generators.stylegan2.generator import StyleGAN2Generator
    from glasslib.generators.stylegan2.networks import GeneratorNetwork as StyleGAN2Network

    config = {"z_dim": 512, "c_dim": 0, "w_dim": 512, "img_resolution": 1024}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = StyleGAN2Network(**config)
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.1)
    whole, small = (
        StyleGAN2Generator(network, None, config={"generator": config}, render_size=size) for size in (None, 256)
    )
    z = whole.latent_space.sample(POPULATION["stylegan2"], rng=np.random.default_rng(SEED))

    def published(resolution: int | None) -> tuple:
        images = published_stylegan2.generate(network, torch.as_tensor(z, dtype=torch.float32), resolution=resolution)
        return (images.add(1).div(2).clamp(0, 1),)

    return Contest(
        lambda: published(None),
        {"bench.stylegan2_1024": lambda: (whole(z),), "bench.stylegan2_1024_render256": lambda: (small(z),)},
        {"bench.stylegan2_1024_render256": lambda: published(256)},
    )


def gpt2_i2t() -> Contest:
    """One generation: what GPT-2 writes after a population of contexts, and CLIP's embeddings of it."""
    from glasslib.bench.capdec_fullsize import as_published

    preset = presets.load("GPT2", weights="random", rng=torch.Generator().manual_seed(SEED))
    writer, (clip, plain) = preset.generator, _clip()
    plain_gpt = as_published(writer.language_model)
    x = writer.latent_space.sample(POPULATION["gpt2"], rng=np.random.default_rng(SEED))
    contexts = torch.as_tensor(x).long()

    def ours() -> tuple:
        texts = writer(contexts)
        return texts, clip.embed_texts(texts)

    def reference() -> tuple:
        texts = published_glass.write(plain_gpt, writer.tokenizer, contexts)
        return texts, published_glass.embed_texts(plain, clip.tokenizer, texts)

    return Contest(reference, {"bench.gpt2_i2t": ours})


CONTESTS: dict[str, Callable[[], Contest]] = {  # the quickest first
    "clip_text": clip_text,
    "clip_image": clip_image,
    "biggan128": lambda: biggan(128),
    "biggan256": lambda: biggan(256),
    "stylegan2_1024": stylegan2_1024,
    "gpt2_i2t": gpt2_i2t,
}
