"""The GAN's recipe: one backward pass gives both players their own gradients, and a stopped run goes on."""

import json

import pytest
import torch
import torch.nn.functional as F

from glasslib.generators.stylegan2.generator import StyleGAN2Generator
from glasslib.tinyworld.recipes import adversarial, encoder, stylegan2


def batch(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = stylegan2.training_pictures(0, n)
    return pictures.float().div(127.5).sub(1), labels


def test_training_pictures_hold_one_named_object():
    pictures, labels = stylegan2.training_pictures(3, 50)
    assert pictures.shape == (50, 3, 32, 32) and pictures.dtype == torch.uint8
    assert labels.shape == (50, 5)
    assert (labels >= 0).all() and (labels < torch.tensor(list(adversarial.HEADS.values()))).all()


def test_one_backward_pass_gives_the_generator_and_the_encoder_their_own_gradients(monkeypatch):
    real, labels = batch()
    trainer = stylegan2.Trainer(seed=1)
    trainer.step, trainer.heard = 1, 0.5  # no penalty on this step, which would only touch the discriminator
    state, mean_w = trainer.rng.get_state(), trainer.generator.mapping.w_avg.clone()
    for optimizer in (trainer.optimizer, trainer.judges.optimizer):
        monkeypatch.setattr(optimizer, "step", lambda: None)
    trainer.adversarial_step(real, labels)
    players = [*trainer.generator.named_parameters(), *trainer.encoder.named_parameters()]
    players = [(name, parameter) for name, parameter in players if parameter.requires_grad]
    ours = [parameter.grad.clone() for _, parameter in players]

    trainer.rng.set_state(state)
    trainer.generator.mapping.w_avg.copy_(mean_w)
    trainer.generator.zero_grad(), trainer.encoder.zero_grad()
    z, cost = encoder.encode(trainer.encoder, real[:2], rng=trainer.rng)
    made = trainer._draw(torch.cat([trainer._map(z), trainer._random_w(4)]))
    margin = trainer.judges.discriminator(real) - trainer.judges.discriminator(made[2:])
    again = (made[:2] - real[:2]).abs().mean()
    (0.5 * F.softplus(margin).mean() + 4 * again + 0.004 * cost).backward()
    assert len(players) == len(ours)
    largest = max(float(parameter.grad.abs().max()) for _, parameter in players)
    for (name, parameter), gradient in zip(players, ours, strict=True):
        torch.testing.assert_close(
            gradient, parameter.grad, rtol=1e-2, atol=1e-4 * largest, msg=lambda m, name=name: f"{name} {m}"
        )


def test_the_judges_join_step_by_step():
    trainer = stylegan2.Trainer(seed=0)
    seen = []
    for done in (0.0, 0.16, 0.18, 0.2, 1.0):
        trainer.set_progress(done)
        seen.append(trainer.heard)
    assert seen == pytest.approx([0, 0, 0.5, 1, 1])
    real, labels = batch()
    trainer.heard = 0.0
    before = [parameter.clone() for parameter in trainer.judges.discriminator.parameters()]
    trainer.adversarial_step(real, labels)
    after = list(trainer.judges.discriminator.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_w_is_the_mappings_and_its_slope_that_of_a_smooth_one(monkeypatch):
    trainer = stylegan2.Trainer(seed=0)
    mapping = trainer.generator.mapping
    stylegan2.set_steepness(mapping, 200.0)
    z = torch.randn(8, stylegan2.Z_DIM, generator=torch.Generator().manual_seed(0), requires_grad=True)
    torch.testing.assert_close(trainer._map(z), mapping(z))
    monkeypatch.setattr(stylegan2, "normalize_second_moment", lambda z: z)  # it mixes the slopes of all numbers of z
    (slope,) = torch.autograd.grad(trainer._map(z).square().sum(), z)
    signs, rest = slope.abs().split([stylegan2.N_SIGNS, stylegan2.Z_DIM - stylegan2.N_SIGNS], dim=1)
    assert signs.median() > 0.1 * rest.median()
    (steep,) = torch.autograd.grad(mapping.fc1(mapping.fc0(z)).square().sum(), z)
    assert steep[:, : stylegan2.N_SIGNS].abs().median() < 1e-3 * steep[:, stylegan2.N_SIGNS :].abs().median()


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
