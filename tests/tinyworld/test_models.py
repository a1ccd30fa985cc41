"""The shipped models, through the loaders that real ones use."""

import json

import numpy as np
import pytest
import torch
from PIL import Image  # noqa: F401  (Pillow must import: open_clip's transforms need it)

from glasslib import results
from glasslib.generators.diffusion import DiffusionGenerator
from glasslib.tinyworld import (
    captions,
    models,
    oracle,
    scenes,
    tokenizer,
    two_oracle,
    two_things,
    wording,
    zeroshot,
)
from glasslib.tinyworld.models import WEIGHTS
from glasslib.tinyworld.recipes import two_clip

CARDS = sorted(WEIGHTS.glob("*/card.json"))


@pytest.fixture(scope="module")
def world():
    return scenes.sample(300, rng=np.random.default_rng(99), n_objects=(1, 1))


@pytest.fixture(scope="module")
def pictures(world):
    return scenes.render(world, rng=torch.Generator().manual_seed(99))


def test_every_model_is_there_with_its_card():
    names = [card.parent.name for card in CARDS]
    assert names == [
        "biggan",
        "captioner",
        "clip",
        "gpt2",
        "judge",
        "oracle",
        "painter",
        "stylegan2",
        "two_hard",
        "two_oracle",
    ]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_cards_name_the_files_they_describe(card):
    content = json.loads(card.read_text())
    assert {"recipe", "seed", "steps", "data", "wall_time_s", "held_out", "sha256"} <= set(content)
    weights = sorted(card.parent.rglob("*.safetensors"))
    hashes = {file.relative_to(card.parent).as_posix(): results.sha256_file(file) for file in weights}
    assert weights and content["sha256"] == hashes


def test_no_file_beside_the_weights_names_a_path_of_the_machine_that_trained_them():
    assert not [file for file in WEIGHTS.rglob("*.json") if '"/' in file.read_text()]


def test_all_weights_together_stay_small():
    assert sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file()) <= 60e6


def test_every_word_is_one_token_and_the_file_is_what_the_recipe_writes(tmp_path):
    tokenize = models.clip_tokenizer()
    assert all(len(tokenize.encode(word)) == 1 for word in wording.vocabulary())
    tokenizer.write_bpe(tmp_path / "bpe.txt.gz")
    assert (tmp_path / "bpe.txt.gz").read_bytes() == (WEIGHTS / "clip" / "bpe.txt.gz").read_bytes()


@pytest.mark.parametrize("load", [models.load_clip, models.load_judge])
def test_both_clips_see_the_attributes(load, world, pictures):
    embedder = load()
    hits = zeroshot.correct(embedder, embedder.embed_images(pictures), world)
    assert hits["colour"].mean() > 0.9 and hits["shape"].mean() > 0.8
    assert hits["place"].mean() > 0.8 and hits["background"].mean() > 0.9


def test_clip_and_judge_are_different_architectures():
    """Another depth and another width: no convolution of the judge's has a shape of the CLIP's at its place."""
    clip, judge = (load()._model.visual.state_dict() for load in (models.load_clip, models.load_judge))
    kernels = {name: value.shape for name, value in judge.items() if value.ndim == 4}
    assert not any(name in clip and clip[name].shape == shape for name, shape in kernels.items())
    assert len(kernels) > sum(value.ndim == 4 for value in clip.values())


def test_the_oracle_of_two_things_reads_held_out_renders():
    world = two_things.sample(300, rng=np.random.default_rng(98), held_out=None)
    pictures = scenes.render(world, rng=torch.Generator().manual_seed(98), size=32)
    layout = two_oracle.load(WEIGHTS / "two_oracle")(pictures)
    assert all(hit.mean() >= 0.98 for hit in layout.agrees(two_things.facts(world)).values())
    alone = scenes.sample(100, rng=np.random.default_rng(98), n_objects=(1, 1), textures=("plain",), sizes=("medium",))
    layout = two_oracle.load(WEIGHTS / "two_oracle")(
        scenes.render(alone, rng=torch.Generator().manual_seed(98), size=32)
    )
    assert layout.is_two.mean() < 0.05


def test_the_scorer_of_hard_twins_knows_binding_and_relation_and_the_tiny_clip_does_not():
    knows = {name: two_clip.knows(embedder, n=200, seed=96) for name, embedder in (
        ("hard", models.load_two_clip("hard")), ("tiny", models.load_clip()))}  # fmt: skip
    assert min(knows["hard"][aspect] for aspect in ("binding", "shapes", "relation")) >= 0.95
    assert knows["tiny"]["binding"] < 0.8
    with pytest.raises(ValueError, match="kind must be one of .*got 'soft'"):
        models.load_two_clip("soft")


def test_the_painter_draws_some_of_what_is_asked_and_listens():
    """Far above chance, which is below 0.001, and far below what would leave nothing to search for."""
    pipeline, rng = models.load_painter(), np.random.default_rng(97)
    world = two_things.sample(12, rng=rng)
    hits = []
    for prompt in two_things.describe(world, rng=rng):
        generator = DiffusionGenerator(pipeline, prompt, n_steps=2, guidance=2.5)
        with torch.inference_mode():
            pictures = generator(generator.latent_space.sample(8, rng=rng))
        seen = two_oracle.load(WEIGHTS / "two_oracle")(pictures)
        hits.append(seen.agrees([two_things.parse(prompt)] * 8)["all"])
    assert 0.08 < np.mean(hits) < 0.6


def test_zero_shot_needs_scenes_of_one_object(pictures):
    crowd = scenes.sample(5, rng=np.random.default_rng(0), n_objects=(2, 2))
    embedder = models.load_clip()
    with pytest.raises(ValueError, match="one object each, got 5"):
        zeroshot.correct(embedder, embedder.embed_images(pictures[:5]), crowd)


def test_the_oracle_reads_held_out_renders(world, pictures):
    reading = oracle.load(WEIGHTS / "oracle")(pictures)
    for name in ("shape", "colour", "place", "background"):
        truth = getattr(world, name)
        assert (reading.values[name] == (truth[:, 0] if truth.ndim == 2 else truth)).mean() > 0.95
        assert ((reading.confidence[name] > 0) & (reading.confidence[name] <= 1)).all()


def test_the_oracle_reads_large_pictures_and_refuses_small_ones(world):
    read = oracle.load(WEIGHTS / "oracle")
    noise = torch.Generator().manual_seed(0)
    large = read(scenes.render(world[:40], rng=noise, size=128)).values["colour"]
    assert (large == world.colour[:40, 0]).mean() > 0.9
    with pytest.raises(ValueError, match="at least 32 pixels"):
        read(torch.zeros(1, 3, 16, 16))


def test_readings_agree_with_captions():
    reading = oracle.Reading({"colour": np.array([0, 1])}, {"colour": np.array([0.9, 0.9])})
    facts = [captions.parse("a red star"), captions.parse("a red star")]
    assert reading.agrees(facts, "colour").tolist() == [True, False]
    with pytest.raises(ValueError, match="1 silent of 2"):
        reading.agrees([facts[0], captions.parse("a star")], "colour")
