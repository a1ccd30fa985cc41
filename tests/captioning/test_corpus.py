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
    with pytest.raises(
        ValueError, match=r"3 bad of 5 rows in a.txt: line 2: empty; line 3: byte 0xe9 is not of the enc"
    ):
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
    with pytest.raises(ValueError, match="must be valid JSON, got .*cut.json: .* is the file complete"):
        Corpus.read(write(tmp_path, "cut.json", json.dumps(COCO)[:-9].encode()))
    with pytest.raises(
        ValueError, match="must be valid JSON, got .*latin.json: 'utf-8' codec can't decode byte 0xe9 in position 12"
    ):
        Corpus.read(write(tmp_path, "latin.json", b'{"images": "\xe9"}'))
    with pytest.raises(ValueError, match=r"must be a captioning JSON, got keys \['images', 'licenses'\]"):
        Corpus.read(write(tmp_path, "nocaps_test.json", {"images": [{"id": 1}], "licenses": []}))
    with pytest.raises(ValueError, match="must be a JSON in the layout karpathy"):
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


SENTICAP = {
    "images": [
        {
            "filename": "COCO_val2014_000000000042.jpg",
            "imgid": 0,
            "split": "test",
            "sentences": [
                {"raw": "a nice dog", "sentiment": 1, "tokens": ["a", "nice", "dog"]},
                {"raw": "a bad dog", "sentiment": 0, "tokens": ["a", "bad", "dog"]},
            ],
        }
    ]
}
ROW = '{"image_id": 1, "caption": "a dog"}\n{"image_id": 1, "caption": "a cat"}\n'

