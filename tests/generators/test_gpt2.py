"""The GPT-2 generator against a plain loop without cache, batches or early stop."""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402

from glasslib.generators import gpt2  # noqa: E402
from glasslib.generators.gpt2 import Gpt2Generator  # noqa: E402
from glasslib.tinyworld import captions  # noqa: E402
from glasslib.tinyworld.models import WEIGHTS  # noqa: E402
from glasslib.tinyworld.recipes import gpt2 as recipe  # noqa: E402
from glasslib.tinyworld.recipes import gpt2_text  # noqa: E402

END = "<|endoftext|>"
TINY = WEIGHTS / "gpt2"
trained = pytest.mark.skipif(not (TINY / "model.safetensors").exists(), reason="run: make tinyworld")


def byte_tokenizer():
    """GPT-2's scheme, with no merges but one: a token is a byte, so characters beyond ASCII take several."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*letters, "th", END])}
    core = Tokenizer(models.BPE(vocab, [("t", "h")]))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token=END, eos_token=END, unk_token=END)


def small_gpt2(vocab_size: int, seed: int = 0, n_positions: int = 64):
    """Random weights, far from zero, so that rows differ; dropout left on to see that it is switched off."""
    torch.manual_seed(seed)
    size = {"n_positions": n_positions, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(vocab_size=vocab_size, initializer_range=0.4, **size)
    return transformers.GPT2LMHeadModel(config).train()


def favour(model, token: int, by: float):
    """Make one token likelier everywhere, by a bias that GPT-2's head does not have."""
    bias = torch.zeros(model.config.vocab_size)
    bias[token] = by
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


@torch.no_grad()
def plain_ids(model, tokenizer, contexts, *, prompt="the pic", max_new_tokens=24):
    """One row at a time, all positions again for each token, never stopping: prompt and written ids."""
    model.eval()
    rows = []
    for context in contexts.tolist():
        ids = [*context, *tokenizer.encode(prompt)]
        for _ in range(max_new_tokens):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        rows.append(ids[len(context) :])
    return rows


def cut(tokenizer, ids, *, max_characters, stop=(), prompt="the pic"):
    """The cuts, made on the finished text."""
    text = tokenizer.decode(ids, clean_up_tokenization_spaces=False).split(END)[0]
    written = text[len(prompt) :]
    if ends := [written.index(each) for each in stop if each in written]:
        text = (prompt + written[: min(ends)]).rstrip()
    return text[:max_characters]


def contexts_for(tokenizer, n: int = 24, length: int = 6) -> torch.Tensor:
    return torch.as_tensor(np.random.default_rng(1).integers(0, len(tokenizer), (n, length)))


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return favour(small_gpt2(len(tokenizer)), tokenizer.eos_token_id, 3.0)


@pytest.fixture(scope="module")
def plain(tokenizer, model):
    return plain_ids(model, tokenizer, contexts_for(tokenizer))


SHORT = {"context_length": 6, "prompt": "the pic", "max_new_tokens": 24}
CUTS = [(50, ()), (12, ()), (None, ()), (None, ("H",)), (20, ("th", "H.", "\u0101")), (11, (" ", "O")), (None, ("VO",))]


@pytest.mark.parametrize(("max_characters", "stop"), CUTS)
def test_equals_the_plain_loop(tokenizer, model, plain, max_characters, stop):
    generator = Gpt2Generator(model, tokenizer, max_characters=max_characters, stop=stop, batch_size=16, **SHORT)
    expected = [cut(tokenizer, ids, max_characters=max_characters, stop=stop) for ids in plain]
    assert generator(contexts_for(tokenizer)) == expected


