"""From embeddings to captions: greedy, beam search, nucleus sampling, and the published length-averaged beam.

All of them run a batch of images with a key-value cache, and the prefix passes through the language model once per
image however many beams or samples follow. Each returns, for n images, n lists of captions as token ids, best first,
with the stop token at the end where one was written.
"""

from __future__ import annotations

import warnings
from threading import Lock

import torch
from torch import Tensor

from glasslib.captioning.decoder import CaptionDecoder

Ids = list[int]
LEAST_ROWS = 4  # a CPU's matrix product of fewer rows rounds otherwise
SAMPLING = Lock()  # of torch's global random state
MAX_ROUNDS = 8  # of nucleus sampling in search of captions that differ


def greedy(decoder: CaptionDecoder, embeddings: Tensor, *, stop_id: int, max_tokens: int) -> list[list[Ids]]:
    """Take the likeliest token each time.

    Args:
        decoder: in evaluation mode.
        embeddings: (n, embedding_dim).
        stop_id: the token that ends a caption.
        max_tokens: most tokens in one, the stop token counted.
    """
    return _generate(decoder, embeddings, n_rows=1, n_captions=1, stop_id=stop_id, max_tokens=max_tokens)


def beam(
    decoder: CaptionDecoder,
    embeddings: Tensor,
    *,
    stop_id: int,
    max_tokens: int,
    beam_size: int = 5,
    n_captions: int = 1,
    length_penalty: float = 1.0,
) -> list[list[Ids]]:
    """Search with transformers' beams.

    Args:
        decoder: in evaluation mode.
        embeddings: (n, embedding_dim).
        stop_id: the token that ends a caption.
        max_tokens: most tokens in one.
        beam_size: beams per image.
        n_captions: the best so many of them, at most `beam_size`; all differ.
        length_penalty: a caption's log-probability is divided by its length to this power.
    """
    _check_beams(decoder, beam_size, n_captions)
    options = {"num_beams": beam_size, "length_penalty": length_penalty} if beam_size > 1 else {}
    return _generate(
        decoder,
        embeddings,
        n_rows=beam_size,
        n_captions=n_captions,
        stop_id=stop_id,
        max_tokens=max_tokens,
        **options,
    )


def nucleus(
    decoder: CaptionDecoder,
    embeddings: Tensor,
    *,
    stop_id: int,
    max_tokens: int,
    rng: torch.Generator,
    top_p: float = 0.9,
    temperature: float = 1.0,
    n_captions: int = 1,
) -> list[list[Ids]]:
    """Sample among the likeliest tokens that together have probability `top_p`.

    Args:
        decoder: in evaluation mode.
        embeddings: (n, embedding_dim).
        stop_id: the token that ends a caption.
        max_tokens: most tokens in one.
        rng: seeds the sampling; torch's global state is left as it was. All images of a call are drawn together, so
            that what is drawn for one depends on the others.
        top_p: in (0, 1].
        temperature: above 0; below 1 sharpens.
        n_captions: different captions per image, in the order drawn. Where eight rounds find fewer, because the model
            is nearly sure, fewer come back, with a warning.

    Source:
        Holtzman et al. 2020, https://arxiv.org/abs/1904.09751.
    """
    if not 0 < top_p <= 1 or not temperature > 0 or n_captions < 1:
        raise ValueError(
            "top_p must lie in (0, 1], temperature above 0 and n_captions be at least 1, "
            f"got {top_p}, {temperature}, {n_captions}"
        )
    found: list[list[Ids]] = [[] for _ in range(len(embeddings))]
    open_rows = list(range(len(embeddings)))
    for _ in range(MAX_ROUNDS if n_captions > 1 else 1):
        drawn = _sample(decoder, embeddings[open_rows], n_captions, stop_id, max_tokens, rng, top_p, temperature)
        for row, captions in zip(open_rows, drawn, strict=True):
            found[row] += [ids for k, ids in enumerate(captions) if ids not in found[row] + captions[:k]]
            del found[row][n_captions:]
        open_rows = [row for row in open_rows if len(found[row]) < n_captions]
        if not open_rows:
            return found
    warnings.warn(
        f"{len(open_rows)} of {len(found)} images have fewer than {n_captions} different captions after {MAX_ROUNDS} "
        "rounds; raise top_p or temperature for more",
        stacklevel=2,
    )
    return found


