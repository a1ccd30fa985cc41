"""What people say of scenes, with the tiny CLIP's embeddings of it: made once, kept on disk, found again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from glasslib import results
from glasslib.captioning import training
from glasslib.tinyworld import captions, scenes
from glasslib.tinyworld.models import WEIGHTS

CLIP_FILE = WEIGHTS / "clip" / "model.safetensors"
CACHE = results.REPO / "runs" / "said"
ZIPF = 1.0  # of captions to learn from and to be scored against; CLIP and GPT-2 learned with 0, every word alike


@dataclass(frozen=True)
class Said:
    """What people say of some scenes: n texts, which scene each describes, and their embeddings (n, dim).

    `key` names texts and embeddings, so that a run does not go on with others.
    """

    texts: list[str]
    scene_of: list[int]
    embeddings: Tensor
    key: str

    def pairs(self) -> training.Pairs:
        """Texts with their own embeddings: what CapDec learns from."""
        return training.Pairs(self.embeddings, self.texts, key=self.key)

    def pairs_with(self, embeddings: Tensor, *, key: str) -> training.Pairs:
        """Texts with others' embeddings, a row a scene, such as the scenes' pictures: what ClipCap learns from."""
        return training.Pairs(embeddings[self.scene_of], self.texts, key=f"{self.key} {key}")


def corpus(
    n_scenes: int, *, rng: np.random.Generator, register: str = "neutral", domain: str = "print", zipf: float = ZIPF
) -> tuple[list[str], list[int]]:
    """What five people say of each of `n_scenes` scenes, and which scene each caption describes."""
    world = scenes.sample(n_scenes, rng=rng, domain=domain)
    described = captions.describe_by_all(world, rng=rng, register=register, zipf=zipf)
    return [text for row in described for text in row], [i for i, row in enumerate(described) for _ in row]


def said(
    n_scenes: int,
    *,
    clip,
    seed: int,
    register: str = "neutral",
    domain: str = "print",
    zipf: float = ZIPF,
    cache: Path | None = None,
) -> Said:
    """Return the `corpus` of a seed with the tiny CLIP's embeddings.

    Args:
        n_scenes: five captions each.
        clip: the tiny CLIP.
        seed: of scenes and captions.
        register: of the captions.
        domain: of the scenes.
        zipf: as in `captions.describe`; the scenes, and what is said of them, are the same for any.
        cache: a folder where texts and embeddings are kept and found again; a changed grammar, CLIP or argument does
            not find them. None: made anew.
    """
    options = {"register": register, "domain": domain, "zipf": zipf}
    probe = corpus(20, rng=np.random.default_rng(seed), **options)[0]  # tells grammars apart
    what = json.dumps([n_scenes, seed, options, probe, results.sha256_file(CLIP_FILE)])
    key = hashlib.sha256(what.encode()).hexdigest()
    path = None if cache is None else cache / f"{key[:16]}.safetensors"
    if path is not None and path.is_file():
        return _read(path, key)
    texts, scene_of = corpus(n_scenes, rng=np.random.default_rng(seed), **options)
    found = Said(texts, scene_of, clip.embed_texts(texts), key)
    if path is not None:
        from safetensors.torch import save

        content = save({"embeddings": found.embeddings.contiguous()}, {"said": json.dumps([texts, scene_of])})
        results.write_bytes_atomic(path, content)
    return found


def _read(path: Path, key: str) -> Said:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        texts, scene_of = json.loads(file.metadata()["said"])
        return Said(texts, scene_of, file.get_tensor("embeddings"), key)


def picture_embeddings(spoken: Said, *, clip, seed: int, cache: Path) -> Tensor:
    """(n_scenes, dim) the tiny CLIP's embeddings of the pictures of the scenes that were described, kept in `cache`.

    Args:
        spoken: as `said` gives of the domain "print".
        clip: the tiny CLIP.
        seed: the one that `spoken` was made with.
        cache: a folder.
    """
    from safetensors.torch import load_file, save

    path = cache / f"{spoken.key[:16]}-pictures.safetensors"
    if not path.is_file():
        world = scenes.sample(max(spoken.scene_of) + 1, rng=np.random.default_rng(seed))
        rng = torch.Generator().manual_seed(seed)
        parts = [clip.embed_images(scenes.render(world[i : i + 500], rng=rng)) for i in range(0, len(world), 500)]
        results.write_bytes_atomic(path, save({"pictures": torch.cat(parts)}))
    return load_file(path)["pictures"]
