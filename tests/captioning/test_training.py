"""Training: it learns, it goes on where it was killed, and its log says what happened."""

import errno
import functools
import json
import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glasslib.captioning import noise, resumecheck, training
from glasslib.captioning.captioner import Captioner
from glasslib.captioning.targets import Targets
from glasslib.captioning.training import Pairs, Settings

COLOURS, SHAPES = ("red", "blue", "green"), ("star", "ring", "cross")
FAST = Settings(n_epochs=2, batch_size=8, learning_rate=3e-3, warmup_steps=4, checkpoint_every=3)


def scenes(n=60):
    """Embeddings whose first six coordinates say colour and shape, and captions that name both."""
    draw = np.random.default_rng(0)
    colour, shape = draw.integers(0, 3, n), draw.integers(0, 3, n)
    x = torch.zeros(n, 8)
    x[range(n), colour], x[range(n), 3 + shape] = 1, 1
    return Pairs(F.normalize(x, dim=1), [f"a {COLOURS[c]} {SHAPES[s]}" for c, s in zip(colour, shape, strict=True)])


@pytest.fixture
def train(make_decoder, tokenizer, tmp_path):
    """Train a fresh tiny decoder; returns it and the log."""

    def run(name="run", data=None, decoder=None, seed=0, **options):
        decoder = decoder or make_decoder(dropout=options.pop("dropout", 0.1))
        options = {"targets": Targets(tokenizer, max_tokens=10), "settings": FAST, "progress": False, **options}
        rng = torch.Generator().manual_seed(seed)
        return decoder, training.train(
            decoder, scenes() if data is None else data, folder=tmp_path / name, rng=rng, **options
        )

    return run


def weights(decoder):
    return {name: value.clone() for name, value in decoder.state_dict().items()}


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_it_learns_to_say_what_an_embedding_holds(train, tokenizer):
    data = scenes()
    settings = Settings(n_epochs=40, batch_size=20, learning_rate=1e-2, warmup_steps=5, checkpoint_every=30)
    add = functools.partial(noise.add_gaussian_noise, noise_std=0.05)
    decoder, log = train(settings=settings, dropout=0.0, noise=add, validation=data, look_at=data.embeddings[:3])
    assert Captioner(decoder, tokenizer)(data.embeddings, max_tokens=10) == list(data.texts)
    assert log[0]["train_loss"] > 3 * log[-1]["train_loss"] and log[-1]["validation_loss"] < 0.1
    assert log[-1]["samples"] == list(data.texts[:3])
    assert [line["step"] for line in log if "samples" in line] == list(range(3, 121, 3))
    assert not decoder.training


def test_the_schedule_warms_up_and_falls_to_nothing(train):
    settings = Settings(n_epochs=2, batch_size=6, learning_rate=1e-3, warmup_steps=5, checkpoint_every=1)
    _, log = train(settings=settings)
    rates = [line["learning_rate"] for line in log]  # of the step to come
    expected = [min(step / 5, (20 - step) / 15) * 1e-3 for step in range(1, 21)]
    assert rates == pytest.approx(expected)


def test_every_epoch_goes_through_all_captions_in_another_order(train):
    seen = []

    class Watched(Pairs):
        def batch(self, rows):
            seen.append(list(rows))
            return super().batch(rows)

    pairs = scenes(20)
    train(data=Watched(pairs.embeddings, pairs.texts))
    epochs = [
        [row for rows in seen[1 + 3 * k : 4 + 3 * k] for row in rows] for k in range(2)
    ]  # the first look checks all captions
    assert [sorted(map(int, rows)) for rows in epochs] == [list(range(20))] * 2 and epochs[0] != epochs[1]


def test_same_rng_same_run_and_no_trace_in_the_global_state(train):
    before = torch.get_rng_state()
    first, again, other = (weights(train(name, seed=seed)[0]) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again) and not same(first, other)


class StopHere(Exception):
    pass


def stop_at(step):
    def on_log(line):
        if line["step"] >= step:
            raise StopHere

    return on_log