def _sample(decoder, embeddings, n_captions, stop_id, max_tokens, rng, top_p, temperature) -> list[list[Ids]]:
    devices = [embeddings.device] if embeddings.device.type == "cuda" else []
    with SAMPLING, torch.random.fork_rng(devices=devices):  # transformers samples from the global state only
        torch.manual_seed(int(torch.randint(2**63 - 1, (), generator=rng, device=rng.device)))
        return _generate(
            decoder,
            embeddings,
            n_rows=n_captions,
            n_captions=n_captions,
            stop_id=stop_id,
            max_tokens=max_tokens,
            do_sample=True,
            top_p=top_p,
            top_k=0,
            temperature=temperature,
        )


@torch.inference_mode()
def _generate(
    decoder: CaptionDecoder,
    embeddings: Tensor,
    *,
    n_rows: int,
    n_captions: int,
    stop_id: int,
    max_tokens: int,
    **options,
) -> list[list[Ids]]:
    """transformers' generate on a prefix that is already in the cache, `n_rows` times per image."""
    prefix = _checked_prefix(decoder, embeddings, max_tokens)
    cache = _prefill(decoder, prefix[:, :-1], n_rows)
    ids = decoder.gpt.generate(
        inputs_embeds=prefix,
        attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device),
        past_key_values=cache,
        num_return_sequences=n_captions,
        max_new_tokens=max_tokens,
        eos_token_id=stop_id,
        pad_token_id=stop_id,
        **{"do_sample": False, **options},
    )
    rows = [_cut(row, stop_id) for row in ids.tolist()]
    return [rows[i : i + n_captions] for i in range(0, len(rows), n_captions)]


@torch.inference_mode()
def published_beam(
    decoder: CaptionDecoder,
    embeddings: Tensor,
    *,
    stop_id: int,
    max_tokens: int,
    beam_size: int = 5,
    n_captions: int = 1,
) -> list[list[Ids]]:
    """Search with ClipCap's and CapDec's beams: the ones kept at each step have the best log-probability per token.

    It departs from the standard search: beams of different length compete at every step by their average, the stop
    token counted; a finished beam keeps its place only while its average is among the best. The search of an image
    ends when all its beams have stopped. Same captions as the published code, which runs one image at a time without
    a cache.

    Args:
        decoder: in evaluation mode.
        embeddings: (n, embedding_dim).
        stop_id: the token that ends a caption; published: the full stop.
        max_tokens: most tokens in one; published: 67.
        beam_size: beams per image.
        n_captions: the best so many of them.

    Source:
        CapDec's `gpt2_prefix_eval.py`, function `generate_beam`.
    """
    _check_beams(decoder, beam_size, n_captions)
    prefix = _checked_prefix(decoder, embeddings, max_tokens)
    output = decoder.gpt(inputs_embeds=prefix, use_cache=True, logits_to_keep=1)
    cache = output.past_key_values
    cache.batch_repeat_interleave(beam_size)
    scores, tokens = output.logits[:, -1].float().log_softmax(-1).topk(beam_size, dim=-1)  # (n, beam_size)
    tokens = tokens[..., None]  # (n, beam_size, written)
    lengths, stopped = torch.ones_like(scores), tokens[..., -1] == stop_id
    images, found = list(range(len(prefix))), [[] for _ in range(len(prefix))]
    while True:
        done = stopped.all(dim=1) | (tokens.shape[2] >= max_tokens)
        for row in done.nonzero()[:, 0].tolist():
            order = (scores[row] / lengths[row]).argsort(descending=True, stable=True)[:n_captions].tolist()
            found[images[row]] = [_cut(tokens[row, beam].tolist(), stop_id) for beam in order]
        if done.all():
            return found
        if done.any() and int((~done).sum()) * beam_size >= LEAST_ROWS:  # a finished image leaves the batch
            going = (~done).nonzero()[:, 0]
            images = [images[row] for row in going.tolist()]
            scores, tokens, lengths, stopped = (x[going] for x in (scores, tokens, lengths, stopped))
            cache.batch_select_indices(_flat(going, beam_size))
        logits = decoder.gpt(input_ids=tokens[..., -1].reshape(-1, 1), past_key_values=cache, use_cache=True).logits
        scores, source, chosen, lengths = _extend(logits[:, -1], scores, lengths, stopped)
        cache.batch_select_indices(
            (source + torch.arange(len(source), device=source.device)[:, None] * beam_size).view(-1)
        )
        tokens = torch.cat((tokens.gather(1, source[..., None].expand_as(tokens)), chosen[..., None]), dim=2)
        stopped = stopped.gather(1, source) | (chosen == stop_id)


