"""StyleGAN2 as search sees it: latents to pictures, and pictures to how real the discriminator finds them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from glasslib.checks import check_range, check_shape, map_batches
from glasslib.generators.stylegan2.networks import NOISE_MODES, Discriminator, GeneratorNetwork
from glasslib.latents import Normal
from glasslib.results import write_bytes_atomic, write_json_atomic
from glasslib.weights.integrity import parse_config, read_config
from glasslib.weights.states import built, fitted, read_state

# What the minibatch standard deviation of a single image is: sqrt(0 + 1e-8).
ALONE = 1e-4
MISSING, ADVICE = "run: make tinyworld", "copy it, convert it or download it again"
PACKED = "glasslib.stylegan2"  # where a file of three networks keeps its config


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
        render_size: pixels of the pictures; None is the network's own size. With a smaller power of two no layer is
            computed larger than that, which is much faster and gives about the picture scaled down: for scoring
            candidates, of which `at_full_size` then renders the winners.
        rng: for noise_mode "random", on the networks' device.
        shifted_skip: as in the conversion that CLIP-GLaSS used, the image summed so far moves one pixel right and down
            at each doubling. Not with a `render_size`.
        judged_in: how many pictures the discriminator compares, as many at a time, in their order; CLIP-GLaSS: 4. None:
            each alone, see `realism`.

    Source:
        Karras et al. 2020, https://arxiv.org/abs/1912.04958; box and use as in CLIP-GLaSS, https://arxiv.org/abs/2102.01645.
    """

    def __init__(
        self, generator: GeneratorNetwork, discriminator: Discriminator | None, *, config: dict,
        truncation_psi: float = 1.0, noise_mode: str = "const", label: Tensor | None = None, batch_size: int = 64,
        render_size: int | None = None, rng: torch.Generator | None = None, shifted_skip: bool = False,
        judged_in: int | None = None,
    ) -> None:  # fmt: skip
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {NOISE_MODES}, got {noise_mode!r}")
        if noise_mode == "random" and rng is None:
            raise ValueError("noise_mode='random' needs rng=torch.Generator(), got None")
        if generator.c_dim and label is None:
            raise ValueError(f"this network is class-conditional: pass label of shape ({generator.c_dim},), got None")
        if label is not None:
            check_shape(label, "label", str(generator.c_dim))
        if render_size is not None and render_size not in generator.synthesis.resolutions:
            raise ValueError(f"render_size must be one of {generator.synthesis.resolutions}, got {render_size}")
        if shifted_skip and render_size is not None:
            raise ValueError(f"shifted_skip=True needs render_size=None, got {render_size}; only whole pictures shift")
        if judged_in is not None and judged_in < 1:
            raise ValueError(f"judged_in must be None or at least 1 picture, got {judged_in}")
        self.shifted_skip, self.judged_in = shifted_skip, judged_in
        self.latent_space = Normal(dim=generator.z_dim)
        self.image_size = render_size or generator.img_resolution
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
        that all pictures look as alike as copies, which lowers all logits together. With `judged_in` they are compared,
        and the order counts.

        Raises:
            ValueError: another shape, values outside [0, 1], or a number that is no multiple of `judged_in`.
            RuntimeError: there is no discriminator, or this generator renders at a smaller size than it reads.
        """
        if self._discriminator is None:
            raise RuntimeError("realism needs a discriminator, got None; load one beside the generator")
        size = self._generator.img_resolution
        if self.image_size != size:
            raise RuntimeError(
                f"realism needs pictures of {size} pixels, and this generator renders {self.image_size}; "
                f"use at_full_size(), or leave render_size out"
            )
        check_shape(images, "images", f"n 3 {size} {size}")
        check_range(images, "images", 0.0, 1.0)
        if self.judged_in is None:
            return map_batches(self._judge, self._like_weights(images), batch_size=self.batch_size)
        if len(images) % self.judged_in:
            raise ValueError(
                f"images must come in groups of judged_in={self.judged_in}, got {len(images)}; pad them, or choose a "
                "population that is a multiple"
            )
        groups = self._like_weights(images).split(self.judged_in)
        return torch.cat([self._judge(group) for group in groups]) if groups[0].numel() else images.new_zeros(0)

    def truncated(self, psi: float) -> StyleGAN2Generator:
        """Return a generator with the same networks and options but truncation psi."""
        other = copy.copy(self)
        other.truncation_psi = psi
        return other

    def at_full_size(self) -> StyleGAN2Generator:
        """Return a generator with the same networks and options that renders at the network's own size."""
        full = copy.copy(self)
        full.image_size = self._generator.img_resolution
        return full

    def to(self, device: torch.device | str) -> StyleGAN2Generator:
        """Move the networks, in place."""
        for network in (self._generator, self._discriminator):
            if network is not None:
                network.to(device)
        return self

    def save(self, directory: str | Path) -> None:
        """Write a folder that `load` reads."""
        save_networks(Path(directory), self._generator, self._discriminator, config=self._config)

    @classmethod
    def load(cls, path: str | Path, *, which: str = "G_ema", **options) -> StyleGAN2Generator:
        """Read a folder that `save` wrote, or a file that snapshots.convert wrote.

        Args:
            path: a folder with generator.safetensors, discriminator.safetensors (unless the config has none) and
                config.json, or one .safetensors file.
            which: "G_ema", the averaged generator, or "G", the raw one, which CLIP-GLaSS used; only a file has both.
            options: the constructor's keywords but `config`.

        Raises:
            FileNotFoundError: no such folder or file, or a file of the folder is missing.
            ValueError: a damaged file, weights that do not fit the config or are not finite numbers, or a folder and
                "G"; nothing is loaded in part.
        """
        if which not in ("G", "G_ema"):
            raise ValueError(f"which must be 'G' or 'G_ema', got {which!r}")
        directory = Path(path)
        if directory.is_file():
            generator, discriminator, config = _unpack_networks(directory, which)
            return cls(generator, discriminator, config=config, **options)
        if which == "G":
            raise ValueError(f"{path} is a folder and holds only G_ema; the raw G is in files of snapshots.convert")
        generator, discriminator, config = _read_folder(directory)
        return cls(generator, discriminator, config=config, **options)

    def _like_weights(self, x: Tensor | np.ndarray) -> Tensor:
        return torch.as_tensor(x).to(self._generator.synthesis.b4.const)

    def _labels(self, n: int) -> Tensor | None:
        return None if self._label is None else self._like_weights(self._label).expand(n, -1)

    def _render(self, z: Tensor) -> Tensor:
        images = self._generator(
            z, self._labels(len(z)), truncation_psi=self.truncation_psi, noise_mode=self.noise_mode, rng=self._rng,
            resolution=self.image_size, shifted_skip=self.shifted_skip,
        )  # fmt: skip
        return images.add(1).div(2).clamp(0, 1)

    def _judge(self, images: Tensor) -> Tensor:
        company = {"minibatch_std": ALONE} if self.judged_in is None else {}
        return self._discriminator(images * 2 - 1, self._labels(len(images)), **company)[:, 0]


