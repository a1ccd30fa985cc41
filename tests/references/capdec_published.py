"""What CapDec's and ClipCap's published code computes, retold naively: the oracle of tests and of `make bench`.

No cache, one image at a time, one beam after the other. Sources: DavidHuji/CapDec `train.py` (mapper, noise) and
`gpt2_prefix_eval.py` (beam search).
"""

import math

import torch


def map_embedding(weights, embeddings, *, n_heads):
    """The transformer mapper, from its state dict: (n, dim) -> (n, prefix_length, gpt_dim)."""
    constants = weights["prefix_const"]
    gpt_dim = constants.shape[1]
    x = embeddings @ weights["linear.weight"].T + weights["linear.bias"]
    x = x.reshape(len(embeddings), -1, gpt_dim)
    clip_length = x.shape[1]
    x = torch.cat([x, constants[None].repeat(len(x), 1, 1)], dim=1)
    n_layers = sum(name.endswith("fc1.weight") for name in weights)
    for i in range(n_layers):
        w = {name.removeprefix(f"transformer.layers.{i}."): value for name, value in weights.items()}
        x = x + _attend(w, _norm(x, w["norm1.weight"], w["norm1.bias"]), n_heads)
        h = _norm(x, w["norm2.weight"], w["norm2.bias"]) @ w["mlp.fc1.weight"].T + w["mlp.fc1.bias"]
        x = x + h.clamp(min=0) @ w["mlp.fc2.weight"].T + w["mlp.fc2.bias"]
    return x[:, clip_length:]


def _norm(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def _attend(w, x, n_heads):
    """The keys' and values' layer is read as (2, n_heads, head_dim); softmax over the positions attended to."""
    n, length, dim = x.shape
    queries = (x @ w["attn.to_queries.weight"].T).reshape(n, length, n_heads, dim // n_heads)
    both = (x @ w["attn.to_keys_values.weight"].T).reshape(n, length, 2, n_heads, dim // n_heads)
    keys, values = both[:, :, 0], both[:, :, 1]
    scores = torch.einsum("nqhd,nkhd->nqkh", queries, keys) / math.sqrt(dim // n_heads)
    mixed = torch.einsum("nqkh,nkhd->nqhd", scores.softmax(dim=2), values).reshape(n, length, dim)
    return mixed @ w["attn.project.weight"].T + w["attn.project.bias"]


@torch.no_grad()
def beam_search(gpt, prefix, *, stop_id, max_tokens=67, beam_size=5):
    """All beams' token ids, best first, for one image's prefix (1, prefix_length, gpt_dim)."""
    embed = gpt.get_input_embeddings()

    def costs(tokens):
        inputs = torch.cat([prefix, embed(torch.tensor([tokens], dtype=torch.long))], dim=1)
        return gpt(inputs_embeds=inputs).logits[0, -1].softmax(-1).log()

    first = costs([])
    beams = [([int(t)], first[t], 1) for t in first.topk(beam_size).indices]  # tokens, summed log-probability, length
    while len(beams[0][0]) < max_tokens and not all(_stopped(beam, stop_id) for beam in beams):
        rows = []
        for tokens, total, length in beams:
            if _stopped((tokens, total, length), stop_id):
                averages = torch.full_like(first, -math.inf)  # nothing but an empty filler may follow
                averages[0] = total / length
            else:
                averages = (total + costs(tokens)) / (length + 1)
            rows.append(averages)
        best, picked = torch.stack(rows).view(-1).topk(beam_size)
        extended = []
        for average, index in zip(best, picked.tolist(), strict=True):
            parent, token = divmod(index, len(first))
            tokens, _, length = beams[parent]
            length += not _stopped(beams[parent], stop_id)
            extended.append(([*tokens, token], average * length, length))
        beams = extended
    order = torch.stack([total / length for _, total, length in beams]).argsort(descending=True, stable=True)
    return [beams[i][0][: beams[i][2]] for i in order.tolist()]


def _stopped(beam, stop_id):
    tokens, _, length = beam
    return stop_id in tokens[:length]


def loss(gpt, prefix, token_ids, *, pad_id=0):
    """Mean cross-entropy with padding by token 0, whose every occurrence is then ignored."""
    inputs = torch.cat([prefix, gpt.get_input_embeddings()(token_ids)], dim=1)
    logits = gpt(inputs_embeds=inputs).logits[:, prefix.shape[1] - 1 : -1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), token_ids.flatten(), ignore_index=pad_id)
