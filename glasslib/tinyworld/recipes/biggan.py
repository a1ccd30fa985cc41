"""Train the tiny BigGAN-deep, its class the shape: `python -m glasslib.tinyworld.recipes.biggan --out DIR`.

A class-conditional VAE-GAN (Larsen et al. 2016, https://arxiv.org/abs/1512.09300). An encoder, used in training only,
gives z for a real picture, and the generator must make that picture again of z and the class; so z cannot be ignored.
Trained against its judges alone it was: a class's pictures were all of one colour, which changed from hour to hour.
From a share JOIN of the run on pictures of random z face the judges of StyleGAN2's recipe too (relativistic pairing
loss, lazy R1 and R2, a head that learns to name what real pictures show, a second discriminator on frozen features),
but everything knows the class: a false picture is made to the class of the real one that it is paired with, and both
discriminators judge a picture as one of its class (projection, Miyato and Koyama 2018,
https://arxiv.org/abs/1802.05637).

Spectral norm, orthogonal start, averaged weights and standing statistics are BigGAN's (Brock et al. 2019,
https://arxiv.org/abs/1809.11096): batch norm keeps no statistics while training; at the end the averaged network runs
in training mode at each of 51 truncations, and what its layers then see becomes that truncation's statistics.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib.generators.biggan.generator import Z_BOUND, BigGANGenerator, save_network
from glasslib.generators.biggan.layers import BatchNorm
from glasslib.generators.biggan.networks import GeneratorNetwork, add_spectral_norm
from glasslib.generators.stylegan2.networks import Discriminator
from glasslib.tinyworld import oracle
from glasslib.tinyworld.models import WEIGHTS
from glasslib.tinyworld.recipes import adversarial, checkpoints, encoder
from glasslib.tinyworld.recipes.stylegan2 import N_SCENES, SIZE, training_pictures
from glasslib.tinyworld.scenes import SHAPES

N_CLASSES = len(SHAPES)
Z_DIM = 32
CONFIG = {
    "output_dim": SIZE, "z_dim": Z_DIM, "class_embed_dim": 16, "channel_width": 16, "num_classes": N_CLASSES,
    # Three doublings, 4 -> 32 pixels; attention at 16 pixels.
    "layers": [[True, 16, 8], [False, 8, 8], [True, 8, 8], [False, 8, 4], [True, 4, 4], [False, 4, 1]],
    "attention_layer_position": 4, "eps": 1e-4, "n_stats": 51,
}  # fmt: skip
WIDTHS = {"channel_base": 512, "channel_max": 64}
DISCRIMINATOR = {
    "c_dim": N_CLASSES, "img_resolution": SIZE, "img_channels": 3, **WIDTHS,
    "mapping_kwargs": {"num_layers": 2}, "epilogue_kwargs": {"mbstd_num_channels": 0},
}  # fmt: skip
BATCH_SIZE = 32
N_IMAGES = 250_000
JOIN = 0.24  # the share of the run from which on the judges take part
GENERATOR_RATE = 5e-4
DECAY = {"decay_from": 0.6, "decay_to": 0.1}
PROJECTED_WEIGHT = 0.5
EMA_IMAGES, EMA_RAMPUP = 15_000, 0.05
STANDING_PICTURES, STANDING_PASSES = 512, 2  # a pass, and passes a truncation


def draw_z(n: int, *, rng: torch.Generator) -> Tensor:
    """(n, Z_DIM) standard normal numbers, redrawn outside the box that search stays in."""
    return nn.init.trunc_normal_(torch.empty(n, Z_DIM), a=-Z_BOUND, b=Z_BOUND, generator=rng)


def one_hot(classes: Tensor) -> Tensor:
    """(n,) -> (n, N_CLASSES) class vectors."""
    return F.one_hot(classes, N_CLASSES).float()


def new_generator() -> GeneratorNetwork:
    """A network with spectral norm and an orthogonal start, which draws on torch's global generator."""
    network = GeneratorNetwork(**CONFIG)
    for module in network.generator.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.orthogonal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(network.embeddings.weight)  # a class has as much to say as as many numbers of z
    return add_spectral_norm(network)


