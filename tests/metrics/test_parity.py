import numpy as np

from glasslib.metrics import parity


def test_random_sets_repeat_and_hold_what_is_hard():
    sets, again = (parity.random_sets(100, rng=np.random.default_rng(0)) for _ in range(2))
    assert sets == again
    said = [text for texts, _ in sets for text in texts]
    assert "" in said
    assert any(len(text.split()) == 1 for text in said)
    assert all(any(space in text for text in said) for space in parity.SPACES)
    assert all(
        len(own) == len(truth) >= 2 and all(texts and all(map(str.strip, texts)) for texts in truth)
        for own, truth in sets
    )


def test_largest_difference_is_over_corpora_and_captions(monkeypatch):
    monkeypatch.setattr(parity, "_ours", lambda *_: [{"CIDEr": [1.0, 2.0]}, {"CIDEr": [0.5, 0.5]}])
    monkeypatch.setattr(parity, "_published", lambda *_: [{"CIDEr": [1.0, 1.75]}, {"CIDEr": [0.4, 0.5]}])
    assert parity.largest_difference([None, None], java_runtime="java") == {"CIDEr": 0.25}
