"""Train the painter's text encoder: `python -m glasslib.tinyworld.recipes.painter_text --out runs/painter_text`.

transformers' CLIP text model over the words of the tiny grammar. It learns from captions alone, without pictures, by
saying what stands on each of the four sides; the heads that say so are thrown away. The painter reads the states of
all tokens. (The tiny CLIP's own text tower tells a caption from the one with colours exchanged in .62 of cases, so a
painter that reads it cannot know which colour belongs to which shape.)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from glasslib.tinyworld import scenes, two_things, wording
from glasslib.tinyworld.recipes.checkpoints import Session

START, END, UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<|unknown|>"
WIDTH, N_LAYERS, N_HEADS = 64, 3, 4
N_SIDES = 4
BATCH_SIZE = 128
LEARNING_RATE = 2e-3


def new_tokenizer():
    """One token a word, framed by start and end, padded with the end token to CONTEXT_LENGTH as CLIP's is."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = [START, END, UNKNOWN, *sorted(wording.vocabulary())]
    ids = {word: k for k, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    names = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": UNKNOWN}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **names, model_max_length=two_things.CONTEXT_LENGTH, padding_side="right"
    )


def token_ids(tokenizer, texts: list[str]) -> Tensor:
    """(n, CONTEXT_LENGTH) int64, as diffusers' pipelines tokenize a prompt."""
    options = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
    return tokenizer(texts, **options, return_tensors="pt").input_ids


def new_text_encoder(tokenizer) -> nn.Module:
    """transformers' CLIP text model, small; random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    size = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "projection_dim": WIDTH}
    size |= {"num_hidden_layers": N_LAYERS, "num_attention_heads": N_HEADS}
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=tokenizer.model_max_length,
            pad_token_id=tokenizer.pad_token_id,
            **ids,
            **size,
        )
    )


def layout(world: scenes.Scenes) -> Tensor:
    """(n, 8) what stands left, right, above and below: four colours, then four shapes; 0 where nothing stands."""
    n = len(world)
    seen = np.zeros((n, 2, N_SIDES), dtype=np.int64)
    for slot in (0, 1):
        seen[np.arange(n), 0, world.place[:, slot]] = world.colour[:, slot] + 1
        seen[np.arange(n), 1, world.place[:, slot]] = world.shape[:, slot] + 1
    return torch.from_numpy(seen.reshape(n, 2 * N_SIDES))


class LayoutHeads(nn.Module):
    """Says from the end token's state, (n, WIDTH), what stands on the four sides."""

    def __init__(self) -> None:
        super().__init__()
        self.to_logits = nn.Linear(WIDTH, 2 * N_SIDES * 9)  # eight colours or shapes, or nothing

    def forward(self, states: Tensor) -> Tensor:
        """(n, WIDTH) -> logits (n, 9, 8)."""
        return self.to_logits(states).view(len(states), 2 * N_SIDES, 9).transpose(1, 2)


def end_states(text_encoder: nn.Module, ids: Tensor) -> Tensor:
    """(n, WIDTH): each text's state at its first end token."""
    states = text_encoder(ids).last_hidden_state
    ends = (ids == text_encoder.config.eos_token_id).int().argmax(dim=1)
    return states[torch.arange(len(ids)), ends]


@torch.inference_mode()
def evaluate(text_encoder: nn.Module, heads: nn.Module, tokenizer, n: int = 1000) -> dict[str, float]:
    """Share of captions whose eight facts are all said rightly: of seen combinations, and of those held out."""
    report = {}
    for name, held_out in (("seen", False), ("held_out", True)):
        rng = np.random.default_rng(31_000)
        world = two_things.sample(n, rng=rng, held_out=held_out)
        logits = heads(end_states(text_encoder, token_ids(tokenizer, two_things.describe(world, rng=rng))))
        report[name] = float((logits.argmax(1) == layout(world)).all(dim=1).float().mean())
    return report


def train(folder: Path, *, n_captions: int, seed: int) -> tuple[nn.Module, object, Session]:
    """Train on `n_captions` fresh captions, resuming from `folder` if something lies there."""
    torch.manual_seed(seed)  # layers initialise from the global state; a recipe owns its process
    tokenizer = new_tokenizer()
    both = nn.ModuleDict({"text_encoder": new_text_encoder(tokenizer), "heads": LayoutHeads()})
    optimizer = torch.optim.AdamW(both.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    rng = torch.Generator().manual_seed(seed)
    session = Session(folder, model=both, optimizer=optimizer, rng=rng)
    n_steps = n_captions // BATCH_SIZE
    for step in trange(session.step, n_steps, initial=session.step, total=n_steps, desc="text encoder", mininterval=10):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 100) * (1.01 - step / n_steps)
        dice = np.random.default_rng([seed, step])
        world = two_things.sample(BATCH_SIZE, rng=dice)
        ids = token_ids(tokenizer, two_things.describe(world, rng=dice))
        ids = ids[
            :, : int((ids != tokenizer.eos_token_id).sum(1).max()) + 1
        ]  # causal: padding changes nothing before it
        loss = F.cross_entropy(both["heads"](end_states(both["text_encoder"], ids)), layout(world))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0 or step + 1 == n_steps:
            measured = evaluate(both["text_encoder"], both["heads"], tokenizer)
            session.save(step + 1, loss=loss.item(), **measured)
    return both["text_encoder"].eval().requires_grad_(False), tokenizer, session


def main() -> None:
    """Command line of the recipe; the painter's recipe reads the folder that it leaves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--captions", type=int, default=256_000)
    parser.add_argument("--seed", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    text_encoder, tokenizer, _ = train(args.out, n_captions=args.captions, seed=args.seed)
    text_encoder.save_pretrained(args.out / "text_encoder")
    tokenizer.save_pretrained(args.out / "tokenizer")


if __name__ == "__main__":
    main()
