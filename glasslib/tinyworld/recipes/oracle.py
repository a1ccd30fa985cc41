"""Train the oracle on endless one-object renders: `python -m glasslib.tinyworld.recipes.oracle --out runs/oracle`.

Pictures are blurred, shifted in contrast and made noisy, so that it reads a generator's less clean pictures too; it
never sees a generated one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import trange

from glasslib.tinyworld import scenes
from glasslib.tinyworld.models import WEIGHTS
from glasslib.tinyworld.oracle import ATTRIBUTES, IMAGE_SIZE, Oracle, OracleNetwork
from glasslib.tinyworld.recipes import checkpoints
from glasslib.tinyworld.recipes.checkpoints import Session

BATCH_SIZE = 128
LEARNING_RATE = 3e-3


def labels(world: scenes.Scenes) -> dict[str, np.ndarray]:
    """Per attribute, (n,) the true value of each scene's only object or ground."""
    truth = {name: getattr(world, name) for name in ATTRIBUTES}
    return {name: value[:, 0] if value.ndim == 2 else value for name, value in truth.items()}


def roughen(images: Tensor, rng: torch.Generator) -> Tensor:
    """Random blur, contrast, brightness and noise, as generated pictures have them."""
    n = len(images)
    blur = torch.rand(n, 1, 1, 1, generator=rng) * (torch.rand(n, 1, 1, 1, generator=rng) < 0.5)
    images = images + 0.7 * blur * (F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1) - images)
    contrast = 1 + 0.1 * torch.randn(n, 1, 1, 1, generator=rng)
    images = 0.5 + contrast * (images - 0.5) + 0.03 * torch.randn(n, 1, 1, 1, generator=rng)
    noise = 0.04 * torch.rand(n, 1, 1, 1, generator=rng)
    return (images + noise * torch.randn(images.shape, generator=rng)).clamp(0, 1)


def held_out_accuracy(network: OracleNetwork, n: int, *, size: int, seed: int = 20_000) -> dict[str, float]:
    """Share of n fresh renders whose attributes are read rightly."""
    world = scenes.sample(n, rng=np.random.default_rng(seed), n_objects=(1, 1))
    noise = torch.Generator().manual_seed(seed)
    images = torch.cat([scenes.render(world[i : i + 500], rng=noise, size=size) for i in range(0, n, 500)])
    reading = Oracle(network)(images)
    network.train().requires_grad_(True)
    return {name: float((reading.values[name] == truth).mean()) for name, truth in labels(world).items()}


def train(folder: Path, *, n_images: int, seed: int) -> tuple[OracleNetwork, Session]:
    """Train on `n_images` fresh renders, resuming from `folder` if something lies there."""
    torch.manual_seed(seed)  # layers initialise from the global state; a recipe owns its process
    network = OracleNetwork().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    rng = torch.Generator().manual_seed(seed)
    session = Session(folder, model=network, optimizer=optimizer, rng=rng)
    n_steps = n_images // BATCH_SIZE
    for step in trange(session.step, n_steps, initial=session.step, total=n_steps, desc="oracle", mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100) * (1 - step / n_steps) + 1e-5
        world = scenes.sample(BATCH_SIZE, rng=np.random.default_rng([seed, step]), n_objects=(1, 1))
        images = roughen(scenes.render(world, rng=rng, size=IMAGE_SIZE), rng)
        logits = network(images.contiguous(memory_format=torch.channels_last))
        losses = [F.cross_entropy(logits[name], torch.as_tensor(truth)) for name, truth in labels(world).items()]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        if (step + 1) % 250 == 0 or step + 1 == n_steps:
            session.save(step + 1, **held_out_accuracy(network, 1000, size=64))
    return network, session


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=80_000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--to", type=Path, default=WEIGHTS / "oracle", help="where weights and card go")
    args = parser.parse_args()
    network, session = train(args.out, n_images=args.images, seed=args.seed)
    checkpoints.export(
        args.to,
        network,
        session,
        recipe=f"python -m glasslib.tinyworld.recipes.oracle --out runs/{args.out.name} --images {args.images} "
        f"--seed {args.seed}",
        seed=args.seed,
        data=f"{args.images} one-object scenes, each rendered once at {IMAGE_SIZE} pixels and roughened",
        held_out=held_out_accuracy(network, 5000, size=64),
    )


if __name__ == "__main__":
    main()
