"""How CLIP-GLaSS reads pictures and texts with CLIP and writes with GPT-2: plain, to measure ours against.

Pictures are squashed to CLIP's size without a filter and not normalised; a text is padded to all 77 positions; GPT-2
writes 30 tokens for every row, whatever comes of them, all rows at once, with a key-value cache and logits for all
positions it reads. Its text ends at the first end-of-text token of the whole sequence, the context's tokens included.

Source: Galatolo et al. 2021, https://arxiv.org/abs/2102.01645, section 2, and what its code does (models.py,
generator.py).
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib.generators.gpt2 import GLASS


def as_published(clip: nn.Module) -> nn.Module:
    """open_clip's model as it makes it, on the same weights: `ClipEmbedder` puts a faster activation in its place."""
    from open_clip.transformer import QuickGELU

    shared = {id(tensor): tensor for tensor in [*clip.parameters(), *clip.buffers()]}
    plain = copy.deepcopy(clip, shared)
    for module in plain.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "InPlaceQuickGELU":
                setattr(module, name, QuickGELU())
    return plain


def embed_images(model: nn.Module, images: Tensor) -> Tensor:
    """(n, 3, h, w) RGB in [0, 1] -> (n, dim), norm 1. `model` is open_clip's."""
    pixels = F.interpolate(images, size=model.visual.image_size, mode="bilinear", align_corners=False)
    features = model.encode_image(pixels)
    return features / features.norm(dim=-1, keepdim=True)


def embed_texts(model: nn.Module, tokenizer, texts: Sequence[str]) -> Tensor:
    """n strings -> (n, dim), norm 1."""
    features = model.encode_text(tokenizer(list(texts)))
    return features / features.norm(dim=-1, keepdim=True)


def write(model: nn.Module, tokenizer, contexts: Tensor) -> list[str]:
    """(n, context_length) int64 -> n texts that start with "the picture of", greedy, cut to 50 characters.

    A context with an end-of-text token gives "".
    """
    prompt = torch.tensor(tokenizer.encode(GLASS["prompt"], add_special_tokens=False)).expand(len(contexts), -1)
    output = previous = torch.cat([contexts, prompt], dim=1)
    past = None
    for _ in range(GLASS["max_new_tokens"]):
        step = model(input_ids=previous, past_key_values=past, use_cache=True)
        past, logits = step.past_key_values, step.logits[:, -1]
        previous = logits.softmax(dim=-1).topk(1, dim=-1).indices  # (n, 1)
        output = torch.cat([output, previous], dim=1)
    texts = []
    for ids in output.tolist():
        whole = ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids
        text = tokenizer.decode(whole[contexts.shape[1] :], clean_up_tokenization_spaces=False)
        texts.append(text[: GLASS["max_characters"]])
    return texts
