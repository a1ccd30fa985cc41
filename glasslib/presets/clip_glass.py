"""CLIP-GLaSS's nine configurations: which models, populations and searches, as its code has them or repaired.

| | faithful | fixed |
|---|---|---|
| pictures before CLIP | squashed without a filter, mean and deviation left out | CLIP's own preprocessing |
| StyleGAN2 | the raw generator, fresh noise at each call | the averaged one, constant noise |
| StyleGAN2's pictures | the sum of colours moves a pixel right and down at each doubling | NVIDIA's |
| realism | of four pictures together, its last two layers drawn at random | of each alone, NVIDIA's layers |
| BigGAN's classes | a softmax over bits | a sparse mixture |
| BigGAN's crossover | z and bits together, .9 of matings | each by its own chance, as configured |
| a sentence too long for CLIP | its whole batch scores 0 | it is cut |
| end-of-text among GPT-2's context tokens | the text is "", and scores as such | GPT-2 writes on |
| picked from a front | pseudo-weights [0, 1] | the knee |

What some of these change, measured (with random weights where the tiny ones lack the part). Crossover: of the bits that
differ a child takes .455 from the other parent, .093 as configured (1,500 matings). Shift: pictures differ by .133 on
average (a random network of 64 pixels) and by .012 (tiny-stylegan2, 32 pixels, whose last layers draw most). A drawn
head: over 256 pictures of tiny-stylegan2 its logits correlate with the trained one's by -.33 to .17 (five draws).
Judged in fours: with another order a picture's hinge moves by .006 on average and .061 at most, of a spread of .174.

Source: Galatolo et al. 2021, https://arxiv.org/abs/2102.01645; its code: config.py, generator.py, latent.py, run.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path

import torch

from glasslib.clip.embedder import ClipEmbedder, load_open_clip
from glasslib.generators import gpt2
from glasslib.search import operators
from glasslib.weights import registry

ARMS = ("faithful", "fixed")
FIGURES: dict[int, tuple[str, ...]] = {  # of the paper -> its captions; of figure 10 the pictures, which are not ours
    3: (
        "the face of a man with brown eyes and stubble beard",
        "the face of a blonde woman with blue eyes and glasses",
        "the face of a bald man with beard and brown eyes",
    ),
    4: ("a black SUV in the snow", "a red truck in a street", "a yellow beetle in an intersection"),
    5: ("a gothic church a grass field", "an orthodox church in moscow", "a basilica in rome"),
    6: ("the face of a blonde girl with glasses",),
    7: ("a blue car in the snow",),
    8: ("a gothic church in the city",),
    9: ("a clock in a wall", "a dog in the woods", "a mountain lake"),
    10: ("dog.jpeg", "goldfish.jpeg", "zebra.jpeg", "harp.jpeg", "knot.jpeg", "radio_telescope.jpeg", "teapot.jpeg",
         "telephone.jpeg", "harmonica.jpeg"),
}  # fmt: skip


@dataclass(frozen=True)
class Configuration:
    """One configuration.

    family: "biggan", "stylegan2" or "gpt2". size: pixels a side. method, popsize: the search. batch_size: generated at
    once. figures: keys of FIGURES that it drew. data: what a StyleGAN2 was trained on.
    """

    family: str
    method: str
    popsize: int
    batch_size: int
    figures: tuple[int, ...]
    size: int = 0
    data: str = ""
    n_generations: int = 500


def _stylegan2(data: str, size: int, method: str, *figures: int) -> Configuration:
    return Configuration("stylegan2", method, 16, 4, (*figures, 6, 7, 8), size=size, data=data)


CONFIGURATIONS: dict[str, Configuration] = {
    "DeepMindBigGAN256": Configuration("biggan", "GA", 64, 32, (9,), size=256),
    "DeepMindBigGAN512": Configuration("biggan", "GA", 32, 8, (9,), size=512),
    "StyleGAN2_ffhq_d": _stylegan2("ffhq", 1024, "NSGA-II", 3),
    "StyleGAN2_ffhq_nod": _stylegan2("ffhq", 1024, "GA"),
    "StyleGAN2_church_d": _stylegan2("church", 256, "NSGA-II", 5),
    "StyleGAN2_church_nod": _stylegan2("church", 256, "GA"),
    "StyleGAN2_car_d": _stylegan2("car", 512, "NSGA-II", 4),
    "StyleGAN2_car_nod": _stylegan2("car", 512, "GA"),
    "GPT2": Configuration(
        "gpt2", "GA", 100, 100, (10,)
    ),  # all rows at once, as theirs: its batch size of 25 is read by no one
}


def build(
    name: str, arm: str, *, weights: str | Path | None, rng: torch.Generator | None, device: torch.device | str,
    **options,
) -> dict:  # fmt: skip
    """The fields of a `presets.Preset` but its name and arm; for the arguments see `presets.load`.

    Args:
        options: keywords of the generator that only the fixed arm may have, such as `render_size`.
    """
    if options and arm == "faithful":
        raise ValueError(f"the faithful arm runs as published, without {options}; leave them out or take arm='fixed'")
    if arm not in ARMS:
        raise ValueError(f"arm must be one of {ARMS}, got {arm!r}")
    configuration, is_random = CONFIGURATIONS[name], weights == "random"
    faithful = arm == "faithful"
    if rng is None and (is_random or (faithful and configuration.family == "stylegan2")):
        reason = "random weights need" if is_random else "StyleGAN2's faithful arm draws fresh noise and needs"
        raise ValueError(f"{reason} rng=torch.Generator(), got None")
    files, hashes = ({}, {}) if is_random else _verified(name, weights)
    make = {"biggan": _biggan_generator, "stylegan2": _stylegan2_generator, "gpt2": _gpt2_generator}
    generator = make[configuration.family](configuration, files, faithful=faithful, rng=rng, device=device, **options)
    plain = faithful and configuration.family != "gpt2"  # the picture that sentences aim at is preprocessed properly
    quirks = {"normalize": False, "resize": "bilinear"} if plain else {}
    return {
        "generator": generator.to(device),
        "embedder": _clip("ViT-B-32", files, rng=rng, device=device, **quirks),
        "load_judge": partial(_clip, "RN50x4", files, rng=rng, device=device),
        "popsize": configuration.popsize,
        "n_generations": configuration.n_generations,
        "method": configuration.method,
        "prompts": tuple(prompt for figure in configuration.figures for prompt in FIGURES[figure]),
        "weights": hashes,
        "pick_weights": (0.0, 1.0) if faithful and configuration.method == "NSGA-II" else None,
        "operators": operators.AS_IT_RAN if faithful and configuration.family == "biggan" else None,
    }


def _verified(name: str, folder: str | Path | None) -> tuple[dict[str, Path], dict[str, str]]:
    files = registry.require(name, folder)
    return files, {file.path: registry.sha256_of(file, folder) for file in registry.files(name)}


def _clip(model_name: str, files: dict[str, Path], *, rng, device, **options) -> ClipEmbedder:
    row = {"ViT-B-32": registry.VIT_B_32, "RN50x4": registry.RN50X4}[model_name]
    path = files.get(row.path, "random")
    return load_open_clip(model_name, "openai", weights=path, rng=rng, device=device, **options)


def _biggan_generator(configuration: Configuration, files: dict[str, Path], *, faithful, rng, device):
    from glasslib.generators.biggan.generator import BigGANGenerator
    from glasslib.generators.biggan.networks import GeneratorNetwork, published_config

    options = {"encoding": "softmax_bits" if faithful else "simplex", "faithful": faithful}
    options["batch_size"] = configuration.batch_size
    if files:
        return BigGANGenerator.load(files[f"biggan-deep-{configuration.size}/config.json"].parent, **options)
    config = published_config(configuration.size)
    return BigGANGenerator(_seeded(lambda: GeneratorNetwork(**config), rng), config=config, **options)


def _stylegan2_generator(configuration: Configuration, files: dict[str, Path], *, faithful, rng, device, **options):
    from glasslib.generators.stylegan2 import snapshots
    from glasslib.generators.stylegan2.generator import StyleGAN2Generator
    from glasslib.generators.stylegan2.networks import Discriminator, GeneratorNetwork

    head_rng, options["batch_size"] = None, configuration.batch_size
    if faithful:
        noise, head = torch.randint(2**62, (2,), generator=rng).tolist()  # the noise is drawn where the networks are
        options |= {"noise_mode": "random", "rng": torch.Generator(device).manual_seed(noise)}
        options |= {"shifted_skip": True, "judged_in": configuration.batch_size}
        head_rng = torch.Generator().manual_seed(head)
    if files:
        networks = snapshots.read_networks(files[f"stylegan2/stylegan2-{configuration.data}-config-f.pkl"])
        return networks.generator(which="G" if faithful else "G_ema", head_rng=head_rng, **options)
    size = {"c_dim": 0, "img_resolution": configuration.size}
    config = {"generator": {"z_dim": 512, "w_dim": 512, **size}, "discriminator": size}
    make_both = lambda: (GeneratorNetwork(**config["generator"]), Discriminator(**size))  # noqa: E731
    return StyleGAN2Generator(*_seeded(make_both, rng), config=config, **options)


def _gpt2_generator(configuration: Configuration, files: dict[str, Path], *, faithful, rng, device):
    if files:
        model, tokenizer = gpt2.load(files["gpt2/config.json"].parent)
    else:
        from transformers import GPT2Config, GPT2LMHeadModel

        model, tokenizer = _seeded(lambda: GPT2LMHeadModel(GPT2Config()), rng), _invented_tokenizer(50_257)
    return gpt2.Gpt2Generator(
        model, tokenizer, batch_size=configuration.batch_size, context_ends=faithful, **gpt2.GLASS
    )


def _seeded(make: Callable, rng: torch.Generator):
    """What `make` gives with torch's global state seeded from `rng`; the state is put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=rng)))
        return make()


def _invented_tokenizer(n_tokens: int):
    """A tokenizer that stands in for GPT-2's where its files are not: as many words, invented but for the prompt."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    end, letters = "<|endoftext|>", "abcdefghijklmnopqrstuvwxyz"
    words = (f"Ġ{''.join(word)}" for length in (3, 4) for word in product(letters, repeat=length))  # Ġ: a space before
    vocabulary = [*("the", "Ġpicture", "Ġof"), *islice(words, n_tokens - 4), end]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=end))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=end, unk_token=end)
