"""CapDec at its published sizes with random weights: our way and the published way, turn about in one process.

RN50x4's text tower, the mapper of 8 layers and 8 heads with 40 + 40 tokens, GPT-2 of 124 million weights. Seconds are
those of the processor, on one thread, so that what else the machine does counts little. Both ways must first give the
same: embeddings, gradients, captions; else there is no number.
"""

from __future__ import annotations

import functools
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib import results
from glasslib.bench import rss
from glasslib.bench.references import capdec
from glasslib.bench.tiny_searches import run_jobs, write
from glasslib.captioning import decoding, noise
from glasslib.captioning.decoder import IGNORE, CaptionDecoder
from glasslib.captioning.mapper import TransformerMapper
from glasslib.captioning.trainer import Settings, Trainer
from glasslib.clip.embedder import load_open_clip

EMBEDDING_DIM, N_HEADS, STOP_ID = 640, 8, 13  # 13 is GPT-2's full stop
BATCH_SIZE, NOISE_STD = 34, 0.016**0.5
# Tokens of a COCO caption, the full stop with them: those of 20,244 of the validation set (coco-caption's
# misc/hypo.json) by CLIP's tokenizer, which cuts about as GPT-2's. The published row length is mean + 10 deviations.
LEAST_TOKENS, MEAN_TOKENS, STD_TOKENS = 7, 11.54, 2.79
ROW_LENGTH = int(MEAN_TOKENS + 10 * STD_TOKENS)
WORDS = "a the man woman dog cat is sitting riding on in with of red blue large small table street field".split()
N_TEXTS, N_TEXTS_PUBLISHED = 512, 16
N_IMAGES, STEPS = 8, {"decode12": 12, "decode67": 67}
REPEATS = {"embed": 3, "decode12": 3, "train_step": 3, "decode67": 1}  # 100 processor seconds a caption of 67 tokens
TOLERANCE = 1e-4  # of embeddings and, relative to their norm, of gradients


def new_decoder() -> CaptionDecoder:
    """CapDec's decoder with random weights, 180 million of them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CaptionDecoder(_new_gpt(), TransformerMapper(embedding_dim=EMBEDDING_DIM, gpt_dim=768)).eval()


def _new_gpt() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config())


def as_published(gpt: nn.Module) -> nn.Module:
    """GPT-2 as transformers builds it, on the same weights: the decoder makes a layer of its own faster."""
    with torch.device("meta"):
        plain = _new_gpt()
    plain.load_state_dict(gpt.state_dict(keep_vars=True), assign=True)
    plain.tie_weights()
    return plain.train(gpt.training)


def n_tokens(n: int, *, rng: np.random.Generator) -> np.ndarray:
    """Lengths of n captions, distributed about as COCO's."""
    mean = MEAN_TOKENS - LEAST_TOKENS
    return LEAST_TOKENS + rng.gamma((mean / STD_TOKENS) ** 2, STD_TOKENS**2 / mean, n).round().astype(int)


def captions(n: int, *, rng: np.random.Generator) -> list[str]:
    """n captions of such lengths; each word is one token of CLIP's."""
    return [" ".join(rng.choice(WORDS, length - 1)) + "." for length in n_tokens(n, rng=rng)]


def batch(number: int) -> tuple[Tensor, Tensor, Tensor]:
    """A training batch: noisy embeddings (n, dim), token ids and labels (n, length of the longest), padded as ours."""
    rng = np.random.default_rng([1, number])
    lengths = n_tokens(BATCH_SIZE, rng=rng).clip(max=ROW_LENGTH)
    token_ids = torch.from_numpy(rng.integers(1, 50_257, (BATCH_SIZE, lengths.max())))
    padding = torch.arange(lengths.max()) >= torch.from_numpy(lengths)[:, None]
    token_ids = token_ids.masked_fill(padding, 0)
    embeddings = images(BATCH_SIZE, seed=number)
    noisy = noise.add_gaussian_noise(embeddings, noise_std=NOISE_STD, rng=torch.Generator().manual_seed(number))
    return noisy, token_ids, token_ids.masked_fill(padding, IGNORE)


