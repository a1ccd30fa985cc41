"""The GAN's recipe: one backward pass gives both players their own gradients, and a stopped run goes on."""

import json

import pytest
import torch
import torch.nn.functional as F

from glasslib.generators.stylegan2 import StyleGAN2Generator
from glasslib.tinyworld.train import stylegan2


def batch(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = stylegan2.training_pictures(0, n)
    return pictures.float().div(127.5).sub(1), labels


def test_training_pictures_hold_one_named_object():
    pictures, labels = stylegan2.training_pictures(3, 50)
    assert pictures.shape == (50, 3, 32, 32) and pictures.dtype == torch.uint8
    assert labels.shape == (50, 5)
    assert (labels >= 0).all() and (labels < torch.tensor(list(stylegan2.HEADS.values()))).all()


def test_one_backward_pass_gives_the_generator_its_own_gradient(monkeypatch):
    real, labels = batch()
    trainer = stylegan2.Trainer(seed=1)
    trainer.step = 1  # no penalty on this step, which would only touch the discriminator
    state = trainer.rng.get_state()
    for optimizer in trainer.optimizers:
        monkeypatch.setattr(optimizer, "step", lambda: None)
    trainer.adversarial_step(real, labels)
    ours = [parameter.grad.clone() for parameter in trainer.generator.parameters()]

    trainer.rng.set_state(state)
    trainer.generator.zero_grad()
    margin = trainer.discriminator(real) - trainer.discriminator(trainer._sample(len(real)))
    F.softplus(margin).mean().backward()
    for (name, parameter), gradient in zip(trainer.generator.named_parameters(), ours, strict=True):
        torch.testing.assert_close(
            gradient, parameter.grad, rtol=1e-3, atol=1e-6, msg=lambda m, name=name: f"{name} {m}"
        )


def test_learning_rates_end_at_a_tenth():
    trainer = stylegan2.Trainer(seed=0)
    rates = []
    for done in (0.0, 0.6, 0.8, 1.0):
        trainer.slow_down(done)
        rates.append(trainer.optimizers[0].param_groups[0]["lr"] / stylegan2.LEARNING_RATE)
    assert rates == pytest.approx([1.0, 1.0, 0.55, 0.1])


def test_a_stopped_run_goes_on_and_its_weights_load(tmp_path, monkeypatch):
    monkeypatch.setattr(stylegan2, "N_SCENES", 64)
    stylegan2.train(tmp_path, minutes=0.001, features=None)
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    stylegan2.train(tmp_path, minutes=first["seconds"] / 60 + 0.01, features=None)
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["images"] > first["images"] > 0 and last["seconds"] > first["seconds"] + 0.5
    images = StyleGAN2Generator.load(tmp_path)(torch.zeros(2, 64))
    assert images.shape == (2, 3, 32, 32)
    assert (tmp_path / "samples.png").stat().st_size > 1000
