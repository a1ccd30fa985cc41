"""Train the tiny GPT-2 on descriptions of scenes: `python -m glasslib.tinyworld.recipes.gpt2 --out runs/gpt2`.

The documents stand in gpt2_text.py: descriptions of scenes, and contexts such as a search puts in front of the prompt.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from glasslib.generators.gpt2 import Gpt2Generator
from glasslib.tinyworld import captions, faithfulness, scenes
from glasslib.tinyworld.models import WEIGHTS
from glasslib.tinyworld.recipes import checkpoints
from glasslib.tinyworld.recipes.checkpoints import Session
from glasslib.tinyworld.recipes.gpt2_text import BLOCK, DOCUMENTS_PER_ROW, END, PROMPT, Corpus, new_tokenizer

N_SCENES = 24_000
WIDTH, LAYERS, HEADS = 96, 3, 4
BATCH_SIZE = 32
LEARNING_RATE, WARMUP = 3e-3, 100
EVAL_SEED = 10_000


def new_model(tokenizer) -> nn.Module:
    """transformers' GPT-2, small: drawn from torch's global state."""
    from transformers import GPT2Config, GPT2LMHeadModel

    end = tokenizer.eos_token_id
    ids = {"bos_token_id": end, "eos_token_id": end}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # no document comes twice
    size = {"n_positions": BLOCK, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS}
    activation = {"activation_function": "gelu_pytorch_tanh"}  # GPT-2's own function in one pass over memory, not seven
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **size, **dropout, **ids, **activation))


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


@torch.inference_mode()
def perplexities(model: nn.Module, ids: Tensor, counted: Tensor) -> dict[str, np.ndarray]:
    """Score held-out rows by the model, and by word and word-pair counts, which know nothing of sentences.

    Args:
        ids: (n, length) held-out tokens.
        counted: (m, length) other tokens, for the counts of the unigram and the bigram model.

    Returns:
        "perplexity", "perplexity_unigram" and "perplexity_bigram": (n,) mean nats per token after the first of each
        row; the perplexity is exp of their mean.
    """
    model.eval()
    vocab_size = model.config.vocab_size
    targets = ids[:, 1:]
    logits = torch.cat([model(input_ids=part).logits[:, :-1] for part in ids.split(50)])
    ours = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").mean(dim=1)
    single = torch.bincount(counted.reshape(-1), minlength=vocab_size).double() + 1
    single /= single.sum()
    pairs = counted[:, :-1] * vocab_size + counted[:, 1:]
    double = torch.bincount(pairs.reshape(-1), minlength=vocab_size**2).double().view(vocab_size, vocab_size)
    double = (double + single) / (double.sum(dim=1, keepdim=True) + 1)  # one imagined pair, spread as single words are
    pair = -double[ids[:, :-1], targets].log().mean(dim=1)
    nats = {"": ours, "_unigram": -single[targets].log().mean(dim=1), "_bigram": pair}
    return {f"perplexity{name}": value.double().numpy() for name, value in nats.items()}


@torch.inference_mode()
def sentence_nats(model: nn.Module, tokenizer, texts: list[str]) -> np.ndarray:
    """What each sentence and its full stop cost as a new document, after the sentence before it as another, (n,) nats.

    No model can cost less on average than `entropy.log_probability` says, for captions drawn as it assumes. Ours also
    expects keywords, styles and the prompt at the start of a document, which costs it a little more.
    """
    model.eval()
    pairs = zip([texts[-1], *texts], texts, strict=False)
    rows = [torch.tensor(tokenizer.encode(f"{before} . {END} {text} .")) for before, text in pairs]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # causal, so padding at the end changes nothing
    targets = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    started = (ids == tokenizer.eos_token_id).cumsum(dim=1)  # position 0 never holds end-of-text in training
    targets = torch.where((started > 0) & (ids != tokenizer.eos_token_id), targets, -100)
    logits = model(input_ids=ids).logits[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), targets[:, 1:], reduction="none").sum(dim=1).double().numpy()


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
    held = sum(int(faithfulness.count_true(fact, world[row : row + 1])[0]) for row, fact in facts.items())
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


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--export", type=Path, default=WEIGHTS / "gpt2")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    model, tokenizer, session = train(args.out, n_steps=args.steps, seed=args.seed)
    seconds, n_documents = session.elapsed(), args.steps * BATCH_SIZE * DOCUMENTS_PER_ROW
    model.save_pretrained(args.export)
    tokenizer.save_pretrained(args.export)
    checkpoints.write_card(
        args.export,
        recipe=f"python -m glasslib.tinyworld.recipes.gpt2 --out runs/{args.out.name} --steps {args.steps} "
        f"--seed {args.seed}",
        seed=args.seed,
        steps=session.step,
        data=f"{n_documents} documents about {N_SCENES} scenes, new ones for each step, cut to {BLOCK} tokens a row",
        wall_time_s=seconds,
        held_out=evaluate(model, tokenizer, n=1000),
    )


if __name__ == "__main__":
    main()
