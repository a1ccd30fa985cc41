"""What the decoder learns to write: captions as token ids, ended, padded and labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from glasslib.captioning.captioner import single_token
from glasslib.captioning.decoder import IGNORE, CaptionDecoder

BLOCK = 4096  # captions looked at together before training


class Targets:
    """Turn texts into token ids and labels."""

    def __init__(
        self,
        tokenizer,
        *,
        stop_token: str | None = None,
        append_stop: bool = True,
        max_tokens: int = 67,
        truncate: bool = False,
        published: bool = False,
    ) -> None:
        """Choose how captions end.

        Args:
            tokenizer: the language model's.
            stop_token: one token that ends a caption; None: the tokenizer's end-of-text.
            append_stop: add it to captions that do not end with it, so that the model learns to stop.
            max_tokens: most tokens in a caption, the stop token counted.
            truncate: cut longer captions instead of refusing them; a cut one has no stop token.
            published: CapDec's and ClipCap's labels: nothing is appended, captions end with the full stop that most
                of them have, and token 0 is never learned (in GPT-2 it is "!"). Sets stop_token and append_stop.
        """
        if published:
            stop_token, append_stop = ".", False
        self.tokenizer, self.max_tokens, self.truncate, self.published = tokenizer, max_tokens, truncate, published
        self.stop_token = stop_token if stop_token is not None else tokenizer.eos_token
        self.stop_id, self.append_stop = single_token(tokenizer, self.stop_token), append_stop

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokenise a batch.

        Args:
            texts: n captions.

        Returns:
            Token ids and labels, both (n, length) int64, as long as the longest caption: padding has id 0 and label
            IGNORE.
        """
        rows = [ids[: self.max_tokens] for ids in self._ids(texts)]
        length = max(map(len, rows))
        token_ids = torch.tensor([ids + [0] * (length - len(ids)) for ids in rows])
        labels = torch.tensor([ids + [IGNORE] * (length - len(ids)) for ids in rows])
        if self.published:
            labels[labels == 0] = IGNORE
        return token_ids, labels

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        if self.append_stop:
            rows = [ids if ids and ids[-1] == self.stop_id else [*ids, self.stop_id] for ids in rows]
        return rows

    def check(self, data, decoder: CaptionDecoder) -> None:
        """Go through all captions before training, rather than fail in its third hour.

        Args:
            data: with `batch(rows) -> (embeddings, texts)` and a length.
            decoder: that will learn them.

        Raises:
            ValueError: captions that are empty or longer than max_tokens, or more tokens than positions.
        """
        limit = decoder.n_positions
        if limit is not None and decoder.prefix_length + self.max_tokens > limit:
            raise ValueError(
                f"prefix and max_tokens must fit into the language model's {limit} positions, got "
                f"{decoder.prefix_length} + {self.max_tokens}; make max_tokens smaller"
            )
        for start in range(0, len(data), BLOCK):
            _, texts = data.batch(range(start, min(start + BLOCK, len(data))))
            if empty := [start + i for i, text in enumerate(texts) if not text.strip()]:
                raise ValueError(f"captions must not be empty, got caption {empty[0]} of {len(data)} without a word")
            # a token covers at least one byte, so most captions need no tokenising to be known short enough
            suspects = [text for text in texts if len(text.encode()) + 1 > self.max_tokens]
            if self.truncate or not suspects:
                continue
            rows = zip(suspects, self._ids(suspects), strict=True)
            if long := [text for text, ids in rows if len(ids) > self.max_tokens]:
                raise ValueError(
                    f"captions must have at most {self.max_tokens} tokens, got {len(long)} longer ones among captions "
                    f"{start} to {start + len(texts) - 1}, first {long[0][:60]!r}; raise max_tokens, leave them out, "
                    "or pass truncate=True to cut them"
                )

    def describe(self) -> dict[str, Any]:
        """The settings, as JSON values."""
        names = ("stop_token", "append_stop", "max_tokens", "truncate", "published")
        return {name: getattr(self, name) for name in names}
