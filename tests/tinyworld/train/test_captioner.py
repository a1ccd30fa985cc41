"""The recipe of the tiny captioner, for a few steps."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from glasslib.captioning import captioner as captioners
from glasslib.tinyworld.models import load_clip
from glasslib.tinyworld.train import captioner as recipe


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(
        recipe, "SETTINGS", dataclasses.replace(recipe.SETTINGS, batch_size=50, checkpoint_every=2, warmup_steps=2)
    )
    monkeypatch.setattr(recipe, "N_HELD_OUT", 10)
    return recipe


def test_the_recipe_trains_exports_and_goes_on(short, tmp_path, monkeypatch):
    command = ["captioner", "--out", str(tmp_path / "run"), "--export", str(tmp_path / "tiny"), "--scenes", "20"]
    monkeypatch.setattr(sys, "argv", [*command, "--epochs", "2"])
    with torch.random.fork_rng():
        short.main()
    card = json.loads((tmp_path / "tiny" / "card.json").read_text())
    assert card["steps"] == 4 and card["recipe"].endswith("--epochs 2 --scenes 20 --seed 0")
    assert 0.001 < card["noise_variance"] < 0.2  # CapDec's estimate
    assert card["held_out"].keys() >= {"image_precision", "text_precision", "image_parse", "text_named"}
    size = sum(path.stat().st_size for path in (tmp_path / "tiny").iterdir())
    assert size < 8e6
    clip = load_clip()
    [caption] = captioners.load(tmp_path / "tiny")(clip.embed_texts(["a red star"]), max_tokens=40)
    assert set(caption.split()) <= set(captioners.load(tmp_path / "tiny").tokenizer.get_vocab())
    first = (tmp_path / "tiny" / "model.safetensors").read_bytes()
    with torch.random.fork_rng():
        short.main()  # finished: nothing is trained again
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == first


def test_the_corpus_says_which_scene_a_caption_is_of():
    texts, image_ids = recipe.corpus(7, rng=np.random.default_rng(0))
    assert len(texts) == 35 and image_ids == [i for i in range(7) for _ in range(5)]
    assert texts == recipe.corpus(7, rng=np.random.default_rng(0))[0]
