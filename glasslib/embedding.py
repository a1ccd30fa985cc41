"""CLIP through open_clip: pictures and texts to unit embeddings. The only module that preprocesses for CLIP."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib.tensors import check_range, check_shape, map_batches


class ClipEmbedder:
    """A frozen CLIP as an `Embedder`: any open_clip model with its tokenizer.

    Texts run at the length of the longest row of their batch instead of CLIP's full context, which changes nothing (the
    text tower is causal and reads its result at the end-of-text token) and is several times faster; batches are sorted
    by length. Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        *,
        vocabulary: Collection[str] | None = None,
        normalize: bool = True,
        batch_size: int = 256,
    ) -> None:
        """Wrap a model.

        Args:
            model: an open_clip model; put into evaluation mode and frozen.
            tokenizer: the open_clip tokenizer that goes with it.
            vocabulary: the only words the model knows, lower case; a text with another word is refused. None: any text.
            normalize: subtract CLIP's pixel mean and divide by its deviation. False reproduces CLIP-GLaSS's
                text-to-image path, which leaves this out.
            batch_size: most pictures or texts in one forward pass.
        """
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._vocabulary = None if vocabulary is None else frozenset(vocabulary)
        self._batch_size = batch_size
        size = model.visual.image_size
        self.image_size = size if isinstance(size, int) else int(size[0])
        device = next(model.parameters()).device
        mean, std = (model.visual.image_mean, model.visual.image_std) if normalize else ((0.0,) * 3, (1.0,) * 3)
        self._pixel_mean = torch.tensor(mean, device=device).view(3, 1, 1)
        self._pixel_std = torch.tensor(std, device=device).view(3, 1, 1)
        self._text_cache: dict[tuple[str, bool], Tensor] = {}
        self.dim = int(self.embed_texts([min(self._vocabulary or ("a",))]).shape[1])

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self._pixel_mean.device

    @property
    def logit_scale(self) -> float:
        """The factor CLIP was trained to multiply cosines by."""
        return float(self._model.logit_scale.exp())

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed pictures.

        Args:
            images: (n, 3, h, w) RGB in [0, 1], any h and w. Resized to the model's square input, not cropped.

        Returns:
            (n, dim), rows of L2 norm 1. Differentiable with respect to `images`.
        """
        check_shape(images, "images", "n 3 h w")
        check_range(images, "images", 0.0, 1.0)
        images = images.to(self.device, torch.float32)
        return map_batches(self._embed_image_batch, images, batch_size=self._batch_size)

    def _embed_image_batch(self, images: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        pixels = ((images - self._pixel_mean) / self._pixel_std).contiguous(memory_format=torch.channels_last)
        return F.normalize(self._model.encode_image(pixels).float(), dim=1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Embed texts; each distinct text is computed once and remembered.

        Args:
            texts: n strings, none empty.
            truncate: cut a text that is longer than the model's context instead of refusing it.

        Returns:
            (n, dim), rows of L2 norm 1.

        Raises:
            TypeError: `texts` is one string instead of a sequence of them, or holds something else than strings.
            ValueError: no texts, an empty one, one longer than the model's context, or an unknown word.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"texts must be a sequence of strings, got {texts!r:.60}; wrap a single text in a list")
        if len(texts) == 0:
            raise ValueError("texts must hold at least one string, got none")
        new = [text for text in dict.fromkeys(texts) if (text, truncate) not in self._text_cache]
        if new:
            n_tokens = {
                text: self._n_tokens(text) for text in new
            }  # once: cleaning a text takes longer than a tiny CLIP
            self._check_texts(n_tokens, truncate=truncate)
            new.sort(key=n_tokens.get)  # rows of like length share a batch, so little is computed for padding
            rows = [self._embed_text_batch(new[i : i + self._batch_size]) for i in range(0, len(new), self._batch_size)]
            self._text_cache.update(zip(((text, truncate) for text in new), torch.cat(rows), strict=True))
        return torch.stack([self._text_cache[text, truncate] for text in texts])

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts that are longer than the model's context, which `embed_texts` refuses or cuts."""
        return [text for text in texts if self._n_tokens(text) > self._tokenizer.context_length]

    def _embed_text_batch(self, texts: list[str]) -> Tensor:
        token_ids = self._tokenizer(texts).to(self.device)
        return F.normalize(encode_text_trimmed(self._model, token_ids).float(), dim=1)

    def _n_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text)) + 2  # start and end of text

    def _check_texts(self, n_tokens: dict[str, int], *, truncate: bool) -> None:
        if empty := sum(n == 2 for n in n_tokens.values()):
            raise ValueError(f"texts must not be empty, got {empty} empty of {len(n_tokens)}; write at least one word")
        limit = self._tokenizer.context_length
        too_long = [text for text, n in n_tokens.items() if n > limit]
        if too_long and not truncate:
            raise ValueError(
                f"{len(too_long)} of {len(n_tokens)} texts exceed CLIP's {limit} tokens, "
                f"first {too_long[0][:40]!r} with {n_tokens[too_long[0]]}; "
                "shorten them, or pass truncate=True to cut them"
            )
        if self._vocabulary is not None:
            self._check_words(n_tokens)

    def _check_words(self, texts: Iterable[str]) -> None:
        for text in texts:
            for word in re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", text.lower()):
                if word not in self._vocabulary:
                    near = difflib.get_close_matches(word, sorted(self._vocabulary), n=3, cutoff=0.5)
                    hint = f"near words: {', '.join(near)}" if near else "see glasslib.tinyworld.captions.vocabulary()"
                    raise ValueError(f"text {text[:60]!r} has the word {word!r}, which this CLIP never saw; {hint}")


def encode_text_trimmed(model: nn.Module, token_ids: Tensor) -> Tensor:
    """open_clip's text features, computed only up to the longest text.

    Args:
        model: an open_clip model. One whose text tower is another library's, or not causal, is run at full length.
        token_ids: (n, context_length), 0 past each text's end.

    Returns:
        (n, dim), as `model.encode_text` gives, not normalised.
    """
    # without a causal mask a text also reads the padding after it, so that cutting the padding would change the result
    if not hasattr(model, "token_embedding") or model.text_pool_type != "argmax" or model.attn_mask is None:
        return model.encode_text(token_ids)
    length = int(token_ids.argmax(dim=1).max()) + 1  # end-of-text has the highest id
    token_ids = token_ids[:, :length]
    x = model.token_embedding(token_ids) + model.positional_embedding[:length]  # (n, length, width)
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    x = x[torch.arange(len(x), device=x.device), token_ids.argmax(dim=1)]
    projection = model.text_projection
    return projection(x) if isinstance(projection, nn.Linear) else x if projection is None else x @ projection