@pytest.mark.parametrize("frozen", [False, True])
def test_a_stopped_run_goes_on_to_the_same_end(train, make_decoder, frozen):
    add = functools.partial(noise.add_gaussian_noise, noise_std=0.1)
    fresh = functools.partial(make_decoder, dropout=0.1, frozen=frozen)
    whole, log = train("whole", decoder=fresh(), noise=add)
    for step in (3, 9):
        with pytest.raises(StopHere):
            train("part", decoder=fresh(), noise=add, on_log=stop_at(step))
    part, part_log = train("part", decoder=fresh(), noise=add)
    assert same(weights(whole), weights(part))
    drop = {"seconds"}
    assert [{k: v for k, v in line.items() if k not in drop} for line in log] == [
        {k: v for k, v in line.items() if k not in drop} for line in part_log
    ]
    done, _ = train("part", decoder=fresh(), noise=add, on_log=stop_at(0))  # nothing left to do
    assert same(weights(whole), weights(done))


def test_killed_runs_come_out_the_same(tmp_path):
    assert resumecheck.count_identical(tmp_path, n_kills=2, rng=np.random.default_rng(0)) == 2


def test_no_space_for_a_checkpoint_keeps_the_one_before(train, make_decoder, monkeypatch):
    whole, log = train("whole")
    real, written = os.fsync, []

    def fsync(number):
        written.append(number)
        if len(written) == 4:  # an empty log, then a checkpoint every three steps
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        train("part")
    monkeypatch.undo()
    part, part_log = train("part", decoder=make_decoder(seed=9, dropout=0.1))  # its weights come from the checkpoint
    assert same(weights(whole), weights(part))
    assert [line["step"] for line in part_log] == [line["step"] for line in log]


def test_a_log_ahead_of_the_checkpoint_is_put_right(train, tmp_path):
    _, log = train()
    path = tmp_path / "run" / "log.jsonl"
    with open(path, "a") as file:
        file.write(json.dumps({"step": 99}) + "\n" + '{"step": 1')
    assert train()[1] == log


def test_another_run_s_folder_is_refused(train):
    train()
    with pytest.raises(ValueError, match="holds another run: learning_rate 0.003 -> 0.1"):
        train(settings=Settings(n_epochs=2, batch_size=8, learning_rate=0.1, warmup_steps=4, checkpoint_every=3))
    with pytest.raises(ValueError, match="holds another run: seed"):
        train(seed=1)
    with pytest.raises(
        ValueError, match="another run: noise None -> {'function': 'add_gaussian_noise', 'noise_std': 1"
    ):
        train(noise=functools.partial(noise.add_gaussian_noise, noise_std=1))


def test_captions_that_do_not_fit_are_refused_before_training(train, tokenizer):
    pairs = scenes(5)
    long = Pairs(pairs.embeddings, ["a red star", "a", "b", "c", "the red star on the left on the right on the left"])
    with pytest.raises(ValueError, match="at most 10 tokens, got 1 longer ones among captions 0 to 4, first 'the red"):
        train(data=long)
    targets = Targets(tokenizer, max_tokens=10, truncate=True)
    assert targets(long.texts)[0].shape == (5, 10)
    train(data=long, targets=targets)
    with pytest.raises(ValueError, match="caption 1 of 2 without a word"):
        train(data=Pairs(pairs.embeddings[:2], ["a", " "]))
    with pytest.raises(ValueError, match="64 positions, got 4 \\+ 61"):
        train(targets=Targets(tokenizer, max_tokens=61))
    with pytest.raises(ValueError, match="at least one caption"):
        train(data=Pairs(pairs.embeddings[:0], []))
    with pytest.raises(ValueError, match="one text per embedding, got 5 and 1"):
        Pairs(pairs.embeddings, ["a"])
    with pytest.raises(ValueError, match="must be at least 1, got {'batch_size': 0}"):
        Settings(batch_size=0)


def test_a_loss_that_is_no_number_stops_the_run(train):
    def broken(embeddings, *, rng):
        return embeddings * float("nan")

    with pytest.raises(FloatingPointError, match="the loss is nan at step 3"):
        train(noise=broken)


def test_validation_is_without_noise_and_per_token(make_decoder, tokenizer):
    decoder, data, targets = make_decoder(), scenes(30), Targets(tokenizer)
    ids, labels = targets(data.texts)
    expected = decoder(data.embeddings, ids, labels).item() / 120  # three words and the end, thirty times
    assert training.validation_loss(decoder, data, targets=targets, batch_size=7) == pytest.approx(expected, rel=1e-5)
