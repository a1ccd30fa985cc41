"""CLIP through open_clip: pictures and texts to unit embeddings. The only module that preprocesses for CLIP."""

from __future__ import annotations

import difflib
import logging
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib.checks import check_range, check_shape, map_batches
from glasslib.clip.fast import encode_image_pooled, encode_text_trimmed, fuse_quick_gelu
from glasslib.clip.files import check_files
from glasslib.clip.resize import RESIZES, to_square

LEAST_ROWS = 8  # texts in a batch for which a CPU reads all weights once more, to save the padding of shorter texts
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class ClipEmbedder:
    """A frozen CLIP as an `Embedder`: any open_clip model with its tokenizer.

    Texts run at the length of the longest row of their batch instead of CLIP's full context, which changes nothing (the
    text tower is causal and reads its result at the end-of-text token) and is several times faster; batches are sorted
    by length. Of a transformer's last block only the token that is read is computed (fast.py). Source: Radford et al.
    2021, https://arxiv.org/abs/2103.00020.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        *,
        vocabulary: Collection[str] | None = None,
        normalize: bool = True,
        resize: str | None = None,
        precision: str = "auto",
        batch_size: int = 256,
        text_cache_size: int = 10_000,
    ) -> None:
        """Wrap a model.

        Args:
            model: an open_clip model; put into evaluation mode and frozen.
            tokenizer: the open_clip tokenizer that goes with it.
            vocabulary: the only words the model knows, lower case; a text with another word is refused. None: any text.
            normalize: subtract CLIP's pixel mean and divide by its deviation. False reproduces CLIP-GLaSS's
                text-to-image path, which leaves this out.
            resize: how a picture gets the model's square size. None: as the model's own preprocessing does. "shortest"
                scales the shorter side and cuts the middle out, "longest" scales the longer side and pads, "squash"
                changes the proportions. "bilinear" reproduces CLIP-GLaSS's text-to-image path: squashed, and sampled
                without a filter, so that fine detail of a large picture aliases.
            precision: "fp32", or "bf16" or "fp16" for autocast. "auto": fp32 on a CPU, and on a GPU bf16 where it has
                it, else fp16.
            batch_size: most pictures or texts in one forward pass.
            text_cache_size: most texts whose embeddings are remembered; the longest unused goes first.

        Raises:
            ValueError: an unknown `resize` or `precision`, or a model whose input is not square.
        """
        fuse_quick_gelu(model)
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._vocabulary = None if vocabulary is None else frozenset(vocabulary)
        self._batch_size, self._text_cache_size = batch_size, text_cache_size
        self.device = next(model.parameters()).device
        preprocess = getattr(model.visual, "preprocess_cfg", {})
        self.image_size = _square_size(model.visual.image_size)
        self._resize = resize or preprocess.get("resize_mode", "shortest")
        if self._resize not in RESIZES:
            raise ValueError(f"resize must be None or one of {RESIZES}, got {self._resize!r}")
        smooth = self._resize != "bilinear" and preprocess.get("interpolation") != "bilinear"
        self._mode = "bicubic" if smooth else "bilinear"
        self._fill = preprocess.get("fill_color", 0) / 255
        self._autocast = _autocast_dtype(precision, self.device)
        mean, std = (model.visual.image_mean, model.visual.image_std) if normalize else ((0.0,) * 3, (1.0,) * 3)
        self._pixel_mean = torch.tensor(mean, device=self.device).view(3, 1, 1)
        self._pixel_std = torch.tensor(std, device=self.device).view(3, 1, 1)
        self._text_cache: OrderedDict[tuple[str, bool], Tensor] = OrderedDict()
        self._n_empty = len(self._encode(""))
        self.dim = int(self.embed_texts([min(self._vocabulary or ("a",))]).shape[1])

    @property
    def logit_scale(self) -> float:
        """The factor CLIP was trained to multiply cosines by."""
        return float(self._model.logit_scale.exp())

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed pictures.

        Args:
            images: (n, 3, h, w) RGB in [0, 1], any h and w.

        Returns:
            (n, dim), rows of L2 norm 1. Differentiable with respect to `images`.
        """
        check_shape(images, "images", "n 3 h w")
        check_range(images, "images", 0.0, 1.0)
        images = images.to(self.device, torch.float32)
        return map_batches(self._embed_image_batch, images, batch_size=self._batch_size)

    def _embed_image_batch(self, images: Tensor) -> Tensor:
        square = to_square(images, size=self.image_size, resize=self._resize, mode=self._mode, fill=self._fill)
        pixels = (square - self._pixel_mean) / self._pixel_std
        with self._casting():
            features = encode_image_pooled(self._model, pixels.contiguous(memory_format=torch.channels_last))
        return F.normalize(features.float(), dim=1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], *, truncate: bool = False, remember: bool = True) -> Tensor:
        """Embed texts; each distinct text is computed once and remembered.

        Args:
            texts: n strings, none empty.
            truncate: cut a text that is longer than the model's context instead of refusing it.
            remember: False for a corpus that is kept elsewhere: neither what was remembered is used nor these are. A
                text's last bit depends on its batch, so later ones would depend on whether the corpus was made or read.

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
        distinct = dict.fromkeys(texts)
        known = self._text_cache if remember else {}
        found = {text: known[text, truncate] for text in distinct if (text, truncate) in known}
        new = {text: self._encode(text) for text in distinct if text not in found}
        if new:
            self._check_texts(new, truncate=truncate)
            rows = sorted(new.items(), key=lambda item: len(item[1]))  # rows of like length share a batch: less padding
            for batch in _like_lengths(rows, least=LEAST_ROWS if self.device.type == "cpu" else self._batch_size):
                embeddings = map_batches(self._embed_text_batch, batch, batch_size=self._batch_size)
                # a copy each: a view would keep its whole batch in memory
                found |= {text: row.clone() for (text, _), row in zip(batch, embeddings, strict=True)}
        for text in distinct if remember else ():
            self._text_cache[text, truncate] = found[text]
            self._text_cache.move_to_end((text, truncate))
        while len(self._text_cache) > self._text_cache_size:
            self._text_cache.popitem(last=False)
        return torch.stack([found[text] for text in texts])

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts that are longer than the model's context, which `embed_texts` refuses or cuts."""
        return [text for text in texts if len(self._encode(text)) > self._tokenizer.context_length]

    def _embed_text_batch(self, rows: list[tuple[str, list[int]]]) -> Tensor:
        """m pairs of a text and its tokens -> (m, dim)."""
        length = self._tokenizer.context_length
        if self._is_simple:
            token_ids = torch.zeros(len(rows), length, dtype=torch.long)
            for row, (_, ids) in zip(token_ids, rows, strict=True):
                cut = ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]  # the end-of-text token stays
                row[: len(cut)] = torch.tensor(cut)
        else:
            token_ids = self._tokenizer([text for text, _ in rows])
        with self._casting():
            features = encode_text_trimmed(self._model, token_ids)
        return F.normalize(features.float(), dim=1)

    @property
    def _is_simple(self) -> bool:
        """Whether the tokens are `encode`'s between start and end of text: open_clip's own tokenizer, none dropped."""
        return hasattr(self._tokenizer, "encode") and not getattr(self._tokenizer, "reduction_fn", None)

    def _encode(self, text: str) -> list[int]:
        """All tokens of a text with those that mark its start and end, however long; open_clip would cut them."""
        tokenizer = self._tokenizer
        if hasattr(tokenizer, "encode"):
            return [tokenizer.sot_token_id, *tokenizer.encode(text), tokenizer.eot_token_id]
        clean = getattr(tokenizer, "clean_fn", str)  # HFTokenizer, around a tokenizer of transformers
        return tokenizer.tokenizer(clean(text))["input_ids"]

    def _casting(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None)

    def _check_texts(self, tokens: dict[str, list[int]], *, truncate: bool) -> None:
        if empty := sum(len(ids) <= self._n_empty for ids in tokens.values()):
            raise ValueError(f"texts must not be empty, got {empty} empty of {len(tokens)}; write at least one word")
        limit = self._tokenizer.context_length
        too_long = [text for text, ids in tokens.items() if len(ids) > limit]
        if too_long and not truncate:
            raise ValueError(
                f"{len(too_long)} of {len(tokens)} texts exceed CLIP's {limit} tokens, "
                f"first {too_long[0][:40]!r} with {len(tokens[too_long[0]])}; "
                "shorten them, or pass truncate=True to cut them"
            )
        if self._vocabulary is not None:
            self._check_words(tokens)

    def _check_words(self, texts: Iterable[str]) -> None:
        for text in texts:
            for word in re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", text.lower()):
                if word not in self._vocabulary:
                    near = difflib.get_close_matches(word, sorted(self._vocabulary), n=3, cutoff=0.5)
                    hint = f"near words: {', '.join(near)}" if near else "see glasslib.tinyworld.wording.vocabulary()"
                    raise ValueError(f"text {text[:60]!r} has the word {word!r}, which this CLIP never saw; {hint}")


