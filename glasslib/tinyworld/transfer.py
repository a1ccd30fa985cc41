"""Other domains and other registers: what a captioner learns there, and the held-out pictures it is asked about.

Style follows the protocol of FlickrStyle10K: one caption a picture and register, six sevenths of the pictures to learn
from, the last seventh to be captioned.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from glasslib.captioning.corpus import Corpus
from glasslib.tinyworld import captions, scenes
from glasslib.tinyworld.recipes.said import ZIPF
from glasslib.tinyworld.scenes import Scenes
from glasslib.tinyworld.wording import REGISTERS

HELD_OUT = 60_000  # the seed of scenes that no recipe draws
TRAIN_SHARE = 6 / 7


@dataclass(frozen=True)
class Away:
    """Pictures of both domains and captions in every register, of scenes that nothing else has seen.

    Attributes:
        n_styled: scenes of the domain "print" with one caption in each register; FlickrStyle10K has 7,000 pictures.
        n_neon: held-out scenes of the domain "neon".
    """

    n_styled: int = 3_500
    n_neon: int = 500

    @cached_property
    def _styled(self) -> Scenes:
        return scenes.sample(self.n_styled, rng=np.random.default_rng(HELD_OUT))

    def style_split(self, register: str) -> tuple[Corpus, Corpus]:
        """Captions of one register to learn from, and held-out ones; the scenes are the same for every register."""
        rng = np.random.default_rng([HELD_OUT, REGISTERS.index(register)])
        texts = captions.describe(self._styled, rng=rng, register=register, zipf=ZIPF)
        return Corpus.from_texts(texts, name=register).divide(TRAIN_SHARE, rng=np.random.default_rng(HELD_OUT))

    def world(self, domain: str) -> Scenes:
        """The scenes to be captioned: of "print" the last seventh of the styled ones."""
        if domain != "print":
            return scenes.sample(self.n_neon, rng=np.random.default_rng(HELD_OUT + 1), domain=domain)
        return self._styled[np.array([int(caption.image_id) for caption in self.style_split("neutral")[1]])]

    def pictures(self, domain: str, n: int | None = None) -> Tensor:
        """(n, 3, 64, 64) RGB in [0, 1] of the first n scenes to be captioned; None: of all."""
        return scenes.render(self.world(domain)[:n], rng=torch.Generator().manual_seed(HELD_OUT))

    def references(self, domain: str, register: str) -> list[list[str]]:
        """What five people say of each scene to be captioned, in one register."""
        rng = np.random.default_rng([HELD_OUT + 2, scenes.DOMAINS.index(domain), REGISTERS.index(register)])
        return captions.describe_by_all(self.world(domain), rng=rng, register=register, zipf=ZIPF)