def test_the_plain_rows_end_in_every_way(tokenizer, plain):
    texts = [cut(tokenizer, ids, max_characters=None) for ids in plain]
    ends = [ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else None for ids in plain]
    assert None in ends and sum(end is not None and end < 15 for end in ends) >= 3
    assert len(set(texts)) > 15 and max(map(len, texts)) > 20
    assert any("\ufffd" in text for text in texts) and any(0x7F < ord(c) != 0xFFFD for c in "".join(texts))
    assert sum("H" in text[7:] for text in texts) >= 3 and sum("th" in text[7:] for text in texts) >= 2


def test_clip_glass_decoding_by_hand(tokenizer):
    class Spelling(torch.nn.Module):
        """Writes a given text, whatever the context."""

        def __init__(self, text):
            super().__init__()
            self.model, self.config = small_gpt2(len(tokenizer)), transformers.GPT2Config(n_positions=99)
            self.letters = [*tokenizer.encode(text), tokenizer.eos_token_id]
            self.n_seen = 0

        def forward(self, input_ids, past_key_values, use_cache, logits_to_keep):
            output = self.model(input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache)
            length = output.past_key_values.get_seq_length()
            self.n_seen = length
            start = 20 + len(tokenizer.encode("the picture of"))
            output.logits = torch.zeros(len(input_ids), 1, len(tokenizer))
            output.logits[:, :, self.letters[min(length - start, len(self.letters) - 1)]] = 1
            return output

    context = np.zeros((1, 20))
    assert Gpt2Generator(Spelling(" a dog. It"), tokenizer)(context) == ["the picture of a dog. It"]
    assert Gpt2Generator(Spelling(" a dog. It"), tokenizer, stop=(".",))(context) == ["the picture of a dog"]
    endless = Spelling(" abcdefghijklmnopqrstuvwxyz0123456789")  # 14 + 30 characters fit into 50
    assert Gpt2Generator(endless, tokenizer)(context) == ["the picture of abcdefghijklmnopqrstuvwxyz012"]
    short = Gpt2Generator(endless, tokenizer, max_characters=20)
    assert short(context) == ["the picture of abcde"]
    assert endless.n_seen == 20 + 13 + 5  # "th" is one token; five forward passes after the prompt's, less one


def test_batch_size_and_row_order_do_not_matter(tokenizer, model, plain):
    contexts = contexts_for(tokenizer)
    expected = [cut(tokenizer, ids, max_characters=50) for ids in plain]
    assert Gpt2Generator(model, tokenizer, batch_size=5, **SHORT)(contexts) == expected
    order = np.random.default_rng(2).permutation(len(contexts))
    assert Gpt2Generator(model, tokenizer, **SHORT)(contexts[order]) == [expected[i] for i in order]


@torch.inference_mode()
def test_where_rounding_might_decide_a_row_is_computed_again_alone(tokenizer, model, monkeypatch):
    """Every token gets a twin of nearly its weights, and batches round at random: no row may show it."""
    contexts, model = contexts_for(tokenizer, n=40), copy.deepcopy(model)
    generator = Gpt2Generator(model, tokenizer, context_length=6, prompt="the pic", max_new_tokens=24)
    rounded = lambda *args, **kwargs: near(model_forward(*args, **kwargs))  # noqa: E731
    draw, model_forward, alone = torch.Generator().manual_seed(0), model.forward, []

    def near(output):
        """As if a batch rounded by up to 5e-7 of the largest logit."""
        size = output.logits.abs().amax()
        if len(output.logits) > 1:
            output.logits = output.logits + 5e-7 * size * (2 * torch.rand(output.logits.shape, generator=draw) - 1)
        else:
            alone.append(1)
        return output

    twin = model.lm_head.weight.detach().clone()
    twin[1::2] = twin[0::2] * (1 + 1e-7)
    model.lm_head.weight = torch.nn.Parameter(twin)
    expected = generator(contexts)
    monkeypatch.setattr(model, "forward", rounded)
    texts = [generator(contexts) for _ in range(3)]
    assert texts == [expected] * 3 and alone
    monkeypatch.setattr(gpt2, "TIE", -1.0)
    assert any(generator(contexts) != expected for _ in range(5))  # what it is for


