"""Decoding: each way gives what a naive one gives, in batches and from a prefix that is read once."""

import pytest
import torch

from glasslib.captioning import decoding

STOP, MAX = 13, 12


@torch.no_grad()
def naive_greedy(decoder, embedding, *, stop_id=STOP, max_tokens=MAX):
    ids = []
    while len(ids) < max_tokens and stop_id not in ids:
        words = decoder.gpt.get_input_embeddings()(torch.tensor([ids], dtype=torch.long))
        inputs = torch.cat((decoder.prefix(embedding[None]), words), dim=1)
        ids.append(int(decoder.gpt(inputs_embeds=inputs).logits[0, -1].argmax()))
    return ids


def log_probability(decoder, embedding, ids):
    tokens = torch.tensor([ids])
    with torch.no_grad():
        return -float(decoder(embedding[None], tokens, tokens))


def test_greedy_takes_the_likeliest_token_each_time(decoder, embeddings):
    captions = decoding.greedy(decoder, embeddings, stop_id=STOP, max_tokens=MAX)
    assert captions == [[naive_greedy(decoder, embedding)] for embedding in embeddings]
    assert len({tuple(ids) for [ids] in captions}) > 4
    assert {len(ids) for [ids] in captions} > {MAX}  # some stop early, some do not


@pytest.mark.parametrize("beam_size", [1, 3, 5])
def test_the_published_beam_gives_the_published_captions(make_decoder, embeddings, published, beam_size):
    n_stopped = 0
    for seed in range(4):
        decoder = make_decoder(seed=seed)
        ours = decoding.published_beam(
            decoder, embeddings, stop_id=STOP, max_tokens=MAX, beam_size=beam_size, n_captions=beam_size
        )
        for embedding, captions in zip(embeddings, ours, strict=True):
            prefix = decoder.prefix(embedding[None]).detach()
            expected = published.beam_search(decoder.gpt, prefix, stop_id=STOP, max_tokens=MAX, beam_size=beam_size)
            assert captions == expected
            n_stopped += captions[0][-1] == STOP and len(captions[0]) < MAX
    assert n_stopped > 5


def test_the_published_beam_is_another_search_than_the_standard_one(make_decoder, embeddings):
    differ = 0
    for seed in range(4):
        decoder, options = make_decoder(seed=seed), {"stop_id": STOP, "max_tokens": MAX}
        standard = decoding.beam(decoder, embeddings, **options)
        differ += sum(
            ours != theirs
            for ours, theirs in zip(decoding.published_beam(decoder, embeddings, **options), standard, strict=True)
        )
    assert 0 < differ


def test_beams_are_transformers_own_and_find_likelier_captions(decoder, embeddings):
    options = {"stop_id": STOP, "max_tokens": MAX}
    captions = decoding.beam(decoder, embeddings, n_captions=3, **options)
    prefix = decoder.prefix(embeddings)
    ids = decoder.gpt.generate(
        inputs_embeds=prefix,
        attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long),
        num_beams=5,
        num_return_sequences=3,
        max_new_tokens=MAX,
        eos_token_id=STOP,
        pad_token_id=STOP,
        do_sample=False,
    ).tolist()
    cut = [row[: row.index(STOP) + 1] if STOP in row else row for row in ids]
    assert captions == [cut[i : i + 3] for i in range(0, 36, 3)]
    assert all(len({tuple(one) for one in several}) == 3 for several in captions)
    best = decoding.beam(decoder, embeddings, beam_size=5, length_penalty=0.0, **options)
    first = decoding.greedy(decoder, embeddings, **options)
    gains = [
        log_probability(decoder, e, b[0]) - log_probability(decoder, e, g[0])
        for e, b, g in zip(embeddings, best, first, strict=True)
    ]
    assert min(gains) > -1e-3 and max(gains) > 0.1


