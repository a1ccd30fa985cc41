"""The faithful GPT-2 against the published way of reading its sequence."""

import numpy as np
import torch

from glasslib.bench.gpt2_parity import faithful_gpt2
from glasslib.bench.references import glass
from glasslib.generators import gpt2
from glasslib.tinyworld import models


def test_the_faithful_arm_writes_what_the_published_code_does_end_of_text_included():
    assert faithful_gpt2(200).all()


def test_end_of_text_among_the_context_tokens_ends_the_published_text():
    model, tokenizer = gpt2.load(models.WEIGHTS / "gpt2")
    contexts = torch.full((3, 20), 70)
    contexts[0, 0] = contexts[1, 19] = tokenizer.eos_token_id
    with torch.inference_mode():
        published = glass.write(model, tokenizer, contexts)
    assert published[:2] == ["", ""] and published[2].startswith("the picture of")
    options = gpt2.GLASS | {"max_new_tokens": 3}
    faithful, default = (
        gpt2.Gpt2Generator(model, tokenizer, context_ends=ends, **options)(contexts) for ends in (True, False)
    )
    assert faithful[:2] == ["", ""] and faithful[2] == default[2]
    assert all(text.startswith("the picture of") for text in default)
    assert np.all([text == "" for text in gpt2.Gpt2Generator(model, tokenizer, context_ends=True)(contexts[:2])])
