"""A trained captioner: embeddings in, captions out, and the folder it is kept in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glasslib import results
from glasslib.captioning import decoding, gap, mapper
from glasslib.captioning.decoder import CaptionDecoder
from glasslib.checks import check_unit, map_alike, map_batches
from glasslib.weights.integrity import read_config
from glasslib.weights.language import load_tokenizer
from glasslib.weights.states import built, fitted, read_state

FORMAT = 1
SCORED_AT_ONCE = 64  # captions: GPT-2's logits for one of 20 tokens take 4 MB
LEAST_ROWS = decoding.LEAST_ROWS


class Captioner:
    """Write captions for embeddings, a batch at a time.

    On a CPU a caption and its log-probability depend on the embedding alone, to the last bit, unless `decode` draws:
    each batch runs on one thread, several side by side, none of fewer than four (`checks.map_alike`; one such thread
    rounds alike in all batches of at least four rows, which tests/test_invariance.py measures).
    """

    def __init__(
        self,
        decoder: CaptionDecoder,
        tokenizer,
        *,
        stop_token: str | None = None,
        decode: Callable[..., list[list[list[int]]]] = decoding.greedy,
        cross: Callable[[Tensor], Tensor] = gap.keep,
        batch_size: int = 64,
    ) -> None:
        """Put the parts together.

        Args:
            decoder: put into evaluation mode.
            tokenizer: the language model's.
            stop_token: one token that ends a caption, as in training; None: the tokenizer's end-of-text. CapDec's is
                the full stop, which stays part of the caption; end-of-text does not.
            decode: a function of decoding.py, its options given by functools.partial; CapDec's is `published_beam`.
            cross: what brings image embeddings to where texts are: a function of gap.py.
            batch_size: most embeddings in one batch; halved when memory runs out.

        Raises:
            ValueError: a stop token that is not one token.
        """
        self.decoder, self.tokenizer = decoder.eval(), tokenizer
        self.stop_token = stop_token if stop_token is not None else tokenizer.eos_token
        self.stop_id = single_token(tokenizer, self.stop_token)
        self._decode, self._cross, self._batch_size = decode, cross, batch_size

    def __call__(self, embeddings: Tensor, *, max_tokens: int = 67) -> list[str]:
        """Caption embeddings.

        Args:
            embeddings: (n, dim), rows of L2 norm 1.
            max_tokens: most tokens in a caption; published: 67.

        Returns:
            n captions.

        Raises:
            ValueError: a wrong shape, or rows that are not finite or not of norm 1.
        """
        return [captions[0] for captions in self.several(embeddings, max_tokens=max_tokens)]

    def several(self, embeddings: Tensor, *, max_tokens: int = 67) -> list[list[str]]:
        """All captions that `decode` gives for each embedding (its `n_captions`), best first."""
        return self._write(embeddings, max_tokens, scored=False)[0]

    def scored(self, embeddings: Tensor, *, max_tokens: int = 67) -> tuple[list[list[str]], list[list[float]]]:
        """As `several`, and each caption's log-probability in nats, the end-of-caption token counted."""
        return self._write(embeddings, max_tokens, scored=True)

    def _write(self, embeddings: Tensor, max_tokens: int, *, scored: bool) -> tuple[list[list[str]], list[list[float]]]:
        check_unit(embeddings, "embeddings", f"n {self.decoder.clip_project.embedding_dim}")
        if not len(embeddings):
            return [], []
        weight = self.decoder.gpt.get_input_embeddings().weight

        def write(batch: Tensor) -> list[tuple[list[str], list[float]]]:
            crossed = self._cross(batch.to(weight.device, torch.float32))
            rows = self._decode(self.decoder, crossed, stop_id=self.stop_id, max_tokens=max_tokens)
            values = self._log_probs(crossed, rows) if scored else iter(())
            return [([self._text(ids) for ids in captions], list(islice(values, len(captions)))) for captions in rows]

        texts, log_probs = zip(*self._in_batches(write, embeddings, weight.device), strict=True)
        return list(texts), list(log_probs)

    @torch.no_grad()
    def _in_batches(self, write: Callable[[Tensor], list], embeddings: Tensor, device: torch.device) -> list:
        if device.type != "cpu":
            return map_batches(write, embeddings, batch_size=self._batch_size)
        batch_size = max(LEAST_ROWS, self._batch_size)
        whole = lambda piece: map_batches(write, piece, batch_size=batch_size)  # noqa: E731
        share = -(-len(embeddings) // torch.get_num_threads())
        pieces = embeddings.cpu().split(max(LEAST_ROWS, min(share, batch_size)))
        draws = "rng" in getattr(self._decode, "keywords", {})
        return [row for rows in map_alike(whole, pieces, rows=LEAST_ROWS, aside=not draws) for row in rows]

    def _log_probs(self, crossed: Tensor, rows: list[list[list[int]]]) -> Iterator[float]:
        """The log-probability of every caption, one image's after the other's."""
        flat = [(image, ids) for image, captions in enumerate(rows) for ids in captions]
        by_length: dict[int, list[int]] = {}
        for i, (_, ids) in enumerate(flat):
            by_length.setdefault(len(ids), []).append(i)
        values = [0.0] * len(flat)
        for group in by_length.values():
            for start in range(0, len(group), SCORED_AT_ONCE):
                some = group[start : start + SCORED_AT_ONCE]
                filled = some + some[-1:] * (LEAST_ROWS - len(some))
                token_ids = torch.tensor([flat[i][1] for i in filled], device=crossed.device)
                scored = self.decoder.log_probs(crossed[[flat[i][0] for i in filled]], token_ids, token_ids)
                for i, value in zip(some, scored.tolist(), strict=False):
                    values[i] = value
        return iter(values)

    def stream(self, batches: Iterable[Tensor], *, max_tokens: int = 67) -> Iterator[str]:
        """Caption any number of embeddings as they come, such as those of pictures read one batch after the other."""
        for batch in batches:
            yield from self(batch, max_tokens=max_tokens)

    def _text(self, ids: list[int]) -> str:
        if ids and ids[-1] == self.stop_id == self.tokenizer.eos_token_id:
            ids = ids[:-1]
        return self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False).strip()


