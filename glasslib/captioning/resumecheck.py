"""Kill a training run at random instants and see that it comes out the same: the check behind `train.resume`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch

PRELOADED = [
    "accelerate",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.optimization",
    "transformers.tokenization_utils_tokenizers",
    "glasslib.captioning.training",
    "glasslib.captioning.resumecheck",
]


def count_identical(folder: str | Path, *, n_kills: int, rng: np.random.Generator) -> int:
    """Train a tiny decoder with dropout and noise, killed once with SIGKILL at a random instant, then resumed.

    Args:
        folder: an empty one; each run gets a folder in it.
        n_kills: runs, each killed once.
        rng: draws the instants, uniform over the time that a run takes.

    Returns:
        In how many of the runs the final weights and optimiser equal, bit for bit, those of a run never stopped.

    Raises:
        RuntimeError: a run ended by itself with an error.
    """
    # The server imports everything once and forks from there, before torch has started a thread: a run then takes
    # seconds, and most kills fall into its steps, not into its imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    folder = Path(folder)
    _finish(context, folder / "warm-up")  # starts the server
    started = time.monotonic()
    _finish(context, folder / "whole")
    duration, whole = time.monotonic() - started, _final(folder / "whole")
    identical = 0
    for number in range(n_kills):
        part = folder / f"killed-{number:02d}"
        _kill_after(context, part, seconds=duration * rng.random())
        _finish(context, part)
        identical += _equal(_final(part), whole)
    return identical


def _train(folder: str) -> None:
    """A run of some seconds; it happens in a process of its own, whose global random state is its own too."""
    import functools

    from transformers import GPT2Config, GPT2LMHeadModel

    from glasslib.captioning import noise, training
    from glasslib.captioning.decoder import CaptionDecoder
    from glasslib.captioning.mapper import TransformerMapper
    from glasslib.captioning.targets import Targets

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    sizes = {"n_positions": 24, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": len(tokenizer)}
    gpt = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))  # with GPT-2's dropout of 0.1
    mapper = TransformerMapper(embedding_dim=8, gpt_dim=16, prefix_length=4, clip_length=4, n_layers=1, n_heads=2)
    rng = torch.Generator().manual_seed(1)
    embeddings = torch.nn.functional.normalize(torch.randn(50, 8, generator=rng), dim=1)
    texts = [f"a {'red' if row[0] > 0 else 'blue'} {'star' if row[1] > 0 else 'ring'}" for row in embeddings]
    training.train(
        CaptionDecoder(gpt, mapper),
        training.Pairs(embeddings, texts),
        targets=Targets(tokenizer, max_tokens=12),
        folder=folder,
        rng=rng,
        settings=training.Settings(n_epochs=8, batch_size=8, learning_rate=1e-3, warmup_steps=5, checkpoint_every=3),
        noise=functools.partial(noise.add_gaussian_noise, noise_std=0.1),
        progress=False,
    )


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ("<|endoftext|>", "a", "red", "blue", "star", "ring")
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=words[0])


def _finish(context, folder: Path) -> None:
    process = context.Process(target=_train, args=(str(folder),))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"training in {folder} ended with exit code {process.exitcode}; its error stands above")


def _kill_after(context, folder: Path, *, seconds: float) -> None:
    process = context.Process(target=_train, args=(str(folder),))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"training in {folder} ended with exit code {process.exitcode}; its error stands above")


def _final(folder: Path) -> dict[str, torch.Tensor]:
    """Weights and optimiser states of the last checkpoint, by name."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    moments = {f"{i}.{name}": value for i, one in state["optimizer"]["state"].items() for name, value in one.items()}
    return {**state["model"], **moments, "step": torch.tensor(state["step"])}


def _equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
