"""The tables of capdec_transfer: captions of every arm scored against what people say, and the numbers claimed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from glasslib import metrics
from glasslib.metrics import CorpusMetric, registers
from glasslib.tinyworld import captions, faithfulness, scenes
from glasslib.tinyworld.recipes.said import ZIPF
from glasslib.tinyworld.scenes import Scenes
from glasslib.tinyworld.wording import REGISTERS

JUDGE_SEED, N_JUDGE_TEXTS = 61_000, 1_000  # of the texts that the register classifier learns from; as many test it
SHOWN = 12  # pictures of each domain whose captions are kept
MEASURED = ("BLEU-1", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr", "precision", "recall", "parses", "in_register")


@dataclass(frozen=True)
class Trial:
    """An arm's captions of one domain's pictures, beside what people say of them in one register.

    Attributes:
        arm: its name.
        domain: of the pictures.
        register: of the references, and the one that captions should be in.
    """

    arm: str
    domain: str
    register: str = "neutral"


def register_texts(seed: int) -> tuple[list[str], list[str]]:
    """N_JUDGE_TEXTS sentences of each register about scenes of their own, and their registers."""
    world = scenes.sample(N_JUDGE_TEXTS, rng=np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    texts = [text for name in REGISTERS for text in captions.describe(world, rng=rng, register=name, zipf=ZIPF)]
    return texts, [name for name in REGISTERS for _ in range(N_JUDGE_TEXTS)]


def register_judge() -> tuple[registers.RegisterClassifier, dict[str, Any]]:
    """A classifier taught on text that no captioner has read, and its share of right answers on yet other text."""
    judge = registers.fit(*register_texts(JUDGE_SEED))
    texts, truth = register_texts(JUDGE_SEED + 10)
    return judge, metrics.share([said == name for said, name in zip(judge(texts), truth, strict=True)])


def measure(
    rows: Sequence[Mapping[str, Any]],
    trials: Sequence[Trial],
    *,
    worlds: Mapping[str, Scenes],
    references: Callable[[str, str], list[list[str]]],
    judge: registers.RegisterClassifier,
) -> dict[Trial, dict[str, list[CorpusMetric]]]:
    """Score captions.

    Args:
        rows: arm, seed, domain, picture, caption, a row a caption, pictures in order.
        trials: what is scored against what.
        worlds: domain -> the scenes of its pictures.
        references: domain, register -> what people say of each.
        judge: of registers.

    Returns:
        For each trial, metric -> one CorpusMetric a seed: those of `metrics.evaluate`, of `faithfulness`, and
        `in_register`, the share of captions that the judge puts into the trial's register. METEOR only with Java.
    """
    found: dict[Trial, dict[str, list[CorpusMetric]]] = {}
    for domain, register in dict.fromkeys((trial.domain, trial.register) for trial in trials):
        truth = references(domain, register)
        said: dict[tuple[Trial, int], list[str]] = {}
        for trial in trials:
            if (trial.domain, trial.register) == (domain, register):
                for row in rows:
                    if (row["arm"], row["domain"]) == (trial.arm, domain):
                        said.setdefault((trial, row["seed"]), []).append(row["caption"])
        systems = {f"{trial.arm}/{seed}": dict(enumerate(texts)) for (trial, seed), texts in said.items()}
        scored = metrics.evaluate_many(systems, dict(enumerate(truth)))
        for (trial, seed), texts in said.items():
            mine = dict(scored[f"{trial.arm}/{seed}"].metrics)
            mine |= faithfulness.attribute_metrics(texts, worlds[domain], references=truth)
            mine["in_register"] = metrics.mean_metric([name == register for name in judge(texts)], unit="share")
            for name in MEASURED:
                if name in mine:
                    found.setdefault(trial, {}).setdefault(name, []).append(mine[name])
    return found


def interval(metric: str, seeds: Sequence[CorpusMetric]) -> dict[str, Any]:
    """The mean over seeds with its 95 % interval over pictures; a register that is never missed has Wilson's."""
    rng = np.random.default_rng(0)
    if metric == "in_register":
        return metrics.repeated_share(np.stack([seed.per_image for seed in seeds]), rng=rng)
    return metrics.corpus(seeds, rng=rng)


def score_rows(scored: Mapping[Trial, Mapping[str, list[CorpusMetric]]]) -> list[dict]:
    """A row for each trial and metric: the mean over seeds, its 95 % interval over pictures, and every seed's value."""
    rows = []
    for trial, measured in scored.items():
        for name, seeds in measured.items():
            entry = interval(name, seeds)
            low, high = entry["ci"] or (None, None)
            row = {"arm": trial.arm, "tried_on": trial.domain, "references": trial.register, "metric": name}
            row |= {"value": entry["value"], "low": low, "high": high, "n": entry["n"]}
            rows.append(row | {"seeds": " ".join(f"{seed.value:.4f}" for seed in seeds)})
    return rows


def caption_rows(rows: Sequence[Mapping[str, Any]], worlds: Mapping[str, Scenes]) -> list[dict]:
    """The first seed's captions of the first SHOWN pictures, with how much they name and how much of it is true."""
    kept = [row for row in rows if row["seed"] == 0 and row["picture"] < SHOWN]
    found = []
    for row in kept:
        scene = worlds[row["domain"]][np.array([row["picture"]])]
        named, true, _ = faithfulness.attribute_counts([row["caption"]], scene)[0]
        found.append(
            {key: row[key] for key in ("arm", "domain", "picture", "caption")} | {"true": true, "named": named}
        )
    return found


def claims(scored: Mapping[Trial, Mapping[str, list[CorpusMetric]]]) -> dict[str, dict[str, Any]]:
    """The numbers of the scoreboard.

    `capdec.cross_domain` is of print's texts on neon's pictures, `_reverse` the other way round; beside each stand the
    in-domain captioner (`_in`) and retrieval from the same texts (`_retrieval`). `style.<register>` is of the
    captioner that has read neutral texts, then styled ones, and no picture; `_alone` reads only styled texts,
    `_after_pairs` is trained on pictures first.
    """

    def of(metric: str, *key: str) -> dict[str, Any]:
        return interval(metric, scored[Trial(*key)][metric])

    found = {}
    for suffix, home, away in (("", "print", "neon"), ("_reverse", "neon", "print")):
        name = f"capdec.cross_domain{suffix}"
        found[name], found[f"{name}_in"] = of("CIDEr", home, away), of("CIDEr", away, away)
        found[f"{name}_retrieval"] = of("CIDEr", f"retrieval_{home}", away)
        found[f"{name}_precision"] = of("precision", home, away)
        found[f"{name}_in_precision"] = of("precision", away, away)
        found[f"{name}_retrieval_precision"] = of("precision", f"retrieval_{home}", away)
    neutral = scored[Trial("print", "print")]["precision"]
    found["style.neutral_precision"] = metrics.corpus(neutral, rng=np.random.default_rng(0))
    for register in REGISTERS[1:]:
        for suffix, arm in (("", "after_texts"), ("_alone", "alone"), ("_after_pairs", "after_pairs")):
            key, name = (f"{register}_{arm}", "print", register), f"style.{register}{suffix}"
            found[name], found[f"{name}_cider"] = of("in_register", *key), of("CIDEr", *key)
            found[f"{name}_precision"] = of("precision", *key)
        styled = scored[Trial(f"{register}_after_texts", "print", register)]["precision"]
        found[f"style.{register}_precision_loss"] = metrics.difference(neutral, styled, rng=np.random.default_rng(0))
    return found
