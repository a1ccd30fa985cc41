"""What must hold of the captioning package: equal metrics and beams, flat memory, and runs that survive being killed.

Each check is a job of its own process, kept when done. None of them reads the clock.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from glasslib import metrics, results
from glasslib.bench import rss
from glasslib.bench.references import capdec
from glasslib.bench.tiny_searches import run_jobs, write
from glasslib.captioning import decoding, resumecheck
from glasslib.captioning.corpus import Corpus
from glasslib.captioning.decoder import CaptionDecoder
from glasslib.captioning.layouts import Caption
from glasslib.captioning.mapper import MlpMapper
from glasslib.captioning.store import embed_corpus
from glasslib.generators import gpt2
from glasslib.metrics import parity
from glasslib.tinyworld import captions, models, scenes

N_SETS = 200
EXAMPLE = results.REPO / "runs" / "pycocoevalcap_example"  # its example/*.json, where someone put them: COCO's captions
N_MAPPERS, N_EMBEDDINGS = 10, 20  # 200 captions
SPREAD = 4.0  # of the mapper's weights, so that embeddings lead to captions that differ
PREFIX_LENGTH, MAX_TOKENS, BEAM_SIZE = 8, 67, 5
N_CAPTIONS, PER_BLOCK = 1_000_000, 1000
N_KILLS = 20


def equal_metrics(*, n_sets: int) -> list[dict]:
    """Compare our caption metrics with pycocoevalcap's on random sets, and on its own example where that is at hand.

    Returns:
        A row for each metric: the largest difference over corpora and over single captions.
    """
    sets = {f"{n_sets} random": parity.random_sets(n_sets, rng=np.random.default_rng(0))}
    if EXAMPLE.is_dir():
        sets["example"] = [example(EXAMPLE)]
    return [
        {"sets": name, "metric": metric, "difference": worst}
        for name, own in sets.items()
        for metric, worst in parity.largest_difference(own).items()
    ]


def example(folder: Path) -> parity.CaptionSet:
    """The set in the example's captions_val2014_fakecap_results.json and captions_val2014.json."""
    said, truth = (
        json.loads((folder / f"captions_val2014{name}.json").read_text(encoding="utf-8"))
        for name in ("_fakecap_results", "")
    )
    references: dict[int, list[str]] = {}
    for row in truth["annotations"]:
        references.setdefault(row["image_id"], []).append(row["caption"])
    return [row["caption"] for row in said], [references[row["image_id"]] for row in said]


def equal_beams(*, mapper_seed: int, n: int) -> list[dict]:
    """Run the published beam search, ours and the published one, with the trained tiny GPT-2 behind a random mapper.

    Returns:
        A row for each of n embeddings: whether all five beams are the same, and what the best one is.
    """
    language_model, tokenizer = gpt2.load(models.WEIGHTS / "gpt2")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(mapper_seed)
        mapper = MlpMapper(embedding_dim=64, gpt_dim=language_model.config.n_embd, prefix_length=PREFIX_LENGTH)
        for layer in (mapper.model[0], mapper.model[2]):
            layer.weight.mul_(SPREAD)
    decoder = CaptionDecoder(language_model, mapper).eval()
    embeddings = F.normalize(torch.randn(n, 64, generator=torch.Generator().manual_seed(mapper_seed)), dim=1)
    [stop_id] = tokenizer.encode(".", add_special_tokens=False)
    options = {"stop_id": stop_id, "max_tokens": MAX_TOKENS, "beam_size": BEAM_SIZE}
    ours = decoding.published_beam(decoder, embeddings, n_captions=BEAM_SIZE, **options)
    rows = []
    for own, embedding in zip(ours, embeddings, strict=True):
        theirs = capdec.beam_search(decoder.gpt, decoder.prefix(embedding[None]), **options)
        row = {"mapper_seed": mapper_seed, "equal": own == theirs, "n_tokens": len(theirs[0])}
        rows.append(row | {"stopped": theirs[0][-1] == stop_id, "caption": tokenizer.decode(theirs[0])})
    return rows


