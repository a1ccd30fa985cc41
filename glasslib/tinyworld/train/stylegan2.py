"""Train the tiny StyleGAN2 on one-object scenes: `python -m glasslib.tinyworld.train.stylegan2 --out DIR`.

Adversarial training with the plain generator and discriminator, averaged weights, and the relativistic pairing loss
with lazy R1 and R2 (Huang et al. 2024, https://arxiv.org/abs/2501.05441): the plain logistic loss with R1 alone lost
most backgrounds within 45,000 pictures. Two things make it fit two CPU cores. One backward pass through the
discriminator serves both players (`adversarial_step`). And, while training only, a small head on the discriminator's
trunk learns to name what real pictures show (Salimans et al. 2016, https://arxiv.org/abs/1606.03498): features that
know a star from a heart make a discriminator that asks for them. The generator never sees a label.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib.generators.stylegan2 import StyleGAN2Generator, save_networks
from glasslib.generators.stylegan2_networks import Discriminator, GeneratorNetwork
from glasslib.tinyworld import scenes
from glasslib.tinyworld.models import WEIGHTS
from glasslib.tinyworld.train import checkpoints
from glasslib.tinyworld.train.projected import ProjectedDiscriminator

N_SCENES = 60_000
DOMAIN = {"textures": ("plain", "gradient"), "sizes": ("medium", "large")}  # all the generator ever sees
SIZE = 32
Z_DIM = 64
WIDTHS = {"channel_base": 512, "channel_max": 64}
CONFIG = {
    "generator": {
        "z_dim": Z_DIM, "c_dim": 0, "w_dim": Z_DIM, "img_resolution": SIZE, "img_channels": 3,
        "mapping_kwargs": {"num_layers": 4}, "synthesis_kwargs": WIDTHS,
    },
    # No minibatch statistic: every logit is then one picture's own, and one backward pass can serve both players.
    "discriminator": {
        "c_dim": 0, "img_resolution": SIZE, "img_channels": 3, **WIDTHS, "epilogue_kwargs": {"mbstd_num_channels": 0},
    },
}  # fmt: skip
HEADS = {"shape": 8, "colour": 8, "place": 5, "size": 3, "background": 5}
BATCH_SIZE = 16
LEARNING_RATE = 2e-3
GAMMA, R_EVERY = 0.2, 16
NAMING_WEIGHT = 0.2
PROJECTED_WEIGHT = 0.5
EMA_IMAGES, EMA_RAMPUP, EMA_EVERY = 15_000, 0.05, 4
W_AVG_BETA = 0.998
DECAY_FROM, DECAY_TO = 0.6, 0.1  # of the minutes; of the learning rate
CHECKPOINT_SECONDS = 90


def training_pictures(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """n one-object scenes: pictures (n, 3, 32, 32) uint8 and labels (n, 5) in the order of HEADS."""
    world = scenes.sample(n, rng=np.random.default_rng(seed), n_objects=(1, 1), **DOMAIN)
    noise = torch.Generator().manual_seed(seed)
    pictures = [scenes.render(world[i : i + 1000], rng=noise, size=SIZE) for i in range(0, n, 1000)]
    labels = [world.shape[:, 0], world.colour[:, 0], world.place[:, 0], world.size[:, 0], world.background]
    return (
        torch.cat([(picture * 255).round().to(torch.uint8) for picture in pictures]),
        torch.as_tensor(np.stack(labels, axis=1), dtype=torch.long),
    )


class Trainer:
    """Both players, the naming head, their optimisers and the averaged generator."""

    def __init__(self, *, seed: int, features: Path | None = None) -> None:
        torch.manual_seed(seed)  # a process of its own: weights start from the global generator
        self.rng = torch.Generator().manual_seed(seed)
        self.generator = GeneratorNetwork(**CONFIG["generator"]).to(memory_format=torch.channels_last)
        self.discriminator = Discriminator(**CONFIG["discriminator"]).to(memory_format=torch.channels_last)
        n_features = WIDTHS["channel_max"] * 16
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(n_features, 64), nn.LeakyReLU(0.2), nn.Linear(64, sum(HEADS.values()))
        )
        self.average = deepcopy(self.generator).requires_grad_(False)
        groups = [{"params": self.discriminator.parameters()}, {"params": self.head.parameters(), "lr": 1e-3}]
        self.optimizers = [
            torch.optim.Adam(self.generator.parameters(), lr=LEARNING_RATE, betas=(0.0, 0.99), fused=True),
            torch.optim.Adam(groups, lr=LEARNING_RATE, betas=(0.0, 0.99), fused=True),
        ]
        self.rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.projected = None if features is None else ProjectedDiscriminator(features)
        self.step = 0
        self.seconds = 0.0
        self.sums: dict[str, Tensor] = {}

    def adversarial_step(self, real: Tensor, labels: Tensor, real_features: list[Tensor] | None = None) -> None:
        """One update of all players on `real` (n, 3, h, w) in [-1, 1], whose frozen features may come along."""
        n = len(real)
        fake = self._sample(n)
        seen = fake.detach().requires_grad_(True)
        features = self.discriminator.features(torch.cat([real, seen]))
        logits = self.discriminator.b4(features)[:, 0]
        naming = naming_loss(self.head(features[:n]), labels)
        margin = logits[:n] - logits[n:]  # each real picture must look more real than one false one
        loss = F.softplus(-margin).mean() + NAMING_WEIGHT * naming
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        # The players' losses are softplus(-m) and softplus(m) of the same margin m. Their slopes differ by the factor
        # -exp(m), so picture by picture the generator's gradient is the discriminator's times that number.
        with torch.no_grad():
            ratio = -torch.exp(margin.clamp(max=12))
        slope = seen.grad * ratio[:, None, None, None]
        if self.projected is not None:
            pull, true_logit, false_logit = self.projected.step(real_features, seen)
            slope += PROJECTED_WEIGHT * pull
            self._log(p_real=torch.tensor(true_logit), p_fake=torch.tensor(false_logit))
        fake.backward(slope)
        if self.step % R_EVERY == 0:
            self._penalise(torch.cat([real, seen.detach()]))
        for optimizer in self.optimizers:
            optimizer.step()
        if self.step % EMA_EVERY == 0:
            self._average(n)
        self.step += 1
        with torch.no_grad():
            self._log(loss=loss, naming=naming, real=logits[:n].mean(), fake=logits[n:].mean())
            self._log(generator=F.softplus(margin).mean())

    def _sample(self, n: int) -> Tensor:
        z = torch.randn(n, Z_DIM, generator=self.rng)
        w = self.generator.mapping(z)
        self.generator.mapping.w_avg.lerp_(w.detach().mean(dim=0), 1 - W_AVG_BETA)
        ws = w[:, None].expand(-1, self.generator.num_ws, -1)
        return self.generator.synthesis(ws, noise_mode="random", rng=self.rng)

    def _penalise(self, images: Tensor) -> None:
        """Add the gradient of R1 + R2, GAMMA / 2 * |grad D|^2 at real and at false pictures, for R_EVERY steps."""
        images.requires_grad_(True)
        (slope,) = torch.autograd.grad(self.discriminator(images).sum(), images, create_graph=True)
        r1, r2 = (half.square().sum(dim=(1, 2, 3)).mean() for half in slope.chunk(2))
        ((r1 + r2) * (GAMMA / 2 * R_EVERY)).backward()
        self._log(r1=r1, r2=r2)

    @torch.no_grad()
    def _average(self, n: int) -> None:
        half_life = min(EMA_IMAGES, EMA_RAMPUP * (self.step + 1) * n)
        beta = 0.5 ** (EMA_EVERY * n / half_life)
        ours, theirs = list(self.average.parameters()), list(self.generator.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - beta)
        self.average.mapping.w_avg.copy_(self.generator.mapping.w_avg)

    def _log(self, **values: Tensor) -> None:
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value.detach(), count + 1

    def means(self) -> dict[str, float]:
        """Means of what was logged since the last call."""
        means = {name: round(float(total) / count, 4) for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means

    def slow_down(self, done: float) -> None:
        """Set the learning rates for a share `done` of the run: constant, then a cosine down to DECAY_TO."""
        progress = min(1.0, max(0.0, (done - DECAY_FROM) / (1 - DECAY_FROM)))
        factor = DECAY_TO + (1 - DECAY_TO) * (1 + math.cos(math.pi * progress)) / 2
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        modules = {"generator": self.generator, "discriminator": self.discriminator, "head": self.head}
        if self.projected is not None:
            modules |= {"projected": self.projected.heads, "adam2": self.projected.optimizer}
        return modules | {"average": self.average, "adam0": self.optimizers[0], "adam1": self.optimizers[1]}

    def save(self, folder: Path) -> None:
        """Write the checkpoint, the networks and a grid of samples, each atomically."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"rng": self.rng.get_state(), "step": self.step, "seconds": self.seconds}
        torch.save(state, folder / "checkpoint.tmp")
        os.replace(folder / "checkpoint.tmp", folder / "checkpoint.pt")
        save_networks(folder, self.average, self.discriminator, config=CONFIG)
        write_grid(self.average, folder / "samples.png")

    def resume(self, folder: Path) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        path = folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.rng.set_state(state["rng"])
            self.step, self.seconds = state["step"], state["seconds"]


