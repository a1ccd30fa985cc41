"""StyleGAN2's generator computed step by step as it was published, to check ours and to measure it against.

Every image gets kernels of its own (one group of a grouped convolution per image); upsampling writes zeros between the
pixels and then filters; noise, bias, activation, gain and clamp are separate passes; memory is laid out (n, c, h, w).
It reads the weights of our network, so both compute the same function.

Source: Karras et al. 2020, https://arxiv.org/abs/1912.04958, appendix B; the reference's way without custom kernels.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from glasslib.generators.stylegan2.networks import Discriminator, GeneratorNetwork


def upfirdn(x: Tensor, taps: Tensor, *, up: int, padding: tuple[int, int, int, int], gain: float) -> Tensor:
    """(n, c, h, w): zeros between the pixels, padding (left, right, top, bottom), then the (4, 4) filter."""
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height, 1, width, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(n, channels, height * up, width * up)
    kernel = (taps * gain).flip((0, 1))[None, None].repeat(channels, 1, 1, 1)
    return F.conv2d(F.pad(x, padding), kernel, groups=channels)


def modulated_convolution(
    x: Tensor, weight: Tensor, styles: Tensor, taps: Tensor, *, up: int, demodulate: bool
) -> Tensor:
    """(n, in, h, w), (out, in, k, k), (n, in) -> (n, out, up * h, up * w), with one group per image."""
    n, n_in, height, width = x.shape
    n_out, _, size, _ = weight.shape
    kernels = weight[None] * styles[:, None, :, None, None]  # (n, out, in, k, k)
    if demodulate:
        kernels = kernels * (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, n * n_in, height, width)
    if up == 1:
        x = F.conv2d(x, kernels.reshape(n * n_out, n_in, size, size), padding=size // 2, groups=n)
    else:
        kernels = kernels.transpose(1, 2).reshape(n * n_in, n_out, size, size)
        x = F.conv_transpose2d(x, kernels, stride=2, groups=n)
        x = upfirdn(x, taps, up=1, padding=(1, 1, 1, 1), gain=4)
    return x.reshape(n, n_out, up * height, up * width)


def shifted(x: Tensor, step: float, axis: int) -> Tensor:
    """(n, c, h, w) -> the same shape: what lies `step` pixels on, -1 to 1, along an axis, interpolated; 0 outside."""
    moved = x.roll(-1 if step > 0 else 1, dims=axis)
    moved.select(axis, -1 if step > 0 else 0).zero_()
    return x * (1 - abs(step)) + moved * abs(step)


def coarse_convolution(x: Tensor, weight: Tensor, styles: Tensor, *, shrink: int, flip: bool) -> Tensor:
    """`modulated_convolution` on a map `shrink` times coarser, tap by tap, each 1 / shrink pixels from the middle."""
    weight = weight.flip((2, 3)) if flip else weight
    kernels = weight[None] * styles[:, None, :, None, None]  # (n, out, in, 3, 3)
    kernels = kernels * (kernels.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    total = 0
    for i in range(3):
        row = shifted(x, (i - 1) / shrink, 2)
        for j in range(3):
            total = total + torch.einsum("noi,nihw->nohw", kernels[..., i, j], shifted(row, (j - 1) / shrink, 3))
    return total


def fully_connected(layer, x: Tensor) -> Tensor:
    """(n, in) -> (n, out), the stored weight scaled first."""
    x = x @ (layer.weight * layer.weight_gain).T + layer.bias * layer.bias_gain
    return x if layer.linear else F.leaky_relu(x, 0.2) * math.sqrt(2)


def synthesis_layer(layer, x: Tensor, w: Tensor, shrink: int = 1) -> Tensor:
    """One 3x3 layer with its constant noise; on a map `shrink` times coarser if that is not 1."""
    styles, noise = fully_connected(layer.affine, w), layer.noise_const
    if shrink == 1:
        x = modulated_convolution(x, layer.weight, styles, layer.resample_filter, up=layer.up, demodulate=True)
    else:
        x = coarse_convolution(x, layer.weight, styles, shrink=shrink, flip=layer.up == 2)
        noise = noise.unflatten(0, (-1, shrink)).unflatten(2, (-1, shrink)).mean(dim=(1, 3))
    x = x + noise * layer.noise_strength
    x = F.leaky_relu(x + layer.bias[None, :, None, None], 0.2) * math.sqrt(2)
    return x if layer.conv_clamp is None else x.clamp(-layer.conv_clamp, layer.conv_clamp)


def to_rgb(layer, x: Tensor, w: Tensor) -> Tensor:
    """The 1x1 layer to colours, without demodulation."""
    styles = fully_connected(layer.affine, w) * layer.weight_gain
    x = modulated_convolution(x, layer.weight, styles, None, up=1, demodulate=False) + layer.bias[None, :, None, None]
    return x if layer.conv_clamp is None else x.clamp(-layer.conv_clamp, layer.conv_clamp)


def generate(network: GeneratorNetwork, z: Tensor, *, resolution: int | None = None, as_glass: bool = False) -> Tensor:
    """(n, z_dim) -> (n, colours, resolution, resolution) with constant noise; unconditional, truncation psi 1.

    `as_glass` pads as CLIP-GLaSS's conversion does: three rows and columns of zeros before the picture and none after.
    A smaller `resolution` is ours, not published: the layers above it are computed on maps of that size.
    """
    w = z * (z.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
    for number in range(network.mapping.num_layers):
        w = fully_connected(getattr(network.mapping, f"fc{number}"), w)
    image = None
    for size in network.synthesis.resolutions:
        block = getattr(network.synthesis, f"b{size}")
        shrink = 1 if resolution is None else max(1, size // resolution)
        if size == 4:
            x = block.const[None].repeat(len(z), 1, 1, 1)
        else:
            x = synthesis_layer(block.conv0, x, w, shrink)
        x = synthesis_layer(block.conv1, x, w, shrink)
        colours = to_rgb(block.torgb, x, w)
        if image is not None and shrink == 1:
            padding = (3, 0, 3, 0) if as_glass else (2, 1, 2, 1)
            image = upfirdn(image, block.resample_filter, up=2, padding=padding, gain=4)
        image = colours if image is None else colours + image
    return image


def plain_convolution(layer, x: Tensor, *, gain: float = 1.0) -> Tensor:
    """A discriminator's convolution: scaled weights, smoothed and halved where it halves, bias, activation, gain."""
    size = layer.weight.shape[-1]
    if layer.down == 2:
        margin = 2 if size == 3 else 1
        x = upfirdn(x, layer.resample_filter, up=1, padding=(margin,) * 4, gain=1)
    padding = size // 2 if layer.down == 1 else 0
    x = F.conv2d(x, layer.weight * layer.weight_gain, stride=layer.down, padding=padding)
    x = x if layer.bias is None else x + layer.bias[None, :, None, None]
    x = (x if layer.linear else F.leaky_relu(x, 0.2) * math.sqrt(2)) * gain
    return x if layer.conv_clamp is None else x.clamp(-layer.conv_clamp * gain, layer.conv_clamp * gain)


def judge(network: Discriminator, images: Tensor, *, group: int) -> Tensor:
    """(n, 3, h, w) in [0, 1] -> (n,) logits; unconditional. Each `group` pictures are judged in one batch of their own.

    Within a batch the discriminator sees how much its features vary from picture to picture (appendix B of ProGAN).
    """
    logits = []
    for batch in images.split(group):
        x = batch * 2 - 1
        for resolution in network.resolutions:
            block = getattr(network, f"b{resolution}")
            x = plain_convolution(block.fromrgb, x) if block.reads_image else x
            main = plain_convolution(block.conv1, plain_convolution(block.conv0, x), gain=math.sqrt(0.5))
            x = plain_convolution(block.skip, x, gain=math.sqrt(0.5)) + main
        variation = (x - x.mean(dim=0)).square().mean(dim=0).add(1e-8).sqrt().mean()
        x = torch.cat([x, variation.expand(len(x), 1, *x.shape[2:])], dim=1)
        x = fully_connected(network.b4.fc, plain_convolution(network.b4.conv, x).flatten(1))
        logits.append(fully_connected(network.b4.out, x)[:, 0])
    return torch.cat(logits)
