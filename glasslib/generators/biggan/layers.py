"""Layers of BigGAN-deep: conditional batch norm with statistics per truncation, residual blocks, self-attention.

Parameter names are those of the published PyTorch conversions, so that their state dicts load strictly.
Source: Brock et al. 2019, https://arxiv.org/abs/1809.11096, appendix B.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

REDUCTION = 4  # a block computes in a quarter of its input's channels
CACHED = 2**18  # so many of attention's weights at once stay in a CPU's cache, which is a third faster


class Rows(NamedTuple):
    """Two rows of the table of statistics, and the share of the second."""

    first: int
    second: int
    share: float


def rows_at(truncation: float, n_stats: int, *, faithful: bool = False) -> Rows:
    """Say which of `n_stats` statistics, evenly spaced over [0, 1], belong to a truncation, and how they mix.

    The published port mixes the two neighbours the wrong way round. Where truncation / 0.02 is no whole number only
    because of rounding, it so lands on a wrong row: of its 51, at 0.14, 0.28, 0.56, 0.58 and 0.94. `faithful=True`
    reproduces this; at the other grid points both agree.

    Raises:
        ValueError: truncation outside [0, 1].
    """
    if not 0 <= truncation <= 1:
        raise ValueError(f"truncation must lie in [0, 1], got {truncation}")
    if faithful:
        past, first = math.modf(truncation / (1.0 / (n_stats - 1)))
        return Rows(int(first), int(first) + 1, 1 - past) if past else Rows(int(first), int(first), 0.0)
    position = truncation * (n_stats - 1)
    first = min(int(position), n_stats - 2)
    return Rows(first, first + 1, position - first)


class BatchNorm(nn.Module):
    """Batch norm whose gain and shift follow the condition, or are learned where there is none.

    In training it uses the batch's own statistics and keeps none; in evaluation the stored ones of a truncation.
    """

    def __init__(self, n_channels: int, n_condition: int | None, *, n_stats: int, eps: float):
        super().__init__()
        self.eps = eps
        self.register_buffer("running_means", torch.zeros(n_stats, n_channels))
        self.register_buffer("running_vars", torch.ones(n_stats, n_channels))
        if n_condition is not None:
            self.scale = nn.Linear(n_condition, n_channels, bias=False)
            self.offset = nn.Linear(n_condition, n_channels, bias=False)
        else:
            self.weight = nn.Parameter(torch.ones(n_channels))
            self.bias = nn.Parameter(torch.zeros(n_channels))

    def forward(self, x: Tensor, rows: Rows, condition: Tensor | None = None, *, overwrite: bool = False) -> Tensor:
        """(n, c, h, w), with a condition (n, n_condition) -> relu of the normalised, (n, c, h, w).

        With `overwrite` and without gradients the result takes the place of x: fresh memory costs more than the sums.
        """
        if condition is None:
            gain, shift = self.weight[None], self.bias[None]
        else:
            gain, shift = 1 + self.scale(condition), self.offset(condition)  # (n, c)
        if self.training:
            x = F.batch_norm(x, None, None, training=True, eps=self.eps)
        else:
            mean, variance = (
                stats[rows.first].lerp(stats[rows.second], rows.share)
                for stats in (self.running_means, self.running_vars)
            )
            gain = gain * (variance + self.eps).rsqrt()
            shift = shift - mean * gain
        place = x if overwrite and not torch.is_grad_enabled() else None
        return F.relu(torch.addcmul(shift[:, :, None, None], x, gain[:, :, None, None], out=place), inplace=True)


class UpConv(nn.Conv2d):
    """A 3x3 convolution of the map doubled by repeating pixels, computed from the small map.

    Each pixel of the result sees 2x2 pixels of the small map through sums of the kernel's taps. All four phases
    together are one transposed convolution with a 4x4 kernel: 16 multiplications where the plain way takes 36.
    """

    def __init__(self, n_channels: int):
        super().__init__(n_channels, n_channels, 3, padding=1)
        self.register_buffer("summed", None, persistent=False)

    def freeze(self) -> None:
        """Keep the summed kernel; from now on the weight must not change."""
        self.summed = summed_kernel(self.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, 2 * h, 2 * w)."""
        kernel = summed_kernel(self.weight) if self.summed is None else self.summed
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


