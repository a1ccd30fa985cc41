"""Train the tiny StyleGAN2 on one-object scenes: `python -m glasslib.tinyworld.recipes.stylegan2 --out DIR`.

A VAE-GAN, as BigGAN's recipe is (encoder.py): at first an encoder gives z for real pictures, and the generator makes
them again; from a share JOIN of the run on, pictures of random z face the judges. With the judges alone, from nothing,
it drew one grey picture whatever z was. The judges are the plain discriminator with the relativistic pairing loss and
lazy R1 and R2 (Huang et al. 2024, https://arxiv.org/abs/2501.05441): the plain logistic loss with R1 alone lost most
backgrounds within 45,000 pictures. What makes it fit two CPU cores: one backward pass through the discriminator serves
both players (`adversarial.Judges`); the generator learns five times faster than its equalised layers are used to, for
at StyleGAN2's 0.002 it is short of steps even when it is told pixel by pixel what to draw; and, while training only, a
small head on the discriminator's trunk learns to name what real pictures show (Salimans et al. 2016,
https://arxiv.org/abs/1606.03498): features that know a star from a heart make a discriminator that asks for them. The
generator never sees a label.
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from glasslib.generators.stylegan2.generator import StyleGAN2Generator, save_networks
from glasslib.generators.stylegan2.layers import LRELU_GAIN, normalize_second_moment
from glasslib.generators.stylegan2.networks import Discriminator, GeneratorNetwork
from glasslib.tinyworld import scenes
from glasslib.tinyworld.models import WEIGHTS
from glasslib.tinyworld.recipes import adversarial, checkpoints, encoder

N_SCENES, N_IMAGES = 60_000, 600_000
JOIN, JOINED = 0.16, 0.2  # from which share of the run on the judges take part, and from which on fully
DOMAIN = {"textures": ("plain",), "sizes": ("medium", "large"), "tilt": 0.0}  # all the generator ever sees
SIZE = 32
Z_DIM, W_DIM = 64, 128
WIDTHS = {"channel_base": 512, "channel_max": 64}
CONFIG = {
    "generator": {
        "z_dim": Z_DIM, "c_dim": 0, "w_dim": W_DIM, "img_resolution": SIZE, "img_channels": 3,
        "mapping_kwargs": {"num_layers": 6}, "synthesis_kwargs": WIDTHS,
    },
    # No minibatch statistic: every logit is then one picture's own, and one backward pass can serve both players.
    "discriminator": {
        "c_dim": 0, "img_resolution": SIZE, "img_channels": 3, **WIDTHS, "epilogue_kwargs": {"mbstd_num_channels": 0},
    },
}  # fmt: skip
N_SIGNS = 16  # numbers of z of which the mapping lets little but the sign through
STEEPNESS, STEEP_BY = (0.5, 200.0), 0.5  # from the start of the run to this share of it
BATCH_SIZE = 16
GENERATOR_RATE, MAPPING_RATE = 1e-2, 4e-2
DECAY = {"decay_from": 0.4, "decay_to": 0.04}
TRUNCATED = 0.7  # psi of half of the pictures: truncated ones are to be pictures too
PROJECTED_WEIGHT = 1.5
EMA_IMAGES, EMA_RAMPUP, EMA_EVERY = 15_000, 0.05, 4
W_AVG_BETA = 0.998


def training_pictures(seed: int, n: int) -> tuple[Tensor, Tensor]:
    """n one-object scenes: pictures (n, 3, 32, 32) uint8 and labels (n, 5) in the order of adversarial.HEADS."""
    world = scenes.sample(n, rng=np.random.default_rng(seed), n_objects=(1, 1), **DOMAIN)
    noise = torch.Generator().manual_seed(seed)
    pictures = [scenes.render(world[i : i + 1000], rng=noise, size=SIZE) for i in range(0, n, 1000)]
    labels = [world.shape[:, 0], world.colour[:, 0], world.place[:, 0], world.size[:, 0], world.background]
    return (
        torch.cat([(picture * 255).round().to(torch.uint8) for picture in pictures]),
        torch.as_tensor(np.stack(labels, axis=1), dtype=torch.long),
    )


class Trainer:
    """The generator, its average, the encoder and the judges, with their optimisers."""

    def __init__(self, *, seed: int, features: Path | None = None) -> None:
        torch.manual_seed(seed)  # a process of its own: weights start from the global generator
        self.rng = torch.Generator().manual_seed(seed)
        self.generator = GeneratorNetwork(**CONFIG["generator"]).to(memory_format=torch.channels_last)
        self.judges = adversarial.Judges(
            Discriminator(**CONFIG["discriminator"]),
            n_features=WIDTHS["channel_max"] * 16,
            features=features,
            projected_weight=PROJECTED_WEIGHT,
        )
        set_steepness(self.generator.mapping, STEEPNESS[0])
        self.smooth = deepcopy(nn.Sequential(self.generator.mapping.fc0, self.generator.mapping.fc1))
        self.encoder = encoder.new_encoder(Z_DIM)
        self.average = deepcopy(self.generator).requires_grad_(False)
        mapping = [parameter for parameter in self.generator.mapping.parameters() if parameter.requires_grad]
        makers = [
            {"params": self.generator.synthesis.parameters()},
            {"params": mapping, "lr": MAPPING_RATE},
            {"params": self.encoder.parameters(), "lr": encoder.ENCODER_RATE},
        ]
        self.optimizer = torch.optim.Adam(makers, lr=GENERATOR_RATE, betas=(0.5, 0.99), fused=True)
        self.rates = adversarial.Rates([self.optimizer, self.judges.optimizer], **DECAY)
        self.means = adversarial.Means()
        self.step, self.seconds, self.heard = 0, 0.0, 0.0

    def adversarial_step(self, real: Tensor, labels: Tensor, real_features: list[Tensor] | None = None) -> None:
        """One update of all players on `real` (n, 3, h, w) in [-1, 1]; for the rest see `Judges.judge`.

        Before the judges take part all pictures are made again; then half of them, and n are made of random z.
        """
        judged = self.heard > 0
        n = len(real) // 2 if judged else len(real)
        z, cost = encoder.encode(self.encoder, real[:n], rng=self.rng)
        w = self._map(z)
        if judged:
            w = torch.cat([w, self._random_w(len(real))])
        made = self._draw(w)
        first = None if real_features is None else [each[:n] for each in real_features]
        difference, logged = encoder.difference(made[:n], real[:n], self.judges.projected, first)
        logged |= adversarial.update(
            self.optimizer,
            self.judges,
            loss=difference + encoder.KL_WEIGHT * cost,
            made=made[n:] if judged else None,
            real=real,
            labels=labels,
            real_features=real_features,
            heard=self.heard,
            penalise=self.step % adversarial.R_EVERY == 0,
        )
        if self.step % EMA_EVERY == 0:
            self._average(len(real))
        self.step += 1
        self.means.add(cost=cost, **logged)

    def _map(self, z: Tensor) -> Tensor:
        """z -> w. What z learns from it, it learns as if the first layers were as smooth as in the beginning."""
        mapping, z = self.generator.mapping, normalize_second_moment(z)
        x = mapping.fc1(mapping.fc0(z))
        if z.requires_grad:
            smooth = self.smooth(z)
            x = smooth + (x - smooth).detach()
        for layer in range(2, mapping.num_layers):
            x = getattr(mapping, f"fc{layer}")(x)
        return x

    def _random_w(self, n: int) -> Tensor:
        """w of random z, a half of them truncated."""
        w = self._map(torch.randn(n, Z_DIM, generator=self.rng))
        self.generator.mapping.w_avg.lerp_(w.detach().mean(dim=0), 1 - W_AVG_BETA)
        psi = torch.where(torch.rand(n, 1, generator=self.rng) < 0.5, 1.0, TRUNCATED)
        return self.generator.mapping.w_avg.lerp(w, psi)

    def _draw(self, w: Tensor) -> Tensor:
        ws = w[:, None].expand(-1, self.generator.num_ws, -1)
        return self.generator.synthesis(ws, noise_mode="random", rng=self.rng)

    @torch.no_grad()
    def _average(self, n: int) -> None:
        half_life = min(EMA_IMAGES, EMA_RAMPUP * (self.step + 1) * n)
        beta = 0.5 ** (EMA_EVERY * n / half_life)
        ours, theirs = list(self.average.parameters()), list(self.generator.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - beta)
        self.average.mapping.w_avg.copy_(self.generator.mapping.w_avg)

    def set_progress(self, done: float) -> None:
        """Set what changes on a schedule, for a share `done` of the run."""
        self.rates.set(done)
        self.heard = min(1.0, max(0.0, (done - JOIN) / (JOINED - JOIN)))
        for network in (self.generator, self.average):
            set_steepness(network.mapping, steepness(done))

    def _parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        own = {"generator": self.generator, "average": self.average, "encoder": self.encoder}
        own |= {"adam0": self.optimizer}
        return own | self.judges.parts()

    def save(self, folder: Path) -> None:
        """Write the checkpoint, the networks and a grid of samples, each atomically."""
        values = {"rng": self.rng.get_state(), "step": self.step, "seconds": self.seconds}
        adversarial.save_checkpoint(folder / "checkpoint.pt", self._parts(), **values)
        save_networks(folder, self.average, self.judges.discriminator, config=CONFIG)
        adversarial.write_grid(samples(self.average), folder / "samples.png", columns=16)

    def resume(self, folder: Path) -> None:
        """Go on from the folder's checkpoint, if there is one."""
        if state := adversarial.load_checkpoint(folder / "checkpoint.pt", self._parts()):
            self.rng.set_state(state["rng"])
            self.step, self.seconds = state["step"], state["seconds"]