def naming_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over HEADS of the cross-entropy of (n, 29) logits against (n, 5) labels."""
    pieces = logits.split(list(HEADS.values()), dim=1)
    return sum(F.cross_entropy(piece, labels[:, i]) for i, piece in enumerate(pieces))


@torch.no_grad()
def write_grid(generator: nn.Module, path: Path, *, rows: int = 8, columns: int = 16) -> None:
    """Write a PNG of samples, upper half psi 1, lower half psi 0.7; always of the same z."""
    from PIL import Image

    z = torch.randn(rows * columns, Z_DIM, generator=torch.Generator().manual_seed(0))
    halves = [generator(part, truncation_psi=psi) for part, psi in zip(z.chunk(2), (1.0, 0.7), strict=True)]
    pictures = torch.cat(halves).clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    grid = pictures.reshape(rows, columns, 3, SIZE, SIZE).permute(0, 3, 1, 4, 2).reshape(rows * SIZE, columns * SIZE, 3)
    temporary = path.with_suffix(".tmp")
    Image.fromarray(grid.numpy()).resize((columns * SIZE * 2, rows * SIZE * 2), Image.NEAREST).save(temporary, "PNG")
    os.replace(temporary, path)


def train(folder: Path, *, minutes: float, features: Path | None, seed: int = 0) -> Trainer:
    """Train until `minutes` of training, all sittings together, are over."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures, labels = training_pictures(seed, N_SCENES)
    trainer = Trainer(seed=seed, features=features)
    kept = trainer.projected.prepare(pictures) if trainer.projected else []
    trainer.resume(folder)
    since, before, saved = time.monotonic(), trainer.seconds, trainer.seconds
    while trainer.seconds < 60 * minutes:
        trainer.slow_down(trainer.seconds / (60 * minutes))
        rows = torch.randint(len(pictures), (BATCH_SIZE,), generator=trainer.rng)
        real = pictures[rows].float().div(127.5).sub(1)
        trainer.adversarial_step(real, labels[rows], [each[rows] for each in kept])
        trainer.seconds = before + time.monotonic() - since
        if trainer.seconds - saved >= CHECKPOINT_SECONDS or trainer.seconds >= 60 * minutes:
            saved = trainer.seconds
            line = {"images": trainer.step * BATCH_SIZE, "seconds": round(trainer.seconds, 1)} | trainer.means()
            trainer.save(folder)
            with open(folder / "log.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
    return trainer


@torch.inference_mode()
def export(trainer: Trainer, folder: Path, *, recipe: str, seed: int) -> None:
    """Write the averaged generator, the centred discriminator and their card into `folder`.

    The pairing loss leaves the logits' origin open, so it is put midway between held-out renders and samples; then a
    logit of 0 says "as likely made as rendered", and CLIP-GLaSS's hinge, relu(1 - logit), has its usual meaning.
    """
    n = 2000
    held_out, _ = training_pictures(seed + 1, n)
    z = torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(seed + 1))
    made = StyleGAN2Generator(trainer.average, trainer.discriminator, config=CONFIG)(z)
    real = trainer.discriminator(held_out.float().div(127.5).sub(1))
    fake = trainer.discriminator(made * 2 - 1)
    trainer.discriminator.b4.out.bias -= (real.mean() + fake.mean()) / 2
    save_networks(folder, trainer.average, trainer.discriminator, config=CONFIG)
    steps, data = trainer.step, f"{N_SCENES} one-object renders of 32 pixels, {trainer.step * BATCH_SIZE} draws"
    measured = {"logit_gap": float(real.mean() - fake.mean()), "d_auc": float((real > fake.T).float().mean())}
    checkpoints.write_card(
        folder, recipe=recipe, seed=seed, steps=steps, data=data, wall_time_s=trainer.seconds, held_out=measured
    )


def main() -> None:
    """Read the command line, train, and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, weights and samples")
    parser.add_argument("--minutes", type=float, default=110.0, help="training time, all sittings together")
    parser.add_argument(
        "--features", type=Path, help="weights of a trained OracleNetwork, for the second discriminator"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    trainer = train(arguments.out, minutes=arguments.minutes, features=arguments.features, seed=arguments.seed)
    recipe = f"python -m glasslib.tinyworld.train.stylegan2 --out runs/stylegan2 --minutes {arguments.minutes:g}"
    export(trainer, WEIGHTS / "stylegan2", recipe=recipe, seed=arguments.seed)


if __name__ == "__main__":
    main()
