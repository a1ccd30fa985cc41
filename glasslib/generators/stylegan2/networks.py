"""StyleGAN2(-ADA)'s networks: mapping, synthesis ("skip") and discriminator ("resnet").

Networks take the reference's constructor arguments and state-dict names, so NVIDIA's weights load strictly.
Source: Karras et al. 2020, https://arxiv.org/abs/1912.04958 and https://arxiv.org/abs/2006.06676.
"""

import torch
from torch import Tensor, nn

from glasslib.generators.stylegan2.layers import (
    Conv,
    FullyConnected,
    MinibatchStd,
    SynthesisLayer,
    ToRGB,
    fir_filter,
    fir_upsample,
    normalize_second_moment,
)

NOISE_MODES = ("const", "none", "random")


def channels_at(resolution: int, *, channel_base: int, channel_max: int) -> int:
    """Number of feature channels at a resolution: channel_base / resolution, at most channel_max."""
    return min(channel_base // resolution, channel_max)


class MappingNetwork(nn.Module):
    """z (and a label) -> w. With `num_ws` None (in a discriminator) it keeps no average of w."""

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_ws: int | None,
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
    ):
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.num_ws, self.num_layers = z_dim, c_dim, w_dim, num_ws, num_layers
        if c_dim:
            self.embed = FullyConnected(c_dim, w_dim, linear=True)
        n_in = z_dim + (w_dim if c_dim else 0)
        for layer in range(num_layers):
            setattr(self, f"fc{layer}", FullyConnected(n_in, w_dim, lr_multiplier=lr_multiplier))
            n_in = w_dim
        if num_ws is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Tensor | None, label: Tensor | None = None, *, truncation_psi: float = 1.0) -> Tensor:
        """(n, z_dim), (n, c_dim) -> (n, w_dim), pulled towards the average w for truncation_psi < 1."""
        parts = [normalize_second_moment(z)] if self.z_dim else []
        if self.c_dim:
            if label is None:
                raise ValueError(f"this network needs labels of shape (n, {self.c_dim}), got None; pass label=...")
            parts.append(normalize_second_moment(self.embed(label)))
        x = torch.cat(parts, dim=1)
        for layer in range(self.num_layers):
            x = getattr(self, f"fc{layer}")(x)
        return x if truncation_psi == 1 else self.w_avg.lerp(x, truncation_psi)


