"""Training two players against each other, whatever the generator: judges, rates, penalties, checkpoints, the loop."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from glasslib.generators.stylegan2.networks import Discriminator
from glasslib.tinyworld.recipes.projected import ProjectedDiscriminator

HEADS = {"shape": 8, "colour": 8, "place": 5, "size": 3, "background": 5}  # what the naming head names
DISCRIMINATOR_RATE, HEAD_RATE = 2e-3, 1e-3
GAMMA, R_EVERY = 0.2, 16
NAMING_WEIGHT = 0.2
CHECKPOINT_SECONDS = 90


class Means:
    """Running means of what a run logs, each since it was last read."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, **values: Tensor) -> None:
        """Note one value of each; nothing waits for the device."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value.detach(), count + 1

    def read(self) -> dict[str, float]:
        """Give the means, and start again."""
        means = {name: round(float(total) / count, 4) for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means


class Rates:
    """Learning rates of several optimisers: constant, then a cosine.

    Args:
        optimizers: whose rates are the full ones.
        decay_from: share of the run from which on they fall.
        decay_to: of the full rates, what is left at the end.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], *, decay_from: float, decay_to: float) -> None:
        self._decay_from, self._decay_to = decay_from, decay_to
        self._rates = [(optimizer, [group["lr"] for group in optimizer.param_groups]) for optimizer in optimizers]

    def set(self, done: float) -> None:
        """Set them for a share `done` of the run."""
        progress = min(1.0, max(0.0, (done - self._decay_from) / (1 - self._decay_from)))
        factor = self._decay_to + (1 - self._decay_to) * (1 + math.cos(math.pi * progress)) / 2
        for optimizer, rates in self._rates:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):  # loading a state makes new groups
                group["lr"] = rate * factor


