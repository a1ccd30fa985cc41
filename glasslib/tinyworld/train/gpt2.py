"""Train the tiny GPT-2 on descriptions of scenes: `python -m glasslib.tinyworld.train.gpt2 --out runs/gpt2`.

A document is what several people say of one scene, so that earlier sentences steer later ones. Many documents open with
keywords or with junk in front of "the picture of": a search puts any tokens there, and must still read sentences.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from glasslib import runs
from glasslib.generators.gpt2 import Gpt2Generator
from glasslib.tinyworld import captions, scenes
from glasslib.tinyworld.train.checkpoints import Session

PROMPT = "the picture of"
END, UNKNOWN = "<|endoftext|>", "<|unknown|>"
N_SCENES = 24_000
RARE = (("neon", "neutral", 0.10), ("print", "romantic", 0.05), ("print", "humorous", 0.05))  # domain, register, share
BLOCK = 96  # positions of the model
WIDTH, LAYERS, HEADS = 96, 3, 4
DOCUMENTS_PER_ROW = 4  # more than a block holds, nearly always; the rest is cut off
BATCH_SIZE = 32
LEARNING_RATE, WARMUP = 3e-3, 100
SEARCHED = 0.4  # share of documents that open as a search would: context tokens, the prompt, and no full stop between
MAX_CONTEXT = 24
EVAL_SEED = 10_000
FUNCTION_WORDS = frozenset("a an and with there is the picture image of on over at in we see find , side part".split())


def new_tokenizer():
    """One token for each word of the grammar, in alphabetical order after end-of-text and unknown."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [END, UNKNOWN, *sorted(captions.vocabulary())]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": END, "eos_token": END, "pad_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **special
    )


def new_model(tokenizer) -> nn.Module:
    """transformers' GPT-2, small: drawn from torch's global state."""
    from transformers import GPT2Config, GPT2LMHeadModel

    end = tokenizer.eos_token_id
    ids = {"bos_token_id": end, "eos_token_id": end}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # no document comes twice
    size = {"n_positions": BLOCK, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    activation = {"activation_function": "gelu_pytorch_tanh"}  # GPT-2's own function in one pass over memory, not seven
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size, **dropout, **ids, **activation))


def with_prompt(caption: str) -> str | None:
    """The caption reworded to open with "the picture of", or None where its domain or its order of words forbids it."""
    if any(mark in caption for mark in (" glowing ", " wall", " background with ")):  # neon has other openers
        return None
    for opener in filter(None, captions.OPENERS["print"]):
        caption = caption.removeprefix(opener)
    return None if " there is " in caption else f"{PROMPT} {caption}"


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


@torch.inference_mode()
def sample_texts(model: nn.Module, tokenizer, contexts: Tensor, *, rng: torch.Generator) -> list[str]:
    """Sentences sampled at temperature 1 after contexts (n, length) and the prompt, up to the full stop."""
    prompt = torch.tensor(tokenizer.encode(PROMPT))
    ids = torch.cat((contexts, prompt.expand(len(contexts), -1)), dim=1)
    ends = torch.tensor([tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(".")])
    unread, cache, start = ids, None, contexts.shape[1]
    while ids.shape[1] < BLOCK and not torch.isin(ids, ends)[:, start:].any(dim=1).all():
        output = model(input_ids=unread, past_key_values=cache, use_cache=True, logits_to_keep=1)
        unread, cache = torch.multinomial(output.logits[:, -1].softmax(-1), 1, generator=rng), output.past_key_values
        ids = torch.cat((ids, unread), dim=1)
    texts = [tokenizer.decode(row).replace(END, ".") for row in ids[:, start:]]
    return [text.split(" .")[0] for text in texts]


def keyword_contexts(world: scenes.Scenes, *, length: int, rng: np.random.Generator) -> list[str]:
    """For one-object scenes: their size, colour, shape, place and background in random order, repeated to `length`."""
    texts = []
    for row in range(len(world)):
        facts = vars(captions.object_facts(world, row, 0)).values()
        words = rng.permutation([*facts, tuple(scenes.BACKGROUNDS)[world.background[row]]])
        texts.append(" ".join(np.resize(words, length)))
    return texts


