"""DiffusionGenerator against diffusers' own pipeline, and what it refuses. Toy networks, random weights."""

import json

import numpy as np
import pytest
import torch

from glasslib.generators import diffusion
from glasslib.generators.diffusion import DiffusionGenerator
from glasslib.tinyworld.recipes import painter_text

PROMPT = "a red star left of a blue circle"


def new_pipeline(scheduler=None):
    from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer = painter_text.new_tokenizer()
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=3,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=painter_text.WIDTH, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    flow = DPMSolverMultistepScheduler(
        solver_order=1, use_flow_sigmas=True, prediction_type="flow_prediction", steps_offset=1
    )
    return StableDiffusionPipeline(
        vae=vae, unet=unet, tokenizer=tokenizer, text_encoder=painter_text.new_text_encoder(tokenizer),
        scheduler=scheduler or flow, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipeline():
    made = new_pipeline()
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def noise() -> torch.Tensor:
    return torch.randn(5, 192, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("n_steps", "guidance"), [(1, 1.0), (2, 1.0), (4, 1.0), (1, 3.0), (4, 3.0)])
def test_equals_diffusers_pipeline(pipeline, noise, n_steps, guidance):
    generator = DiffusionGenerator(pipeline, PROMPT, n_steps=n_steps, guidance=guidance)
    with torch.inference_mode():
        ours = generator(noise)
    options = {"num_inference_steps": n_steps, "guidance_scale": guidance, "num_images_per_prompt": 5}
    theirs = pipeline(PROMPT, latents=noise.view(5, 3, 8, 8), height=16, width=16, output_type="pt", **options).images
    assert ours.shape == (5, 3, 16, 16) and generator.image_size == 16 and generator.latent_space.dim == 192
    assert (ours - theirs).abs().max() <= 1e-5
    assert (ours - ours.roll(1, 0)).abs().max() > 0.01  # five pictures, not one


def test_equals_diffusers_pipeline_with_another_scheduler(noise):
    from diffusers import EulerDiscreteScheduler

    other = new_pipeline(EulerDiscreteScheduler(timestep_spacing="trailing"))  # sd-turbo's
    other.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        ours = DiffusionGenerator(other, PROMPT, n_steps=2)(noise)
    options = {"num_inference_steps": 2, "guidance_scale": 0.0, "num_images_per_prompt": 5}
    theirs = other(PROMPT, latents=noise.view(5, 3, 8, 8), height=16, width=16, output_type="pt", **options).images
    assert (ours - theirs).abs().max() <= 1e-5


def test_repeats_and_does_not_depend_on_the_batch(pipeline, noise):
    generator = DiffusionGenerator(pipeline, PROMPT, n_steps=2)
    with torch.inference_mode():
        whole = generator(noise)
        assert torch.equal(whole, generator(noise))
        small = DiffusionGenerator(pipeline, PROMPT, n_steps=2, batch_size=2)(noise.numpy().astype(np.float64))
    assert (whole - small).abs().max() < 1e-5


def test_gradients_reach_the_noise_through_all_steps(pipeline, noise):
    generator = DiffusionGenerator(pipeline, PROMPT, n_steps=3)
    x = noise[:1].double().requires_grad_(True)
    generator(x).square().mean().backward()
    step = 1e-2 * x.grad / x.grad.norm()
    with torch.no_grad():
        rise = generator(x + step).square().mean() - generator(x - step).square().mean()
    assert abs(float(rise) / (2 * 1e-2 * float(x.grad.norm())) - 1) < 0.05


def test_the_prompt_is_read(pipeline, noise):
    with torch.inference_mode():
        one, other = (
            DiffusionGenerator(pipeline, p, n_steps=1)(noise) for p in (PROMPT, "a blue star above a red circle")
        )
    assert (one - other).abs().max() > 1e-4


def test_bad_input_is_refused(pipeline):
    for prompt, message in (
        ("red " * 30, "at most 22 tokens with start and end, got 32"),
        ("a red elephant", "unknown elephant"),
    ):
        with pytest.raises(ValueError, match=message):
            DiffusionGenerator(pipeline, prompt, n_steps=1)
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        DiffusionGenerator(pipeline, PROMPT, n_steps=0)
    with pytest.raises(ValueError, match="guidance must be at least 1"):
        DiffusionGenerator(pipeline, PROMPT, n_steps=1, guidance=0.5)
    with pytest.raises(ValueError, match="latents must be finite, got 192 bad of 192"):
        DiffusionGenerator(pipeline, PROMPT, n_steps=1)(torch.full((1, 192), float("nan")))
    with pytest.raises(ValueError, match=r"latents must have shape \(n, 192\)"):
        DiffusionGenerator(pipeline, PROMPT, n_steps=1)(torch.zeros(1, 3, 8, 8))


def test_other_kinds_of_pipeline_and_schedulers_with_noise_are_refused(pipeline):
    from diffusers import DDPMPipeline, DDPMScheduler, EulerAncestralDiscreteScheduler, UNet2DModel

    unet = UNet2DModel(sample_size=8, block_out_channels=(8,), down_block_types=("DownBlock2D",),
                       up_block_types=("UpBlock2D",), norm_num_groups=4)  # fmt: skip
    with pytest.raises(ValueError, match="got DDPMPipeline without tokenizer, text_encoder, vae"):
        DiffusionGenerator(DDPMPipeline(unet, DDPMScheduler()), PROMPT, n_steps=1)
    with pytest.raises(ValueError, match="must not draw noise of its own, got EulerAncestral"):
        DiffusionGenerator(new_pipeline(EulerAncestralDiscreteScheduler()), PROMPT, n_steps=1)


def test_load_reads_a_saved_folder_and_its_card(pipeline, noise, tmp_path):
    pipeline.save_pretrained(tmp_path / "painter")
    loaded = diffusion.load(tmp_path / "painter")
    with torch.inference_mode():
        pictures = [DiffusionGenerator(p, PROMPT, n_steps=2)(noise) for p in (pipeline, loaded)]
    assert torch.equal(*pictures)
    DiffusionGenerator(loaded, PROMPT, n_steps=1, guidance=2.0)
    (tmp_path / "painter" / "card.json").write_text(json.dumps({"distilled": True}))
    with pytest.raises(ValueError, match="distilled.*pass guidance=1, got 2"):
        DiffusionGenerator(diffusion.load(tmp_path / "painter"), PROMPT, n_steps=1, guidance=2.0)


def test_load_names_what_is_missing(pipeline, tmp_path):
    with pytest.raises(FileNotFoundError, match="no pipeline at .*painter.*model_index.json"):
        diffusion.load(tmp_path / "painter")
    pipeline.save_pretrained(tmp_path / "painter")
    (tmp_path / "painter" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="weights of .* are missing"):
        diffusion.load(tmp_path / "painter")
    index = json.loads((tmp_path / "painter" / "model_index.json").read_text())
    (tmp_path / "painter" / "model_index.json").write_text(json.dumps({**index, "transformer": ["diffusers", "X"]}))
    with pytest.raises(ValueError, match="got StableDiffusionPipeline with transformer"):
        diffusion.load(tmp_path / "painter")
