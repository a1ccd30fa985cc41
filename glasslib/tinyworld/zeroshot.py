"""Zero-shot accuracy of a CLIP on scenes: which attribute does it see?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from glasslib.clip.embedder import ClipEmbedder
from glasslib.tinyworld.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, TEXTURES, Scenes
from glasslib.tinyworld.wording import PLACE_PHRASES, SHAPE_WORDS, TEXTURE_WORDS

ATTRIBUTES = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "place": tuple(PLACES),
    "background": tuple(BACKGROUNDS),
    "texture": TEXTURES,
}


def prompts(attribute: str) -> list[list[str]]:
    """For each value of an attribute, sentences that name it and nothing else; their embeddings are averaged."""
    a = {"orange": "an"}
    return {
        "colour": [[f"{a.get(c, 'a')} {c} shape", f"there is {a.get(c, 'a')} {c} shape"] for c in COLOURS],
        "shape": [[f"{lead}a {word}" for word in SHAPE_WORDS[s] for lead in ("", "there is ")] for s in SHAPES],
        "size": [[f"a {s} shape", f"there is a {s} shape"] for s in SIZES],
        "place": [[f"a shape {phrase}" for phrase in PLACE_PHRASES[p]] for p in PLACES],
        "background": [[f"a shape {on} a {b} background" for on in ("on", "over")] for b in BACKGROUNDS],
        "texture": [[f"a shape on a {TEXTURE_WORDS[t]} {b} background" for b in BACKGROUNDS] for t in TEXTURES],
    }[attribute]


@torch.inference_mode()
def classify(embedder: ClipEmbedder, image_embeddings: Tensor, attribute: str) -> np.ndarray:
    """(n,) index of the attribute's value whose prompts are nearest to each picture, by mean cosine."""
    groups = prompts(attribute)
    embedded = embedder.embed_texts([text for group in groups for text in group])
    means = torch.stack([part.mean(0) for part in embedded.split([len(group) for group in groups])])
    return (image_embeddings @ means.T).argmax(dim=1).cpu().numpy()


def correct(embedder: ClipEmbedder, image_embeddings: Tensor, scenes: Scenes) -> dict[str, np.ndarray]:
    """For each attribute, (n,) whether it is recognised in scenes of one object.

    Raises:
        ValueError: a scene holds more than one object, so that "its" colour is not defined.
    """
    if (scenes.n_objects != 1).any():
        raise ValueError(f"scenes must hold one object each, got {int((scenes.n_objects != 1).sum())} with more")
    hits = {}
    for name in ATTRIBUTES:
        truth = getattr(scenes, name)
        truth = truth[:, 0] if truth.ndim == 2 else truth
        hits[name] = classify(embedder, image_embeddings, name) == truth
    return hits
