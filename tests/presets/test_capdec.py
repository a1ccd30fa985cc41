"""CapDec's models and data under one name, on a few scenes; the paper's path on a folder laid out as COCO's."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from glasslib import images
from glasslib.captioning import training
from glasslib.captioning.mapper import MlpMapper
from glasslib.generators import gpt2
from glasslib.presets import capdec, coco
from glasslib.tinyworld import captions, models, scenes
from glasslib.weights import registry


def caption_a_little(task, folder):
    settings = dataclasses.replace(task.settings(1), batch_size=10, warmup_steps=2)
    decoder, targets = task.new_decoder(seed=0)
    log = training.train(
        decoder, task.data, targets=targets, folder=folder, rng=torch.Generator().manual_seed(0), settings=settings,
        noise=task.noise("gaussian", task.noise_std), progress=False,
    )  # fmt: skip
    said = task.captioner(decoder, targets)(task.image_embeddings, max_tokens=8)
    assert len(said) == len(task.references) == len(task.image_embeddings)
    return log


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setattr(capdec, "CACHE", tmp_path)
    return capdec.load("tiny", n_scenes=6, n_test=4, held_out=5)


def test_the_tiny_task(tiny, tmp_path):
    assert tiny.pictures(2).shape == (2, 3, 64, 64) and len(tiny.world) == 4
    assert all(len(rows) == 5 for rows in tiny.references.values())
    assert tiny.text_memory.nearest(tiny.data.embeddings[:2])[0][:, 0].tolist() == [0, 1]
    assert sorted(np.concatenate([*tiny.by_n_objects().values()])) == [0, 1, 2, 3]
    assert caption_a_little(tiny, tmp_path / "run")[-1]["step"] == 3


def test_each_way_moves_pictures_as_it_says(tiny):
    x, texts = tiny.image_embeddings, tiny.spoken.embeddings
    assert torch.equal(tiny.crossed("image"), x) and torch.equal(tiny.crossed("reranked"), x)
    own = [rows[i] for i, rows in enumerate(tiny.references.values())]
    assert torch.equal(tiny.crossed("text"), tiny.embedder.embed_texts(own))
    shift = texts.mean(0) - tiny.training_pictures.mean(0)
    torch.testing.assert_close(tiny.crossed("offset"), torch.nn.functional.normalize(x + shift, dim=1))
    far = texts.mean(0) + 1.5 * (x - tiny.training_pictures.mean(0))
    torch.testing.assert_close(tiny.crossed("stretched"), torch.nn.functional.normalize(far, dim=1))
    assert len(tiny.training_pictures) == 6
    supervised = tiny.lesson("pictures")
    assert torch.equal(supervised.embeddings[[0, 7]], tiny.training_pictures[[0, 1]])
    assert supervised.texts == tiny.data.texts and supervised.key != tiny.data.key


def test_covariance_noise_is_as_long_as_the_gaussian(tiny):
    factor = tiny.noise("covariance", 0.1).keywords["factor"]
    assert float((factor**2).sum()) == pytest.approx(128 * 0.01, rel=1e-3)
    assert tiny.noise("gaussian", 0.0) is None


def test_only_the_pictures_asked_for_are_scored(tiny):
    own = [rows[0] for rows in tiny.references.values()]
    [found] = capdec.scores(tiny, {"own": ["nonsense", *own[1:]]}, first=1, last=4).values()
    assert found["precision"].value == found["parses"].value == 1.0 and len(found["CIDEr"]) == 3
    [found] = capdec.scores(tiny, {"own": ["nonsense", *own[1:]]}).values()
    assert found["parses"].value == 0.75


@pytest.fixture
def coco_folder(tmp_path, monkeypatch):
    """Six scenes as COCO's Karpathy split, four to learn and two held out, and the tiny models in place of the real."""
    world = scenes.sample(6, rng=np.random.default_rng(0))
    pictures = scenes.render(world, rng=torch.Generator().manual_seed(0), size=80)
    said = captions.describe_by_all(world, rng=np.random.default_rng(1))
    (tmp_path / "coco" / "val2014").mkdir(parents=True)
    rows = []
    for i, picture in enumerate(pictures):
        name = f"COCO_val2014_{i:012d}.png"
        (tmp_path / "coco" / "val2014" / name).write_bytes(images.encode_png(picture))
        sentences = [{"raw": text, "sentid": 5 * i + k} for k, text in enumerate(said[i])]
        split = ("train", "restval", "train", "train", "test", "test")[i]
        rows.append({"filename": name, "cocoid": i, "split": split, "sentences": sentences})
    (tmp_path / "coco" / "dataset_coco.json").write_text(json.dumps({"images": rows}))
    folder = models.WEIGHTS / "gpt2"
    files = {registry.RN50X4.path: "clip", "gpt2/config.json": folder / "config.json"}
    monkeypatch.setattr(registry, "require", lambda name, directory: files)
    monkeypatch.setattr(registry, "sha256_of", lambda file, directory: "0" * 64)
    monkeypatch.setattr(coco, "load_open_clip", lambda *names, **options: models.load_clip())
    small = lambda embedding_dim, gpt_dim: MlpMapper(embedding_dim=embedding_dim, gpt_dim=gpt_dim, prefix_length=2)  # noqa: E731
    monkeypatch.setattr(coco, "TransformerMapper", small)
    loaded, tokenizer = gpt2.load(folder)
    monkeypatch.setattr(gpt2, "load", lambda path: (loaded, tokenizer))
    monkeypatch.setattr(capdec.results, "REPO", tmp_path)
    monkeypatch.setattr(coco, "STOP", None)  # the tiny GPT-2 has learned no full stop
    monkeypatch.setattr(coco, "MAX_TOKENS", 40)
    return pictures


def test_the_papers_task_reads_a_coco_folder(coco_folder, tmp_path):
    task = capdec.load("paper")
    assert (
        len(task.data) == 20 and list(task.references) == ["4", "5"] and task.exact(["a"]) == task.by_n_objects() == {}
    )
    assert torch.allclose(task.image_embeddings, models.load_clip().embed_images(coco_folder[4:]), atol=0.02)
    assert task.pictures(2).shape == (2, 3, 288, 288)
    assert task.text_memory.nearest(task.data.embeddings([3]))[0].tolist() == [[3]]
    assert caption_a_little(task, tmp_path / "run")[-1]["step"] == 2
    for ask in (lambda: task.lesson("pictures"), lambda: task.noise("covariance", 1), lambda: task.crossed("offset")):
        with pytest.raises(ValueError, match="with COCO it must be one of"):
            ask()


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(capdec.results, "REPO", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no captions at .*dataset_coco.json; put Karpathy's"):
        capdec.load("paper")
    with pytest.raises(ValueError, match="preset must be one of .*got 'huge'"):
        capdec.load("huge")