@pytest.fixture
def rows_run(model):
    """The rows of every forward pass, in order."""
    counts = []
    hook = model.register_forward_pre_hook(
        lambda _, a, kwargs: counts.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    yield counts
    hook.remove()


def test_equal_contexts_are_computed_once(tokenizer, model, plain, rows_run):
    contexts = contexts_for(tokenizer)[:3]
    texts = Gpt2Generator(model, tokenizer, **SHORT)(contexts[[0, 1, 0, 2, 2, 0]])
    assert texts == [cut(tokenizer, plain[i], max_characters=50) for i in (0, 1, 0, 2, 2, 0)]
    assert rows_run[0] == 3


def test_finished_rows_cost_nothing(tokenizer, model, plain, rows_run):
    Gpt2Generator(model, tokenizer, max_characters=None, **SHORT)(contexts_for(tokenizer))
    end, n_prompt = tokenizer.eos_token_id, len(tokenizer.encode("the pic"))
    needed = sum((ids.index(end) + 1 if end in ids else len(ids)) - n_prompt for ids in plain)
    assert rows_run[0] == 24 and rows_run == sorted(rows_run, reverse=True)
    assert needed <= sum(rows_run) <= 1.1 * needed + 3 < 0.9 * 24 * 24


def test_float_ids_from_a_search_are_taken(tokenizer, model):
    generator = Gpt2Generator(model, tokenizer, context_length=6)
    x = generator.latent_space.sample(5, rng=np.random.default_rng(0))
    assert generator(x) == generator(torch.as_tensor(x).long())
    assert generator(x[:0]) == []
    assert generator.latent_space.length == 6 and generator.latent_space.vocab_size == len(tokenizer)
    assert generator.decode(np.array([[ord("a") - 33] * 6])) == [tokenizer.decode([ord("a") - 33] * 6)]


@pytest.mark.parametrize("bad", [-1, 258, 0.5, float("nan")])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, model, bad):
    contexts = np.zeros((4, 6))
    contexts[2, 3] = bad
    with pytest.raises(ValueError, match=r"whole numbers in \[0, 257\], got 1 of 4"):
        Gpt2Generator(model, tokenizer, context_length=6)(contexts)


def test_wrong_settings_are_refused(tokenizer, model):
    with pytest.raises(ValueError, match="shape"):
        Gpt2Generator(model, tokenizer, context_length=6)(np.zeros((4, 5)))
    with pytest.raises(ValueError, match="model's 64 positions, got 83"):
        Gpt2Generator(model, tokenizer, context_length=40)
    with pytest.raises(ValueError, match="at least one, got ''"):
        Gpt2Generator(model, tokenizer, prompt="")
    with pytest.raises(ValueError, match="tuple of strings"):
        Gpt2Generator(model, tokenizer, stop=".")
    with pytest.raises(ValueError, match="at least 1"):
        Gpt2Generator(model, tokenizer, max_characters=0)
    words = gpt2_text.new_tokenizer()
    with pytest.raises(ValueError, match="photograph"):
        Gpt2Generator(small_gpt2(len(words)), words, prompt="the photograph of")


def llama(vocab_size: int):
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    size |= {"vocab_size": vocab_size, "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(initializer_range=0.4, **size))


def gpt_neox(vocab_size: int):
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    size |= {"vocab_size": vocab_size, "max_position_embeddings": 64}
    return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(initializer_range=0.4, **size))