def with_drawn_head(discriminator: Discriminator, *, rng: torch.Generator) -> Discriminator:
    """Return a copy whose last two layers are as newly made, the weights normal and the biases 0.

    CLIP-GLaSS's conversion of NVIDIA's discriminator leaves them out: its realism is a random projection of the
    features below.

    Args:
        discriminator: left as it is.
        rng: on the CPU.
    """
    drawn = copy.deepcopy(discriminator)
    with torch.no_grad():
        for layer in (drawn.b4.fc, drawn.b4.out):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=rng))
            layer.bias.zero_()
    return drawn


def save_networks(
    directory: Path, generator: GeneratorNetwork, discriminator: Discriminator | None, *, config: dict
) -> None:
    """Write generator.safetensors, discriminator.safetensors and config.json into `directory`, each atomically."""
    for name, network in (("generator", generator), ("discriminator", discriminator)):
        if network is not None:
            tensors = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
            write_bytes_atomic(directory / f"{name}.safetensors", safetensors.torch.save(tensors))
    write_json_atomic(directory / "config.json", config)


def pack_networks(path: Path, networks: Mapping[str, nn.Module], *, config: dict) -> None:
    """Write "G", "G_ema" and "D" and their config into one safetensors file, atomically."""
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    write_bytes_atomic(path, safetensors.torch.save(tensors, metadata={PACKED: json.dumps(config)}))


def _unpack_networks(path: Path, which: str) -> tuple[GeneratorNetwork, Discriminator, dict]:
    """Give the networks of one file and their config; only the parts asked for are read."""
    state, networks = read_state(path, missing=MISSING, advice=ADVICE), []
    with safetensors.safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(PACKED)
    if text is None:
        raise ValueError(f"{path} must be a file of glasslib.generators.stylegan2.snapshots, and has no config")
    try:
        config = parse_config(text)
    except ValueError as error:
        raise ValueError(f"the config in {path} {error}; {ADVICE}") from error
    if other := sorted(key for key in state if key.split(".")[0] not in ("G", "G_ema", "D")):
        raise ValueError(f"{path} has {len(other)} weights besides G, G_ema and D, first {other[0][:80]}; {ADVICE}")
    for name, network, part in ((which, GeneratorNetwork, "generator"), ("D", Discriminator, "discriminator")):
        own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        networks.append(filled(network, config.get(part), own, path=path, config=f"the config in {path}, {part},"))
    return networks[0], networks[1], config


def _read_folder(directory: Path) -> tuple[GeneratorNetwork, Discriminator | None, dict]:
    path, networks = directory / "config.json", []
    config = read_config(path, missing=f"no StyleGAN2 weights at {directory}; run: make tinyworld", advice=ADVICE)
    if "generator" not in config:
        raise ValueError(f"{path} must hold the key 'generator', got {config!r:.80}")
    for network, part in ((GeneratorNetwork, "generator"), (Discriminator, "discriminator")):
        if part == "discriminator" and config.get(part) is None:
            return networks[0], None, config
        weights = directory / f"{part}.safetensors"
        state = read_state(weights, missing=MISSING, advice=ADVICE)
        networks.append(filled(network, config[part], state, path=weights, config=f"{path}, {part},"))
    return networks[0], networks[1], config


def filled(
    network: Callable[..., nn.Module], arguments: object, state: dict[str, Tensor], *, path: Path, config: str
) -> nn.Module:
    """Make a network of a config's arguments and fill it, after checking one against the other.

    Args:
        network: its class.
        arguments: the constructor's, as the config has them.
        state: names -> tensors.
        path: where the weights stand, for messages.
        config: where the arguments stand, for messages.

    Raises:
        ValueError: arguments of no network, or weights that do not fill it.
    """
    empty = built(lambda: network(**arguments), state, config=config)
    advice = f"it must fit {config} use the files that belong together"
    empty.load_state_dict(fitted(state, empty, path=path, advice=advice), assign=True)
    return empty