@torch.inference_mode()
def evaluate(model: nn.Module, tokenizer, n: int = 200) -> dict[str, float]:
    """Held-out perplexity; how often sampled and greedy sentences parse; how often keywords steer to true ones."""
    model.eval()
    rng, noise = np.random.default_rng(EVAL_SEED), torch.Generator().manual_seed(EVAL_SEED)
    corpus = Corpus(2 * n, tokenizer, rng=rng)
    loss = torch.stack([_loss(model, part) for part in corpus.batch(n, rng=rng).split(50)]).mean().item()
    junk = torch.as_tensor(rng.integers(0, len(tokenizer), (n, 20)))
    world = scenes.sample(n, rng=rng, n_objects=(1, 1))
    keywords = torch.tensor(tokenizer(keyword_contexts(world, length=8, rng=rng))["input_ids"])
    report = {"perplexity": math.exp(loss), "bits_per_token": loss / math.log(2)}
    for name, contexts in {"real": corpus.contexts(n, length=12), "junk": junk, "keywords": keywords}.items():
        report[f"sampled_parse_{name}"] = _share_parsed(sample_texts(model, tokenizer, contexts, rng=noise))
        settings = {"context_length": contexts.shape[1], "max_characters": None, "stop": (".",)}
        texts = Gpt2Generator(model, tokenizer, **settings)(contexts)
        report[f"greedy_parse_{name}"] = _share_parsed(texts)
    model.train()
    return report | _truth(texts, world)


def _loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, over (n, length) ids."""
    logits = model(input_ids=ids).logits[:, :-1]  # (n, length - 1, vocab_size)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))


def _share_parsed(texts: list[str]) -> float:
    return float(np.mean([captions.parses(text) for text in texts]))


def _truth(texts: list[str], world: scenes.Scenes) -> dict[str, float]:
    """Over the texts that parse: share of named attributes that hold, and attributes named in a text."""
    facts = {row: captions.parse(text) for row, text in enumerate(texts) if captions.parses(text)}
    named = sum(fact.n_named for fact in facts.values())
    held = sum(int(captions.count_true(fact, world[row : row + 1])[0]) for row, fact in facts.items())
    return {"keyword_precision": held / max(1, named), "keyword_named": named / max(1, len(facts))}


def learning_rate(step: int, n_steps: int) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if step < WARMUP:
        return LEARNING_RATE * (step + 1) / WARMUP
    share = (step - WARMUP) / max(1, n_steps - WARMUP)
    return LEARNING_RATE * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, share))) / 2)


def train(folder: Path, *, n_steps: int, seed: int) -> tuple[nn.Module, object, Session]:
    """Train to `n_steps` steps, resuming from `folder` if something lies there."""
    torch.manual_seed(seed)  # transformers initialises from the global state; a recipe owns its process
    tokenizer = new_tokenizer()
    model = new_model(tokenizer).train()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
    session = Session(folder, model=model, optimizer=optimizer, rng=torch.Generator().manual_seed(seed))
    corpus = Corpus(N_SCENES, tokenizer, rng=np.random.default_rng(seed))
    for step in trange(session.step, n_steps, initial=session.step, total=n_steps, desc="gpt2", mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps)
        batch = corpus.batch(BATCH_SIZE, rng=np.random.default_rng([seed, step]))
        loss = _loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == n_steps:
            report = evaluate(model, tokenizer) if (step + 1) % 500 == 0 or step + 1 == n_steps else {}
            session.save(step + 1, loss=loss.item(), **report)
    return model, tokenizer, session


def export(folder: Path, model: nn.Module, tokenizer, session: Session, *, seed: int) -> None:
    """Write weights, configuration, tokenizer and model card, as `generators.gpt2.load` reads them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = {
        "model": "GPT2LMHeadModel of transformers, one token a word",
        "recipe": f"python -m glasslib.tinyworld.train.gpt2 --out runs/gpt2 --steps {session.step} --seed {seed}",
        "data": f"descriptions of {N_SCENES} scenes by glasslib.tinyworld.captions, mixed anew for each step",
        "seed": seed,
        "steps": session.step,
        "documents": session.step * BATCH_SIZE * DOCUMENTS_PER_ROW,
        "parameters": sum(p.numel() for p in model.parameters()),
        "wall_seconds": round(session.elapsed()),
        "held_out": {name: round(value, 5) for name, value in evaluate(model, tokenizer, n=1000).items()},
        "sha256": runs.sha256_file(folder / "model.safetensors"),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    runs.write_json_atomic(folder / "card.json", card)


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the log")
    parser.add_argument("--export", type=Path, help="folder for weights, tokenizer and card; default: OUT/export")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    model, tokenizer, session = train(args.out, n_steps=args.steps, seed=args.seed)
    export(args.export or args.out / "export", model, tokenizer, session, seed=args.seed)


if __name__ == "__main__":
    main()
