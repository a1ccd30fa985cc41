"""Reading every kind of picture rightly, refusing what is none, and writing pictures that read back the same."""

import io
import json
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngImageFile, PngInfo

from glasslib import images
from glasslib.images import reading

# Two rows, three columns, every channel different: a swapped axis or channel cannot go unnoticed.
PIXELS = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 255], [51, 102, 204]]], dtype=np.uint8
)


def save(folder, image, name="picture.png", **options):
    path = folder / name
    image.save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tiff", "a.ppm"])
def test_load_image_keeps_every_pixel_of_a_lossless_file(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    image = images.load_image(save(tmp_path, Image.fromarray(PIXELS), name, **options))
    assert image.shape == (3, 2, 3) and image.dtype == torch.float32 and image.is_contiguous()
    assert image[:, 1, 2].tolist() == pytest.approx([0.2, 0.4, 0.8])
    assert torch.equal(image, torch.from_numpy(PIXELS).permute(2, 0, 1) / 255)


@pytest.mark.parametrize("name", ["a.jpg", "a.avif", "a.jp2", "a.gif"])
def test_load_image_reads_lossy_formats(tmp_path, name):
    path = save(tmp_path, Image.new("RGB", (16, 8), (51, 102, 204)), name)
    assert images.load_image(path).mean(dim=(1, 2)).tolist() == pytest.approx([0.2, 0.4, 0.8], abs=0.02)


def test_load_image_takes_a_string_and_a_misleading_suffix(tmp_path):
    path = save(tmp_path, Image.fromarray(PIXELS), "a.jpg", format="PNG")
    assert images.load_image(str(path))[0, 0].tolist() == [1, 0, 0]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tiff"])
def test_load_image_applies_the_exif_rotation(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show the stored picture a quarter turn clockwise
    stored = Image.new("RGB", (32, 16), "black")
    stored.paste("white", (0, 0, 16, 16))  # left half white: upright, the top half
    image = images.load_image(save(tmp_path, stored, name, exif=exif))
    assert image.shape == (3, 32, 16)
    assert image[:, :14].mean() > 0.95 and image[:, 18:].mean() < 0.05


def test_load_image_shows_transparent_pixels_white(tmp_path):
    rgba = np.zeros((1, 3, 4), dtype=np.uint8)
    rgba[0, :, 3] = [0, 255, 51]  # black: transparent, solid, one fifth solid
    expected = pytest.approx([1.0, 0.0, 0.8], abs=0.003)
    for name in ("a.png", "a.webp", "a.tiff"):
        path = save(tmp_path, Image.fromarray(rgba), name, **({"lossless": True} if "webp" in name else {}))
        assert images.load_image(path)[1, 0].tolist() == expected
    path = save(tmp_path, Image.fromarray(rgba[..., [0, 3]], mode=None), "la.png")
    assert Image.open(path).mode == "LA"
    assert images.load_image(path)[2, 0].tolist() == expected


@pytest.mark.parametrize("name", ["a.png", "a.gif"])
def test_load_image_shows_a_transparent_palette_entry_white(tmp_path, name):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    path = save(tmp_path, image, name, transparency=0)
    assert images.load_image(path)[:, 0].T.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(("mode", "black"), [("L", 0), ("RGB", (0, 0, 0)), ("I;16", 0)])
def test_load_image_shows_a_transparent_colour_white(tmp_path, mode, black):
    image = Image.new(mode, (2, 1))
    white = {"L": 255, "RGB": (255, 255, 255), "I;16": 65535 // 5}[mode]
    image.putpixel((1, 0), white)
    loaded = images.load_image(save(tmp_path, image, transparency=black))
    assert loaded[0, 0].tolist() == pytest.approx([1.0, 0.2 if mode == "I;16" else 1.0])


def test_load_image_makes_grey_and_bilevel_pictures_rgb(tmp_path):
    grey = images.load_image(save(tmp_path, Image.fromarray(np.array([[0, 51, 255]], dtype=np.uint8))))
    assert grey.shape == (3, 1, 3)
    assert all(channel == pytest.approx([0.0, 0.2, 1.0]) for channel in grey[:, 0].tolist())
    bits = Image.fromarray(np.array([[True, False]]))
    assert images.load_image(save(tmp_path, bits))[:, 0].tolist() == [[1, 0]] * 3


def test_load_image_converts_cmyk(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    for name in ("a.tiff", "a.jpg"):
        path = save(tmp_path, cmyk, name)
        assert Image.open(path).mode == "CMYK"
        assert images.load_image(path)[:, 5, 5].tolist() == pytest.approx([1, 0, 0], abs=0.02)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.pgm", "a.jp2"])
def test_load_image_scales_16_bit_grey_instead_of_clipping_it(tmp_path, name):
    grey = np.array([[0, 256, 13107, 32768, 65535]] * 5, dtype=np.uint16)
    path = save(tmp_path, Image.fromarray(grey), name, **({"irreversible": False} if name == "a.jp2" else {}))
    image = images.load_image(path)
    assert image.shape == (3, 5, 5)
    assert image[1, 0].tolist() == pytest.approx([0, 256 / 65535, 0.2, 32768 / 65535, 1], abs=1e-6)


def test_load_image_reads_big_endian_16_bit_grey(tmp_path):
    path = save(tmp_path, Image.frombytes("I;16B", (2, 1), struct.pack(">HH", 13107, 65535)), "a.tiff")
    assert images.load_image(path)[0, 0].tolist() == pytest.approx([0.2, 1.0])


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_load_image_refuses_pixels_of_unknown_range(tmp_path, mode):
    path = save(tmp_path, Image.new(mode, (2, 2)), "a.tiff")
    with pytest.raises(
        ValueError, match=rf"a\.tiff has pixels of Pillow's mode '{mode}'.*expected 8 or 16.*save it as"
    ):
        images.load_image(path)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tiff"])
def test_load_image_says_that_it_reads_only_the_first_frame(tmp_path, name):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    path = save(tmp_path, first, name, save_all=True, append_images=[second])
    with pytest.warns(UserWarning, match=rf"a\.{name[2:]} holds 2 frames; only the first is read"):
        image = images.load_image(path)
    assert image[:, 4, 4].tolist() == pytest.approx([1, 0, 0], abs=0.02)


def test_load_image_is_silent_about_a_phone_s_preview_frame(tmp_path):
    path = save(tmp_path, Image.new("RGB", (8, 8), "red"), "a.jpg", format="MPO", save_all=True,
                append_images=[Image.new("RGB", (8, 8), "blue")])  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.load_image(path)[0, 4, 4] > 0.95


def test_load_image_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file at .*nothing\.png, expected a picture .*start at /"):
        images.load_image(tmp_path / "nothing.png")
    with pytest.raises(IsADirectoryError, match=r"is a folder, expected a picture.*name one file"):
        images.load_image(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match=r"pipe\.png is not a regular file.*save the picture"):
        images.load_image(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, I am a text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe"],
)
def test_load_image_refuses_what_is_no_picture(tmp_path, content):
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"odd\.png is empty, damaged or not a picture \(PNG, .*save it as PNG"):
        images.load_image(path)


def test_load_image_never_gives_postscript_to_ghostscript(tmp_path):
    path = save(tmp_path, Image.fromarray(PIXELS), "a.eps")
    with pytest.raises(ValueError, match="not a picture"):
        images.load_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff", "a.jp2"])
def test_load_image_refuses_a_truncated_file(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(noise), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"a\.{name[2:]} is .*damaged"):
        images.load_image(path)


def png_claiming(width, height):
    """A PNG of 100 bytes or so whose header announces width x height pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize("side", [8_000, 12_000, 100_000])  # below Pillow's own warning, above it, above its error
def test_load_image_refuses_an_enormous_picture_before_decoding_it(tmp_path, side, monkeypatch):
    monkeypatch.setattr(reading, "_decode", lambda *_: pytest.fail("decoded"))
    path = tmp_path / "bomb.png"
    path.write_bytes(png_claiming(side, side))
    with pytest.raises(ValueError, match=r"bomb\.png .*(large|expected at most 50,000,000).*scale it down first"):
        images.load_image(path)


def test_max_pixels_is_the_largest_number_that_is_read(tmp_path):
    path = save(tmp_path, Image.fromarray(PIXELS))
    assert images.load_image(path, max_pixels=6).shape == (3, 2, 3)
    with pytest.raises(ValueError, match=r"has 3 x 2 = 6 pixels, expected at most 5;.*pass max_pixels"):
        images.load_image(path, max_pixels=5)


@pytest.mark.parametrize("kind", [OSError, SyntaxError, RuntimeError, EOFError, IndexError, struct.error, zlib.error])
def test_load_image_names_the_file_whatever_pillow_raises(tmp_path, monkeypatch, kind):
    path = save(tmp_path, Image.fromarray(PIXELS))

    def load(self):
        raise kind("broken chunk")

    monkeypatch.setattr(PngImageFile, "load", load)
    with pytest.raises(ValueError, match=r"picture\.png is truncated or damaged \(broken chunk\), .*copy it again"):
        images.load_image(path)


def test_load_image_turns_no_damage_into_another_error(tmp_path):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (12, 20, 3), dtype=np.uint8))
    path, n_refused = tmp_path / "damaged", 0
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "JPEG2000", "AVIF"):
        content = io.BytesIO()
        noise.save(content, format=kind)
        for _ in range(12):
            damaged = bytearray(content.getvalue())
            for position in rng.integers(0, len(damaged), 4):
                damaged[position] = rng.integers(256)
            path.write_bytes(damaged)
            try:
                with warnings.catch_warnings(action="ignore"):
                    image = images.load_image(path, max_pixels=10_000)
                assert image.shape[0] == 3 and 0 <= image.min() <= image.max() <= 1
            except ValueError as error:
                assert str(path) in str(error)
                n_refused += 1
    assert n_refused > 20


def test_to_pil_gives_back_what_load_image_read(tmp_path):
    path = save(tmp_path, Image.fromarray(PIXELS))
    image = images.load_image(path)
    assert np.array_equal(np.asarray(images.to_pil(image)), PIXELS)
    one, two = images.to_pil(torch.stack([image, image.flip(2)]))
    assert np.array_equal(np.asarray(one), PIXELS) and np.array_equal(np.asarray(two), PIXELS[:, ::-1])


def test_to_pil_rounds_instead_of_cutting_and_takes_gradients():
    image = torch.full((3, 1, 1), 0.999, requires_grad=True)
    assert images.to_pil(image).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        (np.zeros((3, 2, 2)), TypeError, r"must be a tensor .* got ndarray"),
        (torch.zeros(2, 2, 3), ValueError, r"must have shape \(3, h, w\) or \(n, 3, h, w\), got \(2, 2, 3\)"),
        (torch.full((3, 2, 2), -1.0), ValueError, r"must lie in \[0, 1\], got -1 to -1; rescale or clip"),
        (torch.full((3, 2, 2), 255.0), ValueError, "got 255 to 255"),
        (torch.full((3, 2, 2), float("nan")), ValueError, "got nan to nan"),
    ],
)
def test_to_pil_refuses(bad, error, match):
    with pytest.raises(error, match=match):
        images.to_pil(bad)


def test_grid_reads_left_to_right_on_white():
    colours = torch.arange(5).div(10).view(5, 1, 1, 1).expand(5, 3, 2, 3)
    sheet = images.grid(colours, columns=2, gap=1)
    assert sheet.shape == (3, 8, 7)
    assert sheet[0, ::3, ::4].tolist() == [
        [0.0, pytest.approx(0.1)],
        pytest.approx([0.2, 0.3]),
        pytest.approx([0.4, 1.0]),
    ]
    assert (sheet[:, 2] == 1).all() and (sheet[:, :, 3] == 1).all() and (sheet[:, 6:, 4:] == 1).all()
    assert torch.equal(images.grid(colours[:1], columns=1, gap=0), colours[0])


def test_grid_refuses_nothing_and_a_single_picture():
    for bad in (torch.zeros(0, 3, 2, 2), torch.zeros(3, 2, 2)):
        with pytest.raises(ValueError, match=r"shape \(n, 3, h, w\) with n at least 1"):
            images.grid(bad, columns=2)
    with pytest.raises(ValueError, match="columns must be at least 1"):
        images.grid(torch.zeros(1, 3, 2, 2), columns=0)


def test_encode_png_reads_back_with_its_metadata(tmp_path):
    image = torch.from_numpy(PIXELS).permute(2, 0, 1) / 255
    metadata = {"caption": "ein großer roter Stern ★", "score": 0.25, "seeds": [1, 2]}
    path = tmp_path / "a.png"
    path.write_bytes(images.encode_png(image, metadata=metadata))
    assert torch.equal(images.load_image(path), image)
    assert images.read_metadata(path) == metadata
    assert images.encode_png(image, metadata=metadata) == path.read_bytes()


def test_encode_png_repeats_pixels(tmp_path):
    image = torch.from_numpy(PIXELS).permute(2, 0, 1) / 255
    path = tmp_path / "a.png"
    path.write_bytes(images.encode_png(image, scale=3))
    assert torch.equal(images.load_image(path), image.repeat_interleave(3, 1).repeat_interleave(3, 2))
    with pytest.raises(ValueError, match=r"a\.png holds no glasslib metadata"):
        images.read_metadata(path)
    for scale in (0, 1.5):
        with pytest.raises(ValueError, match=f"scale must be a whole number of at least 1, got {scale}"):
            images.encode_png(image, scale=scale)
    with pytest.raises(ValueError, match=r"shape \(3, h, w\), got \(1, 3, 2, 3\); .*grid"):
        images.encode_png(image[None])
    with pytest.raises(ValueError, match="not JSON compliant"):
        images.encode_png(image, metadata={"score": float("nan")})


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_encode_animation_reads_back_frame_by_frame(kind):
    frames = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])[:, :, None, None].expand(3, 3, 4, 6)
    content = images.encode_animation(frames, milliseconds=[100, 200, 600], scale=2, kind=kind)
    animation = Image.open(io.BytesIO(content))
    assert (animation.format.lower(), animation.n_frames, animation.size) == (kind, 3, (12, 8))
    assert animation.info["loop"] == 0
    durations, colours = [], []
    for frame in range(3):
        animation.seek(frame)
        animation.load()
        durations.append(animation.info["duration"])
        colours.append(animation.convert("RGB").getpixel((5, 5)))
    assert durations == [100, 200, 600]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_webp_animation_is_lossless():
    frames = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    animation = Image.open(io.BytesIO(images.encode_animation(frames)))
    animation.seek(1)
    assert np.array_equal(np.asarray(animation.convert("RGB")), np.asarray(images.to_pil(frames[1])))


def test_encode_animation_refuses():
    frames = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"kind must be one of \('webp', 'gif'\), got 'mp4'"):
        images.encode_animation(frames, kind="mp4")
    with pytest.raises(ValueError, match=r"milliseconds must be at least 10, one or 2 of them, got \[100\]"):
        images.encode_animation(frames, milliseconds=[100])
    with pytest.raises(ValueError, match="milliseconds must be at least 10"):
        images.encode_animation(frames, milliseconds=0)
    with pytest.raises(ValueError, match="n at least 1"):
        images.encode_animation(frames[:0])
    with pytest.raises(ValueError, match="at most 16383 pixels a side"):
        images.encode_animation(torch.zeros(1, 3, 1, 20_000))


def test_a_folder_s_pictures_come_as_middle_squares_in_the_order_of_their_names(tmp_path):
    wide = np.zeros((4, 8, 3), dtype=np.uint8)
    wide[:, 2:6] = (255, 0, 0)  # the middle square is red
    Image.fromarray(wide).save(tmp_path / "b.png")
    Image.fromarray(np.full((6, 6, 3), (0, 0, 255), dtype=np.uint8)).save(tmp_path / "a.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    squares = images.load_squares(tmp_path, size=16)
    assert squares.shape == (2, 3, 16, 16)
    torch.testing.assert_close(squares.mean(dim=(2, 3)), torch.tensor([[0.0, 0, 1], [1, 0, 0]]))
    assert torch.equal(images.load_squares(tmp_path, size=16, n=1), squares[:1])
    with pytest.raises(FileNotFoundError, match="must hold at least 3 pictures .*, got 2"):
        images.load_squares(tmp_path, size=16, n=3)
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        images.load_squares(tmp_path / "nowhere", size=16)


def test_a_folder_s_hidden_files_and_folders_are_no_pictures(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "x.png")
    (tmp_path / "._x.png").write_bytes(bytes.fromhex("0005160700020000") + bytes(4000))  # macOS writes these
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    assert images.picture_paths(tmp_path) == [tmp_path / "x.png"]
    assert images.load_squares(tmp_path, size=4).shape == (1, 3, 4, 4)
    (tmp_path / "y.HEIC").write_bytes(b"ftypheic")
    with pytest.warns(UserWarning, match=r"passed over 1 files of .*, expected a picture .*: y\.HEIC"):
        assert images.load_squares(tmp_path, size=4).shape == (1, 3, 4, 4)


def test_every_suffix_of_a_format_that_is_read_is_a_picture_s(tmp_path):
    for name in ("a.jpg", "b.JPEG", "c.jfif", "d.webp", "e.gif", "f.bmp", "g.tif", "h.pgm", "i.jp2", "j.avif", "k.png"):
        Image.new("L" if name == "h.pgm" else "RGB", (16, 16)).save(tmp_path / name)
    assert [path.name[0] for path in images.picture_paths(tmp_path)] == list("abcdefghijk")
    assert images.load_squares(tmp_path, size=4).shape == (11, 3, 4, 4)


def test_a_bad_picture_of_a_folder_is_named_and_left_out_when_asked(tmp_path):
    for name in ("a.png", "c.png", "d.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b\.png is empty, damaged or not a picture.*; or pass skip_bad=True"):
        images.load_squares(tmp_path, size=4)
    with pytest.warns(UserWarning, match=r"left out 1 pictures of .* that cannot be read: b\.png"):
        assert len(images.load_squares(tmp_path, size=4, n=3, skip_bad=True)) == 3
    with pytest.warns(UserWarning), pytest.raises(FileNotFoundError, match="at least 4 pictures .*, got 3"):
        images.load_squares(tmp_path, size=4, n=4, skip_bad=True)
    assert len(images.load_squares(tmp_path, size=4, n=1)) == 1  # what is not asked for is not read


@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "tEXt"])
def test_load_image_reads_past_two_megabytes_of_text(tmp_path, kind):
    info = PngInfo()
    if kind == "iTXt":
        info.add_itxt("workflow", "x" * (2 << 20), zip=True)
    else:
        info.add_text("workflow", "x" * (2 << 20), zip=kind == "zTXt")
    path = save(tmp_path, Image.fromarray(PIXELS), pnginfo=info)
    assert kind.encode() in path.read_bytes()
    assert torch.equal(images.load_image(path), torch.from_numpy(PIXELS).permute(2, 0, 1) / 255)


def test_metadata_are_found_behind_two_megabytes_of_other_text(tmp_path):
    info = PngInfo()
    info.add_text("workflow", "x" * (2 << 20), zip=True)
    info.add_itxt("glasslib", json.dumps({"seed": 7}), zip=True)
    assert images.read_metadata(save(tmp_path, Image.fromarray(PIXELS), pnginfo=info)) == {"seed": 7}


def test_a_frame_after_the_first_survives_the_texts_being_left_out(tmp_path):
    info = PngInfo()
    info.add_text("workflow", "x" * (2 << 20), zip=True)
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    path = save(tmp_path, first, save_all=True, append_images=[second], pnginfo=info)
    with pytest.warns(UserWarning, match="holds 2 frames"):
        assert images.load_image(path)[:, 4, 4].tolist() == [1, 0, 0]


ADOBE_RGB = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))


def profile(*, space=b"RGB ", gamma=2.2, primaries=ADOBE_RGB, name=b"wide"):
    """An ICC profile, version 2, of a matrix and a gamma; the defaults are Adobe RGB's."""
    number = lambda x: struct.pack(">i", round(x * 65536))  # noqa: E731
    xyz = lambda v: b"XYZ " + bytes(4) + b"".join(map(number, v))  # noqa: E731
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    text = b"desc" + bytes(4) + struct.pack(">I", len(name) + 1) + name + bytes(1 + 4 + 4 + 2 + 1 + 67)
    text += bytes(-len(text) % 4)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0" + bytes(3), b"wtpt": xyz((0.9642, 1, 0.8249))}
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        tags |= {k + b"XYZ": xyz(v) for k, v in zip((b"r", b"g", b"b"), primaries, strict=True)}
        tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", at + len(body), len(value))
        body += value
    head = (
        struct.pack(">I", 128 + len(table) + len(body))
        + b"lcms"
        + bytes.fromhex("02100000")
        + b"mntr"
        + space
        + b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + number(0.9642) + number(1) + number(0.8249) + bytes(48)
    return head + table + body


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff"])
def test_load_image_follows_a_colour_profile(tmp_path, name):
    image = Image.new("RGB", (16, 16), (60, 160, 90))
    options = {"lossless": True} if "webp" in name else {"quality": 100} if "jpg" in name else {}
    got = images.load_image(save(tmp_path, image, name, icc_profile=profile(), **options))[:, 8, 8] * 255
    # Adobe RGB's green is out of sRGB's reach: linear .0414, .3586, .1011 by the two matrices, red below 0
    assert got.tolist() == pytest.approx([0, 161, 85], abs=3)


def test_load_image_follows_a_profile_and_keeps_what_is_transparent_white(tmp_path):
    rgba = Image.new("RGBA", (2, 1), (60, 160, 90, 255))
    rgba.putpixel((1, 0), (60, 160, 90, 0))
    got = images.load_image(save(tmp_path, rgba, icc_profile=profile()))[:, 0] * 255
    assert got[:, 0].tolist() == pytest.approx([0, 161, 85], abs=3) and got[:, 1].tolist() == [255, 255, 255]
    palette = Image.new("P", (2, 1))
    palette.putpalette([60, 160, 90, 0, 0, 0])
    got = images.load_image(save(tmp_path, palette, icc_profile=profile()))[:, 0, 0] * 255
    assert got.tolist() == pytest.approx([0, 161, 85], abs=3)


def test_load_image_follows_a_grey_profile(tmp_path):
    grey = Image.new("L", (2, 1), 128)
    dark = images.load_image(save(tmp_path, grey, icc_profile=profile(space=b"GRAY", gamma=1.0)))[:, 0, 0] * 255
    assert dark.tolist() == pytest.approx([188] * 3, abs=1)  # linear .502 is sRGB's 188
    coloured = images.load_image(save(tmp_path, grey, icc_profile=profile()))[:, 0, 0]  # grey pixels, an RGB profile
    assert coloured.tolist() == pytest.approx([128 / 255] * 3, abs=0.01)


def test_load_image_leaves_srgb_as_it_is(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = images.load_image(save(tmp_path, Image.fromarray(PIXELS), icc_profile=srgb))
    assert torch.equal(image, torch.from_numpy(PIXELS).permute(2, 0, 1) / 255)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (b"\0" * (2 << 20), ""),
        (b"no profile", ""),
        (profile()[:200], ""),
        (profile(space=b"CMYK"), "it is for CMYK, the pixels are RGB"),
        (profile(space=b"GRAY"), "it is for GRAY, the pixels are RGB"),
    ],
    ids=["zeros", "text", "cut", "CMYK", "grey"],
)
@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_load_image_warns_of_a_profile_that_cannot_be_used(tmp_path, name, broken, why):
    options = {"lossless": True} if "webp" in name else {}
    path = save(tmp_path, Image.fromarray(PIXELS), name, icc_profile=broken, **options)
    with pytest.warns(UserWarning, match=rf"a\.\w+: its colour profile cannot be used \(.*{why}.*\); read as sRGB"):
        image = images.load_image(path)
    assert torch.equal(image, torch.from_numpy(PIXELS).permute(2, 0, 1) / 255)


def test_a_profile_whose_packing_is_damaged_is_warned_of(tmp_path):
    path = save(tmp_path, Image.fromarray(PIXELS), icc_profile=profile())
    content = bytearray(path.read_bytes())
    content[content.index(b"iCCP") + 4 + len(b"ICC Profile\0\0") + 1] ^= 0xFF
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="its colour profile cannot be used"):
        assert images.load_image(path).shape == (3, 2, 3)