def nearest_caption(
    candidates: Sequence[Sequence[str]],
    embeddings: Tensor,
    *,
    embedder,
    log_probs: Sequence[Sequence[float]] | None = None,
) -> list[str]:
    """Of each image's captions, pick the one whose CLIP embedding is nearest to the image's; an empty one if all are.

    Args:
        candidates: n lists of captions, at least one each, such as `Captioner.several` gives.
        embeddings: (n, dim) of the images, rows of L2 norm 1.
        embedder: has `embed_texts`, of the same CLIP. Of a caption longer than it can read, it reads what fits.
        log_probs: the decoder's log-probability of each caption, as `Captioner.scored` gives it. With it the decoder
            has its say: what is highest is log-probability plus `embedder.logit_scale` times the cosine, which is what
            CLIP itself was trained to take for a log-probability, up to a constant that an image's captions share.

    Returns:
        n captions.

    Raises:
        ValueError: another number of lists than of embeddings, an empty list, or not one log-probability a caption.

    Source:
        Without log_probs: re-ranking by CLIP, as in MacCap, https://arxiv.org/abs/2401.02347.
    """
    if len(candidates) != len(embeddings) or not all(candidates):
        raise ValueError(f"candidates must be {len(embeddings)} non-empty lists of captions, got {len(candidates)}")
    if log_probs is not None and [*map(len, log_probs)] != [*map(len, candidates)]:
        raise ValueError(
            f"log_probs must have one number for each caption, got {sum(map(len, log_probs))} in {len(log_probs)} "
            f"lists for {sum(map(len, candidates))} captions in {len(candidates)}"
        )
    check_unit(embeddings, "embeddings")
    texts = list(dict.fromkeys(text for captions in candidates for text in captions if text.strip()))
    row_of = {text: row for row, text in enumerate(texts)}
    embedded = embedder.embed_texts(texts, truncate=True) if texts else embeddings[:0]
    picked = []
    for i, (captions, image) in enumerate(zip(candidates, embeddings, strict=True)):
        known = [k for k, text in enumerate(captions) if text in row_of]
        value = (embedded[[row_of[captions[k]] for k in known]] * image).sum(dim=1)
        if log_probs is not None:
            value = embedder.logit_scale * value + value.new_tensor([log_probs[i][k] for k in known])
        picked.append(captions[known[int(value.argmax())]] if known else captions[0])
    return picked