class SynthesisBlock(nn.Module):
    """One resolution of the generator: one or two convolutions and a layer to colours."""

    def __init__(
        self, n_in: int, n_out: int, *, w_dim: int, resolution: int, img_channels: int, conv_clamp: float | None
    ):
        super().__init__()
        self.register_buffer("resample_filter", fir_filter())
        layer = {"w_dim": w_dim, "resolution": resolution, "conv_clamp": conv_clamp}
        if n_in:
            self.conv0 = SynthesisLayer(n_in, n_out, up=2, **layer)
        else:
            self.const = nn.Parameter(torch.randn(n_out, resolution, resolution))
        self.conv1 = SynthesisLayer(n_out, n_out, **layer)
        self.torgb = ToRGB(n_out, img_channels, w_dim=w_dim, conv_clamp=conv_clamp)
        self.num_conv = 2 if n_in else 1

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, *, shifted_skip: bool = False, **noise
    ) -> tuple[Tensor, Tensor]:
        """Features and image of half the size, ws (n, num_conv + 1, w_dim) -> features and image of this size.

        `noise` may hold a `shrink` > 1: then what comes in and goes out has 1 / shrink of this size.
        """
        if x is None:
            x = self.const.expand(len(ws), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        else:
            x = self.conv0(x, ws[:, 0], **noise)
        x = self.conv1(x, ws[:, -2], **noise)
        colours = self.torgb(x, ws[:, -1])
        if image is not None:
            is_small = noise.get("shrink", 1) > 1
            colours += image if is_small else fir_upsample(image, self.resample_filter, shifted=shifted_skip)
        return x, colours


class SynthesisNetwork(nn.Module):
    """w, one per layer, -> image; the image is summed over resolutions ("skip" architecture)."""

    def __init__(
        self, *, w_dim: int, img_resolution: int, img_channels: int, channel_base: int = 32768, channel_max: int = 512,
        conv_clamp: float | None = None, architecture: str = "skip", num_fp16_res: int = 0,
    ):  # fmt: skip
        super().__init__()
        if architecture != "skip":
            raise ValueError(f"architecture must be 'skip', got {architecture!r}; no other generator is implemented")
        self.resolutions = [2**power for power in range(2, img_resolution.bit_length())]
        n_in = 0
        for resolution in self.resolutions:
            n_out = channels_at(resolution, channel_base=channel_base, channel_max=channel_max)
            block = SynthesisBlock(
                n_in, n_out, w_dim=w_dim, resolution=resolution, img_channels=img_channels, conv_clamp=conv_clamp
            )
            setattr(self, f"b{resolution}", block)
            n_in = n_out
        self.num_ws = 2 * len(self.resolutions)

    def forward(
        self, ws: Tensor, *, noise_mode: str = "const", rng: torch.Generator | None = None,
        resolution: int | None = None, shifted_skip: bool = False,
    ) -> Tensor:  # fmt: skip
        """(n, num_ws, w_dim) -> (n, colours, resolution, resolution), about [-1, 1], not clipped.

        With a smaller `resolution` no map grows beyond it: the layers above are computed coarsely, with kernels to
        match (`shrink_kernel`). It is about the whole image scaled down. The image summed up to there would be cheaper
        still, but a generator may leave nearly everything to its last layers, as our tiny one does.
        """
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {NOISE_MODES}, got {noise_mode!r}")
        if noise_mode == "random" and rng is None:
            raise ValueError("noise_mode='random' needs rng=torch.Generator(), got None")
        if resolution is not None and resolution not in self.resolutions:
            raise ValueError(f"resolution must be one of {self.resolutions}, got {resolution}")
        x = image = None
        first = 0
        for size in self.resolutions:
            block = getattr(self, f"b{size}")
            shrink = 1 if resolution is None else max(1, size // resolution)
            own = ws[:, first : first + block.num_conv + 1]
            x, image = block(x, image, own, noise_mode=noise_mode, rng=rng, shrink=shrink, shifted_skip=shifted_skip)
            first += block.num_conv
        return image


class GeneratorNetwork(nn.Module):
    """z -> image. `num_fp16_res` of released configs is accepted and ignored: we compute in the parameters' type."""

    def __init__(
        self, *, z_dim: int, c_dim: int, w_dim: int, img_resolution: int, img_channels: int = 3,
        mapping_kwargs: dict | None = None, synthesis_kwargs: dict | None = None,
    ):  # fmt: skip
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.img_resolution = z_dim, c_dim, w_dim, img_resolution
        self.synthesis = SynthesisNetwork(
            w_dim=w_dim, img_resolution=img_resolution, img_channels=img_channels, **(synthesis_kwargs or {})
        )
        self.num_ws = self.synthesis.num_ws
        self.mapping = MappingNetwork(
            z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=self.num_ws, **(mapping_kwargs or {})
        )

    def forward(
        self, z: Tensor, label: Tensor | None = None, *, truncation_psi: float = 1.0, noise_mode: str = "const",
        rng: torch.Generator | None = None, resolution: int | None = None, shifted_skip: bool = False,
    ) -> Tensor:  # fmt: skip
        """(n, z_dim) -> (n, colours, resolution, resolution), about [-1, 1], not clipped; whole unless told.

        With `shifted_skip` the image summed so far moves one pixel right and down at each doubling (`fir_upsample`).
        """
        w = self.mapping(z, label, truncation_psi=truncation_psi)
        ws = w[:, None].expand(-1, self.num_ws, -1)
        return self.synthesis(ws, noise_mode=noise_mode, rng=rng, resolution=resolution, shifted_skip=shifted_skip)


class DiscriminatorBlock(nn.Module):
    """One resolution of the discriminator: residual, halves the size."""

    def __init__(self, n_in: int, n_out: int, *, img_channels: int, conv_clamp: float | None):
        super().__init__()
        self.register_buffer("resample_filter", fir_filter())
        if img_channels:
            self.fromrgb = Conv(img_channels, n_in, kernel=1, conv_clamp=conv_clamp)
        self.conv0 = Conv(n_in, n_in, kernel=3, conv_clamp=conv_clamp)
        self.conv1 = Conv(n_in, n_out, kernel=3, down=2, conv_clamp=conv_clamp)
        self.skip = Conv(n_in, n_out, kernel=1, down=2, bias=False, linear=True)
        self.reads_image = bool(img_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in, h, w), or the image for the first block, -> (n, out, h / 2, w / 2)."""
        if self.reads_image:
            x = self.fromrgb(x)
        return self.skip(x, gain=0.5**0.5) + self.conv1(self.conv0(x), gain=0.5**0.5)


class DiscriminatorEpilogue(nn.Module):
    """4x4 features -> logit, through the minibatch standard deviation."""

    def __init__(
        self, n_channels: int, *, cmap_dim: int, conv_clamp: float | None, mbstd_group_size: int | None = 4,
        mbstd_num_channels: int = 1,
    ):  # fmt: skip
        super().__init__()
        self.mbstd = MinibatchStd(mbstd_group_size, n_channels=mbstd_num_channels) if mbstd_num_channels else None
        self.conv = Conv(n_channels + mbstd_num_channels, n_channels, kernel=3, conv_clamp=conv_clamp)
        self.fc = FullyConnected(n_channels * 16, n_channels)
        self.out = FullyConnected(n_channels, cmap_dim or 1, linear=True)

    def forward(self, x: Tensor, *, minibatch_std: float | None = None) -> Tensor:
        """(n, c, 4, 4) -> (n, cmap_dim or 1)."""
        if self.mbstd is not None:
            x = self.mbstd(x, constant=minibatch_std)
        return self.out(self.fc(self.conv(x).flatten(1)))


class Discriminator(nn.Module):
    """Image -> logit, higher is more real."""

    def __init__(
        self, *, c_dim: int, img_resolution: int, img_channels: int = 3, architecture: str = "resnet",
        channel_base: int = 32768, channel_max: int = 512, num_fp16_res: int = 0, conv_clamp: float | None = None,
        mapping_kwargs: dict | None = None, epilogue_kwargs: dict | None = None,
    ):  # fmt: skip
        super().__init__()
        if architecture != "resnet":
            raise ValueError(f"architecture must be 'resnet', got {architecture!r}; no other one is implemented")
        widths = {"channel_base": channel_base, "channel_max": channel_max}
        self.c_dim = c_dim
        self.resolutions = [2**power for power in range(img_resolution.bit_length() - 1, 2, -1)]
        for resolution in self.resolutions:
            n_in, n_out = channels_at(resolution, **widths), channels_at(resolution // 2, **widths)
            colours = img_channels if resolution == img_resolution else 0
            block = DiscriminatorBlock(n_in, n_out, img_channels=colours, conv_clamp=conv_clamp)
            setattr(self, f"b{resolution}", block)
        cmap_dim = channels_at(4, **widths) if c_dim else 0
        if c_dim:
            self.mapping = MappingNetwork(z_dim=0, c_dim=c_dim, w_dim=cmap_dim, num_ws=None, **(mapping_kwargs or {}))
        self.b4 = DiscriminatorEpilogue(
            channels_at(4, **widths), cmap_dim=cmap_dim, conv_clamp=conv_clamp, **(epilogue_kwargs or {})
        )

    def features(self, images: Tensor) -> Tensor:
        """(n, colours, h, w) in [-1, 1] -> (n, c, 4, 4), before the minibatch standard deviation."""
        x = images.contiguous(memory_format=torch.channels_last)
        for resolution in self.resolutions:
            x = getattr(self, f"b{resolution}")(x)
        return x

    def forward(self, images: Tensor, label: Tensor | None = None, *, minibatch_std: float | None = None) -> Tensor:
        """(n, colours, h, w) in [-1, 1] -> (n, 1). A `minibatch_std` replaces the batch's own statistic."""
        logits = self.b4(self.features(images), minibatch_std=minibatch_std)
        if self.c_dim:
            code = self.mapping(None, label)
            logits = (logits * code).sum(dim=1, keepdim=True) / code.shape[1] ** 0.5
        return logits
