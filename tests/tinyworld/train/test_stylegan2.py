"""The GAN's recipe: one backward pass gives both players their own gradients, and a stopped run goes on."""

import json

import pytest
import torch
import torch.nn.functional as F

from glasslib.generators.stylegan2 import StyleGAN2Generator
from glasslib.tinyworld.train import adversarial, stylegan2


def batch(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = stylegan2.training_pictures(0, n)
    return pictures.float().div(127.5).sub(1), labels


def test_training_pictures_hold_one_named_object():
    pictures, labels = stylegan2.training_pictures(3, 50)
    assert pictures.shape == (50, 3, 32, 32) and pictures.dtype == torch.uint8
    assert labels.shape == (50, 5)
    assert (labels >= 0).all() and (labels < torch.tensor(list(adversarial.HEADS.values()))).all()


def test_one_backward_pass_gives_the_generator_its_own_gradient(monkeypatch):
    real, labels = batch()
    trainer = stylegan2.Trainer(seed=1)
    trainer.step = 1  # no penalty on this step, which would only touch the discriminator
    state, mean_w = trainer.rng.get_state(), trainer.generator.mapping.w_avg.clone()
    for optimizer in (trainer.optimizer, trainer.judges.optimizer):
        monkeypatch.setattr(optimizer, "step", lambda: None)
    trainer.adversarial_step(real, labels)
    ours = {name: p.grad.clone() for name, p in trainer.generator.named_parameters() if p.requires_grad}

    trainer.rng.set_state(state)
    trainer.generator.mapping.w_avg.copy_(mean_w)
    trainer.generator.zero_grad()
    margin = trainer.judges.discriminator(real) - trainer.judges.discriminator(trainer._sample(len(real)))
    F.softplus(margin).mean().backward()
    theirs = dict(trainer.generator.named_parameters())
    assert len(ours) == len(theirs) - 4  # the two layers that are not trained
    for name, gradient in ours.items():
        torch.testing.assert_close(
            gradient, theirs[name].grad, rtol=1e-3, atol=1e-6, msg=lambda m, name=name: f"{name} {m}"
        )


def test_the_mapping_lets_z_through_and_little_but_the_sign_of_its_first_numbers():
    mapping, n = stylegan2.Trainer(seed=0).generator.mapping, stylegan2.N_SIGNS
    z = torch.randn(64, stylegan2.Z_DIM, generator=torch.Generator().manual_seed(0))

    def passed(steepness):
        stylegan2.set_steepness(mapping, steepness)
        both = mapping.fc1(mapping.fc0(z))
        return (both[:, :64] - both[:, 64:]) / (1.2 * 2**0.5)  # as the third layer can join them

    torch.testing.assert_close(passed(0.1), torch.cat([0.1 * z[:, :n], z[:, n:]], dim=1), atol=1e-5, rtol=1e-4)
    clear = z[:, :n].abs() > 0.01
    assert torch.equal(passed(200.0)[:, :n][clear].sign(), z[:, :n][clear].sign())
    torch.testing.assert_close(passed(200.0)[:, :n][clear].abs(), torch.ones(int(clear.sum())), atol=1e-3, rtol=0)
    assert not any(p.requires_grad for layer in (mapping.fc0, mapping.fc1) for p in layer.parameters())
    assert [round(stylegan2.steepness(done), 3) for done in (0, 0.25, 0.5, 1)] == [0.5, 10, 200, 200]


def test_a_stopped_run_ends_as_one_that_never_stopped_and_its_weights_load(tmp_path, monkeypatch):
    monkeypatch.setattr(stylegan2, "N_SCENES", 64)
    monkeypatch.setattr(adversarial, "CHECKPOINT_SECONDS", 0)
    whole = stylegan2.train(tmp_path / "whole", n_images=64, features=None)
    step = stylegan2.Trainer.adversarial_step

    def stop_at_two(self, *arguments):
        if self.step == 2:
            raise KeyboardInterrupt
        step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stylegan2.Trainer, "adversarial_step", stop_at_two)
        stylegan2.train(tmp_path / "stopped", n_images=64, features=None)
    stopped = stylegan2.train(tmp_path / "stopped", n_images=64, features=None)
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, stopped.average.state_dict()[name]), name
    lines = [json.loads(line) for line in (tmp_path / "stopped" / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [16, 32, 48, 64]
    images = StyleGAN2Generator.load(tmp_path / "stopped")(torch.zeros(2, 64))
    assert images.shape == (2, 3, 32, 32)
    assert (tmp_path / "stopped" / "samples.png").stat().st_size > 1000
