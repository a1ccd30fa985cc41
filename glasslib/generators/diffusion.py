"""A text-to-image pipeline of diffusers as search sees it: noise to pictures of one prompt."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glasslib.checks import check_shape, map_batches
from glasslib.latents import Normal

CARD = "card.json"  # beside a pipeline's folders; {"distilled": true} says that guidance is in its weights
DISTILLED = ("sd-turbo", "sdxl-turbo")  # published pipelines of few steps, which take no guidance
PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
KNOWN = (*PARTS, "text_encoder_2", "transformer")  # the last two belong to other kinds


def load(source: str | Path, *, dtype: torch.dtype = torch.float32, offline: bool = True):
    """Read a pipeline: the tiny painter, or a real one such as stabilityai/sd-turbo.

    Args:
        source: a folder in diffusers' layout, or a repository's name on the hub.
        dtype: of the weights once loaded; files may hold half precision.
        offline: take a named repository only from the local cache.

    Raises:
        FileNotFoundError: no such folder, or a folder that holds no pipeline.
        ValueError: a pipeline of another kind than `DiffusionGenerator` draws with.
    """
    from diffusers import DiffusionPipeline

    folder = Path(source)
    is_name = not folder.exists() and len(folder.parts) == 2 and not folder.is_absolute()
    if not is_name and not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"no pipeline at {folder}: it has no model_index.json; for the tiny painter run: make tinyworld"
        )
    if not is_name:
        index = json.loads((folder / "model_index.json").read_text())
        _check_kind(str(index.get("_class_name")), [name for name in KNOWN if index.get(name, [None])[0] is not None])
    try:
        pipeline = DiffusionPipeline.from_pretrained(
            str(source), dtype=dtype, local_files_only=offline, use_safetensors=True, safety_checker=None
        )
    except OSError as error:
        raise FileNotFoundError(f"weights of {source} are missing: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _check_kind(name: str, parts: list[str]) -> None:
    """Refuse a pipeline that lacks a part of Stable Diffusion's, or has others, by what parts it has."""
    missing, extra = [part for part in PARTS if part not in parts], [part for part in parts if part not in PARTS]
    if missing or extra:
        raise ValueError(
            f"pipeline must have Stable Diffusion's parts ({', '.join(PARTS)}), got {name}"
            + (f" without {', '.join(missing)}" if missing else "")
            + (f" with {', '.join(extra)}" if extra else "")
            + "; sd-turbo and the tiny painter are of this kind"
        )


