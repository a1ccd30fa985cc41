import json

import pytest

from glasslib.metrics import files

COCO = {
    "images": [{"id": 2}, {"id": 1}],
    "annotations": [
        {"image_id": 1, "caption": "a cat", "id": 10},
        {"image_id": 2, "caption": "a dog", "id": 11},
        {"image_id": 1, "caption": "one cat", "id": 12},
    ],
}


@pytest.mark.parametrize(
    "source", [COCO, COCO["annotations"], {1: ["a cat", "one cat"], 2: ["a dog"]}], ids=["coco", "rows", "dict"]
)
def test_references_are_read_in_every_shape(source, tmp_path):
    assert files.read_references(source) == {1: ["a cat", "one cat"], 2: ["a dog"]}
    path = tmp_path / "references.json"
    path.write_text(json.dumps(source), encoding="utf-8")
    assert {str(key): texts for key, texts in files.read_references(path).items()} == {
        "1": ["a cat", "one cat"],
        "2": ["a dog"],
    }


def test_coco_images_give_the_order():
    assert list(files.read_references(COCO)) == [2, 1]


def test_predictions_keep_empty_captions_and_odd_signs():
    rows = [{"image_id": 7, "caption": ""}, {"image_id": "a", "caption": " a\u2028dog\n"}]
    assert (
        files.read_predictions(rows)
        == {7: "", "a": " a\u2028dog\n"}
        == files.read_predictions({7: "", "a": rows[1]["caption"]})
    )


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (
            [{"image_id": 7, "caption": "a"}, {"image_id": 7, "caption": "b"}],
            r"one caption an image, got several for 1 \(7\)",
        ),
        ([{"image_id": 7}], r"predictions, row 0: expected .*got \{'image_id': 7\}"),
        ([{"image_id": 7, "caption": None}], "image 7: a caption must be a string, got None"),
        ([{"image_id": 7, "caption": ["a dog"]}], r"a caption must be a string, got \['a dog'\]"),
        ([{"image_id": 7, "caption": "a \ud800"}], "image 7: the caption is not valid Unicode"),
        ([{"image_id": True, "caption": "a"}], "row 0: an image id must be a number or a string, got True"),
        ([{"image_id": None, "caption": "a"}], "an image id must be a number or a string, got None"),
        ([], "at least one caption, got none"),
        (7, "must be a list of rows or a dict, got int"),
    ],
)
def test_bad_predictions_are_named(predictions, message):
    with pytest.raises(ValueError, match=message):
        files.read_predictions(predictions)


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({7: ["a dog"], 8: []}, r"every image needs a reference, got none for 1 \(8\)"),
        ({"images": [{"id": 8}, {"id": 7}], "annotations": [{"image_id": 7, "caption": "a"}]}, r"got none for 1 \(8\)"),
        ({7: ["a dog", " \n"], 8: ["a"]}, r"references must hold words, got an empty one for 1 \(7\)"),
        ({7: "a dog"}, "image 7: expected a list of captions, got 'a dog'"),
        ({"images": [], "annotations": []}, "at least one caption, got none"),
        ({}, "at least one caption, got none"),
    ],
)
def test_bad_references_are_named(references, message):
    with pytest.raises(ValueError, match=message):
        files.align({7: "a", 8: "b"}, files.read_references(references), predicted_only=True)


def test_an_image_that_nobody_predicted_may_be_without_references():
    for references in ({7: ["a dog"], 8: []}, {7: ["a dog"], 8: ["", "x"]}, {"images": [{"id": 7}, {"id": 8}],
                       "annotations": [{"image_id": 7, "caption": "a dog"}]}):  # fmt: skip
        assert files.align({7: "a"}, files.read_references(references), predicted_only=True) == {7: ["a dog"]}
        with pytest.raises(ValueError, match=r"references without a prediction for 1 \(8\)"):
            files.align({7: "a"}, files.read_references(references), predicted_only=False)


ROWS = [{"image_id": 1, "caption": "a dog"}]


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (
            {"images": [{"file_name": "x.jpg"}], "annotations": ROWS},
            r"image 0 of images: expected \{\"id\": 7, ...\}, got",
        ),
        ({"images": [{"id": None}], "annotations": ROWS}, r"image 0 of images: expected"),
        ({"images": [{"id": [1]}], "annotations": ROWS}, r"image 0 of images: expected"),
        ({"images": [7], "annotations": ROWS}, r"image 0 of images: expected .* got 7"),
        ({"images": {"id": 1}, "annotations": ROWS}, "images must be a list, got dict"),
        ({"images": [], "annotations": None}, "references must be a list of rows or a dict, got NoneType"),
        ({"annotations": [{"image_id": [1], "caption": "a"}]}, r"an image id must be a number or a string, got \[1\]"),
        ({7: [{"text": "a dog"}]}, r"image 7: a caption must be a string, got \{'text'"),
        ({7: None}, "image 7: expected a list of captions, got None"),
    ],
)
def test_malformed_annotations_are_named(references, message):
    with pytest.raises(ValueError, match=message):
        files.read_references(references)


def test_images_that_are_null_or_left_out_are_no_fault():
    for images in ({}, {"images": None}, {"images": []}):
        assert files.read_references({**images, "annotations": ROWS}) == {1: ["a dog"]}


def test_what_pycocoevalcap_takes_is_read(tmp_path):
    assert files.read_predictions({7: ["a dog"], 8: [{"caption": "a cat"}]}) == {7: "a dog", 8: "a cat"}
    assert files.read_references({7: [{"caption": "a dog"}, {"caption": "b"}]}) == {7: ["a dog", "b"]}
    with pytest.raises(ValueError, match=r"image 7: a caption must be a string, got \['a', 'b'\]"):
        files.read_predictions({7: ["a", "b"]})


@pytest.mark.parametrize(
    "content",
    [b'{"7": "a dog", "7": "a cat", "8": "x"}', b'[{"image_id": 7, "caption": "a dog", "caption": "a cat"}]'],
)
def test_a_key_that_comes_twice_is_refused(tmp_path, content):
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"predictions must be valid JSON, got .*p.json: the key '(7|caption)' comes twice"
    ):
        files.read_predictions(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_other_encodings_of_json_are_read(tmp_path, encoding):
    path = tmp_path / "p.json"
    path.write_bytes('{"7": "ein Bär"}'.encode(encoding))
    assert files.read_predictions(path) == {"7": "ein Bär"}
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        files.read_predictions(path)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no predictions at .*gone.json"):
        files.read_predictions(tmp_path / "gone.json")
    for content in (b"[{", b'[{"image_id": 7, "caption": "\xff"}]'):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(ValueError, match="predictions must be valid JSON, got .*bad.json"):
            files.read_predictions(tmp_path / "bad.json")


def test_both_sides_must_name_the_same_images():
    references = {image_id: ["a dog"] for image_id in (3, 1, 2)}
    assert list(files.align({1: "a", 2: "b", 3: "c"}, references, predicted_only=False)) == [3, 1, 2]
    assert list(files.align({1: "a", 3: "c"}, references, predicted_only=True)) == [3, 1]
    with pytest.raises(ValueError, match=r"references without a prediction for 2 \(3, 2\); .*predicted_only=True"):
        files.align({1: "a"}, references, predicted_only=False)
    with pytest.raises(ValueError, match=r"predictions without references for 1 \(9\).*remove these"):
        files.align({1: "a", 9: "b"}, references, predicted_only=True)
    with pytest.raises(ValueError, match='7 is not "7"'):
        files.align({"1": "a", "2": "b", "3": "c"}, references, predicted_only=False)