# name, content -> (text, caption id, image id) of each caption
READ = [
    (
        "Flickr8k.token.txt",
        "7_a.jpg#0\tA dog runs .\n7_a.jpg#1\tA dog .\n",
        [("A dog runs .", "7_a.jpg#0", "7_a"), ("A dog .", "7_a.jpg#1", "7_a")],
    ),
    ("odd.token", "2258.jpg.1#0\tA\tdog\n", [("A dog", "2258.jpg.1#0", "2258.jpg")]),
    ("spaces.txt", "7.jpg#0 A dog\n7.jpg#1 A cat\n", [("A dog", "7.jpg#0", "7"), ("A cat", "7.jpg#1", "7")]),
    (
        "captions.txt",
        'image,caption\n7.jpg,A dog runs, fast\n8.jpg,"A cat, asleep"\n',
        [("A dog runs, fast", "2", "7.jpg"), ("A cat, asleep", "3", "8.jpg")],
    ),
    ("train.csv", "filepath,title\na.jpg,a dog\n", [("a dog", "2", "a.jpg")]),
    (
        "results.csv",
        'image_name| comment_number| comment\n1.jpg| 0| Two , "x" .\n1.jpg| 1| Men | women .\n',
        [('Two , "x" .', "2", "1.jpg"), ("Men | women .", "3", "1.jpg")],
    ),
    ("no_header.csv", "1.jpg| 0| Two men .\n1.jpg| 1| Men .\n", [("Two men .", "1", "1.jpg"), ("Men .", "2", "1.jpg")]),
    (
        "cc3m.tsv",
        "a bus\thttp://x/1.jpg\na band, on stage\thttp://x/2.jpg\n",
        [("a bus", "1", "http://x/1.jpg"), ("a band, on stage", "2", "http://x/2.jpg")],
    ),
    (
        "cc12m.txt",
        'http://x/1\ta "bus"\nhttp://x/2\t"a band\n',
        [('a "bus"', "1", "http://x/1"), ('"a band', "2", "http://x/2")],
    ),
    ("img2dataset.tsv", "caption\turl\na bus\thttp://x/1.jpg\n", [("a bus", "2", "http://x/1.jpg")]),
    ("semicolons.csv", 'image;caption\n1.jpg;"a dog; a cat"\n', [("a dog; a cat", "2", "1.jpg")]),
    (
        "pandas.csv",
        ",image,caption\n0,1.jpg,a dog\n1,1.jpg,a cat\n",
        [("a dog", "2", "1.jpg"), ("a cat", "3", "1.jpg")],
    ),
    (
        "cells.csv",
        'raw,split,img_id\n"[""a dog"", ""a cat""]",train,0\n',
        [("a dog", "2.0", "0"), ("a cat", "2.1", "0")],
    ),
    (
        "two_lines.csv",
        'image,caption\n1.jpg,"a dog\nruns"\n2.jpg,a cat\n',
        [("a dog runs", "2", "1.jpg"), ("a cat", "4", "2.jpg")],
    ),
    ("numbered.csv", "1.jpg#0,a dog\n1.jpg#1,a cat\n", [("a dog", "1", "1.jpg"), ("a cat", "2", "1.jpg")]),
    ("last.csv", "caption,image\na dog, running,1.jpg\n", [("a dog, running", "2", "1.jpg")]),
    ("one.csv", "a dog\na cat\n", [("a dog", "1", "1"), ("a cat", "2", "2")]),
    ("one_named.csv", 'text\na dog\n"a cat, x"\n', [("a dog", "2", "2"), ("a cat, x", "3", "3")]),
    ("ids.csv", "id,caption\n7,a dog\n9,a cat\n", [("a dog", "7", "7"), ("a cat", "9", "9")]),
    ("rows.jsonl", ROW, [("a dog", "1", "1"), ("a cat", "2", "1")]),
    ("rows.json", ROW, [("a dog", "1", "1"), ("a cat", "2", "1")]),
    ("rows.txt", ROW, [("a dog", "1", "1"), ("a cat", "2", "1")]),
    ("texts.jsonl", '{"text": "a dog"}\n\n{"text": "a cat"}\n', [("a dog", "1", "1"), ("a cat", "3", "3")]),
    (
        "000.json",
        '{"caption": "a dog", "url": "http://x/1", "key": "000", "status": "success"}',
        [("a dog", "0", "http://x/1")],
    ),
    (
        "pycocoevalcap.json",
        '{"0": ["a dog", "a cat"], "1": [{"caption": "x"}]}',
        [("a dog", "0.0", "0"), ("a cat", "0.1", "0"), ("x", "1.0", "1")],
    ),
    (
        "by_file.json",
        '{"a.jpg": "a dog", "b.jpg": "a cat"}',
        [("a dog", "a.jpg.0", "a.jpg"), ("a cat", "b.jpg.0", "b.jpg")],
    ),
    ("strings.json", '["a dog", "a cat"]', [("a dog", "0", "0"), ("a cat", "1", "1")]),
    (
        "senticap.json",
        json.dumps(SENTICAP),
        [
            ("a nice dog", "COCO_val2014_000000000042.0", "COCO_val2014_000000000042"),
            ("a bad dog", "COCO_val2014_000000000042.1", "COCO_val2014_000000000042"),
        ],
    ),
    (
        "coco.txt",
        json.dumps(COCO, indent=1),
        [("A man rides a wave.", "1", "7"), ("A dog.", "2", "9"), ("Surfing.", "3", "7")],
    ),
    ("no_ids.json", '{"annotations": [{"image_id": 1, "caption": "a dog"}]}', [("a dog", "0", "1")]),
    # sentences, whatever stands in them
    (
        "commas.txt",
        "A dog, a cat, and a bird\nTwo men, talking\nA car\n",
        [("A dog, a cat, and a bird", "1", "1"), ("Two men, talking", "2", "2"), ("A car", "3", "3")],
    ),
    ("tabs.txt", "a dog\truns\na cat\tsleeps\n", [("a dog runs", "1", "1"), ("a cat sleeps", "2", "2")]),
    ("numbers.txt", "2, 3 dogs run\n1, 2, 3\n", [("2, 3 dogs run", "1", "1"), ("1, 2, 3", "2", "2")]),
    ("bars.txt", "a dog | a cat; x\nx | y; z\n", [("a dog | a cat; x", "1", "1"), ("x | y; z", "2", "2")]),
    ("header.txt", "Caption, please\nA dog, running\n", [("Caption, please", "1", "1"), ("A dog, running", "2", "2")]),
    ("brackets.txt", "[person] walks\n{a dog}\n", [("[person] walks", "1", "1"), ("{a dog}", "2", "2")]),
    ("hashes.txt", "we are #1 here\n#2 is a dog\n", [("we are #1 here", "1", "1"), ("#2 is a dog", "2", "2")]),
    (
        "a_file.txt",
        "see photo.jpg, a dog\n" + "a dog\n" * 9,
        [("see photo.jpg, a dog", "1", "1"), *(("a dog", str(k), str(k)) for k in range(2, 11))],
    ),
    # encodings and line ends
    ("utf16.txt", "a dog\nein Bär\n".encode("utf-16"), [("a dog", "1", "1"), ("ein Bär", "2", "2")]),
    ("utf16_bare.txt", "a dog\na cat\n".encode("utf-16-be"), [("a dog", "1", "1"), ("a cat", "2", "2")]),
    ("utf16.tsv", "caption\turl\nein Bär\thttp://x\n".encode("utf-16"), [("ein Bär", "2", "http://x")]),
    ("utf16.json", '["ein Bär"]'.encode("utf-16"), [("ein Bär", "0", "0")]),
    ("utf32.txt", "ein Bär\n".encode("utf-32"), [("ein Bär", "1", "1")]),
    ("mark.csv", "\ufeffimage,caption\r\n1.jpg,a dog\r\n", [("a dog", "2", "1.jpg")]),
    ("mark.json", "\ufeff" + '["a dog"]', [("a dog", "0", "0")]),
    ("mac.txt", "a dog\ra cat\r", [("a dog", "1", "1"), ("a cat", "2", "2")]),
    ("mac.csv", "image,caption\r1.jpg,a dog\r", [("a dog", "2", "1.jpg")]),
]


