"""Mapper and decoder against the published architecture, retold naively, and against checkpoints of its layout."""

import pytest
import torch
import torch.nn.functional as F

from glasslib.captioning.decoder import IGNORE, CaptionDecoder, load_published
from glasslib.captioning.mapper import MlpMapper, TransformerMapper, from_config

# Names and shapes of CapDec's released weights: GPT-2 base, RN50x4, 8 layers, 40 + 40 tokens.
MAPPER = {"linear.weight": (40 * 768, 640), "linear.bias": (40 * 768,), "prefix_const": (40, 768)}
MAPPER_LAYER = {
    "norm1.weight": (768,),
    "norm1.bias": (768,),
    "attn.to_queries.weight": (768, 768),
    "attn.to_keys_values.weight": (1536, 768),
    "attn.project.weight": (768, 768),
    "attn.project.bias": (768,),
    "norm2.weight": (768,),
    "norm2.bias": (768,),
    "mlp.fc1.weight": (1536, 768),
    "mlp.fc1.bias": (1536,),
    "mlp.fc2.weight": (768, 1536),
    "mlp.fc2.bias": (768,),
}
GPT = {
    "transformer.wte.weight": (50257, 768),
    "transformer.wpe.weight": (1024, 768),
    "transformer.ln_f.weight": (768,),
    "transformer.ln_f.bias": (768,),
    "lm_head.weight": (50257, 768),
}
GPT_LAYER = {
    "ln_1.weight": (768,),
    "ln_1.bias": (768,),
    "attn.c_attn.weight": (768, 2304),
    "attn.c_attn.bias": (2304,),
    "attn.c_proj.weight": (768, 768),
    "attn.c_proj.bias": (768,),
    "ln_2.weight": (768,),
    "ln_2.bias": (768,),
    "mlp.c_fc.weight": (768, 3072),
    "mlp.c_fc.bias": (3072,),
    "mlp.c_proj.weight": (3072, 768),
    "mlp.c_proj.bias": (768,),
}
MLP = {"model.0.weight": (3840, 512), "model.0.bias": (3840,), "model.2.weight": (7680, 3840), "model.2.bias": (7680,)}


def gpt_names():
    layers = {f"transformer.h.{i}.{name}": shape for i in range(12) for name, shape in GPT_LAYER.items()}
    return {f"gpt.{name}": shape for name, shape in (GPT | layers).items()}


def full_size(mapper_class, **sizes):
    """The real sizes, without memory for the numbers."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        return CaptionDecoder(GPT2LMHeadModel(GPT2Config()), mapper_class(gpt_dim=768, **sizes))


def shapes(decoder):
    return {name: tuple(value.shape) for name, value in decoder.state_dict().items()}


def test_names_and_shapes_of_capdec_s_released_weights():
    layers = {f"transformer.layers.{i}.{name}": s for i in range(8) for name, s in MAPPER_LAYER.items()}
    expected = gpt_names() | {f"clip_project.{name}": shape for name, shape in (MAPPER | layers).items()}
    assert shapes(full_size(TransformerMapper, embedding_dim=640)) == expected


def test_names_and_shapes_of_clipcap_s_released_weights():
    expected = gpt_names() | {f"clip_project.{name}": shape for name, shape in MLP.items()}
    assert shapes(full_size(MlpMapper, embedding_dim=512)) == expected


def test_the_mapper_computes_what_the_published_one_does(decoder, embeddings, published):
    mapper = decoder.clip_project
    weights = mapper.state_dict()
    expected = published.map_embedding(weights, embeddings, n_heads=2)
    assert expected.std() > 0.1
    assert torch.allclose(mapper(embeddings), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"embeddings must have shape \(n, 8\), got \(12, 7\)"):
        mapper(embeddings[:, :7])


def test_the_mlp_is_two_layers_and_a_tanh(embeddings):
    mapper = MlpMapper(embedding_dim=8, gpt_dim=16, prefix_length=3)
    first, _, last = mapper.model
    expected = (embeddings @ first.weight.T + first.bias).tanh() @ last.weight.T + last.bias
    assert torch.allclose(mapper(embeddings), expected.reshape(12, 3, 16), atol=1e-6)
    assert first.weight.shape == (24, 8)


def padded(rows):
    """Token ids and labels of rows of unequal length."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    labels = torch.tensor([row + [IGNORE] * (length - len(row)) for row in rows])
    return ids, labels


def test_the_loss_counts_every_word_once_and_no_padding(decoder, embeddings):
    rows = [[2, 3, 6, 1], [2, 4, 7, 9, 10, 11, 1], [2, 0, 1]]
    nats = 0.0
    for row, embedding in zip(rows, embeddings, strict=False):  # one caption at a time, one word at a time
        for k, token in enumerate(row):
            words = decoder.gpt.transformer.wte(torch.tensor([row[:k]], dtype=torch.long))
            inputs = torch.cat((decoder.prefix(embedding[None]), words), dim=1)
            nats -= decoder.gpt(inputs_embeds=inputs).logits[0, -1].log_softmax(-1)[token]
    assert torch.allclose(decoder(embeddings[:3], *padded(rows)), nats, rtol=1e-4)


def test_log_probs_are_each_captions_own_loss(decoder, embeddings):
    token_ids = torch.tensor([[2, 3, 6, 1], [5, 1, 0, 0], [7, 4, 1, 0]])
    labels = token_ids.masked_fill(token_ids == 0, IGNORE)
    found = decoder.log_probs(embeddings[:3], token_ids, labels)
    for row, length in enumerate((4, 2, 3)):
        alone = slice(row, row + 1)
        loss = decoder(embeddings[alone], token_ids[alone, :length], token_ids[alone, :length])
        assert float(found[row]) == pytest.approx(-float(loss.detach()), rel=1e-5)


