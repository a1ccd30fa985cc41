"""Strips: a picture far longer than wide takes no more memory than its middle."""

import torch

from glasslib.clip import resize


def squared(images):
    return resize.to_square(images, size=56, resize="shortest", mode="bicubic", fill=0.0)


def test_the_middle_of_a_strip_is_what_the_whole_strip_would_give(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    for shape, error in (((2, 131), 1e-5), ((200, 2), 1e-5), ((3, 401), 0.05), ((9, 91), 0), ((64, 600), 0)):
        strip = torch.rand(2, 3, *shape, generator=rng)
        cut = squared(strip)
        with monkeypatch.context() as patch:
            patch.setattr(resize, "_middle", lambda images: images)
            whole = squared(strip)
        assert (cut - whole).abs().max() <= error  # an odd width leaves at most half a pixel of the square


def test_a_strip_is_never_scaled_as_a_whole(monkeypatch):
    seen, real = [], resize.F.interpolate

    def interpolate(images, **options):
        seen.append(options["size"])
        return real(images, **options)

    monkeypatch.setattr(resize.F, "interpolate", interpolate)
    for shape in ((2, 20_000), (20_000, 2)):
        assert squared(torch.zeros(1, 3, *shape)).shape == (1, 3, 56, 56)
    assert seen == [(56, 3584), (3584, 56)]  # 64 times 56, and not 560,000
