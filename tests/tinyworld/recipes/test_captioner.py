"""The recipe of the tiny captioner, for a few steps."""

import dataclasses
import json
import sys

import pytest
import torch

from glasslib.captioning import captioner as captioners
from glasslib.tinyworld.models import load_clip
from glasslib.tinyworld.recipes import captioner as recipe
from glasslib.tinyworld.recipes.said import said


@pytest.fixture
def short(monkeypatch, tmp_path):
    monkeypatch.setattr(
        recipe, "SETTINGS", dataclasses.replace(recipe.SETTINGS, batch_size=50, checkpoint_every=2, warmup_steps=2)
    )
    monkeypatch.setattr(recipe, "N_HELD_OUT", 10)
    monkeypatch.setattr(recipe, "CACHE", tmp_path / "said")
    return recipe


def test_the_recipe_trains_exports_and_goes_on(short, tmp_path, monkeypatch):
    command = ["captioner", "--out", str(tmp_path / "run"), "--export", str(tmp_path / "tiny"), "--scenes", "20"]
    monkeypatch.setattr(sys, "argv", [*command, "--epochs", "2"])
    with torch.random.fork_rng():
        short.main()
    card = json.loads((tmp_path / "tiny" / "card.json").read_text())
    assert card["steps"] == 4 and card["recipe"].endswith("--epochs 2 --scenes 20 --seed 0")
    assert 0.001 < card["noise_variance"] < 0.2  # CapDec's estimate
    assert card["held_out"].keys() >= {"image_cider", "image_precision", "text_recall", "image_parses"}
    size = sum(path.stat().st_size for path in (tmp_path / "tiny").iterdir())
    assert size < 8e6
    clip = load_clip()
    [caption] = captioners.load(tmp_path / "tiny")(clip.embed_texts(["a red star"]), max_tokens=40)
    assert set(caption.split()) <= set(captioners.load(tmp_path / "tiny").tokenizer.get_vocab())
    first = (tmp_path / "tiny" / "model.safetensors").read_bytes()
    with torch.random.fork_rng():
        short.main()  # finished: nothing is trained again
    assert (tmp_path / "tiny" / "model.safetensors").read_bytes() == first


def test_training_goes_on_from_a_captioner_that_exists(tmp_path):
    embeddings = said(4, clip=load_clip(), seed=0).embeddings
    before = torch.get_rng_state()
    first, targets = recipe.new_decoder(embeddings, seed=0)
    assert torch.equal(torch.get_rng_state(), before) and targets.max_tokens == 40
    other, _ = recipe.new_decoder(embeddings, seed=1)
    assert not torch.equal(first.clip_project.model[0].weight, other.clip_project.model[0].weight)
    captioners.save(tmp_path / "tiny", captioners.Captioner(other, targets.tokenizer), card={})
    again, _ = recipe.new_decoder(embeddings, seed=0, start=tmp_path / "tiny")
    for name, values in captioners.load(tmp_path / "tiny").decoder.state_dict().items():
        assert torch.equal(again.state_dict()[name], values), name
