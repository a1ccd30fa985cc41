"""Numbers with intervals, what two sets of embeddings say of each other, and how good captions are."""

from glasslib.metrics.captions import CaptionScores, evaluate, evaluate_many
from glasslib.metrics.embeddings import clip_score, first_hit, modality_gap, ref_clip_score
from glasslib.metrics.intervals import (
    CorpusMetric,
    corpus,
    difference,
    mean,
    mean_metric,
    quotient,
    ratio,
    repeated_share,
    share,
)

__all__ = [
    "CaptionScores",
    "CorpusMetric",
    "clip_score",
    "corpus",
    "difference",
    "evaluate",
    "evaluate_many",
    "first_hit",
    "mean",
    "mean_metric",
    "modality_gap",
    "quotient",
    "ratio",
    "ref_clip_score",
    "repeated_share",
    "share",
]
