"""Faults that strangers' files once had, each with the smallest file that shows it; they stay mended.

The name of each test is that of the fault. Other examples of its kind are beside the code, in test_corpus.py,
test_images.py, weights/ and metrics/.
"""

import hashlib
import io
import json
import pickle
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from glasslib import images
from glasslib.captioning.corpus import Corpus
from glasslib.metrics import captions, files
from glasslib.results import REPO


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("Flickr8k.token.txt", "7.jpg#0\tA dog runs .\n7.jpg#1\tA dog .\n", ["A dog runs .", "A dog ."]),
        ("captions.txt", "image,caption\n77.jpg,A dog runs\n78.jpg,A cat\n", ["A dog runs", "A cat"]),
        ("train.csv", "filepath,title\na.jpg,a dog\n", ["a dog"]),
        (
            "cc.tsv",
            "a bus station\thttp://x.example/1.jpg\na band\thttp://x.example/2.jpg\n",
            ["a bus station", "a band"],
        ),
        ("c.jsonl", '{"image_id": 1, "caption": "a dog"}\n{"image_id": 1, "caption": "a cat"}\n', ["a dog", "a cat"]),
    ],
)
def test_corpus_tables(tmp_path, name, content, texts):
    (tmp_path / name).write_text(content)
    assert [caption.text for caption in Corpus.read(tmp_path / name)] == texts


def test_entities_in_corpus(tmp_path):
    (tmp_path / "h.txt").write_text("a dog &amp; a cat\n")
    assert [caption.text for caption in Corpus.read(tmp_path / "h.txt")] == ["a dog & a cat"]
    (tmp_path / "z.txt").write_text("\u200b\na dog\n")
    with pytest.raises(ValueError, match="caption '1': empty"):
        Corpus.read(tmp_path / "z.txt")


def test_duplicate_json_keys(tmp_path):
    (tmp_path / "p.json").write_text('{"7": "a dog", "7": "a cat", "8": "a bird"}')
    with pytest.raises(ValueError, match="the key '7' comes twice"):
        files.read_predictions(tmp_path / "p.json")


def test_malformed_annotations(tmp_path):
    rows = [{"image_id": 1, "caption": "a dog"}]
    assert files.read_references({"images": None, "annotations": rows}) == {1: ["a dog"]}
    (tmp_path / "r.json").write_text(json.dumps({"images": [{"file_name": "x.jpg"}], "annotations": rows}))
    (tmp_path / "p.json").write_text(json.dumps(rows))
    command = [sys.executable, "-m", "glasslib.metrics", tmp_path / "p.json", tmp_path / "r.json"]
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert run.returncode == 2 and "image 0 of images: expected" in run.stderr and "Traceback" not in run.stderr


@pytest.mark.parametrize(
    "references",
    [
        {"images": [{"id": 1}, {"id": 2}, {"id": 3}],
         "annotations": [{"image_id": 1, "caption": "a dog"}, {"image_id": 2, "caption": "a cat"}]},
        {1: ["a dog"], 2: ["a cat"], 3: [" "]},
    ],
)  # fmt: skip
def test_predicted_only(references):
    scores = captions.evaluate({1: "a dog", 2: "a cat"}, references, predicted_only=True, java_runtime=None)
    assert len(scores.predictions) == 2 and scores.metrics["BLEU-1"].value == pytest.approx(1, abs=1e-6)


def test_macos_hidden_files(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "x.png")
    (tmp_path / "._x.png").write_bytes(bytes.fromhex("00051607000200004d6163204f53205820202020202020") + bytes(4000))
    assert len(images.load_squares(tmp_path, size=4)) == 1


def test_png_big_chunk(tmp_path):
    picture, text, international = Image.new("RGB", (16, 16), "red"), PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * (2 << 20), zip=True)
    international.add_itxt("workflow", "x" * (2 << 20), zip=True)
    picture.save(tmp_path / "z.png", pnginfo=text)
    picture.save(tmp_path / "i.png", pnginfo=international)
    picture.save(tmp_path / "p.png", icc_profile=b"\0" * (2 << 20))
    for name in ("z", "i"):
        assert images.load_image(tmp_path / f"{name}.png")[:, 8, 8].tolist() == [1, 0, 0]
    with pytest.warns(UserWarning, match="its colour profile cannot be used"):
        assert images.load_image(tmp_path / "p.png")[:, 8, 8].tolist() == [1, 0, 0]


def wide_gamut() -> bytes:
    """A profile with Adobe RGB's primaries and gamma 2.2."""
    number = lambda x: struct.pack(">i", round(x * 65536))  # noqa: E731
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"wide\0" + bytes(4 + 4 + 2 + 1 + 67)
    tags = {b"desc": name + bytes(-len(name) % 4), b"cprt": b"text" + bytes(4) + b"none\0" + bytes(3)}
    points = {b"wtpt": (0.9642, 1, 0.8249), b"rXYZ": (0.6097, 0.3111, 0.0195)}
    points |= {b"gXYZ": (0.2053, 0.6257, 0.0609), b"bXYZ": (0.1492, 0.0632, 0.7446)}
    tags |= {key: b"XYZ " + bytes(4) + b"".join(map(number, point)) for key, point in points.items()}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", at + len(body), len(value))
        body += value
    head = struct.pack(">I", 128 + len(table) + len(body)) + b"lcms" + bytes.fromhex("02100000") + b"mntrRGB XYZ "
    head += bytes(12) + b"acsp" + bytes(28) + number(0.9642) + number(1) + number(0.8249) + bytes(48)
    return head + table + body


def test_icc_profile(tmp_path):
    Image.new("RGB", (4, 4), (60, 160, 90)).save(tmp_path / "a.png", icc_profile=wide_gamut())
    source = ImageCms.ImageCmsProfile(io.BytesIO(wide_gamut()))
    shown = ImageCms.profileToProfile(Image.open(tmp_path / "a.png"), source, ImageCms.createProfile("sRGB"))
    read = images.load_image(tmp_path / "a.png")[:, 0, 0].numpy() * 255
    assert np.abs(read - shown.getpixel((0, 0))).max() <= 1 and np.abs(read - (60, 160, 90)).max() > 50


def test_read_only_weights():
    """As another user where this one is root, whom no mode of a folder stops."""
    content = pickle.dumps({"a": 1})
    child = (
        "import os, sys\n"
        "from glasslib.weights import registry\n"
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "file = registry.WeightFile('stylegan2/x.pkl', 'https://example.org/x.pkl', 'none', 'x')\n"
        "print(registry.verify(file, sys.argv[1]).name, registry.sha256_of(file, sys.argv[1]))\n"
        "open(os.path.join(sys.argv[1], 'probe'), 'w')\n"
    )
    with tempfile.TemporaryDirectory() as name:  # the test's own folder lies in one that only its user may enter
        folder = Path(name)
        (folder / "stylegan2").mkdir()
        (folder / "stylegan2" / "x.pkl").write_bytes(content)
        for place in (folder / "stylegan2", folder):
            place.chmod(0o555)
        run = subprocess.run([sys.executable, "-c", child, folder], cwd=REPO, capture_output=True, text=True)
        for place in (folder, folder / "stylegan2"):
            place.chmod(0o755)
    assert run.stdout.split() == ["x.pkl", hashlib.sha256(content).hexdigest()]
    assert "not recorded" in run.stderr and "PermissionError" in run.stderr  # the folder was read-only indeed
