"""The GAN's recipe: one backward pass gives both players their own gradients, and a stopped run goes on."""

import json

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
    state, mean_w = trainer.rng.get_state(), trainer.generator.mapping.w_avg.clone()
    for optimizer in trainer.optimizers:
        monkeypatch.setattr(optimizer, "step", lambda: None)
    trainer.adversarial_step(real, labels)
    ours = {name: p.grad.clone() for name, p in trainer.generator.named_parameters() if p.requires_grad}

    trainer.rng.set_state(state)
    trainer.generator.mapping.w_avg.copy_(mean_w)
    trainer.generator.zero_grad()
    margin = trainer.discriminator(real) - trainer.discriminator(trainer._sample(len(real)))
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
