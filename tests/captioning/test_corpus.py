"""Reading captions: every layout gives the same kind of caption, and nothing bad goes by unnamed."""

import json

import numpy as np
import pytest

from glasslib.captioning.corpus import Corpus
from glasslib.captioning.layouts import BadRow, Caption

COCO = {
    "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 9, "file_name": "9.jpg", "domain": "near-domain"}],
    "annotations": [
        {"image_id": 7, "id": 1, "caption": "A man  rides a wave.\n"},
        {"image_id": 9, "id": 2, "caption": "A dog."},
        {"image_id": 7, "id": 3, "caption": "Surfing."},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {
            "cocoid": 7,
            "filename": "COCO_val2014_000000000007.jpg",
            "split": "restval",
            "sentences": [{"sentid": 1, "raw": "A man."}, {"sentid": 2, "raw": "A wave."}],
        },
        {"filename": "1000092795.jpg", "split": "test", "sentences": [{"sentid": 3, "raw": "Two guys."}]},
    ],
}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_a_text_has_one_sentence_a_line(tmp_path):
    corpus = Corpus.read(write(tmp_path, "a.txt", "\ufeffA  cat \r\nzwei Bäume\n".encode()))
    assert list(corpus) == [Caption("A cat", "1", "1"), Caption("zwei Bäume", "2", "2")]
    assert len(corpus) == 2 and list(corpus) == list(corpus)


def test_coco_and_nocaps(tmp_path):
    assert list(Corpus.read(write(tmp_path, "captions.json", COCO))) == [
        Caption("A man rides a wave.", "1", "7", file_name="7.jpg"),
        Caption("A dog.", "2", "9", domain="near-domain", file_name="9.jpg"),
        Caption("Surfing.", "3", "7", file_name="7.jpg"),
    ]


def test_karpathy(tmp_path):
    corpus = Corpus.read(write(tmp_path, "dataset_coco.json", KARPATHY))
    assert [(row.text, row.caption_id, row.image_id, row.split) for row in corpus] == [
        ("A man.", "1", "7", "restval"),
        ("A wave.", "2", "7", "restval"),
        ("Two guys.", "3", "1000092795", "test"),
    ]
    assert [row.text for row in corpus.split("restval")] == ["A man.", "A wave."]
    with pytest.raises(ValueError, match=r"splits \['restval', 'test'\], not \['trian'\]"):
        corpus.split("restval", "trian")


def test_records_and_flickr30k_s_token_file(tmp_path):
    records = [{"image_id": 5, "caption": "A funny dog", "filename": "5.jpg"}, {"image_id": 5, "caption": "x", "id": 9}]
    assert list(Corpus.read(write(tmp_path, "humor_train.json", records))) == [
        Caption("A funny dog", "0", "5", file_name="5.jpg"),
        Caption("x", "9", "5"),
    ]
    token = b"10.jpg#0\tTwo guys .\n10.jpg#1\tMen\n"
    assert list(Corpus.read(write(tmp_path, "results.token", token)))[1] == Caption(
        "Men", "10.jpg#1", "10", file_name="10.jpg"
    )


def test_bad_lines_are_named_and_left_out_only_when_asked(tmp_path):
    path = write(tmp_path, "a.txt", "good\n\nb\xe9b\xe9\nbad\x00\nfine".encode("latin-1"))
    with pytest.raises(ValueError, match=r"3 bad of 5 rows in a.txt: line 2: empty; line 3: byte 0xe9 is not utf-8"):
        Corpus.read(path)
    with pytest.warns(UserWarning, match="left out 3 bad of 5 rows"):
        corpus = Corpus.read(path, skip_bad=True)
    assert [row.caption_id for row in corpus] == ["1", "5"] and len(corpus) == 2
    assert corpus.bad_rows[0] == BadRow("line 2", "empty")
    assert [row.text for row in Corpus.read(write(tmp_path, "b.txt", b"b\xe9b\xe9"), encoding="latin-1")] == ["bébé"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[0].pop("caption"), r"annotations\[0\]: lacks caption"),
        (lambda rows: rows[1].update(id=1), r"annotations\[1\]: the id 1 comes twice"),
        (lambda rows: rows[2].update(image_id=8), r"annotations\[2\]: image_id 8 is not among the images"),
        (lambda rows: rows[2].update(caption=None), r"caption '3': the caption must be a string, got NoneType"),
        (lambda rows: rows[2].update(caption=" \n"), r"caption '3': empty"),
        (lambda rows: rows[2].update(caption="\ud800"), r"caption '3': control characters"),
        (lambda rows: rows.append("x"), r"annotations\[3\]: must be an object with image_id, id, caption, got str"),
        (lambda rows: rows.clear(), r"must hold at least one caption, got none"),
    ],
)
def test_bad_rows_of_a_json_are_named(tmp_path, change, message):
    content = json.loads(json.dumps(COCO))
    change(content["annotations"])
    with pytest.raises(ValueError, match=message):
        Corpus.read(write(tmp_path, "captions.json", content))


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="no captions at"):
        Corpus.read(tmp_path / "nothing.txt")
    with pytest.raises(ValueError, match="must hold at least one caption"):
        Corpus.read(write(tmp_path, "empty.txt", b""))
    with pytest.raises(ValueError, match="not valid json: .* is the download complete"):
        Corpus.read(write(tmp_path, "cut.json", json.dumps(COCO)[:-9].encode()))
    with pytest.raises(ValueError, match=r"must be UTF-8, got byte 0xe9 at 12"):
        Corpus.read(write(tmp_path, "latin.json", b'{"images": "\xe9"}'))
    with pytest.raises(ValueError, match=r"must be a captioning json, got keys \['images', 'licenses'\]"):
        Corpus.read(write(tmp_path, "nocaps_test.json", {"images": [{"id": 1}], "licenses": []}))
    with pytest.raises(ValueError, match="must be a json in the layout karpathy"):
        Corpus.read(write(tmp_path, "captions.json", COCO), layout="karpathy")
    with pytest.raises(ValueError, match="layout must be auto, json or one of text"):
        Corpus.read(write(tmp_path, "captions.json", COCO), layout="csv")


def test_a_hash_names_the_very_corpus():
    texts = ["a cat", "a dog"]
    same = Corpus.from_texts(texts).sha256
    assert same == Corpus.from_texts(("a  cat", "a dog "), name="other").sha256  # white space is tidied
    others = [Corpus.from_texts(texts[::-1]), Corpus.from_texts(["a cat", "a dot"]), Corpus.from_texts(texts[:1])]
    others.append(Corpus.from_texts(texts, image_ids=["1", "1"]))
    assert len({same, *(corpus.sha256 for corpus in others)}) == 5


def test_captions_of_a_picture_stay_together():
    ids = [str(i // 3) for i in range(60)]
    corpus = Corpus.from_texts([f"text {i}" for i in range(60)], image_ids=ids)
    train, test = corpus.divide(3 / 4, rng=np.random.default_rng(0))
    left, right = ({row.image_id for row in part} for part in (train, test))
    assert (len(train), len(test), len(left), len(right)) == (45, 15, 15, 5) and not left & right
    assert [row.text for row in corpus.by_image(2)["1"]] == ["text 3", "text 4", "text 5"]
    assert list(corpus.by_image(2)) == ["0", "1"] and len(corpus.by_image()) == 20
    with pytest.raises(ValueError, match="pictures on both sides"):
        corpus.divide(0.001, rng=np.random.default_rng(0))