class Trainer:
    """The generator, its average, the encoder and the judges, with their optimisers."""

    def __init__(self, *, seed: int, features: Path | None = None) -> None:
        torch.manual_seed(seed)  # a process of its own: weights start from the global generator
        self.rng = torch.Generator().manual_seed(seed)
        self.generator = new_generator()
        self.average = deepcopy(self.generator).requires_grad_(False)
        self.judges = adversarial.Judges(
            Discriminator(**DISCRIMINATOR),
            n_features=WIDTHS["channel_max"] * 16,
            features=features,
            projected_weight=PROJECTED_WEIGHT,
        )
        self.encoder = encoder.new_encoder(Z_DIM)
        players = [
            {"params": self.generator.parameters()},
            {"params": self.encoder.parameters(), "lr": encoder.ENCODER_RATE},
        ]
        self.optimizer = torch.optim.Adam(players, lr=GENERATOR_RATE, betas=(0.5, 0.99), fused=True)
        self.rates = adversarial.Rates([self.optimizer, self.judges.optimizer], **DECAY)
        self.means = adversarial.Means()
        self.step, self.seconds, self.judged = 0, 0.0, False

    def adversarial_step(self, real: Tensor, labels: Tensor, real_features: list[Tensor] | None = None) -> None:
        """One update of all players; false pictures are made to the classes of the real ones.

        Args:
            real: (n, 3, h, w) pictures in [-1, 1].
            labels: (n, 5) in the order of adversarial.HEADS; the first is the class.
            real_features: of `real`, as the second discriminator prepared them; None without one.
        """
        n, classes = len(real), labels[:, 0]
        z, cost = encoder.encode(self.encoder, real, rng=self.rng)
        vectors = one_hot(classes)
        if self.judged:
            z, vectors = torch.cat([z, draw_z(n, rng=self.rng)]), vectors.repeat(2, 1)
        made = self.generator(z, vectors)
        difference, logged = encoder.difference(made[:n], real, self.judges.projected, real_features)
        logged |= adversarial.update(
            self.optimizer,
            self.judges,
            loss=difference + encoder.KL_WEIGHT * cost,
            made=made[n:] if self.judged else None,
            real=real,
            labels=labels,
            real_features=real_features,
            penalise=self.step % adversarial.R_EVERY == 0,
        )
        self._average(n)
        self.step += 1
        self.means.add(cost=cost, **logged)

    def set_progress(self, done: float) -> None:
        """Set the learning rates, and whether the judges take part, for a share `done` of the run."""
        self.rates.set(done)
        self.judged = done >= JOIN

    @torch.no_grad()
    def _average(self, n: int) -> None:
        half_life = min(EMA_IMAGES, EMA_RAMPUP * (self.step + 1) * n)
        ours, theirs = list(self.average.parameters()), list(self.generator.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - 0.5 ** (n / half_life))
        torch._foreach_copy_(list(self.average.buffers()), list(self.generator.buffers()))  # spectral norms' vectors

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        own = {"generator": self.generator, "average": self.average, "encoder": self.encoder}
        own |= {"adam0": self.optimizer}
        return own | self.judges.parts()

    def save(self, folder: Path) -> None:
        """Write the checkpoint, and a grid of samples with a row for each class."""
        values = {"rng": self.rng.get_state(), "step": self.step, "seconds": self.seconds}
        adversarial.save_checkpoint(folder / "checkpoint.pt", self._parts(), **values)
        adversarial.write_grid(samples(self.average), folder / "samples.png", columns=16)

    def resume(self, folder: Path) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        if state := adversarial.load_checkpoint(folder / "checkpoint.pt", self._parts()):
            self.rng.set_state(state["rng"])
            self.step, self.seconds = state["step"], state["seconds"]


@torch.no_grad()
def samples(network: GeneratorNetwork, *, per_class: int = 16) -> Tensor:
    """(N_CLASSES * per_class, 3, 32, 32) in [0, 1], class after class, always of the same z, by their statistics."""
    classes = torch.arange(N_CLASSES).repeat_interleave(per_class)
    z = draw_z(len(classes), rng=torch.Generator().manual_seed(0))
    network.eval()  # or the spectral norms would move
    for norm in (module for module in network.modules() if isinstance(module, BatchNorm)):
        norm.train()
    pictures = network(z, one_hot(classes)).add(1).div(2)
    network.train()
    return pictures


