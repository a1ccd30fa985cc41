"""Train the painter's autoencoder: `python -m glasslib.tinyworld.recipes.painter_vae --out runs/painter_vae`.

It packs a 32-pixel picture into 8 x 8 x 8 numbers, of mean 0 and variance 1 in each channel, so that the painter's
U-Net works on 64 positions instead of 1,024. The decoder learns with noise on its latents, because a painter in few
steps does not meet them exactly.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from glasslib.tinyworld import scenes, two_things
from glasslib.tinyworld.recipes.checkpoints import Session

N_SCENES = 40_000
BATCH_SIZE = 32
LEARNING_RATE = 2e-3
NOISE_STD = 0.05  # on the latents, while the decoder learns
CHANNELS, LATENT_CHANNELS = 32, 8


def new_autoencoder() -> nn.Module:
    """diffusers' small autoencoder: (n, 3, 32, 32) in [-1, 1] <-> (n, 8, 8, 8)."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(CHANNELS,) * 3,
        decoder_block_out_channels=(CHANNELS,) * 3,
        num_encoder_blocks=(0, 1, 2),
        num_decoder_blocks=(2, 2, 0),
        latent_channels=LATENT_CHANNELS,
        scaling_factor=1.0,
    ).to(memory_format=torch.channels_last)


def render_all(world: scenes.Scenes, *, seed: int) -> Tensor:
    """(n, 3, 32, 32) uint8 pictures of scenes, in memory order of channels last; `seed` is of the sensor's noise."""
    noise = torch.Generator().manual_seed(seed)
    chunks = [
        scenes.render(world[i : i + 1000], rng=noise, size=two_things.IMAGE_SIZE).mul_(255).round_().to(torch.uint8)
        for i in range(0, len(world), 1000)
    ]
    return torch.cat(chunks).contiguous(memory_format=torch.channels_last)


def training_pictures(seed: int, n: int) -> tuple[scenes.Scenes, Tensor]:
    """n scenes of two things, no held-out combination, and their pictures, (n, 3, 32, 32) uint8."""
    world = two_things.sample(n, rng=np.random.default_rng(seed))
    return world, render_all(world, seed=seed)


def to_signed(pictures: Tensor) -> Tensor:
    """uint8 pictures as floats in [-1, 1]."""
    return pictures.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def encode_all(autoencoder: nn.Module, pictures: Tensor) -> Tensor:
    """(n, 3, 32, 32) uint8 -> latents (n, 8, 8, 8)."""
    return torch.cat([autoencoder.encoder(to_signed(part)) for part in pictures.split(500)]).clone()


@torch.inference_mode()
def evaluate(autoencoder: nn.Module, n: int = 500) -> dict[str, float]:
    """Reconstruction loss on fresh scenes (mean absolute difference of [0, 1] pictures), and the latents' spread."""
    _, pictures = training_pictures(30_000, n)
    real = to_signed(pictures)
    latents = autoencoder.encoder(real)
    noisy = latents + NOISE_STD * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    return {
        "l1": float((autoencoder.decoder(latents) - real).abs().mean()) / 2,
        "l1_noisy": float((autoencoder.decoder(noisy) - real).abs().mean()) / 2,
        "worst_mean": float(latents.mean((0, 2, 3)).abs().max()),
        "least_std": float(latents.std((0, 2, 3)).min()),
        "most_std": float(latents.std((0, 2, 3)).max()),
    }


def loss_of(autoencoder: nn.Module, real: Tensor, rng: torch.Generator) -> Tensor:
    """Absolute and squared difference of the decoded picture, plus what keeps each channel at mean 0, variance 1."""
    latents = autoencoder.encoder(real)
    again = autoencoder.decoder(latents + NOISE_STD * torch.randn(latents.shape, generator=rng))
    spread = latents.mean((0, 2, 3)).square() + (latents.std((0, 2, 3)) - 1).square()
    return F.l1_loss(again, real) + F.mse_loss(again, real) + 0.05 * spread.mean()


def train(folder: Path, *, n_images: int, seed: int) -> tuple[nn.Module, Session]:
    """Train on `n_images` pictures, resuming from `folder` if something lies there."""
    torch.manual_seed(seed)  # layers initialise from the global state; a recipe owns its process
    autoencoder = new_autoencoder()
    optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    rng = torch.Generator().manual_seed(seed)
    session = Session(folder, model=autoencoder, optimizer=optimizer, rng=rng)
    _, pictures = training_pictures(seed, N_SCENES)
    n_steps = n_images // BATCH_SIZE
    for step in trange(session.step, n_steps, initial=session.step, total=n_steps, desc="autoencoder", mininterval=10):
        for group in optimizer.param_groups:
            share = min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / n_steps)) / 2
            group["lr"] = LEARNING_RATE * (0.01 + 0.99 * share)
        rows = torch.randint(len(pictures), (BATCH_SIZE,), generator=rng)
        loss = loss_of(autoencoder, to_signed(pictures[rows]), rng)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(autoencoder.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0 or step + 1 == n_steps:
            session.save(step + 1, loss=loss.item(), **evaluate(autoencoder))
    return autoencoder.eval().requires_grad_(False), session


def main() -> None:
    """Command line of the recipe; the painter's recipe reads the folder that it leaves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=64_000)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    autoencoder, _ = train(args.out, n_images=args.images, seed=args.seed)
    autoencoder.save_pretrained(args.out / "vae")


if __name__ == "__main__":
    main()
