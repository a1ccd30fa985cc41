"""A frozen causal language model as a `TextGenerator`: context tokens in, the sentence it goes on with out.

CLIP-GLaSS searches the tokens in front of a fixed prompt. The model reads context and prompt, goes on greedily, and
only the text after the context counts. Most of its tokens are never read (they come after end-of-text or the 50th
character), so a row leaves the batch as soon as its text is complete.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glasslib.checks import check_shape, fuse_gelu, map_batches, one_thread
from glasslib.latents import Tokens
from glasslib.weights.language import load_language_model, load_tokenizer

# CLIP-GLaSS's decoding, all of it: Gpt2Generator(model, tokenizer, **GLASS). The cut may fall inside a word.
GLASS = {"context_length": 20, "prompt": "the picture of", "max_new_tokens": 30, "max_characters": 50, "stop": ()}
COMPACT_SHARE = 0.1  # drop finished rows once they are this share of the batch: copying the cache costs about one step
TIE = 2e-5  # of a row's largest logit: rounding, which moves logits by 5e-7 of it, cannot exchange two further apart


class Gpt2Generator:
    """GPT-2, or any causal language model of transformers, as a `TextGenerator`.

    The defaults are CLIP-GLaSS's decoding (`GLASS`): greedy, 30 tokens, cut at end-of-text and at 50 characters.
    `max_characters=None, stop=(".",)` gives whole sentences instead.

    A text is a function of its context alone. In another batch, and on another number of threads, a matrix product
    rounds otherwise; where that might decide which token is likeliest, the row is computed again alone, on one thread.

    | quirk of CLIP-GLaSS's code | option | effect |
    |---|---|---|
    | an end-of-text token anywhere in the context ends the text | `context_ends=True` | "" in 0.04 % of GPT-2's
      random contexts; in 14.8 % of tiny-gpt2's (1,000 of 20 tokens), which score .26 on average, and .12 written on |

    Source: Galatolo et al. 2021 (CLIP-GLaSS), section 2.3, https://arxiv.org/abs/2102.01645, and its `models.py`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        *,
        context_length: int = GLASS["context_length"],
        prompt: str = GLASS["prompt"],
        max_new_tokens: int = GLASS["max_new_tokens"],
        max_characters: int | None = GLASS["max_characters"],
        stop: Sequence[str] = GLASS["stop"],
        context_ends: bool = False,
        batch_size: int = 128,
    ) -> None:
        """Wrap a model.

        Args:
            model: a causal language model of transformers; put into evaluation mode, its GELU made one operation.
            tokenizer: the transformers tokenizer that goes with it.
            context_length: how many tokens are searched.
            prompt: fixed text between the context and what the model writes; the returned text starts with it.
            max_new_tokens: most tokens written after the prompt.
            max_characters: the text is cut to this length, prompt included; None keeps it whole.
            stop: the written text ends before the first of these strings, such as "."; () for none.
            context_ends: give "" for a context that holds an end-of-text token, as CLIP-GLaSS's code does, which looks
                for it in the whole sequence. False: the model reads it and writes on.
            batch_size: most contexts run at once; halved when memory runs out.

        Raises:
            ValueError: a prompt that is empty or holds unknown words, or more tokens than the model has positions.
        """
        if isinstance(stop, str) or not all(stop):
            raise ValueError(f'stop must be a tuple of strings that are not empty, such as (".",), got {stop!r}')
        if max_new_tokens < 1 or (max_characters is not None and max_characters < 1):
            raise ValueError(
                f"max_new_tokens and max_characters must be at least 1, got {max_new_tokens}, {max_characters}"
            )
        fuse_gelu(model)
        self.language_model, self.tokenizer = model.eval(), tokenizer
        self._prompt_ids = _prompt_ids(tokenizer, prompt)
        self._max_new_tokens, self._max_characters, self._stop = max_new_tokens, max_characters, tuple(stop)
        self._context_ends, self._batch_size = context_ends, batch_size
        self.latent_space = Tokens(context_length, len(tokenizer))
        self._check_positions(context_length + len(self._prompt_ids) + max_new_tokens)
        self._prompt_text = self._decode([self._prompt_ids])[0]
        self._may_end, self._n_characters = self._measure_vocabulary()
        # The LM head is wanted for the last position only: for GPT-2 it is a third of the model.
        takes = inspect.signature(model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}

    def __call__(self, token_ids: Tensor | np.ndarray) -> list[str]:
        """Write on after each context; equal contexts are computed once.

        Args:
            token_ids: (n, context_length) whole numbers in [0, vocab_size - 1], integers or floats.

        Returns:
            n texts, each starting with the prompt; with `context_ends` some may be empty.

        Raises:
            ValueError: a wrong shape, numbers that are not whole, or ids outside the vocabulary.
        """
        contexts, rows = np.unique(self._checked(token_ids), axis=0, return_inverse=True)
        ended = (contexts == self.tokenizer.eos_token_id).any(axis=1) & self._context_ends
        texts = np.full(len(contexts), "", dtype=object)
        if not ended.all():
            going = torch.as_tensor(contexts[~ended])
            texts[~ended] = map_batches(self._write_batch, going, batch_size=self._batch_size)
        return texts[rows.reshape(-1)].tolist()

    def decode(self, token_ids: Tensor | np.ndarray) -> list[str]:
        """The contexts themselves as text, to look at what a search has found: (n, context_length) -> n strings."""
        return self._decode(self._checked(token_ids).tolist())

    def to(self, device: torch.device | str) -> Gpt2Generator:
        """Move the model, in place."""
        self.language_model.to(device)
        return self

    @torch.inference_mode()
    def _write_batch(self, contexts: Tensor) -> list[str]:
        """(m, context_length) int64 -> m texts, decoded greedily with a key-value cache."""
        device = next(self.language_model.parameters()).device
        prompt = torch.tensor(self._prompt_ids).expand(len(contexts), -1)
        step_input, cache = torch.cat((contexts, prompt), dim=1).to(device), None
        written: list[list[int]] = [[] for _ in range(len(contexts))]
        alive = np.arange(len(contexts))  # the rows still in the batch, finished ones among them until it is compacted
        done = np.zeros(len(contexts), dtype=bool)
        for n_written in range(1, self._max_new_tokens + 1):
            output = self.language_model(input_ids=step_input, past_key_values=cache, use_cache=True, **self._last_only)
            cache, logits = output.past_key_values, self._last_logits(output)
            best = logits.argmax(dim=-1)  # (len(alive),)
            for i in _near_ties(logits):
                if not done[row := int(alive[i])]:
                    best[i] = self._likeliest([*contexts[row].tolist(), *self._prompt_ids, *written[row]])
            for row, token in zip(alive.tolist(), best.tolist(), strict=True):
                if not done[row]:
                    written[row].append(token)
                    done[row] = self._is_complete(written[row])
            if done.all() or n_written == self._max_new_tokens:
                break
            kept = np.flatnonzero(~done[alive])
            if len(alive) - len(kept) > COMPACT_SHARE * len(alive):
                index = torch.as_tensor(kept, device=device)
                cache.batch_select_indices(index)
                best, alive = best[index], alive[kept]
            step_input = best[:, None]
        return [self._text(ids) for ids in written]

    def _last_logits(self, output) -> Tensor:
        """(m, vocab_size) after the last position, without the padding of the vocabulary."""
        return output.logits[:, -1, : len(self._n_characters)]

    def _likeliest(self, ids: list[int]) -> int:
        """The likeliest token after these, whatever else is in the batch."""
        device = next(self.language_model.parameters()).device
        with one_thread():
            output = self.language_model(input_ids=torch.tensor([ids], device=device), **self._last_only)
        return int(self._last_logits(output).argmax())

    def _is_complete(self, ids: list[int]) -> bool:
        """Whether no further token can change the text. Decodes only if the newest token may have completed it."""
        if ids[-1] == self.tokenizer.eos_token_id:
            return True
        long_enough = self._max_characters is not None and self._n_characters[ids].sum() >= self._n_missing
        if not (long_enough or self._may_end[ids[-1]]):
            return False
        text = self._decode([self._prompt_ids + ids])[0]
        settled = text.rstrip("\ufffd")  # the next token may turn half a character into a whole one
        return self._find_stop(text) >= 0 or (self._max_characters is not None and len(settled) >= self._max_characters)

    def _text(self, ids: list[int]) -> str:
        """What counts of the written ids, after the prompt: up to end-of-text, a stop string, `max_characters`."""
        if self.tokenizer.eos_token_id in ids:
            ids = ids[: ids.index(self.tokenizer.eos_token_id)]
        text = self._decode([self._prompt_ids + ids])[0]
        if (end := self._find_stop(text)) >= 0:
            text = text[:end].rstrip()
        return text[: self._max_characters]

    def _find_stop(self, text: str) -> int:
        """Where the first stop string after the prompt begins, -1 if there is none."""
        found = [text.find(stop, len(self._prompt_text)) for stop in self._stop]
        return min((start for start in found if start >= 0), default=-1)

    def _decode(self, rows: list[list[int]]) -> list[str]:
        return self.tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _measure_vocabulary(self) -> tuple[np.ndarray, np.ndarray]:
        """Per token: whether it may complete a stop string, and the most characters that it adds."""
        pieces = self._decode([[token] for token in range(len(self.tokenizer))])
        last = {stop[-1] for stop in self._stop}
        joins = any(character.isspace() for character in last)  # some tokenizers put spaces between tokens
        may_end = [bool(last) and (joins or "\ufffd" in piece or not last.isdisjoint(piece)) for piece in pieces]
        self._n_missing = (self._max_characters or 0) - len(self._prompt_text)
        return np.array(may_end), np.array([len(piece) + 1 for piece in pieces])

    def _checked(self, token_ids: Tensor | np.ndarray) -> np.ndarray:
        """The contexts as (n, context_length) int64."""
        length, vocab_size = self.latent_space.length, self.latent_space.vocab_size
        check_shape(token_ids, "token_ids", f"n {length}")
        values = token_ids.cpu().numpy() if isinstance(token_ids, Tensor) else token_ids
        if bad := int((~self.latent_space.contains(values.astype(np.float64))).sum()):
            raise ValueError(
                f"token_ids must be whole numbers in [0, {vocab_size - 1}], got {bad} of {len(values)} rows with "
                "others; search in generator.latent_space, or round and clip first"
            )
        return values.astype(np.int64)

    def _check_positions(self, n_tokens: int) -> None:
        n_positions = getattr(self.language_model.config, "max_position_embeddings", None)
        if n_positions is not None and n_tokens > n_positions:
            raise ValueError(
                f"context, prompt and max_new_tokens must fit into the model's {n_positions} positions, got {n_tokens}"
                "; make context_length or max_new_tokens smaller"
            )


