import dataclasses

import numpy as np
import pytest
import torch

from glasslib import presets, results
from glasslib.bench import clock
from glasslib.commands import demo
from glasslib.generators.biggan.generator import BigGANGenerator
from glasslib.generators.biggan.networks import GeneratorNetwork
from glasslib.search import loop
from glasslib.tinyworld import captions, scenes


@pytest.fixture(scope="module")
def painter():
    return presets.load("tiny-stylegan2")


@pytest.fixture(scope="module")
def writer():
    return presets.load("tiny-gpt2")


def test_unknown_names_are_refused_with_those_there_are(painter):
    with pytest.raises(ValueError, match="preset must be one of .*tiny-stylegan2.*, got 'tiny-vae'"):
        presets.load("tiny-vae")
    with pytest.raises(ValueError, match="method must be one of .*GA.*, got 'adam'"):
        painter.search("adam", rng=np.random.default_rng(0))


def test_a_budget_of_one_s_own():
    preset = presets.load("tiny-stylegan2", popsize=5, n_generations=7)
    assert (preset.popsize, preset.n_generations) == (5, 7)
    assert preset.search(rng=np.random.default_rng(0)).ask().shape == (5, 64)


def test_a_notebook_takes_tiny_paper_and_configurations_of_its_family():
    assert presets.for_notebook("tiny", "gpt2") == "tiny-gpt2"
    assert presets.for_notebook("paper", "biggan") == "paper-biggan"
    assert presets.for_notebook("StyleGAN2_car_nod", "stylegan2") == "StyleGAN2_car_nod"
    with pytest.raises(ValueError, match="stylegan2 notebook must be one of .*StyleGAN2_church_d.*, got 'GPT2'"):
        presets.for_notebook("GPT2", "stylegan2")


@pytest.fixture
def classy(painter):
    """A preset of a BigGAN of 8 pixels and 7 classes, with random weights."""
    torch.manual_seed(0)
    config = {
        "output_dim": 8, "z_dim": 6, "class_embed_dim": 6, "channel_width": 4, "num_classes": 7,
        "layers": [[False, 16, 2], [True, 2, 1]], "attention_layer_position": 1, "eps": 1e-4, "n_stats": 51,
    }  # fmt: skip
    generator = BigGANGenerator(GeneratorNetwork(**config), config=config, n_active=3, truncation=0.5)
    return dataclasses.replace(painter, generator=generator)


def test_encodings_differ_in_how_much_of_a_class_they_reach(classy):
    x = np.concatenate([np.zeros((7, 6)), np.eye(7)], axis=1)  # one bit set, or one variable: the purest each can do
    masses = {}
    for name in presets.ENCODINGS:
        encoded = classy.encoded(name)
        masses[name] = encoded.generator.classes.weights(np.eye(7)).max()
        assert encoded.search("GA", rng=np.random.default_rng(0), popsize=4).ask().shape == (4, 13)
        drawn = (encoded.generator.latent_space.sample(50, rng=np.random.default_rng(0))[:, 6:] > 0).sum(axis=1).max()
        assert name == "softmax bits" or drawn == {"single class": 1, "sparse mixture": 3}[name]
    assert masses == {"softmax bits": pytest.approx(np.e / (np.e + 6)), "sparse mixture": 1, "single class": 1}
    assert torch.equal(classy.encoded("single class").make(x), classy.encoded("sparse mixture").make(x))
    assert not torch.allclose(classy.encoded("single class").make(x), classy.encoded("softmax bits").make(x))
    assert classy.generator.classes.n_active == 3, "the preset itself stays as it is"


def test_an_encoding_needs_a_name_that_is_there_and_classes(classy, painter):
    with pytest.raises(ValueError, match="one of .*softmax bits.*, of a BigGAN, got 'one hot' of BigGANGenerator"):
        classy.encoded("one hot")
    with pytest.raises(ValueError, match="got 'softmax bits' of StyleGAN2Generator"):
        painter.encoded("softmax bits")