@torch.no_grad()
def standing_statistics(network: GeneratorNetwork, *, rng: torch.Generator) -> None:
    """Fill the batch norms' statistics of every truncation, in place, and leave the network in evaluation mode.

    Layers see what a large batch of all classes gives at that truncation, normalised by its own statistics.
    """
    network.train()
    found: dict[BatchNorm, list[tuple[Tensor, Tensor]]] = {}

    def look(norm: BatchNorm, inputs: tuple) -> None:
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
        found.setdefault(norm, []).append((mean, variance))

    hooks = [m.register_forward_pre_hook(look) for m in network.modules() if isinstance(m, BatchNorm)]
    class_vectors = one_hot(torch.arange(STANDING_PICTURES) % N_CLASSES)
    for row in range(CONFIG["n_stats"]):
        truncation = row / (CONFIG["n_stats"] - 1)
        found.clear()
        for _ in range(STANDING_PASSES):
            network(draw_z(STANDING_PICTURES, rng=rng) * truncation, class_vectors)
        for norm, passes in found.items():
            means, variances = (torch.stack(values) for values in zip(*passes, strict=True))
            norm.running_means[row] = means.mean(dim=0)
            norm.running_vars[row] = variances.mean(dim=0) + means.var(dim=0, correction=0)
    for hook in hooks:
        hook.remove()
    network.eval()


def train(folder: Path, *, n_images: int, features: Path | None, seed: int = 0) -> Trainer:
    """Train on `n_images` draws, going on with what lies in `folder`."""
    pictures, labels = training_pictures(seed, N_SCENES)
    trainer = Trainer(seed=seed, features=features)
    adversarial.run(trainer, folder, pictures=pictures, labels=labels, batch_size=BATCH_SIZE, n_images=n_images)
    return trainer


def recognisable(generator: BigGANGenerator, *, n: int = 1000, seed: int) -> float:
    """Share of n pictures of single classes in which the oracle is at least .9 sure of the class's shape."""
    classes = np.arange(n) % N_CLASSES
    z = generator.latent_space.parts[0].sample(n, rng=np.random.default_rng(seed))
    reading = oracle.load(WEIGHTS / "oracle")(generator(np.concatenate([z, np.eye(N_CLASSES)[classes]], axis=1)))
    return float(((reading.values["shape"] == classes) & (reading.confidence["shape"] >= 0.9)).mean())


@torch.inference_mode()
def export(trainer: Trainer, folder: Path, *, recipe: str, seed: int) -> None:
    """Write the averaged generator with its standing statistics, and its card, into `folder`."""
    standing_statistics(trainer.average, rng=torch.Generator().manual_seed(seed + 1))
    save_network(folder, trainer.average.state_dict(), config=CONFIG)
    measured = {
        f"recognisable_truncation_{truncation:g}": recognisable(
            BigGANGenerator.load(folder, truncation=truncation), seed=seed + 1
        )
        for truncation in (1.0, 0.5)
    }
    steps, data = trainer.step, f"{N_SCENES} one-object renders of 32 pixels, {trainer.step * BATCH_SIZE} draws"
    checkpoints.write_card(
        folder, recipe=recipe, seed=seed, steps=steps, data=data, wall_time_s=trainer.seconds, held_out=measured
    )


def main() -> None:
    """Read the command line, train, and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and samples")
    parser.add_argument("--images", type=int, default=N_IMAGES, help="draws of training pictures")
    parser.add_argument(
        "--features", type=Path, help="weights of a trained OracleNetwork, for the second discriminator"
    )
    parser.add_argument("--to", type=Path, default=WEIGHTS / "biggan", help="folder that the weights go to")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    trainer = train(arguments.out, n_images=arguments.images, features=arguments.features, seed=arguments.seed)
    features = "" if arguments.features is None else " --features runs/features/model.safetensors"
    recipe = f"python -m glasslib.tinyworld.recipes.biggan --out runs/biggan --images {arguments.images}{features}"
    export(trainer, arguments.to, recipe=recipe, seed=arguments.seed)


if __name__ == "__main__":
    main()
