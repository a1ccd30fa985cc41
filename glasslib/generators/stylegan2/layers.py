"""Layers of StyleGAN2(-ADA) for CPU and GPU without custom kernels: modulation by scaling activations, FIR resampling.

Parameter names are those of NVIDIA's released PyTorch networks, so that their state dicts load strictly.
Source: Karras et al. 2020, https://arxiv.org/abs/1912.04958 and https://arxiv.org/abs/2006.06676.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LRELU_GAIN = math.sqrt(2)


def fir_filter() -> Tensor:
    """Give the (4, 4) low-pass filter [1, 3, 3, 1] x [1, 3, 3, 1] that sums to one."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64


def normalize_second_moment(x: Tensor) -> Tensor:
    """Scale rows of (n, dim) to mean square one."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


def activate(x: Tensor, *, gain: float, clamp: float | None, linear: bool = False) -> Tensor:
    """Leaky ReLU (slope 0.2, in place) unless `linear`, times `gain`, clipped to +-clamp."""
    if not linear:
        x = F.leaky_relu(x, 0.2, inplace=True)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def fir_filtered(x: Tensor, resample_filter: Tensor, *, stride: int, padding: int) -> Tensor:
    """Smooth each channel of (n, c, h, w) with a (4, 4) filter, keeping every `stride`-th pixel."""
    channels = x.shape[1]
    kernel = resample_filter.flip((0, 1)).expand(channels, 1, 4, 4)
    return F.conv2d(x, kernel, stride=stride, padding=padding, groups=channels)


def fir_upsample(image: Tensor, resample_filter: Tensor, *, shifted: bool = False) -> Tensor:
    """Double the size of (n, c, h, w): zeros between the pixels, then the (4, 4) filter.

    With `shifted` the result lies one pixel further right and down, as in the conversion that CLIP-GLaSS used.
    """
    n, channels, height, width = image.shape
    # One channel at a time: a plain convolution is faster on a CPU than one with as many groups as colours.
    flat = image.reshape(n * channels, 1, height, width)
    flat = F.conv_transpose2d(flat, (4 * resample_filter)[None, None], stride=2, padding=0 if shifted else 1)
    flat = flat[:, :, : 2 * height, : 2 * width]
    return flat.reshape(n, channels, 2 * height, 2 * width)


def shrink_kernel(kernel: Tensor, shrink: int) -> Tensor:
    """Give the (out, in, 3, 3) kernel for a map `shrink` times coarser: each tap's neighbour is 1 / shrink pixels away.

    What lies between two pixels is interpolated, so a tap is shared out between the middle and the neighbour.
    """
    near, rest = 1 / shrink, 1 - 1 / shrink
    share = kernel.new_tensor([[near, 0, 0], [rest, 1, rest], [0, 0, near]])
    return share @ kernel @ share.T


class FullyConnected(nn.Module):
    """Linear layer whose stored weight is scaled at run time (equalised learning rate)."""

    def __init__(self, n_in: int, n_out: int, *, linear: bool = False, lr_multiplier: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.linear = linear
        self.weight_gain = lr_multiplier / math.sqrt(n_in)
        self.bias_gain = lr_multiplier
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((n_out,), bias))

    def forward(self, x: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        x = F.linear(x, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return activate(x, gain=1 if self.linear else LRELU_GAIN, clamp=None, linear=self.linear)


class Conv(nn.Module):
    """Discriminator's convolution, optionally smoothed and halved in size."""

    def __init__(
        self, n_in: int, n_out: int, *, kernel: int, down: int = 1, bias: bool = True, linear: bool = False,
        conv_clamp: float | None = None,
    ):  # fmt: skip
        super().__init__()
        self.down, self.linear, self.conv_clamp = down, linear, conv_clamp
        self.weight_gain = 1 / math.sqrt(n_in * kernel**2)
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.register_buffer("resample_filter", fir_filter())

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Tensor:
        """(n, in, h, w) -> (n, out, h / down, w / down)."""
        kernel = self.weight.shape[-1]
        padding, stride = kernel // 2, 1
        if self.down == 2:
            if kernel == 1:
                x = fir_filtered(x, self.resample_filter, stride=2, padding=1)
            else:
                x = fir_filtered(x, self.resample_filter, stride=1, padding=2)
                padding, stride = 0, 2
        clamp = None if self.conv_clamp is None else self.conv_clamp * gain
        gain = gain if self.linear else gain * LRELU_GAIN
        # The gain commutes with a leaky ReLU, so it costs nothing when it rides on the weights.
        bias = None if self.bias is None else self.bias * gain
        x = F.conv2d(x, self.weight * (self.weight_gain * gain), bias, stride=stride, padding=padding)
        return activate(x, gain=1, clamp=clamp, linear=self.linear)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution with noise, optionally doubling the size."""

    def __init__(
        self, n_in: int, n_out: int, *, w_dim: int, resolution: int, up: int = 1, conv_clamp: float | None = None
    ):
        super().__init__()
        self.up, self.resolution, self.conv_clamp = up, resolution, conv_clamp
        self.affine = FullyConnected(w_dim, n_in, linear=True, bias=1.0)
        self.weight = nn.Parameter(torch.randn(n_out, n_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.register_buffer("resample_filter", fir_filter())

    def _noise(self, n: int, noise_mode: str, rng: torch.Generator | None) -> Tensor | None:
        if noise_mode == "none":
            return None
        if noise_mode == "const":
            return self.noise_const * self.noise_strength
        shape = (n, 1, self.resolution, self.resolution)
        return torch.randn(shape, generator=rng, device=self.weight.device) * self.noise_strength

    def forward(
        self, x: Tensor, w: Tensor, *, noise_mode: str, rng: torch.Generator | None, shrink: int = 1
    ) -> Tensor:  # fmt: skip
        """(n, in, h, w) and (n, w_dim) -> (n, out, up * h, up * w).

        With `shrink` 2, 4, ... the layer is computed on a map so many times coarser, about what averaging its result
        would give; x has that size, and the result keeps it.
        """
        styles = self.affine(w)  # (n, in)
        demodulation = (styles.square() @ self.weight.square().sum(dim=(2, 3)).T + 1e-8).rsqrt()  # (n, out)
        # Scaling input and output channels equals scaling the kernel per image, and shares one kernel in the batch.
        x = x * styles[:, :, None, None]
        if shrink > 1:
            kernel = self.weight.flip((2, 3)) if self.up == 2 else self.weight
            x = F.conv2d(x, shrink_kernel(kernel, shrink), padding=1)
        elif self.up == 2:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)  # (n, out, 2 * h + 1, 2 * w + 1)
            x = fir_filtered(x, 4 * self.resample_filter, stride=1, padding=1)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        # In place: at 1024 pixels a fresh tensor costs ten times the sum itself. sqrt(2) commutes with the leaky ReLU.
        x = x.mul_((demodulation * LRELU_GAIN)[:, :, None, None]).add_((self.bias * LRELU_GAIN)[:, None, None])
        noise = self._noise(len(x), noise_mode, rng)
        if noise is not None:
            if shrink > 1:
                noise = F.avg_pool2d(noise.reshape(-1, 1, self.resolution, self.resolution), shrink)
            x = x.add_(noise * LRELU_GAIN)
        return activate(x, gain=1, clamp=self.conv_clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, without demodulation."""

    def __init__(self, n_in: int, n_colours: int, *, w_dim: int, conv_clamp: float | None):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = FullyConnected(w_dim, n_in, linear=True, bias=1.0)
        self.weight = nn.Parameter(torch.randn(n_colours, n_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(n_colours))
        self.weight_gain = 1 / math.sqrt(n_in)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(n, in, h, w) and (n, w_dim) -> (n, colours, h, w)."""
        n, channels, height, width = x.shape
        kernels = (self.affine(w) * self.weight_gain)[:, None] * self.weight[None, :, :, 0, 0]  # (n, colours, in)
        pixels = x.permute(0, 2, 3, 1).reshape(n, height * width, channels)
        rgb = torch.baddbmm(self.bias, pixels, kernels.transpose(1, 2))
        rgb = rgb.transpose(1, 2).reshape(n, -1, height, width)
        return activate(rgb, gain=1, clamp=self.conv_clamp, linear=True)


class MinibatchStd(nn.Module):
    """Append the standard deviation within groups of images as extra channels."""

    def __init__(self, group_size: int | None, *, n_channels: int):
        super().__init__()
        self.group_size, self.n_channels = group_size, n_channels

    def forward(self, x: Tensor, *, constant: float | None = None) -> Tensor:
        """(n, c, h, w) -> (n, c + n_channels, h, w); image i is grouped with those n / group_size apart.

        A `constant` stands in for the statistic, which makes every image's result its own.
        """
        n, channels, height, width = x.shape
        if constant is not None:
            return torch.cat([x, x.new_full((n, self.n_channels, height, width), constant)], dim=1)
        group = n if self.group_size is None else min(self.group_size, n)
        if n % group:
            raise ValueError(f"the batch must be a multiple of the group of {group} images, got {n}; cut or pad it")
        y = x.reshape(group, n // group, self.n_channels, channels // self.n_channels, height, width)
        std = (y - y.mean(dim=0)).square().mean(dim=0).add(1e-8).sqrt().mean(dim=(2, 3, 4))  # (n / group, n_channels)
        std = std.repeat(group, 1)[:, :, None, None].expand(-1, -1, height, width)
        return torch.cat([x, std], dim=1)
