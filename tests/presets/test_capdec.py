"""CapDec's models and data under one name, on a few scenes; the paper's path on a folder laid out as COCO's."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import torch

from glasslib import images
from glasslib.captioning import noise
from glasslib.captioning.mapper import MlpMapper
from glasslib.generators import gpt2
from glasslib.presets import capdec
from glasslib.tinyworld import captions, models, scenes
from glasslib.weights import registry


def brief(preset):
    return dataclasses.replace(capdec.settings(preset, n_epochs=1), batch_size=10, warmup_steps=2)


def caption_a_little(task, folder):
    shake = functools.partial(noise.add_gaussian_noise, noise_std=task.noise_std)
    captioner, log = capdec.fit(task, noise=shake, folder=folder, seed=0, progress=False)
    said = captioner(task.image_embeddings, max_tokens=8)
    assert len(said) == len(task.references) == len(task.image_embeddings)
    return log


def test_the_tiny_task(tmp_path, monkeypatch):
    monkeypatch.setattr(capdec, "CACHE", tmp_path)
    task = capdec.load("tiny", n_scenes=6, n_test=3, seed=0, settings=brief("tiny"))
    assert task.pictures(2).shape == (2, 3, 64, 64) and len(task.world) == 3
    assert all(len(rows) == 5 for rows in task.references.values())
    assert task.memory.nearest(task.data.embeddings[:2])[0][:, 0].tolist() == [0, 1]
    assert caption_a_little(task, tmp_path / "run")[-1]["step"] == 3


@pytest.fixture
def coco(tmp_path, monkeypatch):
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
    monkeypatch.setattr(capdec, "load_open_clip", lambda *names, **options: models.load_clip())
    small = lambda embedding_dim, gpt_dim: MlpMapper(embedding_dim=embedding_dim, gpt_dim=gpt_dim, prefix_length=2)  # noqa: E731
    monkeypatch.setattr(capdec, "TransformerMapper", small)
    loaded, tokenizer = gpt2.load(folder)
    monkeypatch.setattr(gpt2, "load", lambda path: (loaded, tokenizer))
    monkeypatch.setattr(capdec.results, "REPO", tmp_path)
    monkeypatch.setattr(capdec, "STOP", {"tiny": None, "paper": None})  # the tiny GPT-2 has learned no full stop
    monkeypatch.setattr(capdec, "PUBLISHED_MAX_TOKENS", 40)
    return pictures


def test_the_papers_task_reads_a_coco_folder(coco, tmp_path):
    task = capdec.load("paper", n_scenes=0, n_test=None, seed=0, settings=brief("paper"))
    assert len(task.data) == 20 and list(task.references) == ["4", "5"] and task.world is None
    assert torch.allclose(task.image_embeddings, models.load_clip().embed_images(coco[4:]), atol=0.02)
    assert task.pictures(2).shape == (2, 3, 288, 288)
    assert task.memory.nearest(task.data.embeddings([3]))[0].tolist() == [[3]]
    assert caption_a_little(task, tmp_path / "run")[-1]["step"] == 2


def test_what_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(capdec.results, "REPO", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no captions at .*dataset_coco.json; put Karpathy's"):
        capdec.load("paper", n_scenes=0, n_test=None, seed=0)
    with pytest.raises(ValueError, match="preset must be one of .*got 'huge'"):
        capdec.load("huge", n_scenes=1, n_test=1, seed=0)
