"""BigGAN's recipe: both players get their own gradients, statistics fit each truncation, a stopped run goes on."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from glasslib.generators.biggan.generator import BigGANGenerator
from glasslib.generators.biggan.networks import fold_spectral_norm
from glasslib.tinyworld.oracle import OracleNetwork
from glasslib.tinyworld.recipes import adversarial, biggan
from glasslib.tinyworld.recipes.projected import ProjectedDiscriminator


def batch(n: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = biggan.training_pictures(0, n)
    return pictures.float().div(127.5).sub(1), labels


def test_one_backward_pass_gives_the_generator_and_the_encoder_their_own_gradients(monkeypatch):
    real, labels = batch()
    trainer = biggan.Trainer(seed=1)
    trainer.step, trainer.judged = 1, True  # no penalty on this step, which would only touch the discriminator
    before = {name: buffer.clone() for name, buffer in trainer.generator.named_buffers()}
    state = trainer.rng.get_state()
    for optimizer in (trainer.optimizer, trainer.judges.optimizer):
        monkeypatch.setattr(optimizer, "step", lambda: None)
    trainer.adversarial_step(real, labels)
    players = [*trainer.generator.named_parameters(), *trainer.encoder.named_parameters()]
    ours = [parameter.grad.clone() for _, parameter in players]

    trainer.rng.set_state(state)
    trainer.generator.load_state_dict(before, strict=False)  # the spectral norms' vectors
    trainer.generator.zero_grad(), trainer.encoder.zero_grad()
    vectors = biggan.one_hot(labels[:, 0])
    mean, log_variance = trainer.encoder(real).split(biggan.Z_DIM, dim=1)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    z = mean + posterior.stddev * torch.randn(mean.shape, generator=trainer.rng)
    cost = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(dim=1).mean()
    both = torch.cat([z, biggan.draw_z(len(real), rng=trainer.rng)])
    again, fake = trainer.generator(both, vectors.repeat(2, 1)).chunk(2)
    margin = trainer.judges.discriminator(real, vectors) - trainer.judges.discriminator(fake, vectors)
    (F.softplus(margin).mean() + 4 * (again - real).abs().mean() + 0.004 * cost).backward()
    largest = max(float(parameter.grad.abs().max()) for _, parameter in players)
    for (name, parameter), gradient in zip(players, ours, strict=True):
        torch.testing.assert_close(
            gradient, parameter.grad, rtol=1e-2, atol=1e-4 * largest, msg=lambda m, name=name: f"{name} {m}"
        )


def test_the_judges_join_after_a_quarter_of_the_run():
    trainer = biggan.Trainer(seed=0)
    seen = []
    for done in (0.0, 0.2, 0.3, 1.0):
        trainer.set_progress(done)
        seen.append(trainer.judged)
    assert seen == [False, False, True, True]
    real, labels = batch(4)
    before = [parameter.clone() for parameter in trainer.judges.discriminator.parameters()]
    trainer.judged = False
    trainer.adversarial_step(real, labels)
    after = list(trainer.judges.discriminator.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_second_discriminator_judges_a_picture_as_one_of_its_class(tmp_path):
    torch.manual_seed(0)
    save_file(OracleNetwork().state_dict(), tmp_path / "model.safetensors")
    projected = ProjectedDiscriminator(tmp_path / "model.safetensors", n_classes=8)
    pictures, labels = biggan.training_pictures(0, 8)
    kept = projected.prepare(pictures)
    maps = [each.float() for each in kept]
    whole = torch.stack(
        [head(x * s) for head, x, s in zip(projected.heads.eval(), maps, projected._scales, strict=True)]
    )
    wanted = whole[:, torch.arange(8), labels[:, 0]]
    torch.testing.assert_close(projected._logits(maps, labels[:, 0]), wanted)
    assert not torch.allclose(wanted, whole[:, :, 0])
    pull, _ = projected.step(kept, torch.rand(8, 3, 32, 32) * 2 - 1, labels[:, 0])
    assert (pull.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_the_distance_of_features_is_zero_for_the_same_picture_alone(tmp_path):
    torch.manual_seed(0)
    save_file(OracleNetwork().state_dict(), tmp_path / "model.safetensors")
    projected = ProjectedDiscriminator(tmp_path / "model.safetensors")
    pictures = biggan.training_pictures(0, 8)[0]
    kept, same = projected.prepare(pictures), pictures.float() / 127.5 - 1
    assert projected.distance(same, kept) < 1e-4  # kept in half precision
    assert projected.distance(same.flip(0), kept) > 0.1


def test_z_stays_in_the_box_that_search_stays_in():
    z = biggan.draw_z(2000, rng=torch.Generator().manual_seed(0))
    assert 1.99 < z.abs().max() <= 2
    assert float(z.std()) == pytest.approx(0.8796, abs=0.01)  # of a normal cut at two standard deviations


def test_standing_statistics_are_those_of_pictures_at_each_truncation(monkeypatch):
    monkeypatch.setitem(biggan.CONFIG, "n_stats", 3)
    monkeypatch.setattr(biggan, "STANDING_PICTURES", 128)
    monkeypatch.setattr(biggan, "STANDING_PASSES", 2)
    torch.manual_seed(0)
    network = biggan.new_generator()
    biggan.standing_statistics(network, rng=torch.Generator().manual_seed(0))
    assert not network.training
    first = network.generator.layers[0].bn_0
    spread = first.running_vars.mean(dim=1)
    assert spread[2] > spread[1] > spread[0] > 0  # at 0 only the classes differ
    classes = biggan.one_hot(torch.arange(128) % 8)
    for truncation in (1.0, 0.5):
        z = biggan.draw_z(128, rng=torch.Generator().manual_seed(5)) * truncation
        with torch.no_grad():
            stored = network.eval()(z, classes, truncation)
            other = network(z, classes, 1.5 - truncation)
            own = network.train()(z, classes)
        assert (stored - own).abs().mean() < 0.25 * own.std()
        assert (other - own).abs().mean() > 1.5 * (stored - own).abs().mean()


def test_learning_rates_end_at_a_tenth():
    trainer = biggan.Trainer(seed=0)
    seen = []
    for done in (0.0, 0.6, 0.8, 1.0):
        trainer.set_progress(done)
        groups = trainer.optimizer.param_groups + trainer.judges.optimizer.param_groups
        seen.append([group["lr"] for group in groups])
    for factor, rates in zip((1.0, 1.0, 0.55, 0.1), seen, strict=True):
        assert rates == pytest.approx([rate * factor for rate in (5e-4, 1e-3, 2e-3, 1e-3)])


def test_slope_penalty_of_a_linear_judge():
    weight = torch.full((3, 2, 2), 0.5)
    r1, r2 = adversarial.slope_penalty(lambda x: (x * weight).sum(dim=(1, 2, 3)), torch.randn(4, 3, 2, 2))
    assert (r1.item(), r2.item()) == (3.0, 3.0)  # twelve weights of 0.5, squared
    r1, r2 = adversarial.slope_penalty(lambda x: (x[:, 0] ** 2).sum(dim=(1, 2)) / 2, torch.ones(4, 3, 2, 2))
    assert (r1.item(), r2.item()) == (4.0, 4.0)


def test_the_grid_goes_row_by_row(tmp_path):
    from PIL import Image

    pictures = torch.arange(6.0)[:, None, None, None].expand(6, 3, 2, 2) / 10
    adversarial.write_grid(pictures, tmp_path / "grid.png", columns=3)
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert pixels.shape == (8, 12, 3)
    assert pixels[::4, ::4, 0].tolist() == [[0, 26, 51], [76, 102, 128]]


def test_a_stopped_run_goes_on_and_its_weights_load(tmp_path, monkeypatch):
    monkeypatch.setattr(biggan, "N_SCENES", 64)
    monkeypatch.setitem(biggan.CONFIG, "n_stats", 5)
    monkeypatch.setattr(biggan, "STANDING_PICTURES", 32)
    biggan.train(tmp_path, n_images=32, features=None)
    trainer = biggan.train(tmp_path, n_images=64, features=None)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == [32, 64] and lines[1]["seconds"] > lines[0]["seconds"]
    assert (tmp_path / "samples.png").stat().st_size > 1000
    biggan.export(trainer, tmp_path / "weights", recipe="a test", seed=0)
    card = json.loads((tmp_path / "weights" / "card.json").read_text())
    assert set(card["held_out"]) == {"recognisable_truncation_1", "recognisable_truncation_0.5"}
    generator = BigGANGenerator.load(tmp_path / "weights", truncation=0.5)
    z, classes = biggan.draw_z(4, rng=torch.Generator().manual_seed(0)), biggan.one_hot(torch.arange(4))
    with torch.no_grad():
        wanted = trainer.average.eval()(z * 0.5, classes, 0.5).add(1).div(2)
    torch.testing.assert_close(generator(torch.cat([z, classes], dim=1)), wanted, rtol=1e-3, atol=1e-4)


def test_the_shipped_weights_fit_in_three_megabytes():
    weights = fold_spectral_norm(biggan.new_generator().state_dict())
    assert sum(value.numel() for value in weights.values()) * 4 <= 3e6
