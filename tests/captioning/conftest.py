"""A tiny tokenizer, language model and decoder with random weights that matter."""

import pytest
import torch

from glasslib.captioning.decoder import CaptionDecoder
from glasslib.captioning.mapper import TransformerMapper

WORDS = ("!", "<|endoftext|>", "a", "red", "blue", "green", "star", "ring", "cross", "on", "the", "left", "right", ".")
DIM, GPT_DIM = 8, 16


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="!"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=WORDS[1])


def new_gpt(*, seed=2, dropout=0.0, vocab_size=14, n_positions=64):
    from transformers import GPT2Config, GPT2LMHeadModel

    off = {"resid_pdrop": dropout, "embd_pdrop": dropout, "attn_pdrop": dropout}
    sizes = {"n_positions": n_positions, "n_embd": GPT_DIM, "n_layer": 1, "n_head": 2, "vocab_size": vocab_size}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        gpt = GPT2LMHeadModel(GPT2Config(**sizes, **off, bos_token_id=1, eos_token_id=1))
        for name, parameter in gpt.named_parameters():  # as initialised, all tokens are about as likely
            parameter.data.add_(torch.randn_like(parameter) * (0.3 if "wte" in name else 0.5))
    return gpt.eval()


def new_decoder(*, seed=2, frozen=False, **options):
    gpt = new_gpt(seed=seed, **options)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 100)
        mapper = TransformerMapper(
            embedding_dim=DIM, gpt_dim=GPT_DIM, prefix_length=4, clip_length=3, n_layers=2, n_heads=2
        )
        for parameter in mapper.parameters():  # embeddings must lead to captions that differ
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return CaptionDecoder(gpt, mapper, freeze_language_model=frozen).eval()


@pytest.fixture
def decoder():
    return new_decoder()


@pytest.fixture
def make_decoder():
    return new_decoder


@pytest.fixture
def embeddings():
    """(12, 8), rows of norm 1."""
    rng = torch.Generator().manual_seed(3)
    return torch.nn.functional.normalize(torch.randn(12, DIM, generator=rng), dim=1)


@pytest.fixture(scope="session")
def published():
    """The published code, retold."""
    from glasslib.bench.references import capdec

    return capdec
