"""On a CPU nothing computed for a row depends on its company: on the batch, the order, a cache, or the threads."""

import functools
import threading

import numpy as np
import pytest
import torch

from glasslib import presets, scoring
from glasslib.captioning import captioner as captioners
from glasslib.captioning import decoding
from glasslib.checks import map_alike, one_thread
from glasslib.tinyworld import captions, models, scenes

N = 48


@pytest.fixture(autouse=True)
def threads_put_back():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@functools.cache
def pictures() -> torch.Tensor:
    world = scenes.sample(N, rng=np.random.default_rng(5))
    return scenes.render(world, rng=torch.Generator().manual_seed(5))


@functools.cache
def texts() -> list[str]:
    """N different captions of one to three sentences, of many lengths."""
    said = captions.describe(scenes.sample(400, rng=np.random.default_rng(6)), rng=np.random.default_rng(6))
    different = list(dict.fromkeys(said))
    return sorted(different, key=len)[:: len(different) // N][:N]


def clip_texts():
    clip = models.load_clip()
    return lambda rows: list(clip.embed_texts([texts()[i] for i in rows])), lambda: clip._text_cache.clear()


def clip_pictures(load=models.load_clip, size: int | None = None, **options):
    clip = load(**options)
    shown = pictures() if size is None else torch.nn.functional.interpolate(pictures(), size=size)
    return lambda rows: list(clip.embed_images(shown[list(rows)])), lambda: None


def faithful_pictures():
    """CLIP-GLaSS's resizing, which two threads round otherwise."""
    model, tokenizer = models.new_clip("tiny-clip", models.WEIGHTS / "clip" / "model.safetensors")
    from glasslib.clip.embedder import ClipEmbedder

    return clip_pictures(lambda: ClipEmbedder(model, tokenizer, resize="bilinear"), size=(45, 51))


def gpt2_texts():
    generator = presets.load("tiny-gpt2").generator
    contexts = generator.latent_space.sample(N, rng=np.random.default_rng(7))
    return lambda rows: generator(contexts[list(rows)]), lambda: None


def said_of_pictures(decode, **options):
    decode = functools.partial(decode, **options)
    captioner = captioners.load(models.WEIGHTS / "captioner", decode=decode)
    embeddings = models.load_clip().embed_images(pictures())

    def scored(rows):
        said, log_probs = captioner.scored(embeddings[list(rows)], max_tokens=24)
        return list(zip(said, map(torch.tensor, log_probs), strict=True))

    return scored, lambda: None


def scores_of_pictures():
    scorer = scoring.ClipScorer(models.load_clip(), "a red star on the left")
    return lambda rows: list(scorer(pictures()[list(rows)])), lambda: None


def scores_of_texts():
    clip = models.load_clip()
    scorer = scoring.TextScorer(clip, pictures()[0])
    return lambda rows: list(scorer([texts()[i] for i in rows])), lambda: clip._text_cache.clear()


BEAM = {"beam_size": 3, "n_captions": 2}
MAKERS = {
    "texts": clip_texts,
    "pictures": clip_pictures,
    "large pictures": lambda: clip_pictures(size=(97, 130)),
    "faithful pictures": faithful_pictures,
    "the judge's pictures": lambda: clip_pictures(models.load_judge),
    "scores of pictures": scores_of_pictures,
    "scores of texts": scores_of_texts,
    "GPT-2": gpt2_texts,
    "captions, greedy": lambda: said_of_pictures(decoding.greedy),
    "captions, beam": lambda: said_of_pictures(decoding.beam, **BEAM),
    "captions, published beam": lambda: said_of_pictures(decoding.published_beam, **BEAM),
}


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return all(map(same, a, b)) if isinstance(a, (list, tuple)) else a == b


@pytest.mark.parametrize("name", MAKERS)
def test_a_row_is_the_same_in_any_company_order_and_number_of_threads(name):
    compute, forget = MAKERS[name]()
    torch.set_num_threads(1)
    alone = compute(range(N))
    rng = np.random.default_rng(0)
    companies = [[0], [N - 1], [1, 0], [2, 3, 4], range(N), range(N)[::-1]]
    companies += [rng.permutation(N)[:n].tolist() for n in (5, 7, 17, 31)]
    for n_threads in (1, 2):
        torch.set_num_threads(n_threads)
        for rows in companies:
            forget()
            found = compute(rows)
            wrong = [row for row, value in zip(rows, found, strict=True) if not same(value, alone[row])]
            assert not wrong, f"{len(wrong)} of {len(rows)} rows differ on {n_threads} threads"


@pytest.mark.parametrize("name", ["texts", "pictures", "GPT-2", "captions, published beam"])
def test_two_python_threads_at_once_give_the_same(name):
    compute, forget = MAKERS[name]()
    alone, found = compute(range(N)), {}

    def work(k: int) -> None:
        rows = list(range(N))[k::2] if k else list(range(N))[::-1]
        for turn in range(3):
            forget()
            found[k, turn] = rows, compute(rows)

    workers = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 6
    for rows, values in found.values():
        assert all(same(value, alone[row]) for row, value in zip(rows, values, strict=True))


def test_map_alike_fills_every_piece_and_keeps_the_number_of_threads():
    torch.set_num_threads(2)
    seen = []

    def fn(piece):
        seen.append((tuple(piece.shape), torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return piece * 2

    x = torch.arange(10.0).view(5, 2)
    with torch.inference_mode():
        pieces = map_alike(fn, x.split(4), rows=4)
    assert torch.equal(torch.cat(pieces), x * 2)
    assert seen == [((4, 2), 1, True)] * 2 and torch.get_num_threads() == 2
    assert map_alike(fn, [x[:0]], rows=4)[0].shape == (0, 2)
    with pytest.raises(RuntimeError, match="broken"), one_thread():
        raise RuntimeError("broken")
    assert torch.get_num_threads() == 2