@pytest.mark.parametrize(("name", "content", "expected"), READ, ids=[row[0] for row in READ])
def test_each_layout_is_told_by_its_content(tmp_path, name, content, expected):
    path = write(tmp_path, name, content if isinstance(content, bytes) else content.encode())
    assert [(row.text, row.caption_id, row.image_id) for row in Corpus.read(path)] == expected


REFUSED = [
    ("names.txt", "1.jpg\n2.jpg\n", "lists files or addresses, first '1.jpg', and no captions; known are a text with"),
    ("urls.txt", "http://x/1\nhttp://x/2\n", "lists files or addresses"),
    ("mixed.txt", "1.jpg,a dog\na cat\na bird\n", "neither a text nor a table: 33% of its lines name a picture"),
    (
        "odd.csv",
        "a dog, running,1\na cat,2\n",
        "which column holds the captions cannot be told, first line 'a dog, run",
    ),
    ("pairs.tsv", "a dog\tein Hund\n", "which column holds the captions cannot be told"),
    ("same.token", "2.jpg#0\tA dog\n2.jpg#0\tA cat\n", "line 2: the id 2.jpg#0 comes twice"),
    (
        "same.csv",
        "id,caption\n1,a dog\n1,a cat\n",
        "line 3: the id 1 comes twice; if it is the picture's, call it image",
    ),
    ("same.json", '{"0": ["a"], "0": ["b"]}', "the key '0' comes twice"),
    (
        "row_twice.jsonl",
        '{"caption": "a", "caption": "b"}\n{"caption": "c"}\n',
        "line 1: no JSON: the key 'caption' comes",
    ),
    (
        "holes.csv",
        "image,caption\n,a dog\n2.jpg,\n",
        "2 bad of 2 rows in holes.csv: line 2: lacks image; line 3: lacks cap",
    ),
    ("wide.csv", "caption,split,image\na dog,x,train,1.jpg\nb,train\n", r"line 3: must have 3 cells, got 2: 'b,train'"),
    ("middle.csv", "id,caption,split\n1,a dog, x,train\n", r"line 2: must have 3 cells, got 4"),
    (
        "quotes.csv",
        'image,caption\n1.jpg,"a dog\n2.jpg,a cat\n3.jpg,"a bird"\n',
        "lines 2 to 4: no row of a table: .*quote",
    ),
    ("wart.csv", "image_name| number| comment\n1.jpg| 0| Men\n2.jpg| 4   A dog\n", "line 3: must have 3 cells, got 2"),
    ("latin.csv", b"image,caption\n1.jpg,caf\xe9\n", "line 2: byte 0xe9 is not of the encoding"),
    ("latin.jsonl", b'{"caption": "caf\xe9"}\n{"caption": "x"}\n', "line 1: byte 0xe9 is not of the encoding"),
    ("latin.token", b"1.jpg#0\tcaf\xe9\n", "line 1: byte 0xe9 is not of the encoding"),
    ("cut.txt", "a dog\n".encode("utf-16")[:-1], "is not utf-16 to its end: truncated data; is it complete"),
    ("deep.json", "[" * 100_000, "nested too deeply"),
    (
        "columns.json",
        '{"images": ["a.jpg"], "captions": ["a dog"]}',
        r"must be a captioning JSON, got keys \['captions', 'im",
    ),
    ("other.json", '{"title": "x", "author": "y"}', "must be a captioning JSON, got keys"),
    ("objects.json", '[{"a": 1}]', r"got a list of objects with the keys \['a'\]"),
    (
        "holes.json",
        '{"1": [], "2": ["a dog"]}',
        r"1 bad of 2 rows in holes.json: picture '1': must have captions, got \[\]",
    ),
    (
        "images.json",
        '{"images": [7], "annotations": [{"image_id": 1, "caption": "a"}]}',
        r"images\[0\]: must have an id",
    ),
    (
        "twins.json",
        '{"images": [{"id": 1, "f": 1}, {"id": 1}], "annotations": [{"image_id": 1, "caption": "a"}]}',
        r"images\[1\]: another image has the id 1 too",
    ),
    (
        "sentences.json",
        '{"images": [{"filename": "1", "split": "s", "sentences": 3}]}',
        "sentences must be a list, got int",
    ),
    ("fields.jsonl", '{"a": 1}\n{"a": 2}\n', "JSON lines without a caption; known fields: caption, .*; got"),
    (
        "line.jsonl",
        '{"caption": "a"}\n{"caption": \n{"caption": "c"}\n',
        "1 bad of 3 rows in line.jsonl: line 2: no JSON",
    ),
    ("gzip.txt", b"\x1f\x8b\x08abc", "must hold captions as text, got gzip; unpack or convert"),
    ("parquet.csv", b"PAR1\x15", "got Parquet"),
    ("pointer.json", "version https://git-lfs.github.com/spec/v1\noid x\n", "got git-lfs pointer: .* run git lfs pull"),
    ("page.json", "<!DOCTYPE html><html>sign in</html>", "got HTML"),
    ("header.csv", "image,caption\n", "must hold at least one caption, got none"),
]


