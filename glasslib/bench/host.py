"""What a generation costs beside the models, at CLIP-GLaSS's populations: `python -m glasslib.bench host`.

The generators are ours with the published latent spaces and networks too small to matter, whose forward passes are
taken off the clock; CLIP gives embeddings prepared beforehand. What is left is the search, checks, conversions, class
mixtures, scores and history.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib import metrics
from glasslib.bench.fullsize import machine
from glasslib.bench.tiny_searches import write
from glasslib.generators.biggan.generator import BigGANGenerator
from glasslib.generators.biggan.networks import GeneratorNetwork as BigGANNetwork
from glasslib.generators.stylegan2.generator import StyleGAN2Generator
from glasslib.generators.stylegan2.networks import Discriminator, GeneratorNetwork
from glasslib.scoring import ClipScorer, JointScorer, RealismScorer
from glasslib.search import genetic, loop

N_GENERATIONS, N_WARM = 110, 10
CLIP_DIM = 512
BIGGAN = {
    "output_dim": 8, "z_dim": 128, "class_embed_dim": 128, "channel_width": 4, "num_classes": 1000,
    "layers": [[False, 16, 2], [True, 2, 1]], "attention_layer_position": 1,
}  # fmt: skip
STYLEGAN2 = {
    "generator": {"z_dim": 512, "c_dim": 0, "w_dim": 512, "img_resolution": 8, "synthesis_kwargs": {"channel_max": 8}},
    "discriminator": {"c_dim": 0, "img_resolution": 8, "channel_max": 8},
}


class Prepared:
    """An embedder that hands out embeddings made beforehand, others at each call."""

    def __init__(self, dim: int, *, rng: torch.Generator) -> None:
        self.dim, self._calls = dim, 0
        self._rows = F.normalize(torch.randn(1024, dim, generator=rng), dim=1)

    def embed_images(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) -> (n, dim), norm 1, whatever the images are."""
        self._calls += 1
        return self._rows.roll(self._calls, dims=0)[: len(images)]

    def embed_texts(self, texts: list[str]) -> Tensor:
        """n strings -> (n, dim), norm 1."""
        return self._rows[: len(texts)]


class Stopwatch:
    """CPU seconds spent inside networks, by hooks around their calls."""

    def __init__(self, *networks: nn.Module) -> None:
        self.seconds, self._started = 0.0, 0.0
        for network in networks:
            network.register_forward_pre_hook(self._start)
            network.register_forward_hook(self._stop)

    def _start(self, *_) -> None:
        self._started = time.process_time()

    def _stop(self, *_) -> None:
        self.seconds += time.process_time() - self._started


def host_ms(search, evaluate: Callable, stopwatch: Stopwatch, *, n_generations: int = N_GENERATIONS) -> np.ndarray:
    """CPU milliseconds of each generation outside the networks, (n_generations - N_WARM,), as `loop.run` runs it."""
    spent, before = [], (time.process_time(), stopwatch.seconds)

    def clock(*_) -> None:
        nonlocal before
        now = time.process_time(), stopwatch.seconds
        spent.append((now[0] - before[0]) - (now[1] - before[1]))
        before = now

    loop.run(search, evaluate, n_generations=n_generations, callback=clock, progress=False)
    return 1e3 * np.array(spent[N_WARM:])


def biggan(popsize: int = 64) -> tuple:
    """Search, evaluation and stopwatch of CLIP-GLaSS's BigGAN: GA, 128 reals and 1000 bits."""
    network = _seeded(lambda: BigGANNetwork(**BIGGAN))
    generator = BigGANGenerator(network, config=BIGGAN, encoding="softmax_bits", batch_size=popsize)
    scorer = ClipScorer(Prepared(CLIP_DIM, rng=torch.Generator().manual_seed(0)), "a mountain lake")
    search = genetic.GeneticSearch(generator.latent_space, popsize=popsize, rng=np.random.default_rng(0))
    return search, _evaluation(generator, scorer), Stopwatch(network)


def stylegan2(popsize: int = 16) -> tuple:
    """The same of its StyleGAN2 with discriminator: NSGA-II, 512 reals."""
    networks = _seeded(
        lambda: (GeneratorNetwork(**STYLEGAN2["generator"]), Discriminator(**STYLEGAN2["discriminator"]))
    )
    generator = StyleGAN2Generator(*networks, config=STYLEGAN2, batch_size=popsize)
    similarity = ClipScorer(Prepared(CLIP_DIM, rng=torch.Generator().manual_seed(0)), "a blue car in the snow")
    scorer = JointScorer([similarity, RealismScorer(generator)])
    search = genetic.Nsga2Search(generator.latent_space, popsize=popsize, rng=np.random.default_rng(0))
    return search, _evaluation(generator, scorer), Stopwatch(*networks)


def _seeded(make: Callable):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def _evaluation(generator: Callable, scorer: Callable) -> Callable[[np.ndarray], Tensor]:
    @torch.inference_mode()
    def evaluate(x: np.ndarray) -> Tensor:
        return scorer(generator(x)).cpu()

    return evaluate


def bench_host() -> None:
    """Measure bench.host_ms_* and write results/bench_host/."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spent = {"biggan": host_ms(*biggan()), "stylegan2": host_ms(*stylegan2())}
    finally:
        torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    found = {f"bench.host_ms_{name}": metrics.mean(values, unit="ms", rng=rng) for name, values in spent.items()}
    params = {"n_generations": N_GENERATIONS - N_WARM, "clock": "CPU time of one thread", "machine": machine()}
    params["populations"] = {"biggan": "64 x 1128, GA", "stylegan2": "16 x 512, NSGA-II"}
    rows = [{"biggan": float(a), "stylegan2": float(b)} for a, b in zip(*spent.values(), strict=True)]
    write("bench_host", params, found, {"milliseconds": rows})