def summed_kernel(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (in, out, 4, 4): the 3x3 kernel spread over 2x2 equal pixels, as a transposed one."""
    flipped = weight.flip((2, 3)).transpose(0, 1)
    wide = F.pad(flipped, (0, 1, 0, 0)) + F.pad(flipped, (1, 0, 0, 0))
    return (F.pad(wide, (0, 0, 0, 1)) + F.pad(wide, (0, 0, 1, 0))).contiguous(memory_format=torch.channels_last)


class RGBConv(nn.Conv2d):
    """A 3x3 convolution that is stored with as many output channels as input, of which only three are colours."""

    def __init__(self, n_channels: int):
        super().__init__(n_channels, n_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, 3, h, w)."""
        return F.conv2d(x, self.weight[:3], self.bias[:3], padding=1)


class AddingConv(nn.Conv2d):
    """A 1x1 convolution whose result is added to a shortcut, in one pass over memory."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__(n_in, n_out, 1)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """(n, in, h, w); a shortcut (n, out, h, w), or half as high and wide, then repeated -> (n, out, h, w)."""
        n, _, height, width = x.shape
        total = shortcut.permute(0, 2, 3, 1) + self.bias  # (n, h, w, out)
        if shortcut.shape[2] != height:
            total = total[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1).reshape(n, height, width, -1)
        pixels = x.permute(0, 2, 3, 1).flatten(0, 2)
        total.flatten(0, 2).addmm_(pixels, self.weight.flatten(1).T)
        return total.permute(0, 3, 1, 2)


class Block(nn.Module):
    """Residual block: 1x1, two 3x3 and 1x1 convolutions; it may double the size and drop the last channels."""

    def __init__(self, n_in: int, n_out: int, n_condition: int, *, up: bool, n_stats: int, eps: float):
        super().__init__()
        self.n_out = n_out
        n_middle = n_in // REDUCTION
        self.bn_0 = BatchNorm(n_in, n_condition, n_stats=n_stats, eps=eps)
        self.conv_0 = nn.Conv2d(n_in, n_middle, 1)
        self.bn_1 = BatchNorm(n_middle, n_condition, n_stats=n_stats, eps=eps)
        self.conv_1 = UpConv(n_middle) if up else nn.Conv2d(n_middle, n_middle, 3, padding=1)
        self.bn_2 = BatchNorm(n_middle, n_condition, n_stats=n_stats, eps=eps)
        self.conv_2 = nn.Conv2d(n_middle, n_middle, 3, padding=1)
        self.bn_3 = BatchNorm(n_middle, n_condition, n_stats=n_stats, eps=eps)
        self.conv_3 = AddingConv(n_middle, n_out)

    def forward(self, x: Tensor, condition: Tensor, rows: Rows) -> Tensor:
        """(n, in, h, w) -> (n, out, h, w), or (n, out, 2 * h, 2 * w)."""
        y = self.conv_0(self.bn_0(x, rows, condition))
        y = self.conv_1(self.bn_1(y, rows, condition, overwrite=True))
        y = self.conv_2(self.bn_2(y, rows, condition, overwrite=True))
        return self.conv_3(self.bn_3(y, rows, condition, overwrite=True), x[:, : self.n_out])


class SelfAttention(nn.Module):
    """Every pixel looks at all pixels of the map at half the size."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.snconv1x1_theta = nn.Conv2d(n_channels, n_channels // 8, 1, bias=False)
        self.snconv1x1_phi = nn.Conv2d(n_channels, n_channels // 8, 1, bias=False)
        self.snconv1x1_g = nn.Conv2d(n_channels, n_channels // 2, 1, bias=False)
        self.snconv1x1_o_conv = nn.Conv2d(n_channels // 2, n_channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, c, h, w)."""
        query = _pixels(self.snconv1x1_theta(x))  # (n, h * w, c / 8)
        key = _pixels(F.max_pool2d(self.snconv1x1_phi(x), 2))  # (n, h * w / 4, c / 8)
        value = _pixels(F.max_pool2d(self.snconv1x1_g(x), 2))  # (n, h * w / 4, c / 2)
        seen = attend(query, key, value).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)  # (n, c / 2, h, w)
        return torch.addcmul(x, self.gamma, self.snconv1x1_o_conv(seen))


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(n, q, d), (n, k, d), (n, k, v) -> (n, q, v): softmax of the unscaled products, over the keys."""
    n_keys = key.shape[1]
    if query.is_cuda or query.shape[1] * n_keys <= CACHED:
        return (query @ key.transpose(1, 2)).softmax(dim=2) @ value
    return torch.stack(
        [
            torch.cat([(piece @ k.T).softmax(dim=1) @ v for piece in q.split(max(1, CACHED // n_keys))])
            for q, k, v in zip(query, key, value, strict=True)
        ]
    )


def _pixels(x: Tensor) -> Tensor:
    """(n, c, h, w) -> (n, h * w, c)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)
