"""CLIP through open_clip: pictures and texts to unit embeddings. The only module that preprocesses for CLIP."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib.checks import check_range, check_shape, map_alike, map_batches, one_thread
from glasslib.clip.fast import encode_image_pooled, encode_text_trimmed, fuse_quick_gelu, text_lengths
from glasslib.clip.files import check_files
from glasslib.clip.resize import RESIZES, to_square
from glasslib.clip.tokens import TextTokens

TEXT_ROWS = 8  # texts in every batch on a CPU: fewer cost a reading of all weights more often, more cost more filling
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class ClipEmbedder:
    """A frozen CLIP as an `Embedder`: any open_clip model with its tokenizer.

    Texts run at about their own length instead of CLIP's full context, which changes nothing (the text tower is causal
    and reads its result at the end-of-text token) and is several times faster. Of a transformer's last block only the
    token that is read is computed (fast.py). Source: Radford et al. 2021, https://arxiv.org/abs/2103.00020.

    On a CPU an embedding is a function of its picture or text alone, to the last bit: whatever else is embedded with
    it or before it, in whatever order, with any number of torch's or Python's threads (`checks.map_alike`). On a GPU
    company moves it by about 1e-6.
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
            batch_size: most pictures or texts in one forward pass on a GPU; on a CPU every pass has as many.
            text_cache_size: most texts whose embeddings are remembered; the longest unused goes first.

        Raises:
            ValueError: an unknown `resize` or `precision`, or a model whose input is not square.
        """
        fuse_quick_gelu(model)
        self._model = model.eval().requires_grad_(False)
        self.tokenizer, self._tokens = tokenizer, TextTokens(tokenizer, vocabulary=vocabulary)
        self._batch_size, self._text_cache_size = batch_size, text_cache_size
        self.device = next(model.parameters()).device
        preprocess = getattr(model.visual, "preprocess_cfg", {})
        self.image_size = _square_size(model.visual.image_size)
        self._image_rows = 16 if self.image_size <= 64 else 4  # in every batch on a CPU; large pictures fill it alone
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
        self._text_cache: OrderedDict[tuple[str, bool, bool], Tensor] = OrderedDict()
        self._lock = Lock()  # of the cache
        self.dim = int(self.embed_texts([min(vocabulary or ("a",))]).shape[1])

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
        if self.device.type != "cpu":
            return map_batches(
                lambda batch: self._embed_squares(self._square(batch)), images, batch_size=self._batch_size
            )
        with one_thread():  # even where each picture is resized alone, two threads round otherwise than one
            pieces = [self._square(piece) for piece in images.split(self._image_rows)]
        return torch.cat(map_alike(self._embed_squares, pieces, rows=self._image_rows))

    def _square(self, images: Tensor) -> Tensor:
        images = images.to(self.device, torch.float32)
        return to_square(images, size=self.image_size, resize=self._resize, mode=self._mode, fill=self._fill)

    def _embed_squares(self, squares: Tensor) -> Tensor:
        pixels = (squares - self._pixel_mean) / self._pixel_std
        with self._casting():
            features = encode_image_pooled(self._model, pixels.contiguous(memory_format=torch.channels_last))
        return F.normalize(features.float(), dim=1)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str], *, truncate: bool = False, allow_empty: bool = False) -> Tensor:
        """Embed texts; each distinct text is computed once and remembered.

        A control token that is written out in a text, such as "<end_of_text>", is read as the characters it is made of.

        Args:
            texts: n strings.
            truncate: cut a text that is longer than the model's context instead of refusing it.
            allow_empty: embed a text without a word, as start and end of text alone, instead of refusing it.

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
        keys = {text: (text, truncate, allow_empty) for text in texts}
        with self._lock:
            found = {text: self._text_cache[key] for text, key in keys.items() if key in self._text_cache}
        new = {text: self._tokens.encode(text) for text in keys if text not in found}
        if new:
            self._tokens.check(new, n_asked=len(keys), truncate=truncate, allow_empty=allow_empty)
            # a copy each: a view would keep its whole batch in memory
            found |= {text: row.clone() for text, row in zip(new, self._embed_tokens(new), strict=True)}
        with self._lock:
            for text, key in keys.items():
                self._text_cache[key] = found[text]
                self._text_cache.move_to_end(key)
            while len(self._text_cache) > self._text_cache_size:
                self._text_cache.popitem(last=False)
        return torch.stack([found[text] for text in texts])

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts that are longer than the model's context, which `embed_texts` refuses or cuts."""
        return [text for text in texts if len(self._tokens.encode(text)) > self._tokens.context_length]

    def _embed_tokens(self, new: dict[str, list[int]]) -> Tensor:
        """n texts with their tokens -> (n, dim), those of one length in a batch."""
        token_ids = self._tokens.padded(new)
        lengths = text_lengths(self._model, token_ids)
        if self.device.type != "cpu":
            order = lengths.argsort()
            embeddings = map_batches(self._embed_text_batch, token_ids[order], batch_size=self._batch_size)
        else:
            groups = [(lengths == length).nonzero()[:, 0] for length in lengths.unique()]
            pieces = [token_ids[piece] for rows in groups for piece in rows.split(TEXT_ROWS)]
            order = torch.cat(groups)
            embeddings = torch.cat(map_alike(self._embed_text_batch, pieces, rows=TEXT_ROWS))
        return embeddings[order.argsort()]

    def _embed_text_batch(self, token_ids: Tensor) -> Tensor:
        with self._casting():
            features = encode_text_trimmed(self._model, token_ids)
        return F.normalize(features.float(), dim=1)

    def _casting(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self._autocast, enabled=self._autocast is not None)


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
