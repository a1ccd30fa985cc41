"""Train a tiny CLIP contrastively on rendered scenes: `python -m glasslib.tinyworld.train.clip --model tiny-clip`.

The logit scale is held high, as real CLIPs end (100), and captions name little: together they leave a modality gap.
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

from glasslib.embedding import ClipEmbedder, encode_text_trimmed
from glasslib.tinyworld import captions, scenes, zeroshot
from glasslib.tinyworld.models import new_clip
from glasslib.tinyworld.train.checkpoints import Session

N_SCENES = 100_000
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
WARMUP = 200
RARE = 0.1  # share of captions in each of the two styles' registers together
NEON = 0.2  # share of scenes of the second domain


def training_pictures(seed: int, n: int) -> tuple[scenes.Scenes, Tensor]:
    """n scenes of both domains and their pictures, (n, 3, 64, 64) uint8."""
    rng = np.random.default_rng(seed)
    n_neon = int(n * NEON)
    parts = [scenes.sample(n - n_neon, rng=rng), scenes.sample(n_neon, rng=rng, domain="neon")]
    world = scenes.concatenate(parts)[rng.permutation(n)]
    noise = torch.Generator().manual_seed(seed)
    chunks = [scenes.render(world[i : i + 1000], rng=noise) for i in range(0, n, 1000)]
    return world, torch.cat([(chunk * 255).round().to(torch.uint8) for chunk in chunks])


def write_captions(batch: scenes.Scenes, rng: np.random.Generator) -> list[str]:
    """One caption a scene, mostly neutral."""
    texts = captions.describe(batch, rng=rng)
    styled = np.flatnonzero(rng.random(len(batch)) < RARE)
    for register, rows in zip(captions.REGISTERS[1:], np.array_split(styled, 2), strict=True):
        for row, text in zip(rows, captions.describe(batch[rows], rng=rng, register=register), strict=True):
            texts[row] = text
    return texts


def contrastive_loss(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    """Symmetric InfoNCE over a batch of unit embeddings (n, dim). Source: Radford et al. 2021, Figure 3."""
    logits = scale * images @ texts.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@torch.inference_mode()
def evaluate(model: nn.Module, tokenizer, n: int = 1000) -> dict[str, float]:
    """Zero-shot accuracies, modality gap and matched cosine on fresh scenes."""
    rng, noise = np.random.default_rng(10_000), torch.Generator().manual_seed(10_000)
    embedder = ClipEmbedder(model, tokenizer)
    world = scenes.sample(n, rng=rng, n_objects=(1, 1))
    images = embedder.embed_images(scenes.render(world, rng=noise))
    report = {name: hit.mean() for name, hit in zeroshot.correct(embedder, images, world).items()}
    mixed = scenes.sample(n, rng=rng)
    images = embedder.embed_images(scenes.render(mixed, rng=noise))
    texts = embedder.embed_texts(captions.describe(mixed, rng=rng))
    report["gap"] = float((images.mean(0) - texts.mean(0)).norm())
    report["matched"] = float((images * texts).sum(1).mean())
    report["unmatched"] = float((images @ texts.T).mean())
    model.train().requires_grad_(True)
    return report


def learning_rate(step: int, n_steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / WARMUP
    share = (step - WARMUP) / max(1, n_steps - WARMUP)
    return LEARNING_RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, share))) / 2)


def train(folder: Path, *, model_name: str, n_pairs: int, seed: int, scale: float) -> nn.Module:
    """Train to `n_pairs` image-text pairs, resuming from `folder` if something lies there."""
    torch.manual_seed(seed)  # open_clip initialises from the global state; a recipe owns its process
    model, tokenizer = new_clip(model_name)
    model.train()
    model.visual.to(memory_format=torch.channels_last)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(scale))
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for name, p in model.named_parameters() if p.ndim < 2 and name != "logit_scale"]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    rng = torch.Generator().manual_seed(seed)
    session = Session(folder, model=model, optimizer=optimizer, rng=rng)
    world, pictures = training_pictures(seed, N_SCENES)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.visual.image_mean, model.visual.image_std))
    n_steps = n_pairs // BATCH_SIZE
    for step in trange(session.step, n_steps, initial=session.step, total=n_steps, desc=model_name, mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps)
        rows = torch.randint(N_SCENES, (BATCH_SIZE,), generator=rng)
        texts = write_captions(world[rows.numpy()], np.random.default_rng([seed, step]))
        pixels = ((pictures[rows] / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        images = F.normalize(model.encode_image(pixels), dim=1)
        loss = contrastive_loss(images, F.normalize(encode_text_trimmed(model, tokenizer(texts)), dim=1), scale)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 400 == 0 or step + 1 == n_steps:
            session.save(step + 1, loss=loss.item(), **evaluate(model, tokenizer))
    return model


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-clip")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=450_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=100.0)
    args = parser.parse_args()
    train(args.out, model_name=args.model, n_pairs=args.pairs, seed=args.seed, scale=args.scale)


if __name__ == "__main__":
    main()