def test_another_truncation_and_other_classes_of_one_network(classy):
    generator = classy.generator
    x = generator.latent_space.sample(4, rng=np.random.default_rng(0))
    made = {"network": generator._network, "config": generator._config, "n_active": 1}
    expected = BigGANGenerator(**made, truncation=0.9)(x)
    assert torch.equal(generator.truncated(0.9).with_classes(n_active=1)(x), expected)
    assert not torch.equal(generator(x), expected)
    with pytest.raises(ValueError, match="truncation must be above 0 and at most 1, got 2"):
        generator.truncated(2)
    with pytest.raises(ValueError, match="n_active must be at most n_classes=7, got 8"):
        generator.with_classes(n_active=8)


def test_weights_are_named_by_hash(painter):
    assert {path.split("/")[0] for path in painter.weights} == {"clip", "judge", "stylegan2"}
    assert all(len(digest) == 64 for digest in painter.weights.values())


def test_the_paper_s_presets_go_by_the_notebooks_names():
    assert {"tiny-stylegan2", "tiny-gpt2", "GPT2", "paper-stylegan2", "paper-biggan", "paper-gpt2"} <= set(
        presets.names()
    )
    with pytest.raises(FileNotFoundError, match="make weights PRESET=StyleGAN2_ffhq_d "):
        presets.load("paper-stylegan2", weights="nowhere")


def test_the_judge_is_another_clip_loaded_once(painter):
    assert painter.judge is painter.judge and painter.judge is not painter.embedder
    text = ["a red star"]
    assert not torch.equal(painter.judge.embed_texts(text), painter.embedder.embed_texts(text))


def test_scores_are_clips_cosines_of_what_is_made(painter):
    x = painter.generator.latent_space.sample(5, rng=np.random.default_rng(0))
    pictures = painter.make(x)
    expected = painter.embedder.embed_images(pictures) @ painter.embedder.embed_texts(["a red star"])[0]
    torch.testing.assert_close(painter.scores("a red star")(x), expected, atol=1e-5, rtol=0)


def test_a_search_towards_a_caption_beats_where_it_began(painter):
    search = painter.search("GA", rng=np.random.default_rng(0))
    result = loop.run(search, painter.scores("a yellow ring on the left"), n_generations=15, progress=False)
    assert result.history[-1]["best"] > result.history[0]["best"]


def test_a_search_towards_a_picture_writes_captions(writer):
    world = scenes.sample(1, rng=np.random.default_rng(1), n_objects=(1, 1))
    picture = scenes.render(world, rng=torch.Generator().manual_seed(0))[0]
    search = writer.search("GA", rng=np.random.default_rng(0), popsize=24)
    result = loop.run(search, writer.scores(picture), n_generations=5, progress=False)
    text = writer.make(result.best.x)[0]
    assert text.startswith("the picture of") and captions.parses(text)


def test_many_captions_are_each_scored_as_alone(painter):
    texts = ["a red star", "a green heart at the top", "a yellow ring on the left"]
    x, owner = painter.generator.latent_space.sample(9, rng=np.random.default_rng(0)), np.repeat([2, 0, 1], 3)
    scores = painter.scores_many(texts)(x, owner)
    alone = torch.stack([painter.scores(texts[k])(x[i : i + 1])[0] for i, k in enumerate(owner)])
    torch.testing.assert_close(scores, alone, rtol=0, atol=2e-6)
    assert scores.unique().numel() == 9


def test_many_pictures_are_each_scored_as_alone(writer):
    world = scenes.sample(2, rng=np.random.default_rng(1))
    pictures = scenes.render(world, rng=torch.Generator().manual_seed(0))
    x, owner = writer.generator.latent_space.sample(6, rng=np.random.default_rng(0)), np.array([1, 0, 1, 0, 1, 0])
    scores = writer.scores_many(pictures)(x, owner)
    for k in (0, 1):
        torch.testing.assert_close(scores[owner == k], writer.scores(pictures[k])(x[owner == k]), rtol=0, atol=2e-6)


