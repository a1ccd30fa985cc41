"""What is known about a preset's pictures and captions: everything in the tiny world, nothing for the real models.

Notebooks ask `of(preset)` and go through the same cells either way: `Unknown` answers with nothing where `TinyWorld`
answers with the truth. `known` is for the few cells that only the truth has a use for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from glasslib.presets import clip_glass
from glasslib.tinyworld import captions, faithfulness, models, oracle, scenes, wording

ATTRIBUTES = ("colour", "shape", "place")  # what a held-out caption names
SURE = 0.9  # the oracle's confidence in a recognisable picture
HELD_OUT = 30_000  # the seed of scenes that no recipe draws


class TinyWorld:
    """Scenes and captions whose truth is known, and an oracle that reads attributes off generated pictures."""

    known = True
    inside = (
        "a large blue ring on a dark background",
        "a green heart at the top",
        "a large yellow cross on the right",
    )
    outside = (
        "a red star left of a blue circle",
        "a purple shape on a striped white background",
        "three shapes",
    )

    def __init__(self) -> None:
        self.read = oracle.load(models.WEIGHTS / "oracle")

    def captions(self, n: int) -> list[str]:
        """n held-out captions of one object that name colour, shape and place; of the first 100, 92 differ."""
        rng = np.random.default_rng(HELD_OUT)
        world = scenes.sample(n, rng=rng, n_objects=(1, 1))
        texts = []
        for row in range(n):
            named = captions.object_facts(world, row, 0)
            article = "an" if named.colour == "orange" else "a"
            phrase = rng.choice(wording.PLACE_PHRASES[named.place])
            texts.append(f"{article} {named.colour} {rng.choice(wording.SHAPE_WORDS[named.shape])} {phrase}")
        return texts

    def pictures(self, n: int) -> tuple[Tensor, scenes.Scenes]:
        """n held-out pictures (n, 3, 64, 64) of one to three objects, and their scenes."""
        world = scenes.sample(n, rng=np.random.default_rng(HELD_OUT + 1))
        return scenes.render(world, rng=torch.Generator().manual_seed(HELD_OUT)), world

    def shows(self, images: Tensor, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Attribute -> (n,) bool: whether the oracle sees it, of ATTRIBUTES those that every caption names."""
        reading, facts = self.read(images), [captions.parse(text) for text in texts]
        named = [name for name in ATTRIBUTES if all(getattr(fact.objects[0], name) for fact in facts)]
        return {name: reading.agrees(facts, name) for name in named}

    def titles(self, images: Tensor) -> list[str]:
        """What the oracle sees in each picture, as a second line of its title."""
        reading = self.read(images)
        seen = [reading.names(i) for i in range(len(images))]
        return [f"\n{names['colour']} {names['shape']}, {names['place']}" for names in seen]

    def recognisable(self, images: Tensor) -> dict[str, np.ndarray]:
        """{"recognisable": (n,) bool}: whether the oracle is sure of both shape and colour."""
        sure = self.read(images).confidence
        return {"recognisable": (sure["shape"] >= SURE) & (sure["colour"] >= SURE)}

    def class_name(self, k: int) -> str:
        """The shape that the tiny BigGAN's class k stands for."""
        return scenes.SHAPES[k]

    def count(self, text: str, scene: scenes.Scenes) -> tuple[int, int]:
        """(true, named) attributes of a caption of one scene; (0, 0) if the caption does not parse."""
        if not captions.parses(text):
            return 0, 0
        facts = captions.parse(text)
        return int(faithfulness.count_true(facts, scene)[0]), facts.n_named


class Unknown:
    """Real models: captions are the paper's, and nobody knows what a picture shows."""

    known = False

    def __init__(self, prompts: Sequence[str]) -> None:
        self._prompts = tuple(prompts)
        self.inside, self.outside = self._prompts[:3], tuple(clip_glass.FIGURES[number][0] for number in (7, 8))

    def captions(self, n: int) -> list[str]:
        """The first n captions of the preset, or as many as it has."""
        return list(self._prompts[:n])

    def shows(self, images: Tensor, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """No attribute is known."""
        return {}

    def titles(self, images: Tensor) -> list[str]:
        """An empty string for each picture."""
        return [""] * len(images)

    def recognisable(self, images: Tensor) -> dict[str, np.ndarray]:
        """Nothing reads real pictures."""
        return {}

    def class_name(self, k: int) -> str:
        """ImageNet's number."""
        return f"class {k}"

    def count(self, text: str, scene: object) -> tuple[int, int]:
        """No attribute is known to be true, and none is counted."""
        return 0, 0


def of(name: str, prompts: Sequence[str] = ()) -> TinyWorld | Unknown:
    """The truth about a preset, by its name; `prompts` are its captions."""
    return TinyWorld() if name.startswith("tiny") else Unknown(prompts)
