"""BigGAN-deep computed step by step as CLIP-GLaSS runs it, to check ours and to measure it against.

Every call divides each weight by its spectral norm; maps are doubled first and convolved then; the last convolution
computes as many channels as it reads, of which three are kept; normalisation, gain, shift and ReLU are separate passes;
memory is laid out (n, c, h, w). It reads a state dict under the published keys, three tensors a weight.

Source: Brock et al. 2019, https://arxiv.org/abs/1809.11096, appendix B, for truncations that have statistics.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from glasslib.generators.biggan.networks import FIRST_SIZE, FIRST_WIDTH

State = Mapping[str, Tensor]


def spectral_state(state: State, *, n_iterations: int = 3, rng: torch.Generator) -> dict[str, Tensor]:
    """Give a state dict without spectral norm the published form: weight_orig and its singular vectors u and v.

    Args:
        state: of a `GeneratorNetwork`; the class embedding has no spectral norm.
        n_iterations: of the power method, by which u and v are found.
        rng: draws where it starts.
    """
    found = {}
    for key, value in state.items():
        if not key.endswith(".weight") or value.ndim < 2 or key.startswith("embeddings"):
            found[key] = value
            continue
        matrix = value.flatten(1)
        u = F.normalize(torch.randn(len(matrix), generator=rng), dim=0)
        for _ in range(n_iterations):
            v = F.normalize(matrix.T @ u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
        found |= {f"{key}_orig": value, f"{key}_u": u, f"{key}_v": v}
    return found


def weight_of(state: State, name: str) -> Tensor:
    """The weight in use: the stored one over its spectral norm u W v."""
    weight = state[f"{name}.weight_orig"]
    return weight / torch.dot(state[f"{name}.weight_u"], weight.flatten(1) @ state[f"{name}.weight_v"])


def convolution(state: State, name: str, x: Tensor) -> Tensor:
    """(n, in, h, w) -> (n, out, h, w), padded to the same size."""
    weight = weight_of(state, name)
    return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def batch_norm(state: State, name: str, x: Tensor, condition: Tensor | None, row: int, eps: float) -> Tensor:
    """(n, c, h, w) -> the same shape, with the statistics of one row of the table."""
    mean, variance = state[f"{name}.running_means"][row], state[f"{name}.running_vars"][row]
    if condition is None:
        return F.batch_norm(x, mean, variance, state[f"{name}.weight"], state[f"{name}.bias"], False, 0.0, eps)
    gain = 1 + F.linear(condition, weight_of(state, f"{name}.scale"))[:, :, None, None]  # (n, c, 1, 1)
    shift = F.linear(condition, weight_of(state, f"{name}.offset"))[:, :, None, None]
    normal = (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + eps)
    return normal * gain + shift


def block(
    state: State, name: str, x: Tensor, condition: Tensor, row: int, *, up: bool, n_out: int, eps: float
) -> Tensor:
    """One residual block, (n, in, h, w) -> (n, n_out, h, w) or twice as high and wide."""
    y = x
    for number in range(4):
        y = F.relu(batch_norm(state, f"{name}.bn_{number}", y, condition, row, eps))
        if number == 1 and up:
            y = F.interpolate(y, scale_factor=2, mode="nearest")
        y = convolution(state, f"{name}.conv_{number}", y)
    x = x[:, :n_out]
    return y + (F.interpolate(x, scale_factor=2, mode="nearest") if up else x)


def attention(state: State, name: str, x: Tensor) -> Tensor:
    """(n, c, h, w) -> the same shape; every pixel against all pixels of the map at half the size, at once."""
    n, channels, height, width = x.shape
    theta = convolution(state, f"{name}.snconv1x1_theta", x).reshape(n, channels // 8, height * width)
    phi = F.max_pool2d(convolution(state, f"{name}.snconv1x1_phi", x), 2).reshape(n, channels // 8, -1)
    weights = torch.softmax(torch.bmm(theta.transpose(1, 2), phi), dim=-1)  # (n, h * w, h * w / 4)
    values = F.max_pool2d(convolution(state, f"{name}.snconv1x1_g", x), 2).reshape(n, channels // 2, -1)
    seen = torch.bmm(values, weights.transpose(1, 2)).reshape(n, channels // 2, height, width)
    return x + state[f"{name}.gamma"] * convolution(state, f"{name}.snconv1x1_o_conv", seen)


def generate(state: State, config: dict, z: Tensor, class_vector: Tensor, truncation: float = 1.0) -> Tensor:
    """(n, z_dim), (n, num_classes) -> (n, 3, h, w) in [-1, 1].

    Args:
        state: under the published keys, with spectral norm.
        config: the network's constructor arguments.
        z: already scaled by the truncation.
        class_vector: rows of sum 1.
        truncation: one that has statistics of its own.
    """
    row, eps, width = round(truncation * (config["n_stats"] - 1)), config["eps"], config["channel_width"]
    condition = torch.cat([z, F.linear(class_vector, state["embeddings.weight"])], dim=1)
    x = F.linear(condition, weight_of(state, "generator.gen_z"), state["generator.gen_z.bias"])
    x = x.reshape(-1, FIRST_SIZE, FIRST_SIZE, FIRST_WIDTH * width).permute(0, 3, 1, 2).contiguous()
    number = 0
    for position, (up, _, n_out) in enumerate(config["layers"]):
        if position == config["attention_layer_position"]:
            x = attention(state, f"generator.layers.{number}", x)
            number += 1
        x = block(state, f"generator.layers.{number}", x, condition, row, up=up, n_out=width * n_out, eps=eps)
        number += 1
    x = F.relu(batch_norm(state, "generator.bn", x, None, row, eps))
    return torch.tanh(convolution(state, "generator.conv_to_rgb", x)[:, :3])