def images(n: int, *, seed: int) -> Tensor:
    """(n, 640) random embeddings of norm 1."""
    return F.normalize(torch.randn(n, EMBEDDING_DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def measure(*, part: str, repeat: int) -> list[dict]:
    """Time one part once, ours and published in turn: a row for each way, seconds a caption (or a step)."""
    return PARTS[part]()(repeat)


def _timed(way: str, per: int, work: Callable[[], Any]) -> tuple[dict, Any]:
    started = time.process_time()
    result = work()
    return {"way": way, "per": per, "cpu_seconds": (time.process_time() - started) / per}, result


def _require(part: str, difference: float, tolerance: float) -> None:
    if not difference <= tolerance:
        raise RuntimeError(f"{part}: ours must equal the published way within {tolerance}, differs by {difference}")


@functools.cache
def embed() -> Callable[[int], list[dict]]:
    """Embed captions: ours in sorted, trimmed batches; published one at a time, padded to 77 tokens."""
    import open_clip

    rng = torch.Generator().manual_seed(0)
    clip = load_open_clip("RN50x4", "openai", weights="random", rng=rng, text_cache_size=0)
    model, tokenizer = clip._model, open_clip.get_tokenizer("RN50x4")  # the very weights that ours runs

    def run(repeat: int) -> list[dict]:
        texts = captions(N_TEXTS, rng=np.random.default_rng([2, repeat]))
        few = texts[:N_TEXTS_PUBLISHED]
        row, ours = _timed("ours", len(texts), lambda: clip.embed_texts(texts))
        slow, theirs = _timed("published", len(few), lambda: capdec.embed_texts(model, tokenizer, few))
        _require("embed", float((ours[: len(few)] - theirs).abs().max()), TOLERANCE)
        return [row, slow]

    return run


@functools.cache
def train_step() -> Callable[[int], list[dict]]:
    """Train on batches of 34: ours on rows as long as the batch's longest, published on the corpus' longest."""
    decoder = new_decoder()
    _require("train_step", _gradients_differ(decoder), TOLERANCE)
    settings = Settings(batch_size=BATCH_SIZE)
    trainer = Trainer(decoder, settings=settings, n_rows=100_000 * BATCH_SIZE, seed=0)
    gpt = as_published(decoder.gpt)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=settings.learning_rate, weight_decay=0.0)

    def published_step(embeddings: Tensor, token_ids: Tensor) -> None:
        optimizer.zero_grad()
        _published_loss(decoder.clip_project, gpt, embeddings, token_ids).backward()
        optimizer.step()

    def run(repeat: int) -> list[dict]:
        given = batch(repeat)
        with torch.random.fork_rng(devices=[]):  # dropout
            torch.manual_seed(repeat)
            row, _ = _timed("ours", 1, lambda: trainer.advance(*given))
            slow, _ = _timed("published", 1, lambda: published_step(*given[:2]))
        return [row, slow]

    return run


def _published_loss(mapper: TransformerMapper, gpt: nn.Module, embeddings: Tensor, token_ids: Tensor) -> Tensor:
    prefix = capdec.map_embedding(dict(mapper.named_parameters()), embeddings, n_heads=N_HEADS)
    return capdec.loss(gpt, prefix, F.pad(token_ids, (0, ROW_LENGTH - token_ids.shape[1])))


def _gradients_differ(decoder: CaptionDecoder) -> float:
    """The largest difference of a weight's gradient, relative to its norm, on four captions without dropout."""
    embeddings, token_ids, labels = (x[:4] for x in batch(1000))
    found = []
    for loss in (
        decoder(embeddings, token_ids, labels) / (labels != IGNORE).sum(),
        _published_loss(decoder.clip_project, as_published(decoder.gpt), embeddings, token_ids),
    ):
        decoder.zero_grad()
        loss.backward()
        found.append([p.grad.clone() for p in decoder.parameters()])
    decoder.zero_grad()
    return max(float((a - b).norm() / b.norm().clamp(min=1e-6)) for a, b in zip(*found, strict=True))


@functools.cache
def decode(part: str) -> Callable[[int], list[dict]]:
    """Write captions by the published beam search: ours for 8 images at once, published for one."""
    decoder = new_decoder()
    gpt, weights = as_published(decoder.gpt), decoder.clip_project.state_dict()
    options = {"stop_id": STOP_ID, "max_tokens": STEPS[part], "beam_size": 5}

    @torch.inference_mode()
    def theirs(embedding: Tensor) -> list[list[int]]:
        return capdec.beam_search(gpt, capdec.map_embedding(weights, embedding, n_heads=N_HEADS), **options)

    def run(repeat: int) -> list[dict]:
        given = images(N_IMAGES, seed=repeat)
        row, ours = _timed("ours", N_IMAGES, lambda: decoding.published_beam(decoder, given, n_captions=5, **options))
        slow, expected = _timed("published", 1, lambda: theirs(given[:1]))
        _require(part, float(ours[0] != expected), 0)
        if len(expected[0]) != STEPS[part]:
            raise RuntimeError(f"{part} must write {STEPS[part]} tokens, got {len(expected[0])}: take another seed")
        return [row, slow]

    return run


def peak() -> Callable[[int], list[dict]]:
    """The memory of a training step and of a batch of captions of 67 tokens, weights and optimiser with it, in GB."""

    def work() -> None:
        decoder = new_decoder()
        trainer = Trainer(decoder, settings=Settings(batch_size=BATCH_SIZE), n_rows=100_000, seed=0)
        trainer.advance(*batch(0))
        trainer.finish()
        decoding.published_beam(decoder, images(N_IMAGES, seed=0), stop_id=STOP_ID, max_tokens=STEPS["decode67"])

    return lambda _repeat: [{"peak_gb": rss.peak_growth_mb(work)[1] / 1e3}]


PARTS = {
    "embed": embed,
    "train_step": train_step,
    "decode12": functools.partial(decode, "decode12"),
    "decode67": functools.partial(decode, "decode67"),
    "peak": peak,
}


def machine() -> dict[str, Any]:
    """The processor that the seconds are of."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {"processor": ", ".join(sorted(names)) or platform.processor(), "cores": os.cpu_count(), "threads": 1}


def bench_fullsize() -> None:
    """Measure bench.embed, .train_step, .decode12, .decode67 and the peak; write results/bench_capdec_fullsize/."""
    publish({part: _rows(part, n_repeats) for part, n_repeats in (REPEATS | {"peak": 1}).items()})


def publish(done: dict[str, list[dict]]) -> None:
    """Write the results of the parts that were measured: part -> rows."""
    timed = {part: rows for part, rows in done.items() if part != "peak"}
    found = {f"bench.{part}": ratio(rows) for part, rows in timed.items()}
    if "peak" in done:
        found["bench.capdec_peak_gb"] = results.metric(done["peak"][0]["peak_gb"], n=1, unit="GB")
    table = [{"part": part, **row} for part, rows in timed.items() for row in rows]
    params = {"machine": machine(), "repeats": {part: REPEATS[part] for part in timed}, "images_at_once": N_IMAGES}
    params |= {"batch_size": BATCH_SIZE, "caption_tokens": f"{MEAN_TOKENS} +- {STD_TOKENS}"}
    params |= {"published_row_length": ROW_LENGTH, "seconds": "of the processor; ratios are of medians"}
    write("bench_capdec_fullsize", params, found, {"seconds": table})


def _rows(part: str, n_repeats: int) -> list[dict]:
    """The rows of all repeats, in one process; those of an earlier run are kept, and so a stop loses one repeat."""
    jobs = [{"part": part, "repeat": repeat} for repeat in range(n_repeats)]
    return run_jobs(measure, jobs, name="capdec-fullsize", weights=(), n_workers=1)


def ratio(rows: list[dict]) -> dict[str, Any]:
    """Ours over published, of the medians; n counts the repeats of each."""
    seconds = {way: [row["cpu_seconds"] for row in rows if row["way"] == way] for way in ("ours", "published")}
    ours, theirs = map(statistics.median, seconds.values())
    return results.metric(ours / theirs, n=len(seconds["ours"]), unit="ratio")
