"""What the tiny GPT-2 reads: its tokenizer, and endless documents about scenes.

A document is what several people say of one scene, so that earlier sentences steer later ones. Many documents open with
keywords or with junk in front of "the picture of": a search puts any tokens there, and must still read sentences.
"""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor

from glasslib.tinyworld import captions, scenes, wording

PROMPT = "the picture of"
END, UNKNOWN = "<|endoftext|>", "<|unknown|>"
RARE = (("neon", "neutral", 0.10), ("print", "romantic", 0.05), ("print", "humorous", 0.05))  # domain, register, share
BLOCK = 96  # tokens in a row: the model's positions
DOCUMENTS_PER_ROW = 4  # more than a row holds, nearly always; the rest is cut off
SEARCHED = 0.4  # share of documents that open as a search would: context tokens, the prompt, and no full stop between
MAX_CONTEXT = 24
FUNCTION_WORDS = frozenset("a an and with there is the picture image of on over at in we see find , side part".split())


def new_tokenizer():
    """One token for each word of the grammar, in alphabetical order after end-of-text and unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [END, UNKNOWN, *sorted(wording.vocabulary())]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": END, "eos_token": END, "pad_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **special)


def with_prompt(caption: str) -> str | None:
    """The caption reworded to open with "the picture of", or None where its order of words forbids it.

    The opener belongs to the print domain, so a neon sentence changes domain with it: a search may put neon words in
    front of the prompt, and what follows must still be a sentence of one domain.
    """
    caption = in_print(caption)
    if " background with " in caption or " there is " in caption:
        return None
    for opener in filter(None, wording.OPENERS["print"]):
        caption = caption.removeprefix(opener)
    return f"{PROMPT} {caption}"


def in_print(caption: str) -> str:
    """A neutral neon caption in the wording of the print domain; one of the print domain as it is."""
    if "glowing" not in caption and not caption.endswith(" wall"):
        return caption
    for opener in filter(None, wording.OPENERS["neon"]):
        caption = caption.removeprefix(opener)
    caption = re.sub(r"\ba glowing (?=[aeiou])", "an ", caption).replace("glowing ", "").replace(" sign", "")
    caption = re.sub(r"\bwall\b", "background", caption)
    for neon, printed in zip(wording.GROUND["neon"][0], wording.GROUND["print"][0], strict=True):
        caption = re.sub(rf"\b{neon}\b", printed, caption)
    return caption


def describe_scenes(n: int, *, rng: np.random.Generator) -> list[list[str]]:
    """n scenes, each described by five people: mostly print and neutral."""
    groups = [("print", "neutral", 1 - sum(share for *_, share in RARE)), *RARE]
    rows = []
    for domain, register, share in groups:
        world = scenes.sample(round(n * share), rng=rng, domain=domain)
        rows += captions.describe_by_all(world, rng=rng, register=register)
    return [rows[i] for i in rng.permutation(len(rows))]


def write_document(sentences: list[str], words: list[str], *, rng: np.random.Generator) -> str:
    """One document from the five descriptions of a scene.

    Args:
        sentences: of one scene.
        words: what junk is drawn from.
    """
    order = rng.permutation(len(sentences))
    chosen = [sentences[i] for i in order[: rng.integers(1, len(sentences))]]
    prompted = [text for text in (with_prompt(sentences[i]) for i in order) if text]
    lead = ""
    if prompted and rng.random() < SEARCHED:
        lead = context_words(prompted[0], sentences, words, rng=rng) + " "
        chosen = [prompted[0], *(text for text in chosen[1:3] if with_prompt(text) != prompted[0])]
    elif rng.random() < 0.6:
        spot = int(rng.integers(len(chosen)))
        chosen[spot] = with_prompt(chosen[spot]) or chosen[spot]
    return lead + " . ".join(chosen) + " ."


def context_words(sentence: str, sentences: list[str], words: list[str], *, rng: np.random.Generator) -> str:
    """Words in front of the prompt: pure junk, keywords, or a mixture.

    The keywords are those of the sentence to come, or of all that is said of the scene, shuffled.
    """
    source = sentence if rng.random() < 0.5 else " ".join(sentences)
    keywords = [word for word in source.split() if word not in FUNCTION_WORDS]
    n = int(rng.integers(1, MAX_CONTEXT + 1))
    share = (0.0, 1.0, rng.random())[rng.integers(3)]
    junk, picked = rng.choice(words, n), rng.choice(keywords, n)
    return " ".join(np.where(rng.random(n) < share, picked, junk))


class Corpus:
    """Endless documents about a fixed number of described scenes."""

    def __init__(self, n_scenes: int, tokenizer, *, rng: np.random.Generator) -> None:
        self._described = describe_scenes(n_scenes, rng=rng)
        self._tokenizer, self._words = tokenizer, sorted(tokenizer.get_vocab())

    def documents(self, n: int, *, rng: np.random.Generator) -> list[str]:
        rows = rng.integers(0, len(self._described), n)
        return [write_document(self._described[row], self._words, rng=rng) for row in rows]

    def batch(self, n_rows: int, *, rng: np.random.Generator) -> Tensor:
        """(n_rows, BLOCK) token ids: each row begins with a document and goes on with others until it is full."""
        documents = self.documents(n_rows * DOCUMENTS_PER_ROW, rng=rng)
        texts = [f" {END} ".join([*documents[i::n_rows], ""]) for i in range(n_rows)]
        ids = self._tokenizer(texts)["input_ids"]
        full = [row + [self._tokenizer.eos_token_id] * BLOCK for row in ids]
        return torch.tensor([row[:BLOCK] for row in full])

    def contexts(self, n: int, *, length: int) -> Tensor:
        """(n, length) token ids: the end of what all five people say of each of the first n scenes."""
        texts = [" . ".join([*sentences, ""]).strip() for sentences in self._described[:n]]
        return torch.tensor([row[-length:] for row in self._tokenizer(texts)["input_ids"]])