@pytest.mark.parametrize("decode", [decoding.greedy, decoding.beam, decoding.published_beam])
def test_images_do_not_depend_on_each_other(decoder, embeddings, decode):
    options = {"stop_id": STOP, "max_tokens": MAX}
    together = decode(decoder, embeddings, **options)
    assert together == [decode(decoder, embedding[None], **options)[0] for embedding in embeddings]
    assert together == decode(decoder, embeddings.flip(0), **options)[::-1]


def nucleus(decoder, embeddings, seed=0, **options):
    rng = torch.Generator().manual_seed(seed)
    return decoding.nucleus(decoder, embeddings, stop_id=STOP, max_tokens=MAX, rng=rng, **options)


def test_nucleus_repeats_under_one_rng_and_leaves_the_global_state(decoder, embeddings):
    before = torch.get_rng_state()
    first = nucleus(decoder, embeddings)
    assert torch.equal(torch.get_rng_state(), before)
    assert first == nucleus(decoder, embeddings) != nucleus(decoder, embeddings, seed=1)


def test_a_small_nucleus_is_greedy_and_a_large_one_is_the_model(decoder, embeddings):
    greedy = decoding.greedy(decoder, embeddings, stop_id=STOP, max_tokens=MAX)
    assert nucleus(decoder, embeddings, top_p=1e-6) == greedy
    probabilities = decoder.gpt(inputs_embeds=decoder.prefix(embeddings[:1])).logits[0, -1].softmax(-1)
    rng = torch.Generator().manual_seed(0)
    many = embeddings[:1].expand(4000, -1)
    drawn = [
        ids[0]
        for [ids] in decoding.nucleus(decoder, many, stop_id=STOP, max_tokens=1, rng=rng, top_p=1.0, temperature=2.0)
    ]
    flatter = probabilities.sqrt() / probabilities.sqrt().sum()
    counts = torch.bincount(torch.tensor(drawn), minlength=14) / 4000
    assert torch.allclose(counts, flatter, atol=0.03) and not torch.allclose(counts, probabilities, atol=0.03)


def test_several_samples_of_an_image_differ(decoder, embeddings):
    captions = nucleus(decoder, embeddings, n_captions=4, top_p=1.0, temperature=1.5)
    assert all(len(several) == len({tuple(ids) for ids in several}) == 4 for several in captions)
    with pytest.warns(UserWarning, match="12 of 12 images have fewer than 2 different captions after 8 rounds"):
        assert all(len(several) == 1 for several in nucleus(decoder, embeddings, n_captions=2, top_p=1e-6))


@pytest.mark.parametrize("decode", [decoding.beam, decoding.published_beam, nucleus])
def test_the_prefix_is_read_once_per_image(decoder, embeddings, decode):
    positions = []

    def count(module, given, options):
        x = options.get("inputs_embeds")
        x = given[0] if x is None else x
        positions.append(x.shape[0] * x.shape[1])

    hook = decoder.gpt.transformer.register_forward_pre_hook(count, with_kwargs=True)
    options = {} if decode is nucleus else {"stop_id": STOP, "max_tokens": MAX}
    decode(decoder, embeddings, n_captions=4, **options)
    hook.remove()
    rows = 12 * (5 if decode is not nucleus else 4)
    assert positions[0] in (12 * 3, 12 * 4) and sum(positions[:2]) <= 12 * 4 + rows


def test_what_cannot_be_decoded(decoder, embeddings):
    options = {"stop_id": STOP, "max_tokens": MAX}
    with pytest.raises(RuntimeError, match="evaluation mode"):
        decoding.greedy(decoder.train(), embeddings, **options)
    decoder.eval()
    with pytest.raises(ValueError, match="64 positions, got 4 \\+ 61; make max_tokens smaller"):
        decoding.published_beam(decoder, embeddings, stop_id=STOP, max_tokens=61)
    with pytest.raises(ValueError, match=r"n_captions must lie in \[1, beam_size\], got 6 of 5"):
        decoding.beam(decoder, embeddings, n_captions=6, **options)
    with pytest.raises(ValueError, match="top_p must lie"):
        nucleus(decoder, embeddings, top_p=0)
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        decoding.greedy(decoder, embeddings, stop_id=STOP, max_tokens=0)
