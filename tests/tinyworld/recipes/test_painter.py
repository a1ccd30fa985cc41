"""The painter's recipes: what they learn from, and that a stopped training goes on as if it had not stopped."""

import numpy as np
import pytest
import torch

from glasslib.tinyworld import two_things
from glasslib.tinyworld.recipes import painter, painter_fast, painter_text, painter_vae


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder with an autoencoder and a text encoder of random weights."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    painter_vae.new_autoencoder().save_pretrained(folder / "painter_vae" / "vae")
    tokenizer = painter_text.new_tokenizer()
    painter_text.new_text_encoder(tokenizer).save_pretrained(folder / "painter_text" / "text_encoder")
    tokenizer.save_pretrained(folder / "painter_text" / "tokenizer")
    return folder


@pytest.fixture
def small(monkeypatch):
    """Little data, little networks, and no evaluation."""
    monkeypatch.setattr(painter, "N_SCENES", 50)
    monkeypatch.setattr(painter, "WIDTHS", (16, 16))
    monkeypatch.setattr(painter, "BATCH_SIZE", 4)
    monkeypatch.setattr(painter, "CARELESS_FROM", 2)
    monkeypatch.setattr(painter, "evaluate", lambda *_: {})


def test_the_tokenizer_frames_and_pads_as_clips_do():
    tokenizer = painter_text.new_tokenizer()
    ids = painter_text.token_ids(tokenizer, ["a red star", ""])
    assert ids.shape == (2, 22)
    words = tokenizer.convert_ids_to_tokens(ids[0])
    assert words[:5] == ["<|startoftext|>", "a", "red", "star", "<|endoftext|>"] and set(words[5:]) == {words[4]}
    assert ids[1].tolist() == [0] + [1] * 21


def test_layout_says_what_stands_where():
    world = two_things.sample(40, rng=np.random.default_rng(0))
    seen = painter_text.layout(world)
    for row in range(40):
        for slot in (0, 1):
            place = world.place[row, slot]
            assert seen[row, place] == world.colour[row, slot] + 1
            assert seen[row, 4 + place] == world.shape[row, slot] + 1
    assert ((seen[:, :4] > 0).sum(1) == 2).all()


def test_flow_loss_is_that_of_the_velocity_from_noise_to_picture():
    clean, noise = torch.zeros(2, 8, 8, 8), torch.ones(2, 8, 8, 8)
    seen = {}

    class Unet(torch.nn.Module):
        def forward(self, x, time, states):
            seen.update(x=x, time=time)
            return type("Out", (), {"sample": torch.full_like(x, 3.0)})

    loss = painter.flow_loss(Unet(), clean, noise, torch.zeros(2, 3, 4), torch.tensor([0.25, 1.0]))
    assert float(loss) == 4.0  # (3 - (1 - 0))**2
    assert seen["time"].tolist() == [250.0, 1000.0]
    assert seen["x"][0].unique().tolist() == [0.25] and seen["x"][1].unique().tolist() == [1.0]


def test_captions_are_careless_only_when_asked(parts):
    _, text_encoder, tokenizer = painter.load_parts(parts)
    world, rows = two_things.sample(64, rng=np.random.default_rng(0)), torch.arange(64)
    captions = painter.Captions(world, text_encoder, tokenizer)
    right = captions.states(rows, np.random.default_rng(1), careless=False, empty=0.0)
    wanted = captions.encode(two_things.describe(world, rng=np.random.default_rng(1)))
    assert torch.equal(right, wanted) and right.shape == (64, 22, 64)
    careless = captions.states(rows, np.random.default_rng(1), careless=True, empty=0.0)
    assert not torch.equal(careless, right)
    silent = captions.states(rows, np.random.default_rng(1), careless=True, empty=1.0)
    torch.testing.assert_close(silent, captions.encode([""]).expand_as(silent))


def test_a_stopped_training_resumes_exactly(parts, small, tmp_path, monkeypatch):
    saves = painter.Session.save

    def stop_after_two(session, step, **log):
        saves(session, step, **log)
        if step == 2:
            raise KeyboardInterrupt

    def train(folder):
        return painter.train(folder, parts=parts, n_images=16, seed=1)[0].state_dict()

    monkeypatch.setattr(painter, "SAVE_EVERY", 2)
    whole = train(tmp_path / "whole")
    monkeypatch.setattr(painter.Session, "save", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "stopped")
    monkeypatch.setattr(painter.Session, "save", saves)
    resumed = train(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    average, step = painter.load_average(tmp_path / "stopped", 64)
    assert step == 4 and torch.equal(average.state_dict()["conv_in.weight"], whole["conv_in.weight"])


def test_the_student_learns_the_way_from_noise_to_the_teachers_picture(parts, small, tmp_path, monkeypatch):
    monkeypatch.setattr(painter_fast, "CHUNK", 6)
    monkeypatch.setattr(painter_fast, "BATCH_SIZE", 4)
    monkeypatch.setattr(painter_fast, "N_STEPS", 2)
    torch.manual_seed(0)
    teacher = painter.new_unet(64).eval()
    options = {"teacher": teacher, "parts": parts, "n_pairs": 12, "n_images": 8, "seed": 3}
    student, session = painter_fast.train(tmp_path, **options)
    noise, latents, ids = painter_fast.read_pairs(tmp_path)
    assert noise.shape == latents.shape == (12, 8, 8, 8) and ids.shape == (12, 22) and session.step == 2
    _, text_encoder, _ = painter.load_parts(parts)
    states = text_encoder(ids[:2]).last_hidden_state
    empty = torch.zeros(1, 22, 64)
    drawn = painter_fast.draw(teacher, noise[:2], states, empty, n_steps=2, guidance=1.0)
    with torch.no_grad():  # two steps by hand
        half = noise[:2] - teacher(noise[:2], torch.full((2,), 1000.0), states).sample / 2
        wanted = half - teacher(half, torch.full((2,), 500.0), states).sample / 2
    torch.testing.assert_close(drawn, wanted)
    assert any((a != b).any() for a, b in zip(student.parameters(), teacher.parameters(), strict=True))


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no painter_vae/vae under .*recipes.painter_vae --out"):
        painter.load_parts(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*recipes.painter --out"):
        painter.load_average(tmp_path, 64)
