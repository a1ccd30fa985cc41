"""Mapper and language model as one: an embedding in, the words of a caption predicted one after the other.

State-dict keys are those of the checkpoints that ClipCap and CapDec released: `clip_project...` and `gpt...`.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glasslib.captioning.mapper import MlpMapper, TransformerMapper
from glasslib.checks import check_shape, fuse_gelu
from glasslib.weights.states import MASK_BUFFERS, fitted, read_state

IGNORE = -100  # cross_entropy's own ignore_index; no vocabulary has this id


class CaptionDecoder(nn.Module):
    """A mapper in front of a causal language model of transformers.

    The language model is fine-tuned with the mapper, as in CapDec, or frozen and left in evaluation mode.
    """

    def __init__(
        self, language_model: nn.Module, mapper: TransformerMapper | MlpMapper, *, freeze_language_model: bool = False
    ) -> None:
        """Join the two.

        Args:
            language_model: such as GPT2LMHeadModel; changed in place where a faster layer gives the same.
            mapper: whose `gpt_dim` is the language model's width.
            freeze_language_model: train the mapper alone.

        Raises:
            ValueError: widths that do not fit.
        """
        super().__init__()
        width = language_model.get_input_embeddings().weight.shape[1]
        if width != mapper.gpt_dim:
            raise ValueError(f"the mapper must give the language model's width {width}, got {mapper.gpt_dim}")
        self.gpt, self.clip_project = language_model, mapper
        self.freeze_language_model = freeze_language_model
        self._head_alone: bool | None = None
        fuse_gelu(language_model)
        if freeze_language_model:
            language_model.requires_grad_(False)

    @property
    def prefix_length(self) -> int:
        """Positions of the language model that the embedding takes."""
        return self.clip_project.prefix_length

    @property
    def n_positions(self) -> int | None:
        """Positions that the language model has for prefix and caption together; None if it sets no limit."""
        return getattr(self.gpt.config, "max_position_embeddings", None)

    def train(self, mode: bool = True) -> CaptionDecoder:
        """As nn.Module's; a frozen language model stays in evaluation mode, without dropout."""
        super().train(mode)
        if self.freeze_language_model:
            self.gpt.eval()
        return self

    def prefix(self, embeddings: Tensor) -> Tensor:
        """(n, embedding_dim) -> (n, prefix_length, gpt_dim), what the language model goes on from."""
        return self.clip_project(embeddings)

    def forward(self, embeddings: Tensor, token_ids: Tensor, labels: Tensor) -> Tensor:
        """Return what the captions cost: the summed cross-entropy of all labels, in nats.

        Only positions with a label pass through the LM head, which is a third of GPT-2's work.

        Args:
            embeddings: (n, embedding_dim).
            token_ids: (n, length) int64, padded at the end with any token.
            labels: (n, length) int64, the token ids that count, IGNORE elsewhere.

        Returns:
            A scalar; divide by the number of labels for a mean.
        """
        logits, counted = self._label_logits(embeddings, token_ids, labels)
        return F.cross_entropy(logits.float(), labels[counted], reduction="sum")

    @torch.inference_mode()
    def log_probs(self, embeddings: Tensor, token_ids: Tensor, labels: Tensor) -> Tensor:
        """Return each caption's log-probability (n,), in nats; arguments as for `forward`."""
        logits, counted = self._label_logits(embeddings, token_ids, labels)
        costs = F.cross_entropy(logits.float(), labels[counted], reduction="none")
        return costs.new_zeros(len(labels)).index_add_(0, counted.nonzero()[:, 0], -costs)

    def _label_logits(self, embeddings: Tensor, token_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n_counted, vocab_size) where a label counts, and where that is: (n, length) bool."""
        check_shape(token_ids, "token_ids", f"{len(embeddings)} length")
        check_shape(labels, "labels", f"{len(embeddings)} {token_ids.shape[1]}")
        # The last token predicts nothing. Padding stands at the end, where a causal model cannot see it: no mask.
        words = self.gpt.get_input_embeddings()(token_ids[:, :-1])
        inputs = torch.cat((self.prefix(embeddings).to(words.dtype), words), dim=1)
        counted = labels != IGNORE  # position prefix_length - 1 predicts the first token
        return self._logits(inputs, counted), counted

    def _logits(self, inputs: Tensor, counted: Tensor) -> Tensor:
        if self._head_alone is None:
            self._head_alone = self._head_is_all()
        if not self._head_alone:
            return self.gpt(inputs_embeds=inputs, use_cache=False).logits[:, self.prefix_length - 1 :][counted]
        hidden = self.gpt.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        return self.gpt.get_output_embeddings()(hidden[:, self.prefix_length - 1 :][counted])

    @torch.no_grad()
    def _head_is_all(self) -> bool:
        """Whether logits are just the LM head on the last hidden state; some models scale or cap them afterwards."""
        training = self.gpt.training
        self.gpt.eval()
        ids = torch.zeros((1, 2), dtype=torch.long, device=next(self.gpt.parameters()).device)
        head = self.gpt.get_output_embeddings()(self.gpt.base_model(input_ids=ids).last_hidden_state)
        same = torch.allclose(head.float(), self.gpt(input_ids=ids).logits.float(), rtol=1e-3, atol=1e-3)
        self.gpt.train(training)
        return same


def load_published(decoder: CaptionDecoder, path: str | Path) -> CaptionDecoder:
    """Load a checkpoint that ClipCap's or CapDec's training script wrote, without unpickling code.

    Args:
        decoder: of the checkpoint's architecture; CapDec's is GPT-2 base and `TransformerMapper(embedding_dim=640,
            gpt_dim=768)`, ClipCap's first release GPT-2 base and `MlpMapper(embedding_dim=512, gpt_dim=768)`.
        path: a state dict, .pt or .safetensors; what DataParallel, torch.compile or a training script put around it is
            taken off (`weights.states`), and a tied head may be left out.

    Returns:
        `decoder`, with every one of its weights from the file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, one that is no state dict, one of another architecture, or weights that are not
            finite numbers. The decoder keeps its own weights then.
    """
    state = read_state(
        path, missing="CapDec's and ClipCap's README say where theirs are", advice="download or copy it again"
    )
    state = {name: value for name, value in state.items() if not MASK_BUFFERS.search(name)}
    advice = f"{_describe(state)}. Build the decoder with these sizes"
    decoder.load_state_dict(fitted(state, decoder, path=path, advice=advice), strict=True)
    return decoder


def _describe(state: dict[str, Tensor]) -> str:
    """The sizes that a published checkpoint shows."""
    state = {re.sub(r"^((module|model)\.)+", "", name): value for name, value in state.items()}
    if "clip_project.prefix_const" in state and "clip_project.linear.weight" in state:
        prefix_length, gpt_dim = state["clip_project.prefix_const"].shape
        rows, embedding_dim = state["clip_project.linear.weight"].shape
        n_layers = sum(name.endswith("norm1.weight") for name in state if name.startswith("clip_project."))
        return (
            f"it holds a TransformerMapper(embedding_dim={embedding_dim}, gpt_dim={gpt_dim}, "
            f"prefix_length={prefix_length}, clip_length={rows // gpt_dim}, n_layers={n_layers})"
        )
    last = state.get("clip_project.model.2.bias")
    if last is not None and "clip_project.model.0.weight" in state and "gpt.transformer.wte.weight" in state:
        embedding_dim = state["clip_project.model.0.weight"].shape[1]
        gpt_dim = state["gpt.transformer.wte.weight"].shape[1]
        sizes = f"embedding_dim={embedding_dim}, gpt_dim={gpt_dim}, prefix_length={len(last) // gpt_dim}"
        return f"it holds an MlpMapper({sizes})"
    return "it is not a ClipCap or CapDec checkpoint"
