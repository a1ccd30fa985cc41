"""Whether GPT-2's faithful arm writes what the published code would, on the tiny GPT-2's weights."""

import numpy as np
import torch

from glasslib.bench.references import glass
from glasslib.generators import gpt2
from glasslib.tinyworld import models


@torch.inference_mode()
def faithful_gpt2(n: int = 1000) -> np.ndarray:
    """Compare the texts of n random contexts of 20 tokens, 15 % of which hold an end-of-text token.

    Returns:
        (n,) bool: the same text. Its mean is parity.faithful_gpt2.
    """
    model, tokenizer = gpt2.load(models.WEIGHTS / "gpt2")
    generator = gpt2.Gpt2Generator(model, tokenizer, context_ends=True, **gpt2.GLASS)
    contexts = torch.as_tensor(generator.latent_space.sample(n, rng=np.random.default_rng(0))).long()
    published = glass.write(model, tokenizer, contexts)
    return np.array([ours == theirs for ours, theirs in zip(generator(contexts), published, strict=True)])