def _near_ties(logits: Tensor) -> list[int]:
    """The rows of (m, vocab_size) whose two greatest values rounding might exchange."""
    least, greatest = logits.aminmax(dim=-1, keepdim=True)
    near = greatest - TIE * torch.maximum(greatest.abs(), least.abs())
    return ((logits >= near).sum(dim=-1) > 1).nonzero()[:, 0].tolist()


def _prompt_ids(tokenizer, prompt: str) -> list[int]:
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    if not ids or (tokenizer.unk_token_id in ids and tokenizer.unk_token_id != tokenizer.eos_token_id):
        raise ValueError(f"prompt must be words that the tokenizer knows, at least one, got {prompt!r}")
    return ids


def load(directory: Path | str) -> tuple[nn.Module, object]:
    """Load a language model and its tokenizer from a local folder, nothing from the network.

    Args:
        directory: config.json, weights and tokenizer files, as `save_pretrained` writes them; see `weights.language`.

    Returns:
        The model in float32, in evaluation mode, and its tokenizer: `Gpt2Generator(*load(directory))`.

    Raises:
        FileNotFoundError: no such folder, or no weights in it.
        ValueError: a damaged file, weights that do not fill the model, or a tokenizer of another vocabulary.
    """
    model = load_language_model(directory)
    return model, load_tokenizer(directory, n_tokens=model.get_input_embeddings().num_embeddings)
