"""open_clip's towers, computed only as far as they are read: the same features in less time.

A text is read at its end-of-text token, a picture at its class token. So nothing after a text's end is computed, and of
the last block only the token that is read. Towers built in another way are run as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LENGTH_STEP = 4  # texts run at a multiple of this length, so that those of nearly one length can share a batch


def encode_image_pooled(model: nn.Module, pixels: Tensor) -> Tensor:
    """open_clip's image features.

    Args:
        model: an open_clip model. A tower that is no plain vision transformer read at its class token is run whole.
        pixels: (n, 3, size, size), preprocessed, on the model's device.

    Returns:
        (n, dim), as `model.encode_image` gives, not normalised.
    """
    tower = model.visual
    transformer = getattr(tower, "transformer", None)
    reads_class = getattr(tower, "pool_type", None) == "tok" and getattr(tower, "attn_pool", None) is None
    if not reads_class or getattr(tower, "output_tokens", False) or not _is_plain(transformer):
        return model.encode_image(pixels)
    x = _all_but_last(transformer, tower._embeds(pixels), None)
    first = torch.zeros(len(x), dtype=torch.long, device=x.device)
    pooled, _ = tower._pool(_last_block(transformer.resblocks[-1], x, first, None)[:, None])
    return pooled if tower.proj is None else pooled @ tower.proj


def text_lengths(model: nn.Module, token_ids: Tensor) -> Tensor:
    """How many positions of each text `encode_text_trimmed` computes when it is given that text alone.

    Args:
        model: an open_clip model.
        token_ids: (n, context_length), 0 past each text's end.

    Returns:
        (n,), up to the end-of-text token and on to the next multiple of LENGTH_STEP; all of them where the text tower
        is another library's, or not causal.
    """
    ends = _ends(_text_tower(model), token_ids)
    if ends is None:
        return torch.full((len(token_ids),), token_ids.shape[1])
    return ((ends + LENGTH_STEP) // LENGTH_STEP * LENGTH_STEP).clamp(max=token_ids.shape[1])


def encode_text_trimmed(model: nn.Module, token_ids: Tensor) -> Tensor:
    """open_clip's text features, computed only up to the longest of `text_lengths`.

    Args:
        model: an open_clip model.
        token_ids: (n, context_length), 0 past each text's end; taken to the model's device.

    Returns:
        (n, dim), as `model.encode_text` gives, not normalised.
    """
    device = next(model.parameters()).device
    tower = _text_tower(model)
    ends = _ends(tower, token_ids)
    if ends is None:
        return model.encode_text(token_ids.to(device))
    length = int(text_lengths(model, token_ids).max())
    token_ids, ends = token_ids[:, :length].to(device), ends.to(device)
    dtype = tower.transformer.get_cast_dtype()
    x = tower.token_embedding(token_ids).to(dtype) + tower.positional_embedding[:length].to(dtype)  # (n, length, width)
    mask = tower.attn_mask[:length, :length]
    if _is_plain(tower.transformer):
        x = _last_block(tower.transformer.resblocks[-1], _all_but_last(tower.transformer, x, mask), ends, mask)
    else:
        x = tower.transformer(x, attn_mask=mask)[torch.arange(len(x), device=device), ends]
    x, projection = tower.ln_final(x), tower.text_projection
    return projection(x) if isinstance(projection, nn.Linear) else x if projection is None else x @ projection


def _text_tower(model: nn.Module) -> nn.Module | None:
    return model if hasattr(model, "token_embedding") else getattr(model, "text", None)


def _ends(tower: nn.Module | None, token_ids: Tensor) -> Tensor | None:
    """(n,): where each text's end-of-text token is; None for a tower that reads anything else."""
    pool = getattr(tower, "text_pool_type", getattr(tower, "pool_type", None))
    # without a causal mask a text also reads the padding after it, so that cutting the padding would change the result
    causal = getattr(tower, "attn_mask", None) is not None and getattr(tower, "cls_emb", None) is None
    if not causal or pool not in ("argmax", "eos"):
        return None
    eos = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None))
    return (token_ids if pool == "argmax" else (token_ids == eos).int()).argmax(dim=1)  # end-of-text: the highest id


class InPlaceQuickGELU(nn.Module):
    """x * sigmoid(1.702 x), as OpenAI's CLIPs have it; without gradients in one new tensor instead of three."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if torch.is_grad_enabled():
            return x * torch.sigmoid(1.702 * x)
        return (1.702 * x).sigmoid_().mul_(x)


def fuse_quick_gelu(model: nn.Module) -> None:
    """Put InPlaceQuickGELU where open_clip has its own, in place: the same to the last bit."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "QuickGELU":
                setattr(module, name, InPlaceQuickGELU())


def _is_plain(transformer: nn.Module | None) -> bool:
    """Whether its blocks are open_clip's own of self-attention, and a token's features are all that is asked for."""
    blocks = getattr(transformer, "resblocks", ())
    plain = all(type(block).__name__ == "ResidualAttentionBlock" and not hasattr(block, "ln_1_kv") for block in blocks)
    return len(blocks) > 0 and plain and getattr(transformer, "batch_first", False)


def _all_but_last(transformer: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """(n, length, width) -> the same shape, what the last block reads."""
    for block in transformer.resblocks[:-1]:
        x = block(x, attn_mask=mask)
    return x


def _last_block(block: nn.Module, x: Tensor, read: Tensor, mask: Tensor | None) -> Tensor:
    """(n, length, width), a position each (n,) -> (n, width): the block's result at that position alone."""
    rows = torch.arange(len(x), device=x.device)
    normal = block.ln_1(x)
    if mask is not None:
        mask = mask[read].to(x.dtype).repeat_interleave(block.attn.num_heads, dim=0)[:, None]  # (n * heads, 1, length)
    seen = block.attn(normal[rows, read][:, None], normal, normal, need_weights=False, attn_mask=mask)[0][:, 0]
    x = x[rows, read] + block.ls_1(seen)
    return x + block.ls_2(block.mlp(block.ln_2(x)))