@torch.no_grad()
def set_steepness(mapping: nn.Module, steepness: float) -> None:
    """Set the mapping's first two layers: z passes as it is, but of its first N_SIGNS numbers little but the sign.

    A star cannot turn into a heart step by step and be a shape all the way, but a small network that maps z smoothly
    passes through all that lies between. These two layers put a ramp in the way, from -1 to 1 over 2 / steepness, and
    are not trained. With f the leaky ReLU of slope 0.2, f(kz + 1) - f(kz - 1) runs from 0.4 to 2 and is flat on both
    sides, and (f(z) - f(-z)) / 1.2 is z. The second layer gives all of that and its negative, for the next to join.
    """
    sign, rest = torch.arange(N_SIGNS), torch.arange(N_SIGNS, Z_DIM)
    up, down = rest + N_SIGNS, rest + Z_DIM  # which of the first layer's units hold f(z) and f(-z)
    weight, bias = torch.zeros(W_DIM, Z_DIM), torch.zeros(W_DIM)
    weight[sign, sign] = weight[N_SIGNS + sign, sign] = steepness
    bias[sign], bias[N_SIGNS + sign] = 1, -1
    weight[up, rest], weight[down, rest] = 1, -1
    _set(mapping.fc0, weight, bias)
    weight, bias = torch.zeros(Z_DIM, W_DIM), torch.zeros(Z_DIM)
    weight[sign, sign], weight[sign, N_SIGNS + sign], bias[sign] = 1.25 / LRELU_GAIN, -1.25 / LRELU_GAIN, -1.5
    weight[rest, up], weight[rest, down] = 1 / (1.2 * LRELU_GAIN), -1 / (1.2 * LRELU_GAIN)
    _set(mapping.fc1, torch.cat([weight, -weight]), torch.cat([bias, -bias]))


