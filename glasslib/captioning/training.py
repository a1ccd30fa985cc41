"""Train a caption decoder on embeddings and texts: text embeddings for CapDec, image embeddings for ClipCap.

Stopped at any instant, the next call goes on from the last checkpoint and ends with the weights of a run that was
never stopped, bit for bit on a CPU: whatever is random in a step follows from the run's seed and the step's number.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from glasslib.captioning.captioner import Captioner
from glasslib.captioning.decoder import IGNORE, CaptionDecoder
from glasslib.captioning.runfolder import RunFolder
from glasslib.captioning.targets import Targets
from glasslib.captioning.trainer import Settings, Trainer


class Data(Protocol):
    """What training reads: an EmbeddingStore, or `Pairs`."""

    def __len__(self) -> int: ...
    def batch(self, rows: Sequence[int]) -> tuple[Tensor, list[str]]: ...  # -> (n, dim) norm 1, n texts


@dataclass(frozen=True)
class Pairs:
    """Embeddings (n, dim) and n texts in memory; `key` names them, so that a run does not go on with others."""

    embeddings: Tensor
    texts: Sequence[str]
    key: str | None = None

    def __post_init__(self) -> None:
        if len(self.embeddings) != len(self.texts):
            raise ValueError(f"one text per embedding, got {len(self.embeddings)} and {len(self.texts)}")

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, rows: Sequence[int]) -> tuple[Tensor, list[str]]:
        """Embeddings and texts of these rows."""
        return self.embeddings[list(rows)], [self.texts[row] for row in rows]


def train(
    decoder: CaptionDecoder,
    data: Data,
    *,
    targets: Targets,
    folder: str | Path,
    rng: torch.Generator,
    settings: Settings | None = None,
    noise: Callable[..., Tensor] | None = None,
    validation: Data | None = None,
    look_at: Tensor | None = None,
    on_log: Callable[[dict[str, Any]], None] | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Train, or go on with what lies in `folder`; at once if that has finished.

    Under `accelerate launch` or `torchrun` every process takes its share of each batch. The gradient is that of the
    whole batch, so the run does not depend on how many there are, but for dropout and rounding. Half precision is
    used where the device has it: bfloat16, else float16 with loss scaling.

    Args:
        decoder: trained in place, on the device it is on; ends in evaluation mode.
        data: what to learn from.
        targets: how texts become tokens.
        folder: checkpoint.pt and log.jsonl go here.
        rng: on the CPU; one number is drawn from it, the seed of the run.
        settings: None: `Settings()`.
        noise: called as `noise(embeddings, rng=...)` on each batch's embeddings: a function of noise.py with its
            amount given by functools.partial. None: no noise.
        validation: its loss, without noise, is logged.
        look_at: (k, dim) embeddings whose greedy captions are logged with the validation loss, an early look.
        on_log: called with each line that is logged.
        progress: show a progress bar.

    Returns:
        The lines of log.jsonl: `step`, `epoch`, `train_loss` (mean nats per token since the last line),
        `learning_rate`, `seconds`; where validated also `validation_loss` and `samples`.

    Raises:
        ValueError: no data, captions that do not fit, or a folder that holds a run of other settings, data or seed.
        FloatingPointError: the loss is no longer a number.
    """
    settings = settings or Settings()
    if not len(data):
        raise ValueError("data must hold at least one caption, got none")
    targets.check(data, decoder)
    seed = int(torch.randint(2**62, (), generator=rng))
    described = dataclasses.asdict(settings) | {"seed": seed, "n_captions": len(data), "noise": describe(noise)}
    described |= {"data": getattr(data, "key", None), "targets": targets.describe()}
    described |= {"mapper": decoder.clip_project.config, "freeze_language_model": decoder.freeze_language_model}
    run_folder, name = RunFolder(folder, described=described), Path(folder).name
    trainer = Trainer(decoder, settings=settings, n_rows=len(data), seed=seed, state=run_folder.load())
    validate_every = settings.validate_every or trainer.steps_per_epoch
    bar = tqdm(
        total=trainer.n_steps,
        initial=trainer.step,
        desc=f"training {name}",
        disable=not (progress and trainer.accelerator.is_main_process),
    )
    with bar:
        for rows in trainer.batches():
            embeddings, texts = data.batch(rows)
            if noise is not None:
                embeddings = noise(embeddings, rng=trainer.noise_rng())
            trainer.advance(embeddings, *targets(texts))
            bar.update()
            validates = trainer.step % validate_every == 0 or trainer.step == trainer.n_steps
            if not (validates or trainer.step % settings.checkpoint_every == 0):
                continue
            line = trainer.line()
            if validates and trainer.accelerator.is_main_process:
                line |= _look(decoder, targets, validation=validation, look_at=look_at)
            state = trainer.state()
            if trainer.accelerator.is_main_process:
                run_folder.save(state, line)
                bar.set_postfix(loss=f"{line['train_loss']:.3f}")
                if on_log is not None:
                    on_log(line)
    trainer.finish()
    return run_folder.lines()


@torch.inference_mode()
def validation_loss(decoder: CaptionDecoder, data: Data, *, targets: Targets, batch_size: int = 64) -> float:
    """Return the mean cross-entropy per token on data, without noise, in nats."""
    device, training = next(decoder.parameters()).device, decoder.training
    decoder.eval()
    nats, n_labels = 0.0, 0
    for start in range(0, len(data), batch_size):
        embeddings, texts = data.batch(range(start, min(start + batch_size, len(data))))
        token_ids, labels = targets(texts)
        nats += float(decoder(embeddings.to(device), token_ids.to(device), labels.to(device)))
        n_labels += int((labels != IGNORE).sum())
    decoder.train(training)
    return nats / n_labels


def _look(
    decoder: CaptionDecoder, targets: Targets, *, validation: Data | None, look_at: Tensor | None
) -> dict[str, Any]:
    """How the decoder does in the middle of training."""
    line: dict[str, Any] = {}
    if validation is not None:
        line["validation_loss"] = validation_loss(decoder, validation, targets=targets)
    if look_at is not None:
        captioner = Captioner(decoder, targets.tokenizer, stop_token=targets.stop_token)
        line["samples"] = captioner(look_at, max_tokens=targets.max_tokens)
    decoder.train()
    return line


def describe(noise: Callable[..., Tensor] | None) -> Any:
    """Name a noise and its amount in JSON values, tensors by their hash; None stays None."""
    if not isinstance(noise, functools.partial):
        return None if noise is None else getattr(noise, "__name__", type(noise).__name__)
    given = {name: _digest(value) if isinstance(value, Tensor) else value for name, value in noise.keywords.items()}
    return {"function": describe(noise.func), **given}


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()[:16]