def test_in_the_faithful_arm_a_sentence_too_long_costs_its_own_population_alone(writer, monkeypatch):
    faithful = dataclasses.replace(writer, arm="faithful")
    pictures = scenes.render(scenes.sample(2, rng=np.random.default_rng(1)), rng=torch.Generator().manual_seed(0))
    long = "the picture of a star " * 30
    monkeypatch.setattr(presets.Preset, "make", lambda self, x: ["a star", long, "a star", "a heart"])
    scores = faithful.scores_many(pictures)(np.zeros((4, 8)), np.array([0, 0, 1, 1]))
    assert scores[:2].tolist() == [0, 0] and (scores[2:] != 0).all()


def test_a_long_caption_is_refused_or_cut(painter):
    long = "a red star on the left " * 20
    with pytest.raises(ValueError, match="texts exceed CLIP's"):
        painter.scores_many(["a red star", long])
    x = painter.generator.latent_space.sample(1, rng=np.random.default_rng(0))
    assert painter.scores_many([long], truncate=True)(x, np.array([0])).shape == (1,)


def test_realism_is_maximised_where_the_method_has_two_objectives(painter):
    x = painter.generator.latent_space.sample(3, rng=np.random.default_rng(0))
    both = painter.objectives("a red star", "NSGA-II")(x)
    assert both.shape == (3, 2) and (both[:, 1] <= 0).all()
    assert torch.equal(both[:, 0], painter.objectives("a red star")(x))


def test_tokens_are_refused_by_cma_es_with_a_way_out(writer):
    with pytest.raises(ValueError, match="GeneticSearch"):
        writer.search("CMA-ES", rng=np.random.default_rng(0))


def test_the_demo_writes_a_picture_and_a_card_that_replays(tmp_path, capsys):
    first, again = (demo.caption_to_picture("a green heart", tmp_path / name, n_generations=3) for name in "ab")
    assert first.read_bytes() == again.read_bytes()
    cards = [results.ResultCard.read(path.with_suffix(".json")) for path in (first, again)]
    assert results.same(*cards) and cards[0].target == "a green heart" and cards[0].judge_score is not None
    assert "the oracle sees" in capsys.readouterr().out


def test_the_demo_says_what_is_wrong_with_a_word(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["demo", "--target", "a redd star"])
    assert demo.main() == 2
    assert "'redd'" in capsys.readouterr().err


def test_the_demo_says_what_is_wrong_with_a_picture(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["demo", "--image", str(tmp_path / "none.png")])
    assert demo.main() == 2
    assert "none.png" in capsys.readouterr().err


def test_scored_at_half_the_size_the_winner_is_made_whole():
    small = presets.load("tiny-stylegan2", render_size=16)
    x = small.generator.latent_space.sample(2, rng=np.random.default_rng(0))
    assert small.make(x).shape == (2, 3, 16, 16) and small.generator.at_full_size()(x).shape == (2, 3, 32, 32)
    with pytest.raises(RuntimeError, match="realism needs pictures of 32 pixels"):
        small.objectives("a red star", "NSGA-II")(x)
    with pytest.raises(ValueError, match="render_size is for a StyleGAN2, got 16 with 'tiny-biggan'"):
        presets.load("tiny-biggan", render_size=16)
    with pytest.raises(ValueError, match="the faithful arm runs as published, without {'render_size': 256}"):
        presets.load("StyleGAN2_car_nod", "faithful", weights="random", render_size=256)


def test_sizes_at_a_scale():
    assert presets.at_scale("full", {"quick": 2, "full": 5}, 7, None, {"quick": 1, "full": None}) == [5, 7, None, None]
    with pytest.raises(ValueError, match="scale must be 'quick' or 'full', got 'ful'"):
        presets.at_scale("ful", 3)


def test_overhead_is_a_share():
    assert 0 < clock.overhead(n_generations=15)["value"] < 1
