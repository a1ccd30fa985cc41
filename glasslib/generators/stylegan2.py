"""StyleGAN2 as search sees it: latents to pictures, and pictures to how real the discriminator finds them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from glasslib.generators.stylegan2_networks import NOISE_MODES, Discriminator, GeneratorNetwork
from glasslib.latents import Normal
from glasslib.runs import write_bytes_atomic, write_json_atomic
from glasslib.tensors import check_range, check_shape, map_batches

# What the minibatch standard deviation of a single image is: sqrt(0 + 1e-8).
ALONE = 1e-4


class StyleGAN2Generator:
    """z in the box [-10, 10] -> pictures, with constant noise unless asked otherwise, so that a score repeats.

    Args:
        generator: the averaged ("EMA") network.
        discriminator: its opponent, for `realism`; None if there is none.
        config: {"generator": ..., "discriminator": ...}, the networks' constructor arguments, for `save`.
        truncation_psi: 1 is the whole distribution, less is nearer to the average picture.
        noise_mode: "const", "none", or "random" (then every call differs, and `rng` is needed).
        label: (c_dim,) the class all pictures belong to; only for class-conditional networks.
        batch_size: pictures at once; fewer need less memory and give the same pictures.
        rng: for noise_mode "random", on the networks' device.

    Source:
        Karras et al. 2020, https://arxiv.org/abs/1912.04958; box and use as in CLIP-GLaSS, https://arxiv.org/abs/2102.01645.
    """

    def __init__(
        self, generator: GeneratorNetwork, discriminator: Discriminator | None, *, config: dict,
        truncation_psi: float = 1.0, noise_mode: str = "const", label: Tensor | None = None, batch_size: int = 64,
        rng: torch.Generator | None = None,
    ) -> None:  # fmt: skip
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {NOISE_MODES}, got {noise_mode!r}")
        if noise_mode == "random" and rng is None:
            raise ValueError("noise_mode='random' needs rng=torch.Generator(), got None")
        if generator.c_dim and label is None:
            raise ValueError(f"this network is class-conditional: pass label of shape ({generator.c_dim},), got None")
        if label is not None:
            check_shape(label, "label", str(generator.c_dim))
        self.latent_space = Normal(dim=generator.z_dim)
        self.image_size = generator.img_resolution
        self.truncation_psi, self.noise_mode, self.batch_size = truncation_psi, noise_mode, batch_size
        self._generator = generator.eval().requires_grad_(False)
        self._discriminator = None if discriminator is None else discriminator.eval().requires_grad_(False)
        self._config, self._label, self._rng = config, label, rng

    def __call__(self, latents: Tensor | np.ndarray) -> Tensor:
        """(n, dim) -> (n, 3, h, w) RGB in [0, 1]; differentiable. Any float type; taken to the networks' device."""
        check_shape(latents, "latents", f"n {self.latent_space.dim}")
        z = self._like_weights(latents)
        if not torch.isfinite(z).all():
            raise ValueError(f"latents must be finite, got {int((~torch.isfinite(z)).sum())} bad of {z.numel()} values")
        return map_batches(self._render, z, batch_size=self.batch_size)

    def realism(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) RGB in [0, 1], of the network's size -> (n,) discriminator logits, higher is more real.

        The discriminator compares the pictures of a batch (minibatch standard deviation), so its logits depend on the
        company. Here every picture is a group of its own: the value does not change with batch or order. The price is
        that all pictures look as alike as copies, which lowers all logits together.
        """
        if self._discriminator is None:
            raise RuntimeError("realism needs a discriminator, got None; load one beside the generator")
        check_shape(images, "images", f"n 3 {self.image_size} {self.image_size}")
        check_range(images, "images", 0.0, 1.0)
        return map_batches(self._judge, self._like_weights(images), batch_size=self.batch_size)

    def to(self, device: torch.device | str) -> StyleGAN2Generator:
        """Move the networks, in place."""
        for network in (self._generator, self._discriminator):
            if network is not None:
                network.to(device)
        return self

    def save(self, directory: str | Path) -> None:
        """Write what `load` reads."""
        save_networks(Path(directory), self._generator, self._discriminator, config=self._config)

    @classmethod
    def load(cls, directory: str | Path, **options) -> StyleGAN2Generator:
        """Read generator.safetensors, discriminator.safetensors (may be missing) and config.json.

        Args:
            directory: what `save` wrote.
            options: the constructor's keywords but `config`.

        Raises:
            FileNotFoundError: no such folder, or a file of it is missing.
            ValueError: a damaged file, or weights that do not fit the config; nothing is loaded in part.
        """
        directory = Path(directory)
        config = _read_config(directory / "config.json")
        generator = _build(GeneratorNetwork, config, "generator", directory)
        has_discriminator = config.get("discriminator") is not None
        discriminator = _build(Discriminator, config, "discriminator", directory) if has_discriminator else None
        return cls(generator, discriminator, config=config, **options)

    def _like_weights(self, x: Tensor | np.ndarray) -> Tensor:
        return torch.as_tensor(x).to(self._generator.synthesis.b4.const)

    def _labels(self, n: int) -> Tensor | None:
        return None if self._label is None else self._like_weights(self._label).expand(n, -1)

    def _render(self, z: Tensor) -> Tensor:
        images = self._generator(
            z, self._labels(len(z)), truncation_psi=self.truncation_psi, noise_mode=self.noise_mode, rng=self._rng
        )
        return images.add(1).div(2).clamp(0, 1)

    def _judge(self, images: Tensor) -> Tensor:
        return self._discriminator(images * 2 - 1, self._labels(len(images)), minibatch_std=ALONE)[:, 0]


def save_networks(
    directory: Path, generator: GeneratorNetwork, discriminator: Discriminator | None, *, config: dict
) -> None:
    """Write generator.safetensors, discriminator.safetensors and config.json into `directory`, each atomically."""
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if network is not None:
            tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
            write_bytes_atomic(directory / f"{name}.safetensors", safetensors.torch.save(tensors))
    write_json_atomic(directory / "config.json", config)


def _read_config(path: Path) -> dict:
    if not path.exists():
        raise FileNotFoundError(f"no StyleGAN2 weights at {path.parent}; run: make tinyworld")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} must be JSON: {error}; write it again with StyleGAN2Generator.save") from error
    if not isinstance(config, dict) or "generator" not in config:
        raise ValueError(f"{path} must hold the key 'generator', got {config!r:.80}")
    return config


def _build(network: type[nn.Module], config: dict, name: str, directory: Path) -> nn.Module:
    """A network of `config[name]` with the weights of `name`.safetensors, all of them and no others."""
    path = directory / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"no {name} at {path}; run: make tinyworld")
    try:
        tensors = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} must be a whole safetensors file: {error}; copy or download it again") from error
    built = network(**config[name])
    try:
        built.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit config.json; use the files that belong together. {error}") from error
    return built
