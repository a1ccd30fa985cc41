"""Train the painter of two things: `python -m glasslib.tinyworld.recipes.painter --out runs/painter --parts runs`.

A rectified flow in the latents of painter_vae, drawn by diffusers' U-Net, which reads the states of all tokens of
painter_text by cross-attention. It learns to draw and to read from captions that are right. From CARELESS_FROM on
its captions are careless, as captions found on the web are: three in ten tell all five facts rightly
(two_things.mistaken). Before that it draws nearly everything right, and nothing is left to search for. A tenth of the
captions is empty, for classifier-free guidance. painter_fast makes a painter of one, two and four steps of it.

Source: Liu et al. 2022, https://arxiv.org/abs/2209.03003; noise levels as in Esser et al. 2024,
https://arxiv.org/abs/2403.03206, moved towards noise, where it is decided what stands where.
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import trange

from glasslib import results
from glasslib.tinyworld import scenes, two_things
from glasslib.tinyworld.recipes.checkpoints import Session
from glasslib.tinyworld.recipes.painter_text import token_ids
from glasslib.tinyworld.recipes.painter_vae import LATENT_CHANNELS, encode_all, training_pictures

N_SCENES = 60_000
BATCH_SIZE = 32
LEARNING_RATE = 1e-3
WARMUP = 200
CARELESS_FROM = 2_250  # step from which captions have mistakes
EMPTY = 0.1  # share of captions left out, for guidance
LATENT_SIZE = 8
N_TIMES = 1000  # a noise level of 1 is time 1,000 to the U-Net
WIDTHS = (64, 128)
SAVE_EVERY = 250  # steps


def new_unet(context_width: int) -> nn.Module:
    """diffusers' text-conditioned U-Net on (n, 8, 8, 8); random weights."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=context_width,
        attention_head_dim=4,
        norm_num_groups=16,
    ).to(memory_format=torch.channels_last)


def load_parts(folder: Path) -> tuple[nn.Module, nn.Module, object]:
    """The frozen autoencoder, text encoder and tokenizer that painter_vae and painter_text left under `folder`."""
    from diffusers import AutoencoderTiny
    from transformers import CLIPTextModel, PreTrainedTokenizerFast

    for name, recipe in (("painter_vae/vae", "painter_vae"), ("painter_text/text_encoder", "painter_text")):
        if not (folder / name).is_dir():
            raise FileNotFoundError(
                f"no {name} under {folder}; run: python -m glasslib.tinyworld.recipes.{recipe} --out {folder / recipe}"
            )
    autoencoder = AutoencoderTiny.from_pretrained(folder / "painter_vae" / "vae")
    autoencoder.register_to_config(_name_or_path="")  # else the folder's path is saved with it
    text_encoder = CLIPTextModel.from_pretrained(folder / "painter_text" / "text_encoder")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "painter_text" / "tokenizer")
    return (
        autoencoder.eval().requires_grad_(False).to(memory_format=torch.channels_last),
        text_encoder.eval().requires_grad_(False),
        tokenizer,
    )


class Captions:
    """Fresh captions of scenes as token states (n, CONTEXT_LENGTH, width), some of them empty."""

    def __init__(self, world: scenes.Scenes, text_encoder: nn.Module, tokenizer) -> None:
        self._world, self._text_encoder, self._tokenizer = world, text_encoder, tokenizer

    @torch.inference_mode()
    def encode(self, texts: list[str]) -> Tensor:
        """States of given texts."""
        return self._text_encoder(token_ids(self._tokenizer, texts)).last_hidden_state

    def states(self, rows: Tensor, dice: np.random.Generator, *, careless: bool, empty: float = EMPTY) -> Tensor:
        """States of new captions of the scenes `rows`, with mistakes or not; a share `empty` says nothing."""
        seen = self._world[rows.numpy()]
        texts = two_things.describe(two_things.mistaken(seen, rng=dice) if careless else seen, rng=dice)
        silent = dice.random(len(texts)) < empty
        return self.encode(["" if quiet else text for text, quiet in zip(texts, silent, strict=True)]).clone()


def training_latents(folder: Path, autoencoder: nn.Module, *, seed: int) -> tuple[scenes.Scenes, Tensor]:
    """N_SCENES scenes and their latents (n, 8, 8, 8), which are kept in `folder`: they take a minute to make."""
    path = folder / "latents.safetensors"
    if path.is_file():
        return two_things.sample(N_SCENES, rng=np.random.default_rng(seed)), load_file(path)["latents"]
    world, pictures = training_pictures(seed, N_SCENES)
    latents = encode_all(autoencoder, pictures).contiguous()
    results.write_bytes_atomic(path, save({"latents": latents}))
    return world, latents