def slope_penalty(judge: Callable[[Tensor], Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared length of a discriminator's slope on either half of a batch: R1 on real pictures, R2 on false ones.

    Args:
        judge: (n, 3, h, w) -> logits, each of its own picture only.
        images: (2n, 3, h, w), real ones first.
    """
    images = images.detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(judge(images).sum(), images, create_graph=True)
    r1, r2 = (half.square().sum(dim=(1, 2, 3)).mean() for half in slope.chunk(2))
    return r1, r2


class Judges:
    """The discriminator, its naming head, and where there are features a second discriminator that looks through them.

    With labels of a class the discriminators judge a picture as one of its class.

    Args:
        discriminator: without a minibatch statistic, so that every logit is one picture's own.
        n_features: numbers in what its trunk gives for a picture.
        features: weights of a trained OracleNetwork; None: no second discriminator.
        projected_weight: of the second discriminator's pull.
    """

    def __init__(
        self, discriminator: Discriminator, *, n_features: int, features: Path | None, projected_weight: float
    ) -> None:
        self.discriminator = discriminator.to(memory_format=torch.channels_last)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(n_features, 64), nn.LeakyReLU(0.2), nn.Linear(64, sum(HEADS.values()))
        )
        players = [{"params": self.discriminator.parameters()}, {"params": self.head.parameters(), "lr": HEAD_RATE}]
        self.optimizer = torch.optim.Adam(players, lr=DISCRIMINATOR_RATE, betas=(0.0, 0.99), fused=True)
        n_classes = max(1, discriminator.c_dim)
        self.projected = None if features is None else ProjectedDiscriminator(features, n_classes=n_classes)
        self._projected_weight = projected_weight

    def judge(
        self, real: Tensor, seen: Tensor, labels: Tensor, real_features: list[Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the judges' gradients, train the second discriminator, and say where the false pictures should go.

        Args:
            real: (n, 3, h, w) pictures in [-1, 1].
            seen: as many false ones, a leaf that wants a gradient.
            labels: (n, 5) of the real ones, in the order of HEADS; where there are classes the first is the class.
            real_features: of `real`, as the second discriminator prepared them; None without one.

        Returns:
            The gradient of the generator's loss with respect to `seen`, and means worth logging.
        """
        n, classes = len(real), labels[:, 0]
        features = self.discriminator.features(torch.cat([real, seen]))
        logits = self._logits(features, classes.repeat(2))
        naming = naming_loss(self.head(features[:n]), labels)
        margin = logits[:n] - logits[n:]  # each real picture must look more real than one false one
        loss = F.softplus(-margin).mean() + NAMING_WEIGHT * naming
        loss.backward()
        # The players' losses are softplus(-m) and softplus(m) of the same margin m. Their slopes differ by the factor
        # -exp(m), so picture by picture the generator's gradient is the discriminator's times that number.
        slope = seen.grad * -torch.exp(margin.detach().clamp(max=12))[:, None, None, None]
        logged = {"loss": loss, "naming": naming, "real": logits[:n].mean(), "fake": logits[n:].mean()}
        logged["generator"] = F.softplus(margin).mean()
        if self.projected is not None:
            one_class = None if self.discriminator.c_dim == 0 else classes
            pull, more = self.projected.step(real_features, seen, one_class)
            slope += self._projected_weight * pull
            logged |= more
        return slope, logged

    def penalise(self, images: Tensor, classes: Tensor) -> dict[str, Tensor]:
        """Add the gradient of R1 + R2, GAMMA / 2 * |grad D|^2 at real and at false pictures, for R_EVERY steps."""
        label = self._label(classes)
        r1, r2 = slope_penalty(lambda x: self.discriminator(x, label), images)
        ((r1 + r2) * (GAMMA / 2 * R_EVERY)).backward()
        return {"r1": r1, "r2": r2}

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What a checkpoint holds of them."""
        parts = {"discriminator": self.discriminator, "head": self.head, "adam1": self.optimizer}
        if self.projected is not None:
            parts |= {"projected": self.projected.heads, "adam2": self.projected.optimizer}
        return parts

    def _label(self, classes: Tensor) -> Tensor | None:
        n_classes = self.discriminator.c_dim
        return F.one_hot(classes, n_classes).float() if n_classes else None

    def _logits(self, features: Tensor, classes: Tensor) -> Tensor:
        """Features of n pictures and their classes (n,) -> (n,), as `Discriminator.forward` does."""
        logits = self.discriminator.b4(features)
        if self.discriminator.c_dim == 0:
            return logits[:, 0]
        code = self.discriminator.mapping(None, self._label(classes))
        return (logits * code).sum(dim=1) / code.shape[1] ** 0.5


def update(
    optimizer: torch.optim.Optimizer,
    judges: Judges,
    *,
    loss: Tensor,
    made: Tensor | None,
    real: Tensor,
    labels: Tensor,
    real_features: list[Tensor] | None,
    heard: float = 1.0,
    penalise: bool = False,
) -> dict[str, Tensor]:
    """Step the generator down `loss`, and where there are false pictures, all players by what the judges say of them.

    Args:
        optimizer: the generator's.
        judges: who judge, and learn to.
        loss: the generator's own, of pictures made again.
        made: (n, 3, h, w) false pictures of random z; None: the judges take no part.
        real, labels, real_features: as for `Judges.judge`.
        heard: how much of what the judges say reaches the generator, 0 to 1.
        penalise: also add the judges' lazy penalties.

    Returns:
        Means worth logging.
    """
    optimizers = (optimizer,) if made is None else (optimizer, judges.optimizer)
    for each in optimizers:
        each.zero_grad()
    ends, slopes, logged = [loss], [None], {}
    if made is not None:
        seen = made.detach().requires_grad_(True)
        slope, logged = judges.judge(real, seen, labels, real_features)
        ends, slopes = [loss, made], [None, slope * heard]
        if penalise:
            logged |= judges.penalise(torch.cat([real, seen]), labels[:, 0].repeat(2))
    torch.autograd.backward(ends, slopes)
    for each in optimizers:
        each.step()
    return logged


def naming_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over HEADS of the cross-entropy of (n, 29) logits against (n, 5) labels."""
    pieces = logits.split(list(HEADS.values()), dim=1)
    return sum(F.cross_entropy(piece, labels[:, i]) for i, piece in enumerate(pieces))


def save_checkpoint(path: Path, parts: Mapping[str, nn.Module | torch.optim.Optimizer], **values) -> None:
    """Write the state of all parts, and plain values, atomically."""
    state = {name: part.state_dict() for name, part in parts.items()} | values
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path, parts: Mapping[str, nn.Module | torch.optim.Optimizer]) -> dict:
    """Read the state of all parts, in place, and give all that the file holds; {} where there is no file."""
    if not path.exists():
        return {}
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state


class Trainer(Protocol):
    """What `run` drives: a generator with its judges. `step` counts updates, `seconds` their time."""

    rng: torch.Generator
    judges: Judges
    means: Means
    step: int
    seconds: float

    def set_progress(self, done: float) -> None: ...  # what follows a schedule, for a share `done` of the run
    def adversarial_step(self, real: Tensor, labels: Tensor, real_features: list[Tensor]) -> None: ...
    def save(self, folder: Path) -> None: ...
    def resume(self, folder: Path) -> None: ...


def run(trainer: Trainer, folder: Path, *, pictures: Tensor, labels: Tensor, batch_size: int, n_images: int) -> None:
    """Train until `n_images` real pictures have been shown, going on with what lies in `folder`.

    Args:
        pictures: (n, 3, h, w) uint8, drawn with replacement.
        labels: (n, 5) in the order of HEADS.
    """
    folder.mkdir(parents=True, exist_ok=True)
    projected = trainer.judges.projected
    kept = projected.prepare(pictures) if projected else []
    trainer.resume(folder)
    since, before, saved = time.monotonic(), trainer.seconds, trainer.seconds
    n_steps = n_images // batch_size
    bar = tqdm(total=n_steps, initial=min(trainer.step, n_steps), desc=folder.name, mininterval=10)
    with bar:
        while trainer.step < n_steps:
            trainer.set_progress(trainer.step / n_steps)
            rows = torch.randint(len(pictures), (batch_size,), generator=trainer.rng)
            real = pictures[rows].float().div(127.5).sub(1)
            trainer.adversarial_step(real, labels[rows], [each[rows] for each in kept])
            trainer.seconds = before + time.monotonic() - since
            if trainer.seconds - saved >= CHECKPOINT_SECONDS or trainer.step == n_steps:
                saved = trainer.seconds
                trainer.save(folder)
                images, seconds = trainer.step * batch_size, round(trainer.seconds, 1)
                append_line(folder / "log.jsonl", images=images, seconds=seconds, **trainer.means.read())
            bar.update()


def append_line(path: Path, **values: float) -> None:
    """Add a JSON line to a log."""
    with open(path, "a") as file:
        file.write(json.dumps(values) + "\n")


def write_grid(pictures: Tensor, path: Path, *, columns: int) -> None:
    """Write (n, 3, h, w) in [0, 1] as a PNG, row by row, at twice the size; the whole file or none."""
    from PIL import Image

    rows = pictures.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # (h, w, 3)
    pixels = (rows * 255).round().to(torch.uint8).repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(pixels.numpy()).save(temporary, "PNG")
    os.replace(temporary, path)
