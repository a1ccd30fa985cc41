"""The inside of a training run: which rows each step reads, what is random in it, and that the shown loop is it."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glasslib.captioning import noise, training
from glasslib.captioning.targets import Targets
from glasslib.captioning.trainer import Settings, Trainer

SETTINGS = Settings(n_epochs=2, batch_size=4, learning_rate=3e-3, warmup_steps=2)
ADD = functools.partial(noise.add_gaussian_noise, noise_std=0.1)
DATA = training.Pairs(
    F.normalize(torch.randn(10, 8, generator=torch.Generator().manual_seed(0)), dim=1),
    ["a red star", "a blue ring"] * 5,
)


@pytest.fixture
def fresh(make_decoder):
    return lambda seed=7, **options: Trainer(
        make_decoder(dropout=0.1), settings=SETTINGS, n_rows=10, seed=seed, **options
    )


def test_every_epoch_reads_all_rows_in_an_order_of_its_own(fresh):
    trainer = fresh()
    batches = list(trainer.batches())
    assert [len(rows) for rows in batches] == [4, 4, 2, 4, 4, 2] and trainer.n_steps == 6
    first, second = np.concatenate(batches[:3]), np.concatenate(batches[3:])
    assert sorted(first) == sorted(second) == list(range(10)) and first.tolist() != second.tolist()
    assert np.concatenate(list(fresh(seed=8).batches()))[:10].tolist() != first.tolist()
    trainer.step = 4  # goes on in the middle of the second epoch
    assert [rows.tolist() for rows in trainer.batches()] == [rows.tolist() for rows in batches[4:]]


def test_noise_follows_from_the_seed_and_the_step(fresh):
    trainer, draws = fresh(), []
    for trainer.step in (0, 1, 0):
        draws.append(torch.randn(3, generator=trainer.noise_rng()).tolist())
    assert draws[0] == draws[2] != draws[1]
    assert torch.randn(3, generator=fresh(seed=8).noise_rng()).tolist() != draws[0]


def test_the_loop_that_notebook_07_shows_is_the_one_that_train_runs(fresh, make_decoder, tokenizer, tmp_path):
    targets = Targets(tokenizer, max_tokens=10)
    run_seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(3)))
    decoder = make_decoder(dropout=0.1)
    trainer = Trainer(decoder, settings=SETTINGS, n_rows=10, seed=run_seed)
    torch.manual_seed(99)  # dropout does not read it
    for rows in trainer.batches():
        embeddings, texts = DATA.batch(rows)
        trainer.advance(ADD(embeddings, rng=trainer.noise_rng()), *targets(texts))
    trainer.finish()
    other = make_decoder(dropout=0.1)
    training.train(
        other, DATA, targets=targets, folder=tmp_path, rng=torch.Generator().manual_seed(3), settings=SETTINGS,
        noise=ADD, progress=False,
    )  # fmt: skip
    for name, values in other.state_dict().items():
        assert torch.equal(decoder.state_dict()[name], values), name
    assert not torch.equal(decoder.clip_project.linear.weight, make_decoder(dropout=0.1).clip_project.linear.weight)