def _set(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Store what acts as `weight` and `bias` in a layer with equalised learning rate, and leave it untrained."""
    layer.weight.copy_(weight / layer.weight_gain)
    layer.bias.copy_(bias / layer.bias_gain)
    layer.requires_grad_(False)


def steepness(done: float) -> float:
    """The ramps' steepness for a share `done` of the run: nearly none at first, then ever more."""
    first, last = STEEPNESS
    return first * (last / first) ** min(1.0, done / STEEP_BY)


@torch.no_grad()
def samples(network: nn.Module, *, n: int = 128) -> Tensor:
    """(n, 3, 32, 32) in [0, 1], the first half with psi 1, the other with psi 0.7; always of the same z."""
    z = torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(0))
    halves = [network(part, truncation_psi=psi) for part, psi in zip(z.chunk(2), (1.0, 0.7), strict=True)]
    return torch.cat(halves).add(1).div(2).clamp(0, 1)


def train(folder: Path, *, n_images: int, features: Path | None, seed: int = 0) -> Trainer:
    """Train on `n_images` draws, going on with what lies in `folder`."""
    pictures, labels = training_pictures(seed, N_SCENES)
    trainer = Trainer(seed=seed, features=features)
    adversarial.run(trainer, folder, pictures=pictures, labels=labels, batch_size=BATCH_SIZE, n_images=n_images)
    return trainer


@torch.inference_mode()
def export(trainer: Trainer, folder: Path, *, recipe: str, seed: int) -> None:
    """Write the averaged generator, the centred discriminator and their card into `folder`.

    The pairing loss leaves the logits' origin open, so it is put midway between held-out renders and samples; then a
    logit of 0 says "as likely made as rendered", and CLIP-GLaSS's hinge, relu(1 - logit), has its usual meaning.
    """
    n, discriminator = 2000, trainer.judges.discriminator
    held_out, _ = training_pictures(seed + 1, n)
    z = torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(seed + 1))
    made = StyleGAN2Generator(trainer.average, discriminator, config=CONFIG)(z)
    real, fake = discriminator(held_out.float().div(127.5).sub(1)), discriminator(made * 2 - 1)
    discriminator.b4.out.bias -= (real.mean() + fake.mean()) / 2
    save_networks(folder, trainer.average, discriminator, config=CONFIG)
    steps, data = trainer.step, f"{N_SCENES} one-object renders of 32 pixels, {trainer.step * BATCH_SIZE} draws"
    measured = {"logit_gap": float(real.mean() - fake.mean()), "d_auc": float((real > fake.T).float().mean())}
    checkpoints.write_card(
        folder, recipe=recipe, seed=seed, steps=steps, data=data, wall_time_s=trainer.seconds, held_out=measured
    )


def main() -> None:
    """Read the command line, train, and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, weights and samples")
    parser.add_argument("--images", type=int, default=N_IMAGES, help="draws of training pictures")
    parser.add_argument(
        "--features", type=Path, help="weights of a trained OracleNetwork, for the second discriminator"
    )
    parser.add_argument("--to", type=Path, default=WEIGHTS / "stylegan2", help="folder that the weights go to")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    trainer = train(arguments.out, n_images=arguments.images, features=arguments.features, seed=arguments.seed)
    features = "" if arguments.features is None else " --features runs/features/model.safetensors"
    recipe = (
        f"python -m glasslib.tinyworld.recipes.stylegan2 --out runs/stylegan2 --images {arguments.images}{features}"
    )
    export(trainer, arguments.to, recipe=recipe, seed=arguments.seed)


if __name__ == "__main__":
    main()
