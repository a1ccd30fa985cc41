"""Downloads from a server in this process that can be told to misbehave."""

import pytest

from glasslib.weights.download import download

CONTENT = bytes(range(256)) * 4000  # about a megabyte


@pytest.fixture
def server(serve):
    return serve({"/file.bin": CONTENT})


def test_a_file_arrives_whole(server, tmp_path):
    assert download(f"{server.url}/file.bin", tmp_path / "part", progress=False) == len(CONTENT)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["part"]


def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cut_after = 400_000
    download(f"{server.url}/file.bin", tmp_path / "part", progress=False)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=400000-", "bytes=800000-"]


def test_a_later_call_goes_on_from_what_an_earlier_one_left(server, tmp_path):
    server.cut_after, server.n_answers = 300_000, 1
    with pytest.raises(ConnectionError, match="503"):
        download(f"{server.url}/file.bin", tmp_path / "part", progress=False)
    assert (tmp_path / "part").read_bytes() == CONTENT[:300_000]
    server.cut_after = server.n_answers = None
    download(f"{server.url}/file.bin", tmp_path / "part", progress=False)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-" and server.n_sent == len(CONTENT)  # nothing came twice


def test_a_server_that_ignores_ranges_sends_the_whole_file_again(server, tmp_path):
    server.cut_after, server.n_answers = 300_000, 1
    with pytest.raises(ConnectionError):
        download(f"{server.url}/file.bin", tmp_path / "part", progress=False)
    server.cut_after, server.n_answers, server.knows_ranges = None, None, False
    download(f"{server.url}/file.bin", tmp_path / "part", progress=False)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_is_given_up(server, tmp_path):
    server.cut_after, server.knows_ranges = 300_000, False
    with pytest.raises(ConnectionError, match=r"cut off at 300,000 of 1,024,000 bytes; run again"):
        download(f"{server.url}/file.bin", tmp_path / "part", progress=False)
    assert len(server.ranges) == 2


def test_a_file_that_changed_meanwhile_starts_anew(server, tmp_path):
    server.cut_after, server.n_answers = 300_000, 1
    with pytest.raises(ConnectionError):
        download(f"{server.url}/file.bin", tmp_path / "part", progress=False)
    server.cut_after = server.n_answers = None
    server.files["/file.bin"] = CONTENT[::-1]
    download(f"{server.url}/file.bin", tmp_path / "part", progress=False)
    assert (tmp_path / "part").read_bytes() == CONTENT[::-1]


def test_pieces_of_unknown_origin_are_not_continued(server, tmp_path):
    (tmp_path / "part").write_bytes(b"something else")
    download(f"{server.url}/file.bin", tmp_path / "part", progress=False)
    assert (tmp_path / "part").read_bytes() == CONTENT and server.ranges == [None]


def test_a_part_that_is_already_whole_is_kept(server, tmp_path):
    server.cut_after = len(CONTENT) // 2
    download(f"{server.url}/file.bin", tmp_path / "part", progress=False)
    (tmp_path / "part.etag").write_text(f"{server.etag('/file.bin')}\n{len(CONTENT)}\n")
    assert download(f"{server.url}/file.bin", tmp_path / "part", progress=False) == len(CONTENT)
    assert server.n_sent == len(CONTENT) and (tmp_path / "part").read_bytes() == CONTENT


def test_what_is_no_file_is_refused(server, tmp_path):
    with pytest.raises(ConnectionError, match="the server answered 404"):
        download(f"{server.url}/none.bin", tmp_path / "part", progress=False)
    with pytest.raises(ConnectionError, match="no answer"):
        download(
            "http://127.0.0.1:9/file.bin", tmp_path / "part", progress=False
        )  # the discard port, where none listens
    for url in ("http://example.org/file.bin", "file:///etc/hostname"):
        with pytest.raises(ValueError, match="https alone"):
            download(url, tmp_path / "part", progress=False)
    assert not (tmp_path / "part").exists()


def test_a_redirect_away_from_https_is_refused(server, tmp_path):
    server.redirects["/moved"] = "http://[::1]:9/file.bin"
    with pytest.raises((ValueError, ConnectionError)):
        download(f"{server.url}/moved", tmp_path / "part", progress=False)
    server.redirects["/moved"] = f"{server.url}/file.bin"
    assert download(f"{server.url}/moved", tmp_path / "part", progress=False) == len(CONTENT)