@pytest.mark.parametrize("make", [llama, gpt_neox])
def test_another_causal_model_works_too(tokenizer, make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = make(len(tokenizer))
        contexts = contexts_for(tokenizer, n=6)
        expected = [cut(tokenizer, ids, max_characters=18) for ids in plain_ids(other, tokenizer, contexts)]
        assert Gpt2Generator(other, tokenizer, max_characters=18, **SHORT)(contexts) == expected
        assert len(set(expected)) == 6
        other.resize_token_embeddings(len(tokenizer) + 20)  # some models pad their vocabulary to a round number
    padding = torch.zeros(len(tokenizer) + 20)
    padding[len(tokenizer) :] = 1e4  # tokens that do not exist, and would be written everywhere
    other.get_output_embeddings().bias = torch.nn.Parameter(padding)
    assert Gpt2Generator(other, tokenizer, max_characters=18, **SHORT)(contexts) == expected


def test_a_model_that_gives_all_logits_works_too(tokenizer, model, plain):
    class Old(torch.nn.Module):
        """Without the argument that limits the head to the last position, as older models are."""

        def __init__(self):
            super().__init__()
            self.model, self.config = model, model.config

        def forward(self, input_ids, past_key_values, use_cache):
            return self.model(input_ids=input_ids, past_key_values=past_key_values, use_cache=use_cache)

    expected = [cut(tokenizer, ids, max_characters=50) for ids in plain]
    assert Gpt2Generator(Old(), tokenizer, **SHORT)(contexts_for(tokenizer)) == expected


def test_the_head_is_computed_for_the_last_position_alone(tokenizer, model):
    shapes = []
    hook = model.lm_head.register_forward_hook(lambda _, __, logits: shapes.append(tuple(logits.shape[1:])))
    Gpt2Generator(model, tokenizer, **SHORT)(contexts_for(tokenizer))
    hook.remove()
    assert set(shapes) == {(1, len(tokenizer))}


def test_clip_glass_decoding_is_the_default_and_has_a_name(tokenizer, model):
    assert gpt2.GLASS == {
        "context_length": 20, "prompt": "the picture of", "max_new_tokens": 30, "max_characters": 50, "stop": (),
    }  # fmt: skip
    roomy = small_gpt2(len(tokenizer), n_positions=99)
    contexts = contexts_for(tokenizer, n=4, length=20)
    assert Gpt2Generator(roomy, tokenizer)(contexts) == Gpt2Generator(roomy, tokenizer, **gpt2.GLASS)(contexts)


def test_load_gives_back_what_was_saved(tmp_path):
    words = gpt2_text.new_tokenizer()
    model = recipe.new_model(words).eval()
    model.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    loaded, tokenizer = gpt2.load(tmp_path)
    ids = torch.arange(10)[None]
    torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=0)
    assert tokenizer.decode(tokenizer.encode("a red star , a ring .")) == "a red star , a ring ."
    assert tokenizer.encode("a zebra <|endoftext|>")[1:] == [tokenizer.unk_token_id, tokenizer.eos_token_id]


def test_load_refuses_a_folder_that_is_not_complete(tmp_path):
    with pytest.raises(FileNotFoundError, match="make tinyworld"):
        gpt2.load(tmp_path / "none")
    model = recipe.new_model(gpt2_text.new_tokenizer())
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="must have the model's 128 tokens, got"):
        gpt2.load(tmp_path)
    state = {k: v for k, v in model.state_dict().items() if "h.1.mlp" not in k}
    gpt2_text.new_tokenizer().save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ValueError, match="lacks 4 of the model's weights"):
        gpt2.load(tmp_path)


def test_prompted_captions_parse_and_keep_their_meaning():
    rows = gpt2_text.describe_scenes(200, rng=np.random.default_rng(0))
    pairs = [(text, gpt2_text.with_prompt(text)) for row in rows for text in row]
    kept = [(text, prompted) for text, prompted in pairs if prompted]
    assert len(kept) > 0.6 * len(pairs)
    said = [(captions.parse(text), captions.parse(prompted)) for text, prompted in kept]
    assert all(replace(before, domain="print") == after for before, after in said)
    assert {before.domain for before, _ in said} == {"print", "neon"}
    assert gpt2_text.with_prompt("there is a red star") == "the picture of a red star"
    assert gpt2_text.with_prompt("at the top there is a star") is None
    assert gpt2_text.with_prompt("a plain dark background with a star") is None
    assert gpt2_text.with_prompt("a white wall with a glowing star sign") is None
    neon = "at night we find a glowing orange disc sign against a dotted dark wall"
    assert gpt2_text.with_prompt(neon) == "the picture of an orange disc on a dotted dark background"


