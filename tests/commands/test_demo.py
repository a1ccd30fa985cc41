"""`make demo`: what people type and hand over, and what they are told."""

import re
import signal
import subprocess
import sys
import time
import unicodedata

import numpy as np
import pytest
import torch

from glasslib import images, results
from glasslib.captioning import captioner, decoding
from glasslib.cards import ResultCard
from glasslib.commands import demo, printable, words
from glasslib.tinyworld import models, scenes, wording


@pytest.mark.parametrize(
    ("typed", "read", "n_objects"),
    [
        ("a red star on the left", "a red star on the left", 1),
        ("  A Red STAR, on the left. ", "a red star , on the left", 1),
        ("a gray ring in the center!", "a grey ring in the centre", 1),
        ("red stars", "red star", 1),
        ("two crosses", "two cross", 2),
        ("a disc and a moon", "a disc and a moon", 2),
        ("three shapes on a dark background", "three shapes on a dark background", 3),
        ("“a star”", "a star", 1),
    ],
)
def test_a_caption_is_read_as_people_type_it(typed, read, n_objects):
    caption = words.read(typed)
    assert (caption.text, caption.n_objects) == (read, n_objects)
    assert caption.changed == (typed != read)


def test_all_unknown_words_are_named_at_once_with_near_ones():
    with pytest.raises(ValueError, match="2 words are not among the 126 of the tiny world") as error:
        words.read("a hexagon, a sta and a hexagon")
    assert str(error.value).splitlines()[1:] == ["  'hexagon'; nothing near", "  'sta'; near: star, tax"]
    with pytest.raises(ValueError, match="1 word is not among"):
        words.read("a tree")


@pytest.mark.parametrize(
    ("typed", "message"),
    [("", "is empty"), (" ,. ", "is empty"), ("a " * 38, "has 38 words, and CLIP reads at most 37")],
)
def test_what_is_no_caption_is_refused(typed, message):
    with pytest.raises(ValueError, match=message):
        words.read(typed)


def test_every_word_is_listed_once_and_is_one_token():
    listed = [word for kind in words.by_kind().values() for word in kind]
    assert len(listed) == 126 and set(listed) == wording.vocabulary()
    tokenizer = models.clip_tokenizer()
    assert [word for word in listed if len(tokenizer.encode(word)) != 1] == []  # what MAX_WORDS counts on
    assert "colours          red orange yellow" in words.help_text()


def test_a_styled_sentence_is_not_neutral():
    assert words.is_neutral("an image of a red star on the left.")
    assert not words.is_neutral("a tender red star.") and not words.is_neutral("a star late for a very serious party")


def run(*arguments, **options):
    command = [sys.executable, "-m", "glasslib.commands.demo", *arguments]
    return subprocess.run(command, cwd=results.REPO, capture_output=True, text=True, **options)


