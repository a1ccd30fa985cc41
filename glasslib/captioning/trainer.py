"""The inside of a training run: model, optimiser and schedule, and the random numbers of each step."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glasslib.captioning.decoder import IGNORE, CaptionDecoder

ORDER, NOISE, DROPOUT = range(3)  # streams of random numbers, kept apart


@dataclass(frozen=True)
class Settings:
    """How long and how fast; the defaults are CapDec's.

    Attributes:
        n_epochs: passes through the data.
        batch_size: captions in a step, over all devices together; CapDec: 34, on COCO 30, on Flickr30k 16.
        learning_rate: AdamW's, reached after the warm-up, then falling linearly to 0.
        warmup_steps: steps of linear warm-up.
        weight_decay: AdamW's.
        clip_norm: most the gradient's norm may be; None: no limit.
        checkpoint_every: steps between checkpoints, and between lines of the log.
        validate_every: steps between looks at the validation data; None: after each epoch.
    """

    n_epochs: int = 10
    batch_size: int = 34
    learning_rate: float = 2e-5
    warmup_steps: int = 5000
    weight_decay: float = 0.0
    clip_norm: float | None = None
    checkpoint_every: int = 500
    validate_every: int | None = None

    def __post_init__(self) -> None:
        at_least_one = {name: getattr(self, name) for name in ("n_epochs", "batch_size", "checkpoint_every")}
        if self.validate_every is not None:
            at_least_one["validate_every"] = self.validate_every
        if wrong := {name: value for name, value in at_least_one.items() if value < 1}:
            raise ValueError(f"these settings must be at least 1, got {wrong}")


class Trainer:
    """Model, optimiser and schedule, and how far they have come."""

    def __init__(
        self,
        decoder: CaptionDecoder,
        *,
        settings: Settings,
        n_rows: int,
        seed: int,
        state: dict[str, Any] | None = None,
    ) -> None:
        """Start, or go on.

        Args:
            decoder: trained in place, on the device it is on.
            settings: how long and how fast.
            n_rows: captions in the data.
            seed: whatever is random in a step follows from it and the step's number: order, noise, dropout.
            state: what `state` gave; None: from the start.
        """
        from accelerate import Accelerator
        from transformers import get_linear_schedule_with_warmup

        device = next(decoder.parameters()).device
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=half_precision(device))
        self.steps_per_epoch = -(-n_rows // settings.batch_size)
        self.n_steps = settings.n_epochs * self.steps_per_epoch
        self.step, self._seconds = 0, 0.0
        self._settings, self._n_rows, self._seed = settings, n_rows, seed
        self._decoder, self._clip_norm = decoder, settings.clip_norm
        self._trained = {name: p for name, p in decoder.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(
            self._trained.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self._schedule = get_linear_schedule_with_warmup(optimizer, settings.warmup_steps, self.n_steps)
        if state is not None:
            self._restore(optimizer, state)
        self._model, self._optimizer = self.accelerator.prepare(decoder, optimizer)
        self._model.train()
        self._nats = torch.zeros((), device=self.accelerator.device)
        self._n_labels, self._since = 0, time.monotonic()

    def _restore(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, p in self._trained.items():
                p.copy_(state["model"][name])
        self._schedule.load_state_dict(state["schedule"])
        optimizer.load_state_dict(state["optimizer"])  # after the schedule was made, which sets the first step's rate
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self._seconds = state["step"], state["seconds"]

    def batches(self) -> Iterator[np.ndarray]:
        """The rows of each step still to do: every epoch goes through all of them in an order of its own."""
        order, shuffled, size = np.empty(0), None, self._settings.batch_size
        for step in range(self.step, self.n_steps):
            epoch, k = divmod(step, self.steps_per_epoch)
            if epoch != shuffled:
                order, shuffled = np.random.default_rng([self._seed, ORDER, epoch]).permutation(self._n_rows), epoch
            yield order[k * size : (k + 1) * size]

    def noise_rng(self) -> torch.Generator:
        """The generator of this step's noise."""
        return torch.Generator().manual_seed(_derive(self._seed, NOISE, self.step))

    def advance(self, embeddings: Tensor, token_ids: Tensor, labels: Tensor) -> None:
        """Take one step on a whole batch, of which this process takes every `num_processes`-th row."""
        with _dropout_from(self._seed, self.step, self.accelerator):
            self._advance(embeddings, token_ids, labels)

    def _advance(self, embeddings: Tensor, token_ids: Tensor, labels: Tensor) -> None:
        n_labels = int((labels != IGNORE).sum())
        share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        mine = (x[share].to(self.accelerator.device) for x in (embeddings, token_ids, labels))
        nats = self._model(*mine)
        # data parallelism averages the gradients of the processes, so each counts as many times as there are
        self.accelerator.backward(nats * (self.accelerator.num_processes / max(1, n_labels)))
        if self._clip_norm is not None:
            self.accelerator.clip_grad_norm_(self._trained.values(), self._clip_norm)
        self._optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:  # float16 that ran over
            self._schedule.step()
        self._optimizer.zero_grad()
        self.step += 1
        self._nats += nats.detach()
        self._n_labels += n_labels

    def line(self) -> dict[str, Any]:
        """What the log says of the steps since the last line."""
        loss = float(self.accelerator.reduce(self._nats, "sum")) / max(1, self._n_labels)
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {self.step}; the last checkpoint is kept: lower learning_rate, or set "
                "clip_norm, in a new folder"
            )
        self._nats.zero_()
        self._n_labels = 0
        epoch, rate = self.step / self.steps_per_epoch, self._schedule.get_last_lr()[0]
        line = {"step": self.step, "epoch": round(epoch, 4), "train_loss": loss, "learning_rate": rate}
        return line | {"seconds": round(self._elapsed(), 3)}

    def state(self) -> dict[str, Any]:
        """All that going on needs; frozen weights are not in it."""
        scaler = self.accelerator.scaler
        return {
            "model": {name: p.detach() for name, p in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "step": self.step,
            "seconds": self._elapsed(),
        }

    def finish(self) -> None:
        """Take the accelerator's wrappers off the decoder again."""
        self.accelerator.wait_for_everyone()
        self.accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        self._decoder.eval()

    def _elapsed(self) -> float:
        return self._seconds + time.monotonic() - self._since


def half_precision(device: torch.device) -> str:
    """The half precision that a device computes in, as accelerate names it: "bf16", "fp16", or "no" on a CPU."""
    if device.type != "cuda":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"


def _derive(*keys: int) -> int:
    """One number that follows from several."""
    return int(np.random.SeedSequence(keys).generate_state(1, np.uint64)[0] >> 1)


@contextlib.contextmanager
def _dropout_from(seed: int, step: int, accelerator) -> Iterator[None]:
    """Dropout draws from torch's global state: for one step that state follows from the step, and is put back after."""
    cuda = accelerator.device.type == "cuda"
    value = _derive(seed, DROPOUT, step, accelerator.process_index)
    with torch.random.fork_rng(devices=[accelerator.device] if cuda else []):
        torch.random.default_generator.manual_seed(value)
        if cuda:
            torch.cuda.manual_seed(value)
        yield
