"""What CapDec's and ClipCap's published code computes, retold plainly: the oracle of tests, and what the bench times.

One text and one image at a time, no cache, every position through the LM head. Nothing but the bench uses it. Sources:
DavidHuji/CapDec `embeddings_generator.py`, `train.py` (mapper, loss) and `gpt2_prefix_eval.py` (beam search).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Beam = tuple[list[int], Tensor, int]  # tokens, summed log-probability, length


@torch.no_grad()
def embed_texts(model: nn.Module, tokenizer, texts: Sequence[str]) -> Tensor:
    """Embed texts one after the other, each at CLIP's full context length.

    Args:
        model: an open_clip model.
        tokenizer: its tokenizer.
        texts: n strings.

    Returns:
        (n, dim), rows of L2 norm 1.
    """
    return torch.cat([F.normalize(model.encode_text(tokenizer([text])), dim=1) for text in texts])


def map_embedding(weights: Mapping[str, Tensor], embeddings: Tensor, *, n_heads: int) -> Tensor:
    """Run the transformer mapper from its weights: (n, dim) -> (n, prefix_length, gpt_dim)."""
    constants = weights["prefix_const"]
    gpt_dim = constants.shape[1]
    x = F.linear(embeddings, weights["linear.weight"], weights["linear.bias"])
    x = x.reshape(len(embeddings), -1, gpt_dim)
    clip_length = x.shape[1]
    x = torch.cat([x, constants[None].expand(len(x), -1, -1)], dim=1)
    n_layers = sum(name.endswith("fc1.weight") for name in weights)
    for i in range(n_layers):
        w = {name.removeprefix(f"transformer.layers.{i}."): value for name, value in weights.items()}
        x = x + _attend(w, _norm(w, "norm1", x), n_heads)
        hidden = F.linear(_norm(w, "norm2", x), w["mlp.fc1.weight"], w["mlp.fc1.bias"]).relu()
        x = x + F.linear(hidden, w["mlp.fc2.weight"], w["mlp.fc2.bias"])
    return x[:, clip_length:]


def _norm(w: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-5)


def _attend(w: Mapping[str, Tensor], x: Tensor, n_heads: int) -> Tensor:
    """The keys' and values' layer is read as (2, n_heads, head_dim); softmax over the positions attended to."""
    n, length, dim = x.shape
    queries = F.linear(x, w["attn.to_queries.weight"]).reshape(n, length, n_heads, dim // n_heads)
    both = F.linear(x, w["attn.to_keys_values.weight"]).reshape(n, length, 2, n_heads, dim // n_heads)
    keys, values = both[:, :, 0], both[:, :, 1]
    scores = torch.einsum("nqhd,nkhd->nqkh", queries, keys) / math.sqrt(dim // n_heads)
    mixed = torch.einsum("nqkh,nkhd->nqhd", scores.softmax(dim=2), values).reshape(n, length, dim)
    return F.linear(mixed, w["attn.project.weight"], w["attn.project.bias"])


def loss(gpt: nn.Module, prefix: Tensor, token_ids: Tensor, *, pad_id: int = 0) -> Tensor:
    """Mean cross-entropy over whole padded rows, token 0 ignored wherever it stands.

    Args:
        gpt: a causal language model of transformers.
        prefix: (n, prefix_length, gpt_dim).
        token_ids: (n, length), padded with token 0 to the longest caption of the corpus.
        pad_id: 0 in the published code.

    Returns:
        A scalar. The published code also passes a mask of the padding, which changes nothing but the time: a causal
        model does not see what comes after.
    """
    inputs = torch.cat([prefix, gpt.get_input_embeddings()(token_ids)], dim=1)
    logits = gpt(inputs_embeds=inputs).logits[:, prefix.shape[1] - 1 : -1]
    return F.cross_entropy(logits.flatten(0, 1), token_ids.flatten(), ignore_index=pad_id)


@torch.no_grad()
def beam_search(
    gpt: nn.Module, prefix: Tensor, *, stop_id: int, max_tokens: int = 67, beam_size: int = 5
) -> list[list[int]]:
    """All beams' token ids, best first, for one image's prefix (1, prefix_length, gpt_dim)."""
    embed = gpt.get_input_embeddings()

    def costs(rows: list[list[int]]) -> Tensor:
        words = embed(torch.tensor(rows, dtype=torch.long))
        inputs = torch.cat([prefix.expand(len(rows), -1, -1), words], dim=1)
        return gpt(inputs_embeds=inputs).logits[:, -1].softmax(-1).log()  # (beams, vocab_size)

    [first] = costs([[]])
    beams: list[Beam] = [([int(token)], first[token], 1) for token in first.topk(beam_size).indices]
    while len(beams[0][0]) < max_tokens and not all(_stopped(beam, stop_id) for beam in beams):
        averages = []
        for (tokens, total, length), row in zip(beams, costs([tokens for tokens, _, _ in beams]), strict=True):
            if _stopped((tokens, total, length), stop_id):
                row = torch.full_like(first, -math.inf)  # nothing but an empty filler may follow
                row[0] = total / length
                averages.append(row)
            else:
                averages.append((total + row) / (length + 1))
        best, picked = torch.stack(averages).view(-1).topk(beam_size)
        extended = []
        for average, index in zip(best, picked.tolist(), strict=True):
            parent, token = divmod(index, len(first))
            tokens, _, length = beams[parent]
            length += not _stopped(beams[parent], stop_id)
            extended.append(([*tokens, token], average * length, length))
        beams = extended
    order = torch.stack([total / length for _, total, length in beams]).argsort(descending=True, stable=True)
    return [beams[i][0][: beams[i][2]] for i in order.tolist()]


def _stopped(beam: Beam, stop_id: int) -> bool:
    tokens, _, length = beam
    return stop_id in tokens[:length]