def _extend(logits: Tensor, scores: Tensor, lengths: Tensor, stopped: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One step of all images' beams: new scores, which beams they extend, by which token, and their lengths.

    Args:
        logits: (n * beam_size, vocab_size).
        scores: (n, beam_size) summed log-probabilities.
        lengths: (n, beam_size) tokens written.
        stopped: (n, beam_size); a stopped beam goes on unchanged, as a filler token that costs nothing.
    """
    n, beam_size = scores.shape
    costs = logits.float().log_softmax(-1).view(n, beam_size, -1)
    filler = torch.full_like(costs[0, 0], -torch.inf)
    filler[0] = 0
    costs = torch.where(stopped[..., None], filler, costs)
    lengths = lengths + ~stopped
    averages = (scores[..., None] + costs) / lengths[..., None]  # (n, beam_size, vocab_size)
    best, picked = averages.view(n, -1).topk(beam_size, dim=-1)
    source, chosen = picked // averages.shape[2], picked % averages.shape[2]
    lengths = lengths.gather(1, source)
    return best * lengths, source, chosen, lengths


def _flat(rows: Tensor, beam_size: int) -> Tensor:
    """The cache's rows that belong to these images."""
    return (rows[:, None] * beam_size + torch.arange(beam_size, device=rows.device)).view(-1)


def _prefill(decoder: CaptionDecoder, prefix: Tensor, n_rows: int):
    """The cache after these positions, each image's repeated for its beams or samples; None after no position."""
    if not prefix.shape[1]:
        return None
    cache = decoder.gpt.base_model(inputs_embeds=prefix, use_cache=True).past_key_values
    if n_rows > 1:
        cache.batch_repeat_interleave(n_rows)
    return cache


def _checked_prefix(decoder: CaptionDecoder, embeddings: Tensor, max_tokens: int) -> Tensor:
    if decoder.training:
        raise RuntimeError("decoder must be in evaluation mode to write captions; call decoder.eval() first")
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    if decoder.n_positions is not None and decoder.prefix_length + max_tokens > decoder.n_positions:
        raise ValueError(
            f"prefix and max_tokens must fit into the language model's {decoder.n_positions} positions, "
            f"got {decoder.prefix_length} + {max_tokens}; make max_tokens smaller"
        )
    return decoder.prefix(embeddings).to(decoder.gpt.get_input_embeddings().weight.dtype)


def _check_beams(decoder: CaptionDecoder, beam_size: int, n_captions: int) -> None:
    if not 1 <= n_captions <= beam_size:
        raise ValueError(f"n_captions must lie in [1, beam_size], got {n_captions} of {beam_size} beams")
    if beam_size > (n_tokens := decoder.gpt.get_input_embeddings().num_embeddings):
        raise ValueError(f"beam_size must be at most the language model's {n_tokens} tokens, got {beam_size}")


def _cut(ids: Ids, stop_id: int) -> Ids:
    """The ids up to and with the first stop token."""
    return ids[: ids.index(stop_id) + 1] if stop_id in ids else ids