def many_captions(n: int) -> Iterator[Caption]:
    """n captions of the tiny world, the same each time, of which only a block is ever in memory."""
    for block in range(-(-n // PER_BLOCK)):
        rng = np.random.default_rng([3, block])
        described = captions.describe_by_all(scenes.sample(PER_BLOCK // captions.N_DESCRIBERS, rng=rng), rng=rng)
        numbered = enumerate((text, image) for image, texts in enumerate(described) for text in texts)
        for i, (text, image) in numbered:
            if block * PER_BLOCK + i < n:
                yield Caption(text, str(block * PER_BLOCK + i), f"{block}-{image}")


class Watched:
    """An embedder that notes how much memory the process holds each time it is called."""

    def __init__(self, embedder) -> None:
        import psutil

        self.dim, self.seen = embedder.dim, []
        self._embedder, self._n, self._process = embedder, 0, psutil.Process()

    def embed_texts(self, texts, **options) -> torch.Tensor:
        """As the embedder's own."""
        self.seen.append({"captions": self._n, "resident_mb": self._process.memory_info().rss / 1e6})
        self._n += len(texts)
        return self._embedder.embed_texts(texts, **options)


def flat_memory(*, n_captions: int) -> list[dict]:
    """Embed so many captions with the tiny CLIP and watch this process's memory.

    Returns:
        A row for each block of captions: how many were embedded before it and the memory then held, in MB. The last
        row is the peak above the start, watched all the time.
    """
    clip = models.load_clip()
    clip_sha256 = results.sha256_file(models.WEIGHTS / "clip" / "model.safetensors")
    with tempfile.TemporaryDirectory() as folder:

        def embed(n: int, embedder) -> None:
            corpus = Corpus(lambda: many_captions(n), name=f"{n} captions")
            embed_corpus(corpus, embedder, folder, clip_sha256=clip_sha256, progress=False)

        embed(PER_BLOCK, clip)  # what is loaded once is loaded now
        watched = Watched(clip)
        _, growth = rss.peak_growth_mb(lambda: embed(n_captions, watched))
    rows = [row | {"what": "resident"} for row in watched.seen]
    return [*rows, {"captions": n_captions, "resident_mb": growth, "what": "peak growth"}]


def survived_kills(*, n_kills: int) -> list[dict]:
    """Kill training runs at random instants: one row, how many came out the same."""
    with tempfile.TemporaryDirectory() as folder:
        identical = resumecheck.count_identical(folder, n_kills=n_kills, rng=np.random.default_rng(0))
    return [{"n_kills": n_kills, "identical": identical}]


def bench_checks() -> None:
    """Measure metrics.equal, bench.beam_equal, corpus.peak_mb and train.resume; write results/bench_capdec_checks/."""
    memory_rows = run_jobs(flat_memory, [{"n_captions": N_CAPTIONS}], name="capdec-memory", weights=("clip",))
    kills = run_jobs(survived_kills, [{"n_kills": N_KILLS}], name="capdec-resume", weights=())
    seeds = [{"mapper_seed": seed, "n": N_EMBEDDINGS} for seed in range(N_MAPPERS)]
    beams = run_jobs(equal_beams, seeds, name="capdec-beams", weights=("gpt2",))
    equal = run_jobs(equal_metrics, [{"n_sets": N_SETS}], name="capdec-metrics", weights=())
    params = {
        "metrics.equal": f"{N_SETS} random sets of 2 to 6 images"
        + (", and the example's 1000" if EXAMPLE.is_dir() else "; the example's captions are in no package"),
        "bench.beam_equal": f"all {BEAM_SIZE} beams; tiny GPT-2 behind {N_MAPPERS} random mappers, {MAX_TOKENS} tokens",
        "corpus.peak_mb": f"{N_CAPTIONS} captions of the tiny world, tiny CLIP, a process of its own",
        "train.resume": f"{N_KILLS} runs, SIGKILL at an instant drawn uniformly over a run's time",
    }
    tables = {"metrics_equal": equal, "beam_equal": beams, "memory": memory_rows}
    write("bench_capdec_checks", params, summarise(memory_rows, kills, beams, equal), tables)


def summarise(memory_rows: list[dict], kills: list[dict], beams: list[dict], equal: list[dict]) -> dict[str, dict]:
    """The numbers of the scoreboard."""
    [growth] = [row["resident_mb"] for row in memory_rows if row["what"] == "peak growth"]
    resumed = np.repeat([True, False], [kills[0]["identical"], kills[0]["n_kills"] - kills[0]["identical"]])
    return {
        "metrics.equal": results.metric(max(row["difference"] for row in equal), n=N_SETS, unit="difference"),
        "bench.beam_equal": metrics.share(np.array([row["equal"] for row in beams])),
        "corpus.peak_mb": results.metric(growth, n=N_CAPTIONS, unit="MB"),
        "train.resume": metrics.share(resumed),
    }
