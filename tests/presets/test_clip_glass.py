"""CLIP-GLaSS's configurations against its code, and at full size with random weights."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glasslib import presets
from glasslib.clip.embedder import ClipEmbedder, load_open_clip
from glasslib.generators.stylegan2 import snapshots
from glasslib.presets import clip_glass
from glasslib.search import loop
from glasslib.search.candidate import Candidate
from glasslib.weights import registry

# name -> algorithm, population, generations, one of its prompts; from its config.py, its run.py and the paper
PUBLISHED = {
    "DeepMindBigGAN256": ("GA", 64, 500, "a clock in a wall"),
    "DeepMindBigGAN512": ("GA", 32, 500, "a mountain lake"),
    "StyleGAN2_ffhq_d": ("NSGA-II", 16, 500, "the face of a bald man with beard and brown eyes"),
    "StyleGAN2_ffhq_nod": ("GA", 16, 500, "the face of a blonde girl with glasses"),
    "StyleGAN2_church_d": ("NSGA-II", 16, 500, "an orthodox church in moscow"),
    "StyleGAN2_church_nod": ("GA", 16, 500, "a gothic church in the city"),
    "StyleGAN2_car_d": ("NSGA-II", 16, 500, "a yellow beetle in an intersection"),
    "StyleGAN2_car_nod": ("GA", 16, 500, "a blue car in the snow"),
    "GPT2": ("GA", 100, 500, "telephone.jpeg"),
}


@pytest.fixture(scope="module")
def random_clip():
    """A ViT-B/32 of random weights, as `load_open_clip` gives it, but made once for all presets here."""
    made = load_open_clip("ViT-B-32", "openai", weights="random", rng=torch.Generator().manual_seed(0))
    return made._model, made.tokenizer


@pytest.fixture
def load(random_clip, monkeypatch):
    """`presets.load` with random weights."""

    def wrap(model_name, tag, *, weights, rng, device, **options):
        assert (model_name, tag, weights) == ("ViT-B-32", "openai", "random")
        return ClipEmbedder(*random_clip, **options)

    def load_random(name, arm, seed=0):
        return presets.load(name, arm, weights="random", rng=torch.Generator().manual_seed(seed))

    monkeypatch.setattr(clip_glass, "load_open_clip", wrap)
    return load_random


def test_the_table_is_the_published_one():
    assert set(clip_glass.CONFIGURATIONS) == set(PUBLISHED) == set(registry.PRESETS) - {"CapDec", "SDTurbo", "paper"}
    for name, (method, popsize, n_generations, prompt) in PUBLISHED.items():
        found = clip_glass.CONFIGURATIONS[name]
        assert (found.method, found.popsize, found.n_generations) == (method, popsize, n_generations)
        assert prompt in [prompt for figure in found.figures for prompt in clip_glass.FIGURES[figure]]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("arm", clip_glass.ARMS)
def test_without_weights_each_says_what_to_run(tmp_path, name, arm):
    with pytest.raises(FileNotFoundError, match=rf"no weights at {tmp_path}.*; run: make weights PRESET={name} "):
        presets.load(name, arm, weights=tmp_path, rng=torch.Generator())


def test_what_cannot_be_built_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"arm must be one of \('faithful', 'fixed'\), got 'broken'"):
        presets.load("GPT2", "broken")
    with pytest.raises(ValueError, match="random weights need rng"):
        presets.load("GPT2", weights="random")
    with pytest.raises(ValueError, match="fresh noise and needs rng"):
        presets.load("StyleGAN2_ffhq_d", "faithful", weights=tmp_path)
    with pytest.raises(ValueError, match="preset must have the arm 'fixed' alone.*'tiny-gpt2' with arm 'faithful'"):
        presets.load("tiny-gpt2", "faithful")


def test_stylegan2_in_both_arms_at_full_size(load):
    fixed, faithful = load("StyleGAN2_church_d", "fixed"), load("StyleGAN2_church_d", "faithful")
    space = fixed.generator.latent_space
    assert space.dim == 512 and (space.lower == -10).all() and (space.upper == 10).all()
    x = space.sample(1, rng=np.random.default_rng(0))
    pictures = fixed.make(x)
    assert pictures.shape == (1, 3, 256, 256) and torch.equal(pictures, fixed.make(x))
    for name, strength in faithful.generator._generator.named_parameters():
        if name.endswith("noise_strength"):
            strength.data.fill_(0.1)  # a new network has 0, and learns more
    first, second = faithful.make(x), faithful.make(x)
    assert not torch.equal(first, second)  # fresh noise at each call
    assert (faithful.generator.shifted_skip, faithful.generator.judged_in) == (True, 4)
    assert (fixed.generator.shifted_skip, fixed.generator.judged_in) == (False, None)
    crowded = [arm.search(rng=np.random.default_rng(0)).identity["faithful"] for arm in (faithful, fixed)]
    assert crowded == [True, False]  # crowding as the pinned pymoo has it
    # CLIP-GLaSS's similarity, written out: no filter, no mean, no deviation
    model, tokenizer = faithful.embedder._model, faithful.embedder.tokenizer
    small = F.interpolate(first, size=(224, 224), mode="bilinear", align_corners=False)
    text = model.encode_text(tokenizer([fixed.prompts[0]]))
    expected = torch.cosine_similarity(model.encode_image(small), text)
    scored = faithful._similarity(fixed.prompts[0])(first)
    torch.testing.assert_close(scored, expected, atol=1e-5, rtol=0)
    # the second objective is the hinge loss of the discriminator, with the sign of a score
    both = fixed.objectives(fixed.prompts[0])(x)
    assert both.shape == (1, 2)
    torch.testing.assert_close(both[:, 0], fixed.scores(fixed.prompts[0])(x))
    torch.testing.assert_close(both[:, 1], -torch.relu(1 - fixed.generator.realism(pictures)))


def test_the_arms_pick_differently_from_a_front():
    front = [Candidate(np.zeros(1), np.array(score), 0) for score in ([0.9, -3.0], [0.8, -0.5], [0.1, 0.0])]
    common = {"generator": None, "embedder": None, "load_judge": None, "popsize": 2, "n_generations": 1, "name": "x"}
    assert presets.Preset(**common).pick(front) is front[1]  # the knee
    assert presets.Preset(**common, pick_weights=(0.0, 1.0)).pick(front) is front[2]  # the least like the caption


def test_biggan_in_both_arms_at_full_size(load):
    fixed, faithful = load("DeepMindBigGAN256", "fixed"), load("DeepMindBigGAN256", "faithful")
    for preset, kinds in ((fixed, {"real"}), (faithful, {"real", "binary"})):
        space = preset.generator.latent_space
        assert space.dim == 1128 and set(space.kinds.tolist()) == kinds
        assert (space.lower[:128] == -2).all() and (space.upper[:128] == 2).all()
    search = faithful.search(rng=np.random.default_rng(0), popsize=2)
    assert search._breeder._mixed_prob == 0.9
    assert fixed.search(rng=np.random.default_rng(0), popsize=2)._breeder._mixed_prob is None
    result = loop.run(search, faithful.objectives("a mountain lake"), n_generations=1, progress=False)
    assert set(np.unique(result.best.x[128:])) <= {0.0, 1.0} and -1 <= result.best.score <= 1
    assert fixed.make(fixed.generator.latent_space.sample(1, rng=np.random.default_rng(0))).shape == (1, 3, 256, 256)


def test_gpt2_at_full_size(load):
    fixed = load("GPT2", "fixed")
    faithful = dataclasses.replace(fixed, arm="faithful")  # the same models, used otherwise
    space = fixed.generator.latent_space
    assert space.length == 20 and space.vocab_size == 50257
    texts = fixed.make(space.sample(2, rng=np.random.default_rng(0)))
    assert all(text.startswith("the picture of ") and len(text) == 50 for text in texts)
    picture = torch.rand(3, 60, 90, generator=torch.Generator().manual_seed(0))
    seen = {}
    for name, preset in (("fixed", fixed), ("faithful", faithful)):
        preset.embedder.tokenizer.context_length = 4  # too short for any of them
        try:
            seen[name] = preset._similarity(picture)(texts)
        finally:
            preset.embedder.tokenizer.context_length = 77
        # the picture that is aimed at is preprocessed properly in both arms
        assert preset.embedder._resize == "shortest" and preset.embedder._pixel_mean.abs().min() > 0.4
    assert (seen["faithful"] == 0).all() and (seen["fixed"] != 0).all()


def test_files_decide_which_generator_is_used(monkeypatch, tmp_path):

    asked = []

    class Networks:
        def generator(self, *, which, **options):
            asked.append((which, options.get("noise_mode", "const"), options["head_rng"] is not None))
            return torch.nn.Identity()

    monkeypatch.setattr(snapshots, "read_networks", lambda path: asked.append(path.name) or Networks())
    monkeypatch.setattr(
        registry, "require", lambda name, folder: {f.path: tmp_path / f.path for f in registry.files(name)}
    )
    monkeypatch.setattr(registry, "sha256_of", lambda file, folder: file.path[:3])
    loaded = []
    monkeypatch.setattr(
        clip_glass, "load_open_clip", lambda *a, weights, **options: loaded.append((*a, weights.parent.name))
    )
    rng = torch.Generator()
    for arm in clip_glass.ARMS:
        preset = presets.load("StyleGAN2_car_nod", arm, weights=tmp_path, rng=rng)
    assert asked[0] == "stylegan2-car-config-f.pkl"
    assert asked == [asked[0], ("G", "random", True), asked[0], ("G_ema", "const", False)]
    _ = preset.judge
    assert loaded[1:] == [("ViT-B-32", "openai", "clip-vit-b-32"), ("RN50x4", "openai", "clip-rn50x4")]
    assert preset.weights["stylegan2/stylegan2-car-config-f.pkl"] == "sty" and len(preset.weights) == 3
