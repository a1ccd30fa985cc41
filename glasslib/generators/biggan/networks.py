"""BigGAN-deep's generator, and the two forms of its weights: with spectral norm, for training, and without.

The published conversions store every spectrally normalised weight as three tensors, from which the weight in use is
computed at each call. `fold_spectral_norm` does it once for a whole state dict.
Source: Brock et al. 2019, https://arxiv.org/abs/1809.11096; Miyato et al. 2018, https://arxiv.org/abs/1802.05957.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from glasslib.generators.biggan.layers import BatchNorm, Block, RGBConv, SelfAttention, UpConv, rows_at

FIRST_SIZE = 4  # pixels of the first map
FIRST_WIDTH = 16  # its channels, in units of channel_width


class Synthesis(nn.Module):
    """A condition -> image."""

    def __init__(
        self, n_condition: int, *, channel_width: int, layers: Sequence[tuple[bool, int, int]],
        attention_layer_position: int, eps: float, n_stats: int,
    ):  # fmt: skip
        super().__init__()
        stats = {"n_stats": n_stats, "eps": eps}
        self.first_shape = (FIRST_SIZE, FIRST_SIZE, FIRST_WIDTH * channel_width)
        self.gen_z = nn.Linear(n_condition, FIRST_SIZE**2 * FIRST_WIDTH * channel_width)
        blocks: list[nn.Module] = []
        for position, (up, n_in, n_out) in enumerate(layers):
            if position == attention_layer_position:
                blocks.append(SelfAttention(channel_width * n_in))
            blocks.append(Block(channel_width * n_in, channel_width * n_out, n_condition, up=up, **stats))
        self.layers = nn.ModuleList(blocks)
        self.bn = BatchNorm(channel_width, None, **stats)
        self.conv_to_rgb = RGBConv(channel_width)
        self.n_stats = n_stats

    def forward(self, condition: Tensor, truncation: float, *, faithful: bool = False) -> Tensor:
        """(n, n_condition) -> (n, 3, h, w) in [-1, 1]."""
        rows = rows_at(truncation, self.n_stats, faithful=faithful)
        x = self.gen_z(condition).unflatten(1, self.first_shape).permute(0, 3, 1, 2)  # channels last in memory
        for layer in self.layers:
            x = layer(x) if isinstance(layer, SelfAttention) else layer(x, condition, rows)
        return self.conv_to_rgb(self.bn(x, rows, overwrite=True)).tanh()


class GeneratorNetwork(nn.Module):
    """z and a class vector -> image, in the published configs' own words.

    Args:
        output_dim: height and width of the images.
        z_dim: size of z.
        class_embed_dim: size of a class's embedding.
        channel_width: channels of the last layer; the others are multiples of it.
        num_classes: size of a class vector.
        layers: of each block whether it doubles the size, its channels in and out in units of channel_width.
        attention_layer_position: the block before which self-attention stands.
        eps: of every batch norm, and of the spectral norm.
        n_stats: how many truncations have statistics, evenly spaced over [0, 1].

    Raises:
        ValueError: the layers do not fit each other or output_dim.
    """

    def __init__(
        self, *, output_dim: int, z_dim: int, class_embed_dim: int, channel_width: int, num_classes: int,
        layers: Sequence[tuple[bool, int, int]], attention_layer_position: int, eps: float = 1e-4, n_stats: int = 51,
    ):  # fmt: skip
        super().__init__()
        _check_layers(layers, output_dim)
        self.z_dim, self.num_classes, self.output_dim, self.eps = z_dim, num_classes, output_dim, eps
        self.embeddings = nn.Linear(num_classes, class_embed_dim, bias=False)
        self.generator = Synthesis(
            z_dim + class_embed_dim, channel_width=channel_width, layers=layers,
            attention_layer_position=attention_layer_position, eps=eps, n_stats=n_stats,
        )  # fmt: skip

    def forward(self, z: Tensor, class_vector: Tensor, truncation: float = 1.0, *, faithful: bool = False) -> Tensor:
        """(n, z_dim), (n, num_classes) -> (n, 3, output_dim, output_dim) in [-1, 1].

        Args:
            z: already scaled by the truncation, as in the published package.
            class_vector: one class (a one-hot row), or a mixture whose weights sum to 1.
            truncation: in [0, 1]; which statistics the batch norms use in evaluation.
            faithful: choose them as the published package does, see `rows_at`.
        """
        condition = torch.cat([z, self.embeddings(class_vector)], dim=1)
        return self.generator(condition, truncation, faithful=faithful)

    def freeze(self) -> GeneratorNetwork:
        """Make ready for inference only, in place: evaluation mode, no gradients of weights, their fastest layout."""
        for module in self.modules():
            if isinstance(module, UpConv):
                module.freeze()
        return self.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _check_layers(layers: Sequence[tuple[bool, int, int]], output_dim: int) -> None:
    widths = [FIRST_WIDTH, *(n_out for _, _, n_out in layers)]
    if [n_in for _, n_in, _ in layers] != widths[:-1] or widths[-1] != 1:
        raise ValueError(f"layers must lead from {FIRST_WIDTH} to 1, each from the width before it, got {layers}")
    if any(n_out > n_in for _, n_in, n_out in layers):
        raise ValueError(f"layers must not widen, got {layers}; a shortcut can only drop channels")
    size = FIRST_SIZE * 2 ** sum(bool(up) for up, _, _ in layers)
    if size != output_dim:
        raise ValueError(f"layers must double {FIRST_SIZE} pixels up to output_dim={output_dim}, got {size}")


def published_config(resolution: int) -> dict:
    """Constructor arguments of the published networks of 128, 256 and 512 pixels.

    Raises:
        ValueError: another resolution.
    """
    if resolution not in (128, 256, 512):
        raise ValueError(f"resolution must be 128, 256 or 512, got {resolution}")
    steps = {128: (16, 16, 8, 4, 2, 1), 256: (16, 16, 8, 8, 4, 2, 1), 512: (16, 16, 8, 8, 4, 2, 1, 1)}[resolution]
    layers = []
    for n_in, n_out in pairwise(steps):
        layers += [(False, n_in, n_in), (True, n_in, n_out)]
    return {
        "output_dim": resolution, "z_dim": 128, "class_embed_dim": 128, "channel_width": 128, "num_classes": 1000,
        "layers": layers, "attention_layer_position": 8, "eps": 1e-4, "n_stats": 51,
    }  # fmt: skip


def add_spectral_norm(network: GeneratorNetwork) -> GeneratorNetwork:
    """Normalise every weight but the class embedding's by its spectral norm, in place, for training.

    The state dict then has the published keys: weight_orig, weight_u and weight_v.
    """
    for module in network.generator.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            spectral_norm(module, eps=network.eps)
    return network


def fold_spectral_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict with weight_orig, weight_u, weight_v -> state dict with weight, what they stand for in evaluation.

    A state dict without such keys comes back as it is.

    Raises:
        ValueError: weight_u or weight_v is missing or of another shape, or the norm they give is not a number or zero.
    """
    folded = dict(state)
    for name in [key.removesuffix("_orig") for key in state if key.endswith(".weight_orig")]:
        weight = folded.pop(f"{name}_orig")
        u, v = folded.pop(f"{name}_u", None), folded.pop(f"{name}_v", None)
        matrix = weight.flatten(1)
        found = [None if vector is None else tuple(vector.shape) for vector in (u, v)]
        if found != [(len(matrix),), (matrix.shape[1],)]:
            raise ValueError(f"{name}_u and {name}_v must have one entry per row and column, got {found}")
        sigma = u @ matrix @ v
        if not torch.isfinite(sigma) or sigma == 0:
            raise ValueError(f"the spectral norm of {name} must be a finite number and not 0, got {float(sigma)}")
        folded[name] = weight / sigma
    return folded