@pytest.mark.parametrize(("name", "content", "message"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_cannot_be_told_or_used_is_refused(tmp_path, name, content, message):
    path = write(tmp_path, name, content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        Corpus.read(path)


def test_a_layout_may_be_insisted_on(tmp_path):
    path = write(tmp_path, "a.txt", b"1.jpg,a dog\na cat\na bird\n")
    assert [row.text for row in Corpus.read(path, layout="text")] == ["1.jpg,a dog", "a cat", "a bird"]
    with pytest.raises(ValueError, match=r"must be a table with a column of captions, got \['1.jpg,a dog"):
        Corpus.read(path, layout="table")
    with pytest.raises(ValueError, match="encoding must be auto or one that Python knows, such as latin-1, got 'utf9'"):
        Corpus.read(path, encoding="utf9")
    assert [row.domain for row in Corpus.read(write(tmp_path, "s.json", SENTICAP))] == ["positive", "negative"]


@pytest.fixture(scope="module")
def tokenizer():
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog &amp; a cat", "a dog & a cat"),
        ("a &amp;lt; b", "a < b"),
        ("“so” it’s ｗｉｄｅ", '"so" it\'s wide'),
        ("schÃ¶n", "schön"),
        ("a\u200b dog\u00ad\ufeff", "a dog"),
        ("👩\u200d🚀 waves", "👩\u200d🚀 waves"),  # the joiner makes one sign of two
        ("AT&T", "AT&T"),
    ],
)
def test_a_caption_is_read_as_clip_s_tokenizer_reads_it(text, expected, tokenizer):
    [row] = Corpus.from_texts([text])
    assert row.text == expected
    assert tokenizer.encode(text.translate(dict.fromkeys([0x200B, 0xAD, 0xFEFF]))) == tokenizer.encode(row.text)
    assert tokenizer.clean_fn(row.text) == " ".join(row.text.lower().split())  # nothing is left for CLIP to change


@pytest.mark.parametrize("text", ["\u200b", " \u2060 \ufeff", "&nbsp;", "\u200d", "\u00ad"])
def test_what_shows_nothing_is_empty(text):
    with pytest.raises(ValueError, match="caption '0': empty"):
        Corpus.from_texts([text])