def test_a_wrong_caption_is_refused_before_any_model_loads(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(models, "load_clip", lambda: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="'hexagon'"):
        demo.caption_to_picture("a hexagon", tmp_path)


def test_two_objects_are_said_to_be_too_many_first(capsys, tmp_path):
    demo.caption_to_picture("A star left of a circle.", tmp_path, n_generations=1)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "read as 'a star left of a circle'"
    assert out[1] == "this painter draws 1 object a picture, and the caption names 2: expect one"


def test_names_are_safe_and_never_meet():
    hard = "ring\u202egnp.\x1b[31m\n" + "ü" * 120 + ".png"
    texts = ["a", "circle.png", "circle.jpg", "circle png", hard, "x" * 60 + "a", "x" * 60 + "b", "/../..", ""]
    names = [demo._name(text, text) for text in texts]
    assert len({name.lower() for name in names}) == len(texts)
    for name in names:
        assert len(name) <= 70 and name.isascii() and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_pictures_whose_names_are_alike_leave_two_cards(tmp_path, capsys):
    picture = scenes.render(scenes.sample(1, rng=np.random.default_rng(0)), rng=torch.Generator().manual_seed(0))[0]
    content = images.encode_png(picture)
    hard = "ring\u202e\x1b[31m" + "ü" * 110 + ".png"  # 235 bytes
    for name in ("circle.png", "circle.jpg", hard):
        (tmp_path / name).write_bytes(content)
        demo.picture_to_caption(tmp_path / name, tmp_path / "cards", n_generations=1)
    cards = sorted((tmp_path / "cards").iterdir())
    assert len(cards) == 3
    targets = {ResultCard.read(card).target.rsplit(" ", 1)[0] for card in cards}
    assert {"circle.png", "circle.jpg"} < targets and all(target.isprintable() for target in targets)
    out = capsys.readouterr().out
    assert not [c for c in out if unicodedata.category(c).startswith("C") and c != "\n"]
    assert out.count("caption by CapDec") == out.count("caption by evolution") == 3


def test_printable_escapes_what_a_terminal_obeys():
    assert printable("a\u202eb\x1b\nü") == "a\\u202eb\\x1b\\nü"


def test_messages_advise_what_the_caller_of_make_can_do(tmp_path):
    path = tmp_path / "wide.png"
    from PIL import Image

    Image.new("1", (10_000, 5_001)).save(path)
    run_wide = run("--image", str(path))
    assert run_wide.returncode == 2 and "scale it down first" in run_wide.stderr
    assert "max_pixels" not in run_wide.stderr
    run_missing = run("--image", "no\x1bwhere.png")
    assert run_missing.returncode == 2 and run_missing.stderr.startswith("error: no file at no\\x1bwhere.png,")


def fits(pictures):
    """CLIP's similarity of CapDec's captions to pictures, which the demo holds against LEAST_FIT."""
    clip = models.load_clip()
    write = captioner.load(models.WEIGHTS / "captioner", decode=decoding.beam)
    embedded = clip.embed_images(pictures)
    return (embedded * clip.embed_texts(write(embedded), truncate=True)).sum(dim=1).numpy()


def textures(n, rng):
    """Noise whose power falls with frequency as in photographs, (n, 3, 64, 64) in [0, 1]."""
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64))
    frequency[0, 0] = 1
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((n, 3, 64, 64))) / frequency**1.2).real
    low, high = noise.min((2, 3), keepdims=True), noise.max((2, 3), keepdims=True)
    return torch.tensor((noise - low) / (high - low)).float()


def photograph(n, rng):
    """Crops of the photograph that matplotlib ships, (n, 3, 64, 64)."""
    import matplotlib.cbook

    photo = images.load_image(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    crops = []
    for _ in range(n):
        side = int(rng.integers(200, 500))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[1:])
        crops.append(images.middle_square(photo[:, top : top + side, left : left + side], size=64))
    return torch.stack(crops)


def test_pictures_of_another_world_are_told_from_the_tiny_ones():
    rng, noise = np.random.default_rng(5), torch.Generator().manual_seed(5)
    inside = fits(scenes.render(scenes.sample(300, rng=rng), rng=noise))
    assert (inside >= demo.LEAST_FIT).mean() >= 0.97
    for others, least in ((torch.rand(40, 3, 64, 64, generator=noise), 1.0), (textures(40, rng), 1.0)):
        assert (fits(others) < demo.LEAST_FIT).mean() >= least
    assert (fits(photograph(60, rng)) < demo.LEAST_FIT).mean() >= 0.8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_shows_what_was_found(tmp_path, number):
    command = [sys.executable, "-m", "glasslib.commands.demo", "--target", "a green heart at the top"]
    log = tmp_path / "stderr"
    with log.open("w") as err:
        process = subprocess.Popen(command, cwd=results.REPO, stdout=subprocess.PIPE, stderr=err, text=True)
        end = time.monotonic() + 90
        while not re.search(r" [1-9]\d?/100", log.read_text()) and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(number)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in log.read_text(), log.read_text()
    assert "this is the best so far" in out
    path = results.REPO / out.rsplit("picture: ", 1)[1].strip()
    assert path.name.startswith("a-green-heart-at-the-top-") and path.stem.endswith("-stopped")
    for file in (path, path.with_suffix(".json")):
        file.unlink()
