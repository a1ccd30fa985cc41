"""Train the oracle of two things on renders: `python -m glasslib.tinyworld.recipes.two_oracle --out runs/two_oracle`.

Half of the pictures hold two things, of every combination; the others one, two, three or none, so that it can say
"not two". Pictures are roughened as the one-object oracle's are; it never sees a generated one.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import trange

from glasslib.tinyworld import scenes, two_things
from glasslib.tinyworld.models import WEIGHTS
from glasslib.tinyworld.oracle import IMAGE_SIZE, OracleNetwork
from glasslib.tinyworld.recipes import checkpoints
from glasslib.tinyworld.recipes.checkpoints import Session
from glasslib.tinyworld.recipes.oracle import roughen
from glasslib.tinyworld.two_oracle import HEADS, TwoOracle

BATCH_SIZE = 96
LEARNING_RATE = 3e-3
EMPTY = 0.1  # share of the other half that shows the ground alone


def sample(n: int, *, rng: np.random.Generator) -> scenes.Scenes:
    """n scenes: half of two things, half of none to three things, all on plain grounds and upright."""
    half = n // 2
    others = scenes.sample(
        n - half, rng=rng, n_objects=(1, 3), textures=("plain",), sizes=("small", "medium"), tilt=0.0
    )
    empty = rng.random(n - half) < EMPTY
    others = dataclasses.replace(
        others,
        shape=np.where(empty[:, None], -1, others.shape),
        colour=np.where(empty[:, None], -1, others.colour),
        place=np.where(empty[:, None], -1, others.place),
    )
    return scenes.concatenate([two_things.sample(half, rng=rng, held_out=None), others])


def labels(world: scenes.Scenes) -> np.ndarray:
    """(n, 10) what stands where: five colours, then five shapes, in the order of HEADS; 0 where nothing stands."""
    seen = np.zeros((len(world), 2, len(scenes.PLACES) + 1), dtype=np.int64)
    rows = np.arange(len(world))
    for slot in range(scenes.MAX_OBJECTS):  # place -1 lands in the last column, cut off below
        seen[rows, 0, world.place[:, slot]] = world.colour[:, slot] + 1
        seen[rows, 1, world.place[:, slot]] = world.shape[:, slot] + 1
    return seen[:, :, :-1].reshape(len(world), -1)


def held_out_accuracy(network: OracleNetwork, n: int, *, seed: int = 33_000) -> dict[str, float]:
    """Share of n fresh renders of two things, of every combination, that are read rightly; and of the others."""
    rng, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    world = two_things.sample(n, rng=rng, held_out=None)
    layout = TwoOracle(network)(scenes.render(world, rng=noise, size=IMAGE_SIZE))
    report = {name: float(hit.mean()) for name, hit in layout.agrees(two_things.facts(world)).items()}
    others = sample(2 * n, rng=rng)[n:]
    seen = TwoOracle(network)(scenes.render(others, rng=noise, size=IMAGE_SIZE))
    network.train().requires_grad_(True)
    not_two = (others.n_objects != 2) | (others.shape[:, 0] < 0)
    return report | {"not_two": float(1 - seen.is_two[not_two].mean())}


def loss_of(network: OracleNetwork, images: Tensor, truth: np.ndarray) -> Tensor:
    """Cross-entropy, summed over the heads."""
    logits = network(images.contiguous(memory_format=torch.channels_last))
    wanted = torch.from_numpy(truth)
    return torch.stack([F.cross_entropy(logits[name], wanted[:, k]) for k, name in enumerate(HEADS)]).sum()


def train(folder: Path, *, n_images: int, seed: int) -> tuple[OracleNetwork, Session]:
    """Train on `n_images` fresh renders, resuming from `folder` if something lies there."""
    torch.manual_seed(seed)  # layers initialise from the global state; a recipe owns its process
    network = OracleNetwork(HEADS).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    rng = torch.Generator().manual_seed(seed)
    session = Session(folder, model=network, optimizer=optimizer, rng=rng)
    n_steps = n_images // BATCH_SIZE
    for step in trange(session.step, n_steps, initial=session.step, total=n_steps, desc="oracle", mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100) * (1 - step / n_steps) + 1e-5
        world = sample(BATCH_SIZE, rng=np.random.default_rng([seed, step]))
        loss = loss_of(network, roughen(scenes.render(world, rng=rng, size=IMAGE_SIZE), rng), labels(world))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 200 == 0 or step + 1 == n_steps:
            session.save(step + 1, loss=loss.item(), **held_out_accuracy(network, 500))
    return network, session


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=48_000)
    parser.add_argument("--seed", type=int, default=15)
    parser.add_argument("--to", type=Path, default=WEIGHTS / "two_oracle", help="where weights and card go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    network, session = train(args.out, n_images=args.images, seed=args.seed)
    checkpoints.export(
        args.to,
        network,
        session,
        recipe=f"python -m glasslib.tinyworld.recipes.two_oracle --out runs/{args.out.name} --images {args.images} "
        f"--seed {args.seed}",
        seed=args.seed,
        data=f"{args.images} renders at {IMAGE_SIZE} pixels, roughened, each seen once: half of two things, of every "
        "combination, half of none to three",
        held_out=held_out_accuracy(network.half().float(), 5000),
        half=True,
    )


if __name__ == "__main__":
    main()
