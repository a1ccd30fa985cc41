"""JSON that two readers could read differently is refused."""

import pytest

from glasslib import strict_json


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_every_encoding_of_json_is_read(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes('{"a": ["Bär", 1.5, null], "b": {"a": 1}}'.encode(encoding))
    assert strict_json.read(path, "this") == {"a": ["Bär", 1.5, None], "b": {"a": 1}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "b": {"x": 1, "y": 2, "x": 1}}', "the key 'x' comes twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"a": 1', "Expecting ',' delimiter"),
        (b"", "Expecting value"),
        (b'"\xff"', "can't decode byte 0xff"),
        (b"1" * 5000, "4300 digits"),
    ],
)
def test_what_is_refused_is_named(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"this must be valid JSON, got .*a\.json: .*{message}.*; is the file"):
        strict_json.read(path, "this")