def test_published_labels_give_the_published_loss(decoder, embeddings, published, tokenizer):
    from glasslib.captioning.targets import Targets

    targets = Targets(tokenizer, published=True)
    token_ids, labels = targets(["a red star .", "a ! blue ring on the left .", "the"])  # "!" is token 0
    assert targets.stop_token == "." and token_ids[0].tolist() == [2, 3, 6, 13, 0, 0, 0, 0]
    ours = decoder(embeddings[:3], token_ids, labels) / (labels != IGNORE).sum()
    assert torch.allclose(ours, published.loss(decoder.gpt, decoder.prefix(embeddings[:3]), token_ids), rtol=1e-4)
    _, fixed = Targets(tokenizer, stop_token=".")(["a ! blue ring ."])
    assert fixed[0].tolist() == [2, 0, 4, 7, 13]  # ours learns "!"


def test_models_that_scale_their_logits_are_run_whole(embeddings):
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        granite = GraniteForCausalLM(
            GraniteConfig(vocab_size=14, num_key_value_heads=2, logits_scaling=8.0, initializer_range=1.0, **sizes)
        )
        mapper = MlpMapper(embedding_dim=8, gpt_dim=16, prefix_length=2)
    decoder = CaptionDecoder(granite, mapper).eval()
    ids, labels = padded([[2, 3, 6, 1], [2, 4, 1]])
    inputs = torch.cat((decoder.prefix(embeddings[:2]), granite.get_input_embeddings()(ids)), dim=1)
    logits = granite(inputs_embeds=inputs).logits[:, 1:-1]
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    assert torch.allclose(decoder(embeddings[:2], ids, labels), expected, rtol=1e-4)


def test_a_faster_gelu_changes_nothing(make_decoder, embeddings):
    from transformers.activations import NewGELUActivation

    decoder = make_decoder()
    [fused] = [child for child in decoder.modules() if isinstance(child, torch.nn.GELU)]
    ids, labels = padded([[2, 3, 6, 1], [2, 4, 1]])
    fast = decoder(embeddings[:2], ids, labels)
    decoder.gpt.transformer.h[0].mlp.act = NewGELUActivation()
    assert torch.allclose(fast, decoder(embeddings[:2], ids, labels), rtol=1e-6)
    x = torch.linspace(-5, 5, 100)
    assert torch.allclose(fused(x), NewGELUActivation()(x), atol=1e-6)


def test_a_frozen_language_model_learns_nothing_and_drops_nothing(make_decoder, embeddings):
    decoder = make_decoder(frozen=True, dropout=0.5).train()
    ids, labels = padded([[2, 3, 6, 1]])
    losses = [decoder(embeddings[:1], ids, labels) for _ in range(2)]
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(p.grad is None for p in decoder.gpt.parameters())
    assert all(p.grad is not None for p in decoder.clip_project.parameters())


def test_a_published_checkpoint_fills_the_decoder(make_decoder, embeddings, tmp_path):
    trained = make_decoder(seed=5)
    state = trained.state_dict()
    # older versions of transformers kept causal masks among the weights
    state |= {"gpt.transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8).tril()}
    state |= {"gpt.transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    torch.save(state, tmp_path / "coco_prefix-009.pt")
    decoder = load_published(make_decoder(), tmp_path / "coco_prefix-009.pt")
    ids, labels = padded([[2, 3, 6, 1]])
    assert torch.equal(decoder(embeddings[:1], ids, labels), trained(embeddings[:1], ids, labels))


def test_checkpoints_that_do_not_fit_are_refused(make_decoder, tmp_path):
    path, decoder = tmp_path / "x.pt", make_decoder()
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    with pytest.raises(FileNotFoundError, match=r"no x.pt at .*x.pt; CapDec's and ClipCap's README say where"):
        load_published(decoder, path)
    other = TransformerMapper(embedding_dim=8, gpt_dim=16, prefix_length=5, clip_length=2, n_layers=1, n_heads=2)
    torch.save(CaptionDecoder(make_decoder().gpt, other).state_dict(), path)
    found = "embedding_dim=8, gpt_dim=16, prefix_length=5, clip_length=2, n_layers=1"
    with pytest.raises(ValueError, match=rf"lacks 12 weights, first clip_project.transformer.layers.1.*\({found}\)"):
        load_published(decoder, path)
    torch.save(CaptionDecoder(make_decoder().gpt, MlpMapper(embedding_dim=8, gpt_dim=16)).state_dict(), path)
    with pytest.raises(ValueError, match=r"MlpMapper\(embedding_dim=8, gpt_dim=16, prefix_length=10\)"):
        load_published(decoder, path)
    torch.save({"model": Evil()}, path)
    with pytest.raises(ValueError, match="nothing but tensors"):
        load_published(decoder, path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="must be a complete PyTorch file"):
        load_published(decoder, path)
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a checkpoint ran code')",))


def test_a_mapper_is_made_again_from_its_config():
    mapper = TransformerMapper(embedding_dim=8, gpt_dim=16, prefix_length=5, n_layers=1, n_heads=4, mlp_ratio=3)
    again = from_config(mapper.config)
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in mapper.named_parameters()}
    with pytest.raises(ValueError, match="kind must be one of"):
        from_config({"kind": "linear"})
    with pytest.raises(ValueError, match="multiple of n_heads"):
        TransformerMapper(embedding_dim=8, gpt_dim=10)


def test_widths_must_fit(make_decoder):
    with pytest.raises(ValueError, match="language model's width 16, got 8"):
        CaptionDecoder(make_decoder().gpt, MlpMapper(embedding_dim=8, gpt_dim=8))