class DiffusionGenerator:
    """Noise -> pictures of one prompt, in a fixed number of steps; the latent space is the noise.

    Args:
        pipeline: what `load` gives: diffusers' pipeline with tokenizer, text_encoder, unet, vae and scheduler.
        prompt: what to draw.
        n_steps: steps of the scheduler, at least 1.
        guidance: classifier-free guidance; 1 is none and takes half the time.
        batch_size: pictures at once; fewer need less memory.

    Raises:
        ValueError: a prompt that is too long or has an unknown word, n_steps under 1, a pipeline of another kind,
            guidance with a distilled pipeline, or a scheduler that draws noise of its own.

    Source:
        Loop and arguments as in diffusers' StableDiffusionPipeline; noise as what is searched: Eyring et al. 2024
        (ReNO), https://arxiv.org/abs/2406.04312.
    """

    def __init__(
        self, pipeline, prompt: str, *, n_steps: int, guidance: float = 1.0, batch_size: int = 64
    ) -> None:  # fmt: skip
        _check_kind(type(pipeline).__name__, [name for name in KNOWN if getattr(pipeline, name, None) is not None])
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        if guidance < 1:
            raise ValueError(f"guidance must be at least 1 (1 is none), got {guidance}")
        if guidance > 1 and is_distilled(pipeline):
            raise ValueError(
                f"this pipeline is distilled, with guidance in its weights: pass guidance=1, got {guidance}"
            )
        self.prompt, self.n_steps, self.guidance, self.batch_size = prompt, n_steps, float(guidance), batch_size
        self._unet = pipeline.unet.eval().requires_grad_(False)
        self._vae = pipeline.vae.eval().requires_grad_(False)
        self._scheduler = _own_scheduler(pipeline.scheduler)
        size = self._unet.config.sample_size
        self._shape = (self._unet.config.in_channels, size, size)
        self.image_size = size * pipeline.vae_scale_factor
        self.latent_space = Normal(dim=int(np.prod(self._shape)))
        self._states = embed_prompt(pipeline, prompt)  # (1, length, width)
        self._silent = embed_prompt(pipeline, "") if guidance > 1 else None

    def __call__(self, latents: Tensor | np.ndarray) -> Tensor:
        """(n, dim) standard normal noise -> (n, 3, h, w) RGB in [0, 1]; differentiable."""
        check_shape(latents, "latents", f"n {self.latent_space.dim}")
        noise = torch.as_tensor(latents).to(self._states)
        if not torch.isfinite(noise).all():
            n_bad = int((~torch.isfinite(noise)).sum())
            raise ValueError(f"latents must be finite, got {n_bad} bad of {noise.numel()} values")
        return map_batches(self._draw, noise, batch_size=self.batch_size)

    def _draw(self, noise: Tensor) -> Tensor:
        scheduler = copy.deepcopy(self._scheduler)  # it counts its steps
        scheduler.set_timesteps(self.n_steps, device=noise.device)
        x = noise.reshape(len(noise), *self._shape) * scheduler.init_noise_sigma
        for time in scheduler.timesteps:
            x = scheduler.step(self._predict(scheduler.scale_model_input(x, time), time), time, x).prev_sample
        return self._decode(x)

    def _predict(self, x: Tensor, time: Tensor) -> Tensor:
        told = self._unet(x, time, self._states.expand(len(x), -1, -1)).sample
        if self._silent is None:
            return told
        silent = self._unet(x, time, self._silent.expand(len(x), -1, -1)).sample
        return silent + self.guidance * (told - silent)

    def _decode(self, x: Tensor) -> Tensor:
        return (self._vae.decode(x / self._vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def is_distilled(pipeline) -> bool:
    """Whether a pipeline's guidance is in its weights, by the card in its folder or by its published name."""
    name = str(getattr(pipeline, "name_or_path", "") or "")
    card = Path(name) / CARD
    if card.is_file():
        return bool(json.loads(card.read_text()).get("distilled", False))
    return any(known in name for known in DISTILLED)


def embed_prompt(pipeline, prompt: str) -> Tensor:
    """The token states (1, length, width) that the U-Net reads, on its device and in its type.

    Raises:
        ValueError: more tokens than the text encoder reads, or a word that the tokenizer does not know.
    """
    tokenizer, limit = pipeline.tokenizer, pipeline.tokenizer.model_max_length
    ids = tokenizer(prompt, truncation=False).input_ids
    if len(ids) > limit:
        raise ValueError(f"prompt must be at most {limit} tokens with start and end, got {len(ids)}: {prompt[:60]!r}")
    unknown = tokenizer.unk_token_id
    if unknown not in (None, tokenizer.eos_token_id, tokenizer.pad_token_id) and unknown in ids:
        words = [word for word in prompt.split() if unknown in tokenizer(word).input_ids]
        raise ValueError(f"prompt must be words that the painter knows, got unknown {', '.join(words)}")
    padded = tokenizer(prompt, padding="max_length", max_length=limit, return_tensors="pt").input_ids
    with torch.no_grad():
        device = next(pipeline.text_encoder.parameters()).device
        states = pipeline.text_encoder(padded.to(device))[0]
    return states.to(next(pipeline.unet.parameters()))


def _own_scheduler(scheduler):
    """A copy of the pipeline's scheduler; one that adds noise of its own is refused: noise is what we search."""
    name, kind = type(scheduler).__name__, str(scheduler.config.get("algorithm_type", ""))
    if any(word in name for word in ("Ancestral", "LCM", "TCD", "SDE", "DDPM")) or kind.startswith("sde"):
        raise ValueError(
            f"the scheduler must not draw noise of its own, got {name} {kind}; take DDIM, Euler or DPM-Solver"
        )
    return copy.deepcopy(scheduler)
