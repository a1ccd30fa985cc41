"""Make the painter draw in few steps: `python -m glasslib.tinyworld.recipes.painter_fast --out runs/painter_fast`.

Reflow: the painter of painter.py draws a picture of each of many noises, with guidance, and a student learns the
straight way from that noise to that picture. Guidance is in the pictures, so the student needs none. The whole
pipeline goes to glasslib/tinyworld/weights/painter, in the layout that diffusers' `from_pretrained` reads.

Source: Liu et al. 2022, https://arxiv.org/abs/2209.03003; Liu et al. 2023 (InstaFlow),
https://arxiv.org/abs/2309.06380, whose second reflow and distillation with a perceptual loss are left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import tqdm, trange

from glasslib import results
from glasslib.generators.diffusion import DiffusionGenerator
from glasslib.tinyworld import two_oracle, two_things
from glasslib.tinyworld.models import WEIGHTS
from glasslib.tinyworld.recipes import checkpoints
from glasslib.tinyworld.recipes.checkpoints import Session
from glasslib.tinyworld.recipes.painter import (
    BATCH_SIZE,
    CARELESS_FROM,
    LATENT_SIZE,
    N_SCENES,
    N_TIMES,
    flow_loss,
    load_average,
    load_parts,
    update_average,
)
from glasslib.tinyworld.recipes.painter_text import token_ids
from glasslib.tinyworld.recipes.painter_vae import LATENT_CHANNELS

GUIDANCE, N_STEPS = 2.5, 6  # of the teacher
UNDISTILLED_GUIDANCE = 2.5
CHUNK = 500  # noises drawn, and written to disk, at a time
LEARNING_RATE = 4e-4
FIRST = 0.4  # share of a batch at noise level 1, where a picture of one step is made
SHAPE = (LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE)


@torch.inference_mode()
def draw(unet: nn.Module, noise: Tensor, states: Tensor, empty: Tensor, *, n_steps: int, guidance: float) -> Tensor:
    """Follow the flow from noise (n, 8, 8, 8) to latents in equal steps; `states` and `empty` are token states."""
    x = noise
    for k in range(n_steps):
        time = torch.full((len(x),), (1 - k / n_steps) * N_TIMES)
        velocity = unet(x, time, states).sample
        if guidance != 1:
            silent = unet(x, time, empty.expand_as(states)).sample
            velocity = silent + guidance * (velocity - silent)
        x = x - velocity / n_steps
    return x


def make_pairs(folder: Path, *, teacher: nn.Module, text_encoder: nn.Module, tokenizer, n: int, seed: int) -> None:
    """Write n (noise, latents, token ids) in chunks to `folder`; chunks that lie there already are kept."""
    empty = text_encoder(token_ids(tokenizer, [""])).last_hidden_state
    for k in tqdm(range(n // CHUNK), desc="pairs", mininterval=20):
        path = folder / f"pairs-{k:04d}.safetensors"
        if path.exists():
            continue
        dice, rng = np.random.default_rng([seed, k]), torch.Generator().manual_seed(1000 * seed + k)
        ids = token_ids(tokenizer, two_things.describe(two_things.sample(CHUNK, rng=dice), rng=dice))
        noise, latents = torch.randn(CHUNK, *SHAPE, generator=rng), []
        for some, words in zip(noise.split(50), ids.split(50), strict=True):
            states = text_encoder(words).last_hidden_state
            latents.append(draw(teacher, some, states, empty, n_steps=N_STEPS, guidance=GUIDANCE))
        pairs = {"noise": noise, "latents": torch.cat(latents).contiguous(), "ids": ids}
        results.write_bytes_atomic(path, save(pairs))


def read_pairs(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Noise (n, 8, 8, 8), latents (n, 8, 8, 8) and token ids (n, length) of all chunks in `folder`."""
    chunks = [load_file(path) for path in sorted(folder.glob("pairs-*.safetensors"))]
    return tuple(torch.cat([chunk[name] for chunk in chunks]) for name in ("noise", "latents", "ids"))


def draw_noise_levels(n: int, rng: torch.Generator) -> Tensor:
    """(n,) in (0, 1]: 1 for a share of FIRST, uniform for the rest."""
    levels = torch.rand(n, generator=rng)
    return torch.where(torch.rand(n, generator=rng) < FIRST, torch.ones(n), levels)


def train(
    folder: Path, *, teacher: nn.Module, parts: Path, n_pairs: int, n_images: int, seed: int
) -> tuple[nn.Module, Session]:
    """Draw the pairs and train the student on `n_images` of them, resuming from `folder`; returns the average."""
    _, text_encoder, tokenizer = load_parts(parts)
    student = copy.deepcopy(teacher).train().requires_grad_(True)
    average = copy.deepcopy(teacher).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True
    )
    rng = torch.Generator().manual_seed(seed)
    both = nn.ModuleDict({"unet": student, "average": average})
    session = Session(folder, model=both, optimizer=optimizer, rng=rng)
    make_pairs(folder, teacher=teacher, text_encoder=text_encoder, tokenizer=tokenizer, n=n_pairs, seed=seed)
    noise, latents, ids = read_pairs(folder)
    n_steps = n_images // BATCH_SIZE
    for step in trange(session.step, n_steps, initial=session.step, total=n_steps, desc="student", mininterval=20):
        for group in optimizer.param_groups:
            cosine = (1 + math.cos(math.pi * step / n_steps)) / 2
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * cosine)
        rows = torch.randint(len(noise), (BATCH_SIZE,), generator=rng)
        with torch.no_grad():
            states = text_encoder(ids[rows]).last_hidden_state
        loss = flow_loss(student, latents[rows], noise[rows], states, draw_noise_levels(BATCH_SIZE, rng))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        update_average(average, student, step)
        if (step + 1) % 250 == 0 or step + 1 == n_steps:
            session.save(step + 1, loss=loss.item())
    return average, session


