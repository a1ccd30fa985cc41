"""BigGAN-deep as search sees it: z and a mixture of classes to pictures."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from glasslib.checks import check_range, check_shape, map_batches
from glasslib.generators.biggan.networks import GeneratorNetwork, fold_spectral_norm
from glasslib.latents import ClassMixture, Product, TruncatedNormal
from glasslib.results import write_bytes_atomic, write_json_atomic
from glasslib.weights.integrity import read_config
from glasslib.weights.states import built, fitted, read_state

Z_BOUND = 2.0  # the published networks read a standard normal z, redrawn outside [-2, 2]
N_ACTIVE = 5
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class BigGANGenerator:
    """z in the box [-2, 2] and one variable per class -> pictures.

    The latents are z and then the classes: `latent_space.split` gives the two. `ClassMixture` says how the class
    variables become weights; a pure class is one variable alone above 0 with encoding "simplex".

    Args:
        network: what the generator takes over and makes ready for inference, its weights without spectral norm.
        config: the network's constructor arguments, for `save`.
        truncation: in (0, 1]. z is scaled by it, and the batch norms use its statistics, as published: less is nearer
            to the average picture of a class. The latents stay in the box [-2, 2] whatever the truncation.
        encoding: of the classes, "simplex" (ours) or "softmax_bits" (CLIP-GLaSS).
        n_active: how many classes count in a mixture; 1 allows pure classes only.
        faithful: choose the statistics as the published package does. Between two of the 51 truncations that have
            statistics it mixes them the wrong way round, and at 0.14, 0.28, 0.56, 0.58 and 0.94 it takes a neighbour's.
        batch_size: pictures at once; fewer need less memory and give the same pictures.

    Source:
        Brock et al. 2019, https://arxiv.org/abs/1809.11096; box and use as in CLIP-GLaSS, https://arxiv.org/abs/2102.01645;
        the truncation's two effects as in the package pytorch-pretrained-biggan.
    """

    def __init__(
        self, network: GeneratorNetwork, *, config: dict, truncation: float = 1.0, encoding: str = "simplex",
        n_active: int | None = None, faithful: bool = False, batch_size: int = 16,
    ) -> None:  # fmt: skip
        n_active = min(N_ACTIVE, network.num_classes) if n_active is None else n_active
        self.image_size = network.output_dim
        self.faithful, self.batch_size = faithful, batch_size
        self._network, self._config = network.freeze(), config
        self._truncate(truncation)
        self._encode(ClassMixture(n_classes=network.num_classes, n_active=n_active, encoding=encoding))

    def __call__(self, latents: Tensor | np.ndarray) -> Tensor:
        """(n, dim) -> (n, 3, h, w) RGB in [0, 1]; differentiable. Any float type; taken to the network's device.

        Raises:
            ValueError: another shape, a number that is not finite, or a class variable outside [0, 1].
        """
        check_shape(latents, "latents", f"n {self.latent_space.dim}")
        x = torch.as_tensor(latents).to(self._network.embeddings.weight)
        if not torch.isfinite(x).all():
            raise ValueError(f"latents must be finite, got {int((~torch.isfinite(x)).sum())} bad of {x.numel()} values")
        check_range(x[:, self._network.z_dim :], "class variables", 0.0, 1.0)
        return map_batches(self._render, x, batch_size=self.batch_size)

    def truncated(self, truncation: float) -> BigGANGenerator:
        """Return a generator with the same network and options but another truncation, in (0, 1]."""
        other = copy.copy(self)
        other._truncate(truncation)
        return other

    def with_classes(self, *, encoding: str | None = None, n_active: int | None = None) -> BigGANGenerator:
        """Return a generator with the same network and options that reads its classes another way.

        Args:
            encoding: "simplex" or "softmax_bits"; None: as it is.
            n_active: how many classes count in a mixture; None: as it is.
        """
        other, changed = copy.copy(self), {"encoding": encoding, "n_active": n_active}
        changed = {key: value for key, value in changed.items() if value is not None}
        other._encode(dataclasses.replace(self.classes, **changed))
        return other

    def to(self, device: torch.device | str) -> BigGANGenerator:
        """Move the network, in place."""
        self._network.to(device)
        return self

    def save(self, directory: str | Path) -> None:
        """Write what `load` reads: model.safetensors, without spectral norm, and config.json."""
        save_network(Path(directory), self._network.state_dict(), config=self._config)

    @classmethod
    def load(cls, directory: str | Path, **options) -> BigGANGenerator:
        """Read config.json and model.safetensors, or else pytorch_model.bin: the published files, or `save`'s.

        Args:
            directory: holds them under these names.
            options: the constructor's keywords but `config`.

        Raises:
            FileNotFoundError: no such folder, or a file of it is missing.
            ValueError: a damaged file, one that holds more than tensors, or weights that do not fit the config or are
                not finite numbers; nothing is loaded in part.
        """
        directory = Path(directory)
        words = {"missing": f"no BigGAN weights at {directory}; run: make tinyworld, or make weights"}
        words["advice"] = "copy or download it again"
        config = read_config(directory / "config.json", **words)
        path = next((directory / name for name in WEIGHTS if (directory / name).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"no {' or '.join(WEIGHTS)} at {directory}; {words['missing']}")
        state = read_state(path, **words)
        network = built(lambda: GeneratorNetwork(**config), state, config=f"{directory / 'config.json'}")
        try:
            state = fold_spectral_norm(state)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} does not fit config.json: {error}; {words['advice']}") from error
        advice = "it must fit config.json: use the files that belong together"
        network.load_state_dict(fitted(state, network, path=path, advice=advice), assign=True)
        return cls(network, config=config, **options)

    def _truncate(self, truncation: float) -> None:
        if not 0 < truncation <= 1:
            raise ValueError(f"truncation must be above 0 and at most 1, got {truncation}")
        self.truncation = truncation

    def _encode(self, classes: ClassMixture) -> None:
        self.classes = classes
        self.latent_space = Product((TruncatedNormal(dim=self._network.z_dim, truncation=Z_BOUND), classes))

    def _render(self, x: Tensor) -> Tensor:
        z, classes = x.split([self._network.z_dim, self._network.num_classes], dim=1)
        weights = class_weights(classes, self.classes)
        images = self._network(z * self.truncation, weights, self.truncation, faithful=self.faithful)
        return images.add(1).div(2)


def class_weights(x: Tensor, mixture: ClassMixture) -> Tensor:
    """What `mixture.weights` computes, on tensors and with gradients: (n, n_classes) in [0, 1] -> rows of sum 1."""
    if mixture.encoding == "softmax_bits":
        return x.softmax(dim=1)
    largest = x.argsort(dim=1, descending=True, stable=True)[:, : mixture.n_active]
    kept = torch.zeros_like(x).scatter(1, largest, x.gather(1, largest))
    total = kept.sum(dim=1, keepdim=True)
    empty = total == 0
    return torch.where(empty, 1 / mixture.n_classes, kept / total.masked_fill(empty, 1.0))


def save_network(directory: Path, state: dict[str, Tensor], *, config: dict) -> None:
    """Write a state dict as model.safetensors, spectral norm folded, and config.json into `directory`, each atomically.

    Args:
        state: of a `GeneratorNetwork`, with spectral norm or without.
        config: the network's constructor arguments.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in fold_spectral_norm(state).items()}
    write_bytes_atomic(directory / WEIGHTS[0], safetensors.torch.save(tensors))
    write_json_atomic(directory / "config.json", config)