def draw_noise_levels(n: int, rng: torch.Generator) -> Tensor:
    """(n,) in (0, 1): logit-normal, moved towards 1; a tenth uniform, so that both ends are seen."""
    levels = torch.sigmoid(0.5 + 1.1 * torch.randn(n, generator=rng))
    return torch.where(torch.rand(n, generator=rng) < 0.1, torch.rand(n, generator=rng), levels)


def flow_loss(unet: nn.Module, clean: Tensor, noise: Tensor, states: Tensor, levels: Tensor) -> Tensor:
    """Mean squared error of the velocity noise - clean at the given noise levels (n,)."""
    sigma = levels[:, None, None, None]
    mixed = ((1 - sigma) * clean + sigma * noise).contiguous(memory_format=torch.channels_last)
    return F.mse_loss(unet(mixed, levels * N_TIMES, states).sample, noise - clean)


@torch.inference_mode()
def evaluate(unet: nn.Module, autoencoder: nn.Module, captions: Captions, *, n: int = 256) -> dict[str, float]:
    """The flow loss on fresh scenes, with fixed noise: told the right caption, and told another scene's."""
    world, pictures = training_pictures(32_000, n)
    clean, rng = encode_all(autoencoder, pictures), torch.Generator().manual_seed(32_000)
    noise, levels = torch.randn(clean.shape, generator=rng), torch.rand(n, generator=rng)
    states = captions.encode(two_things.describe(world, rng=np.random.default_rng(32_000)))
    return {
        "told": float(flow_loss(unet, clean, noise, states, levels)),
        "mistold": float(flow_loss(unet, clean, noise, states.roll(1, 0), levels)),
    }


def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Exponential moving average of the weights, short at the start."""
    decay = min(0.999, (step + 1) / (step + 10))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def load_average(folder: Path, context_width: int) -> tuple[nn.Module, int]:
    """The averaged U-Net of a training folder's checkpoint, frozen, and after how many steps it is.

    Raises:
        FileNotFoundError: nothing has been trained there.
    """
    if not (folder / "checkpoint.pt").is_file():
        raise FileNotFoundError(
            f"no checkpoint in {folder}; run: python -m glasslib.tinyworld.recipes.painter --out {folder}"
        )
    state, unet = torch.load(folder / "checkpoint.pt", weights_only=True), new_unet(context_width)
    weights = {name.removeprefix("average."): v for name, v in state["model"].items() if name.startswith("average.")}
    unet.load_state_dict(weights)
    return unet.eval().requires_grad_(False), state["step"]


def learning_rate(step: int, n_steps: int) -> float:
    """Linear warm-up, then a cosine to a fiftieth."""
    share = min(1.0, max(0, step - WARMUP) / max(1, n_steps - WARMUP))
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP) * (0.02 + 0.98 * (1 + math.cos(math.pi * share)) / 2)


def train(folder: Path, *, parts: Path, n_images: int, seed: int) -> tuple[nn.Module, Session]:
    """Train on `n_images` pictures, resuming from `folder` if something lies there; returns the averaged U-Net."""
    autoencoder, text_encoder, tokenizer = load_parts(parts)
    torch.manual_seed(seed)  # layers initialise from the global state; a recipe owns its process
    unet = new_unet(text_encoder.config.hidden_size)
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    rng = torch.Generator().manual_seed(seed)
    session = Session(folder, model=nn.ModuleDict({"unet": unet, "average": average}), optimizer=optimizer, rng=rng)
    world, latents = training_latents(folder, autoencoder, seed=seed)
    captions = Captions(world, text_encoder, tokenizer)
    n_steps = n_images // BATCH_SIZE
    for step in trange(session.step, n_steps, initial=session.step, total=n_steps, desc="painter", mininterval=20):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps)
        rows = torch.randint(N_SCENES, (BATCH_SIZE,), generator=rng)
        states = captions.states(rows, np.random.default_rng([seed, step]), careless=step >= CARELESS_FROM)
        noise = torch.randn(BATCH_SIZE, *latents.shape[1:], generator=rng)
        loss = flow_loss(unet, latents[rows], noise, states, draw_noise_levels(BATCH_SIZE, rng))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        update_average(average, unet, step if step < CARELESS_FROM else step - CARELESS_FROM)  # begins anew with them
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == n_steps:
            session.save(step + 1, loss=loss.item(), **evaluate(average, autoencoder, captions))
    return average, session


def main() -> None:
    """Command line of the recipe; painter_fast reads the folder that it leaves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--parts", type=Path, default=results.REPO / "runs", help="where painter_vae/ and painter_text/ lie"
    )
    parser.add_argument("--images", type=int, default=128_000)
    parser.add_argument("--seed", type=int, default=13)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    train(args.out, parts=args.parts, n_images=args.images, seed=args.seed)


if __name__ == "__main__":
    main()
