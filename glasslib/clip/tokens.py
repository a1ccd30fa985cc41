"""Texts to the token ids that a CLIP reads: what it would cut, misread or does not know is refused by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor


class TextTokens:
    """open_clip's tokenizer, its own or one around transformers', with checks in front of it."""

    def __init__(self, tokenizer, *, vocabulary: Collection[str] | None) -> None:
        """Wrap a tokenizer.

        Args:
            tokenizer: `open_clip.get_tokenizer`'s.
            vocabulary: the only words the model knows, lower case; None: any text.
        """
        self._tokenizer = tokenizer
        self._vocabulary = None if vocabulary is None else frozenset(vocabulary)
        # whether the tokens are `encode`'s between start and end of text: open_clip's own tokenizer, none dropped
        self._is_simple = hasattr(tokenizer, "encode") and not getattr(tokenizer, "reduction_fn", None)
        self._n_empty = len(self.encode(""))

    @property
    def context_length(self) -> int:
        """The most tokens that the model reads, start and end counted."""
        return self._tokenizer.context_length

    def encode(self, text: str) -> list[int]:
        """All tokens of a text with those that mark its start and end, however long; open_clip would cut them."""
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "encode"):
            return [tokenizer.sot_token_id, *self._words(text), tokenizer.eot_token_id]
        return tokenizer.tokenizer(self._clean(text))["input_ids"]  # HFTokenizer, around a tokenizer of transformers

    def padded(self, texts: Mapping[str, list[int]]) -> Tensor:
        """n texts with what `encode` gives -> (n, context_length), 0 past the end; a long text keeps its end token."""
        if not self._is_simple:
            return self._tokenizer(list(texts))
        token_ids = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        for row, ids in zip(token_ids, texts.values(), strict=True):
            cut = ids if len(ids) <= len(row) else [*ids[: len(row) - 1], ids[-1]]
            row[: len(cut)] = torch.tensor(cut)
        return token_ids

    def check(self, texts: Mapping[str, list[int]], *, n_asked: int, truncate: bool, allow_empty: bool) -> None:
        """Refuse texts, given with what `encode` gives, as `ClipEmbedder.embed_texts` says; of `n_asked` in all."""
        empty = sum(len(ids) <= self._n_empty for ids in texts.values())
        if empty and not allow_empty:
            raise ValueError(f"texts must not be empty, got {empty} empty of {n_asked}; write at least one word")
        too_long = [text for text, ids in texts.items() if len(ids) > self.context_length]
        if too_long and not truncate:
            raise ValueError(
                f"{len(too_long)} of {n_asked} texts exceed CLIP's {self.context_length} tokens, "
                f"first {too_long[0][:40]!r} with {len(texts[too_long[0]])}; shorten them"
            )
        if not self._is_simple:
            self._check_control(texts)
        if self._vocabulary is not None:
            self._check_words(texts)

    def _words(self, text: str) -> list[int]:
        """What open_clip's `encode` gives, but for control tokens written out: they are read as their characters."""
        control = set(self._tokenizer.all_special_ids)
        ids = self._tokenizer.encode(text)
        if control.isdisjoint(ids):
            return ids
        while (clean := self._clean(text)) != text:  # "&lt;" becomes "<", and "&amp;lt;" does so later
            text = clean
        pieces = [self._tokenizer.encode(piece) for piece in re.split("(?<=<)", text)]  # "<" is last
        return [token for piece in pieces for token in piece if token not in control]

    def _clean(self, text: str) -> str:
        return getattr(self._tokenizer, "clean_fn", str)(text)

    def _check_control(self, texts: Iterable[str]) -> None:
        """A tokenizer that is run as it is takes a control token written out in a text for the token itself."""
        inner = getattr(self._tokenizer, "tokenizer", None)
        if inner is None:
            names = {self._tokenizer.decoder[token] for token in self._tokenizer.all_special_ids}
        else:
            names = set(inner.all_special_tokens) - {inner.unk_token}
        for text in texts:
            if written := [name for name in sorted(names) if name in self._clean(text)]:
                raise ValueError(f"text {text[:60]!r} holds this CLIP's control token {written[0]!r}; leave it out")

    def _check_words(self, texts: Iterable[str]) -> None:
        for text in texts:
            for word in re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", text.lower()):
                if word not in self._vocabulary:
                    near = difflib.get_close_matches(word, sorted(self._vocabulary), n=3, cutoff=0.5)
                    hint = f"near words: {', '.join(near)}" if near else "see glasslib.tinyworld.wording.vocabulary()"
                    raise ValueError(f"text {text[:60]!r} has the word {word!r}, which this CLIP never saw; {hint}")
