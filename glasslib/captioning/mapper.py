"""From one embedding to the prefix that a language model goes on from: ClipCap's two mapping networks.

Parameter names are those of the published checkpoints. Source: Mokady et al. 2021 (ClipCap),
https://arxiv.org/abs/2111.09734, section 3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib.checks import check_shape


class TransformerMapper(nn.Module):
    """A transformer reads the embedding as `clip_length` tokens beside learned constants, which come out as the prefix.

    CapDec's settings are the defaults: 40 tokens and 40 constants, 8 layers of 8 heads, hidden layers twice as wide.
    """

    def __init__(
        self,
        *,
        embedding_dim: int,
        gpt_dim: int,
        prefix_length: int = 40,
        clip_length: int = 40,
        n_layers: int = 8,
        n_heads: int = 8,
        mlp_ratio: float = 2.0,
    ) -> None:
        """Make a mapper of random weights, drawn from torch's global state.

        Args:
            embedding_dim: of CLIP's embeddings.
            gpt_dim: width of the language model's input embeddings, a multiple of `n_heads`.
            prefix_length: constants, and so prefix tokens.
            clip_length: tokens made of the embedding.
            n_layers: transformer layers.
            n_heads: attention heads in each.
            mlp_ratio: hidden width over `gpt_dim`.
        """
        super().__init__()
        if gpt_dim % n_heads:
            raise ValueError(f"gpt_dim must be a multiple of n_heads, got {gpt_dim} and {n_heads}")
        self.prefix_length, self.clip_length = prefix_length, clip_length
        self.gpt_dim, self.embedding_dim = gpt_dim, embedding_dim
        self.config: dict[str, Any] = {
            "kind": "transformer",
            "embedding_dim": embedding_dim,
            "gpt_dim": gpt_dim,
            "prefix_length": prefix_length,
            "clip_length": clip_length,
            "n_layers": n_layers,
            "n_heads": n_heads,
            "mlp_ratio": mlp_ratio,
        }
        self.transformer = _Transformer(gpt_dim, n_layers=n_layers, n_heads=n_heads, mlp_ratio=mlp_ratio)
        self.linear = nn.Linear(embedding_dim, clip_length * gpt_dim)
        self.prefix_const = nn.Parameter(torch.randn(prefix_length, gpt_dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, embedding_dim) -> (n, prefix_length, gpt_dim)."""
        check_shape(embeddings, "embeddings", f"n {self.embedding_dim}")
        tokens = self.linear(embeddings).view(len(embeddings), self.clip_length, self.gpt_dim)
        constants = self.prefix_const.expand(len(embeddings), -1, -1)
        return self.transformer(torch.cat((tokens, constants), dim=1), first=self.clip_length)


class MlpMapper(nn.Module):
    """Two linear layers with a tanh between them, half as wide as the prefix: ClipCap's, for a fine-tuned GPT-2."""

    def __init__(self, *, embedding_dim: int, gpt_dim: int, prefix_length: int = 10) -> None:
        """Make a mapper of random weights, drawn from torch's global state; arguments as in `TransformerMapper`."""
        super().__init__()
        self.prefix_length, self.gpt_dim, self.embedding_dim = prefix_length, gpt_dim, embedding_dim
        self.config: dict[str, Any] = {
            "kind": "mlp",
            "embedding_dim": embedding_dim,
            "gpt_dim": gpt_dim,
            "prefix_length": prefix_length,
        }
        hidden = gpt_dim * prefix_length // 2
        self.model = nn.Sequential(
            nn.Linear(embedding_dim, hidden), nn.Tanh(), nn.Linear(hidden, gpt_dim * prefix_length)
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """(n, embedding_dim) -> (n, prefix_length, gpt_dim)."""
        check_shape(embeddings, "embeddings", f"n {self.embedding_dim}")
        return self.model(embeddings).view(len(embeddings), self.prefix_length, self.gpt_dim)


def from_config(config: dict[str, Any]) -> TransformerMapper | MlpMapper:
    """Make the mapper that a `config` attribute describes, with random weights."""
    kinds = {"transformer": TransformerMapper, "mlp": MlpMapper}
    if config.get("kind") not in kinds:
        raise ValueError(f"a mapper's kind must be one of {sorted(kinds)}, got {config.get('kind')!r}")
    return kinds[config["kind"]](**{key: value for key, value in config.items() if key != "kind"})


class _Transformer(nn.Module):
    """Pre-norm transformer layers, every token seeing all others, with no norm at the end."""

    def __init__(self, dim: int, *, n_layers: int, n_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(dim, n_heads=n_heads, hidden=int(dim * mlp_ratio)) for _ in range(n_layers))

    def forward(self, x: Tensor, *, first: int) -> Tensor:
        """The tokens from `first` on; the last layer computes no others."""
        for layer in self.layers[:-1]:
            x = layer(x)
        return self.layers[-1](x, first=first)


class _Layer(nn.Module):
    def __init__(self, dim: int, *, n_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim), _Attention(dim, n_heads=n_heads)
        self.norm2, self.mlp = nn.LayerNorm(dim), _FeedForward(dim, hidden)

    def forward(self, x: Tensor, *, first: int = 0) -> Tensor:
        normed = self.norm1(x)
        x = x[:, first:] + self.attn(normed[:, first:], normed)
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    """Multi-head attention; no bias in queries, keys and values, as published."""

    def __init__(self, dim: int, *, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.to_queries = nn.Linear(dim, dim, bias=False)
        self.to_keys_values = nn.Linear(dim, 2 * dim, bias=False)  # keys in the first half of the rows
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        keys, values = self.to_keys_values(context).chunk(2, dim=-1)
        heads = (self._heads(part) for part in (self.to_queries(x), keys, values))
        return self.project(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(n, length, dim) -> (n, n_heads, length, dim / n_heads)."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))