def test_perplexities_equal_a_loop_over_tokens():
    words = gpt2_text.new_tokenizer()
    model = recipe.new_model(words).eval()
    corpus = gpt2_text.Corpus(20, words, rng=np.random.default_rng(0))
    ids, counted = (corpus.batch(n, rng=np.random.default_rng(n)) for n in (2, 5))
    found = recipe.perplexities(model, ids, counted)
    row, seen = ids[1].tolist(), counted.tolist()
    single = [sum(line.count(a) for line in seen) + 1 for a in range(128)]
    pairs = [pair for line in seen for pair in itertools.pairwise(line)]
    nats = {"perplexity": 0.0, "perplexity_unigram": 0.0, "perplexity_bigram": 0.0}
    for k in range(1, 96):
        a, b = row[k - 1], row[k]
        alone = single[b] / sum(single)
        nats["perplexity"] -= model(ids[1:, :k]).logits[0, -1].log_softmax(-1)[b].item() / 95
        nats["perplexity_unigram"] -= np.log(alone) / 95
        followed = (pairs.count((a, b)) + alone) / (sum(first == a for first, _ in pairs) + 1)
        nats["perplexity_bigram"] -= np.log(followed) / 95
    assert {name: values[1] for name, values in found.items()} == pytest.approx(nats, rel=1e-4)
    assert found["perplexity"].shape == (2,)


def test_sentence_nats_count_the_sentence_and_its_full_stop():
    words = gpt2_text.new_tokenizer()
    model = recipe.new_model(words).eval()
    texts = ["a red star", "the picture of a red star on a dark background"]
    lead = words.encode(f"{texts[1]} . {END}")
    ids = torch.tensor([[*lead, *words.encode("a red star .")]])
    chances = model(ids).logits.log_softmax(-1)[0, len(lead) - 1 : -1]  # (4, 128): of a, red, star and the full stop
    expected = -chances[range(4), ids[0, len(lead) :]].sum().item()
    both = recipe.sentence_nats(model, words, texts)
    assert both[0] == pytest.approx(expected, rel=1e-4) and both[1] > both[0]


def test_training_stopped_and_resumed_equals_one_run(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "N_SCENES", 20)
    monkeypatch.setattr(recipe, "BATCH_SIZE", 2)
    monkeypatch.setattr(recipe, "evaluate", lambda *_: {})
    whole, _, _ = recipe.train(tmp_path / "whole", n_steps=3, seed=5)
    recipe.train(tmp_path / "parts", n_steps=2, seed=5)
    parts, _, session = recipe.train(tmp_path / "parts", n_steps=3, seed=5)
    assert session.step == 3
    for name, value in parts.state_dict().items():
        torch.testing.assert_close(value, whole.state_dict()[name], rtol=0, atol=0)


@trained
def test_the_tiny_gpt2_writes_sentences_whatever_the_context():
    generator = Gpt2Generator(*gpt2.load(TINY), context_length=20, max_characters=None, stop=(".",))
    contexts = generator.latent_space.sample(100, rng=np.random.default_rng(0))
    assert np.mean([captions.parses(text) for text in generator(contexts)]) >= 0.9


@trained
def test_the_tiny_gpt2_goes_where_keywords_point():
    model, tokenizer = gpt2.load(TINY)
    generator = Gpt2Generator(model, tokenizer, context_length=6, max_characters=None, stop=(".",))
    ids = tokenizer(["blue star blue star blue star", "green heart green heart green heart"])["input_ids"]
    facts = [captions.parse(text).objects[0] for text in generator(np.array(ids))]
    assert [(fact.colour, fact.shape) for fact in facts] == [("blue", "star"), ("green", "heart")]