def new_scheduler():
    """diffusers' scheduler that takes the flow's Euler steps: DPM-Solver of first order on flow noise levels."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(
        solver_order=1, use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=1.0, steps_offset=1
    )


def new_pipeline(unet: nn.Module, parts: Path):
    """diffusers' StableDiffusionPipeline of the painter's parts."""
    from diffusers import StableDiffusionPipeline

    autoencoder, text_encoder, tokenizer = load_parts(parts)
    return StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@torch.inference_mode()
def share_right(pipeline, oracle, *, n_steps: int, n_captions: int, n_draws: int, seed: int, **options) -> dict:
    """What share of draws shows what the caption asks for, by the oracle.

    Args:
        oracle: `two_oracle.TwoOracle`.
        n_captions: fresh captions, each drawn `n_draws` times.
        options: `held_out` of the scenes, `guidance` of the generator.

    Returns:
        By aspect (`two_oracle.ASPECTS`), the share of all draws; and `two`, the share that shows two things.
    """
    rng, guidance = np.random.default_rng(seed), options.pop("guidance", 1.0)
    asked = two_things.describe(two_things.sample(n_captions, rng=rng, **options), rng=rng)
    hits: dict[str, list] = {}
    for prompt in asked:
        generator = DiffusionGenerator(pipeline, prompt, n_steps=n_steps, guidance=guidance)
        seen = oracle(generator(generator.latent_space.sample(n_draws, rng=rng)))
        for name, hit in {**seen.agrees([two_things.parse(prompt)] * n_draws), "two": seen.is_two}.items():
            hits.setdefault(name, []).append(hit.mean())
    return {name: float(np.mean(values)) for name, values in hits.items()}


def write_painter(folder: Path, unet: nn.Module, *, parts: Path, guidance: float, about: dict) -> None:
    """Write the pipeline in half precision, and its card with what one, two and four steps draw rightly.

    Args:
        guidance: with which it is measured and should be used; 1 for a student, which has it in its weights.
        about: the rest of the card, as `checkpoints.write_card` takes it, and `distilled`.
    """
    pipeline = new_pipeline(unet, parts)
    for network in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        network.to(torch.float16)
    pipeline.save_pretrained(folder)
    for network in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        network.to(torch.float32)
    oracle, measured = two_oracle.load(WEIGHTS / "two_oracle"), {}
    for n_steps in (1, 2, 4):
        for name, held_out in (("seen", False), ("unseen", True)):
            options = {"n_steps": n_steps, "n_captions": 50, "n_draws": 4, "seed": 35_000, "held_out": held_out}
            right = share_right(pipeline, oracle, guidance=guidance, **options)
            measured |= {f"{name}_{aspect}_{n_steps}": value for aspect, value in right.items()}
    checkpoints.write_card(folder, **about, held_out=measured, guidance=guidance)


def about_teacher(folder: Path, steps: int) -> dict:
    """What the card says of the painter itself, which lies in `folder`."""
    seconds = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["seconds"]
    return {
        "recipe": f"python -m glasslib.tinyworld.recipes.painter --out runs/{folder.name}, stopped at step {steps} of "
        "4000; then painter_fast --undistilled",
        "seed": 13,
        "steps": steps,
        "data": f"{steps * BATCH_SIZE} draws from {N_SCENES} scenes without a held-out combination; captions right up "
        f"to step {CARELESS_FROM} and careless from then on; not distilled",
        "wall_time_s": seconds,
        "distilled": False,
    }


def about_student(args: argparse.Namespace, session: Session, teacher_steps: int) -> dict:
    """What the card says of the student."""
    return {
        "recipe": f"python -m glasslib.tinyworld.recipes.painter_fast --out runs/{args.out.name} --pairs {args.pairs} "
        f"--images {args.images} --seed {args.seed}",
        "seed": args.seed,
        "steps": session.step,
        "data": f"{args.pairs} pictures by the painter after {teacher_steps} steps, drawn in {N_STEPS} steps with "
        f"guidance {GUIDANCE}, of captions without a held-out combination; each seen {args.images / args.pairs:.1f} "
        "times",
        "wall_time_s": session.elapsed(),
        "distilled": True,
    }


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", type=Path, default=results.REPO / "runs", help="where the painter_* folders lie")
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--images", type=int, default=80_000)
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--undistilled", action="store_true", help="write the painter itself, without a student")
    parser.add_argument("--to", type=Path, default=WEIGHTS / "painter", help="where the pipeline and its card go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    folder = args.parts / "painter"
    unet, steps = load_average(folder, load_parts(args.parts)[1].config.hidden_size)
    if args.undistilled:
        guidance, about = UNDISTILLED_GUIDANCE, about_teacher(folder, steps)
    else:
        options = {"n_pairs": args.pairs, "n_images": args.images, "seed": args.seed}
        unet, session = train(args.out, teacher=unet, parts=args.parts, **options)
        guidance, about = 1.0, about_student(args, session, steps)
    write_painter(args.to, unet, parts=args.parts, guidance=guidance, about=about)


if __name__ == "__main__":
    main()