def single_token(tokenizer, token: str) -> int:
    """The id of a string that must be one token."""
    ids = tokenizer.encode(token, add_special_tokens=False) if token else []
    if len(ids) != 1:
        raise ValueError(f"the stop token must be one token of the tokenizer, got {token!r}, which is {len(ids)}")
    return ids[0]


def save(folder: str | Path, captioner: Captioner, *, card: Mapping[str, Any]) -> None:
    """Write a captioner's folder: model.safetensors, config.json, tokenizer files, and card.json last.

    Args:
        folder: made if need be.
        captioner: how it decodes is not part of the folder.
        card: JSON values: how it was trained and what it was measured to do. The weights' hash and the versions are
            added.
    """
    from safetensors.torch import save_model

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.safetensors"
    aside = folder / ".model.safetensors.part"
    save_model(captioner.decoder, str(aside))  # tied weights are written once
    aside.replace(weights)
    captioner.tokenizer.save_pretrained(folder)
    language_model = captioner.decoder.gpt.config.to_dict()
    language_model.pop("_name_or_path", None)  # where it once lay on this machine
    config = {
        "format": FORMAT,
        "mapper": captioner.decoder.clip_project.config,
        "language_model": language_model,
        "freeze_language_model": captioner.decoder.freeze_language_model,
        "stop_token": captioner.stop_token,
    }
    results.write_bytes_atomic(folder / "config.json", (json.dumps(config, indent=1, sort_keys=True) + "\n").encode())
    hashes = {weights.name: results.sha256_file(weights)}
    results.write_json_atomic(folder / "card.json", {**card, "sha256": hashes, "versions": results.versions()})


def load(folder: str | Path, **options: Any) -> Captioner:
    """Load a captioner from its folder, nothing from the network.

    Args:
        folder: as `save` wrote it.
        options: `decode`, `cross`, `batch_size` of `Captioner`.

    Raises:
        FileNotFoundError: no captioner there.
        ValueError: a damaged file, a configuration that the weights do not fit, or weights that are not finite numbers.
    """
    folder = Path(folder)
    words = {"missing": f"no captioner at {folder}; it must hold config.json and model.safetensors"}
    words["advice"] = "copy the captioner's folder again, or train it anew"
    path, weights = folder / "config.json", folder / "model.safetensors"
    config = read_config(path, **words)
    if config.get("format") != FORMAT:
        raise ValueError(f"{path} must have format {FORMAT}, got {config.get('format')!r:.40}; {words['advice']}")
    state = read_state(weights, **words)
    empty = built(lambda: _new_decoder(config), state, config=str(path))
    state = fitted(state, empty, path=weights, advice=f"it must fit {path}: use the files that belong together")
    with torch.random.fork_rng(devices=[]):  # random weights are drawn only to be overwritten
        decoder = _new_decoder(config)
    decoder.load_state_dict(state)
    tokenizer = load_tokenizer(folder, n_tokens=decoder.gpt.get_input_embeddings().num_embeddings)
    return Captioner(decoder, tokenizer, stop_token=config.get("stop_token"), **options)


def _new_decoder(config: dict[str, Any]) -> CaptionDecoder:
    from transformers import AutoConfig, AutoModelForCausalLM

    language = dict(config["language_model"])
    gpt = AutoModelForCausalLM.from_config(AutoConfig.for_model(language.pop("model_type"), **language))
    return CaptionDecoder(
        gpt, mapper.from_config(config["mapper"]), freeze_language_model=config["freeze_language_model"]
    )