def _like_lengths(rows: list[tuple[str, list[int]]], *, least: int) -> list[list[tuple[str, list[int]]]]:
    """Cut texts, sorted by their number of tokens, where that changes and at least `least` came before the cut."""
    batches: list[list[tuple[str, list[int]]]] = [[]]
    for row in rows:
        last = batches[-1]
        if len(last) >= least and len(last[-1][1]) != len(row[1]):
            batches.append([])
        batches[-1].append(row)
    return batches


def _square_size(size: int | Sequence[int]) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise ValueError(f"the model's input must be square, got {height} x {width}; no other shape is implemented")
    return int(height)


def _autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    if precision == "auto":
        precision = "fp32" if device.type != "cuda" else "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be 'auto' or one of {tuple(PRECISIONS)}, got {precision!r}")
    return PRECISIONS[precision]


@contextmanager
def _quiet_logging():
    """open_clip reports on the root logger, and prints warnings about what was asked for."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def load_open_clip(
    model_name: str,
    tag: str | None,
    *,
    weights: str | Path | None = None,
    rng: torch.Generator | None = None,
    device: torch.device | str = "cpu",
    **options,
) -> ClipEmbedder:
    """Load any CLIP of open_clip: ("ViT-B-32", "openai") in CLIP-GLaSS, ("RN50x4", "openai") in CapDec.

    Args:
        model_name: open_clip's name, or "local-dir:..." or "hf-hub:..." with tag None.
        tag: open_clip's name of the training run. It says which activation and which preprocessing the weights were
            trained with (OpenAI's need QuickGELU, and are quietly worse without). None: as `model_name` says.
        weights: a file with the weights (safetensors, or a state dict, which is read without running code). None: the
            tag's own, which open_clip downloads once. "random": a new network, for measuring speed and memory.
        rng: on the CPU; seeds random weights, and is needed for them alone.
        device: where to put the model.
        options: the keywords of `ClipEmbedder`.

    Raises:
        FileNotFoundError: no file at `weights`.
        ValueError: a name or tag that open_clip does not have, a damaged file, weights of another architecture or that
            are not finite numbers, or a folder ("local-dir:...") whose config its weights do not fit.
    """
    import open_clip

    local = model_name.startswith(("local-dir:", "hf-hub:"))
    known = {} if local else open_clip.get_pretrained_cfg(model_name, tag or "")
    if not local and (model_name not in open_clip.list_models() or (tag is not None and not known)):
        tags = open_clip.list_pretrained_tags_by_model(model_name)
        raise ValueError(f"open_clip has no {model_name!r} with tag {tag!r}; tags of that name: {tags or 'none'}")
    if weights == "random" and rng is None:
        raise ValueError("weights='random' needs rng=torch.Generator(), got None")
    check_files(model_name, None if weights == "random" else weights)
    arguments = {"force_quick_gelu": known.get("quick_gelu", False), "require_pretrained": weights != "random"}
    arguments["pretrained"] = None if weights == "random" else tag if weights is None else str(weights)
    arguments["force_preprocess_cfg"] = {key: known[key] for key in ("mean", "std", "interpolation") if key in known}
    if "resize_mode" in known:
        arguments["force_preprocess_cfg"]["resize_mode"] = known["resize_mode"]
    try:
        with _quiet_logging(), torch.random.fork_rng(devices=[]):
            if weights == "random":  # open_clip draws from the global state, which is put back afterwards
                torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
            model = open_clip.create_model(model_name, device=device, **arguments)
    except Exception as error:
        if weights is None:
            raise
        raise ValueError(f"{weights} must hold the weights of {model_name}, whole: {error!s:.300}") from error
    return ClipEmbedder(model, open_clip.get_tokenizer(model_name), **options)
