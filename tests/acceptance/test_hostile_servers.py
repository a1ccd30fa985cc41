"""Servers that lie, break off and redirect: every one is refused, or gives the right bytes.

Each answer is written byte for byte to a socket, for no library would send most of them. After each, an honest server
must still be able to give the file. `python tests/acceptance/test_hostile_servers.py` counts for the scoreboard.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from glasslib.weights import download as module

CONTENT = bytes(range(256)) * 80
N, HALF = 20_480, 10_240
OTHER = CONTENT[::-1]
RIGHT, REFUSED = "right", "refused"


def answer(status="200 OK", *lines, body=CONTENT, length=True, etag='"one"', version="1.1"):
    """An answer's bytes; `length`: True for the body's own, None for none, else what Content-Length is to say."""
    head = [f"HTTP/{version} {status}", *lines, "Connection: close"]
    if length is not None:
        head.append(f"Content-Length: {len(body) if length is True else length}")
    if etag is not None:
        head.append(f"ETag: {etag}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def part(start, stop=None, *, total=N, content=CONTENT, said=None, **options):
    """An honest 206, or one whose Content-Range is `said`."""
    stop = len(content) if stop is None else stop
    said = f"bytes {start}-{stop - 1}/{total}" if said is None else said
    lines = [f"Content-Range: {said}"] if said else []
    return answer("206 Partial Content", *lines, body=content[start:stop], **options)


def chunked(content, *, end=b"0\r\n\r\n", **options):
    pieces = [content[k : k + 5000] for k in range(0, len(content), 5000)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + end
    return answer("200 OK", "Transfer-Encoding: chunked", body=body, length=None, **options)


CUT = answer(body=CONTENT[:HALF], length=N)
MOVED = "302 Found"
HUGE = "9" * 18

# name, what comes of it, and what the server answers, request by request (the last for all that follow)
MODES = [
    ("honest", RIGHT, [answer()]),
    ("honest, HTTP/1.0", RIGHT, [answer(version="1.0")]),
    ("cut, then the rest", RIGHT, [CUT, part(HALF)]),
    ("cut, then the rest in two parts", RIGHT, [CUT, part(HALF, HALF + 100), part(HALF + 100)]),
    ("a part whose connection is cut", RIGHT, [CUT, part(HALF, length=HALF)[:-9], part(N - 9)]),
    ("a part shorter than its range", REFUSED, [CUT, part(HALF)[:-9], answer("503 Busy", body=b"")]),
    ("a shorter part called whole", REFUSED,
     [CUT, part(HALF, HALF + 100, total=HALF + 100, etag='"two"'), answer("503 x")]),
    ("a shorter total under the same ETag", REFUSED, [CUT, part(HALF, HALF + 9, total=HALF + 9), answer("500 x")]),
    ("a longer total under the same ETag", REFUSED, [CUT, part(HALF, total=N + 9), answer("500 x")]),
    ("a longer total, then the whole", RIGHT, [CUT, part(HALF, total=N + 9), answer()]),
    ("a part of another file", RIGHT, [CUT, part(HALF, content=OTHER, etag='"two"'), answer()]),
    ("a part without an ETag", RIGHT, [CUT, part(HALF, content=OTHER, etag=None), answer()]),
    ("a part under a weak ETag", RIGHT, [CUT, part(HALF, content=OTHER, etag='W/"one"'), answer()]),
    ("cut under a weak ETag, changed", RIGHT,
     [answer(body=OTHER[:HALF], length=len(OTHER), etag='W/"one"'), answer(etag='W/"one"')]),
    ("cut without an ETag, changed", RIGHT, [answer(body=OTHER[:HALF], length=len(OTHER), etag=None), answer()]),
    ("changed, whole answer to a range", RIGHT, [answer(body=OTHER[:HALF], length=len(OTHER), etag='"old"'), answer()]),
    ("a part from the beginning instead", RIGHT, [CUT, part(0), answer()]),
    ("a part from elsewhere", RIGHT, [CUT, part(HALF - 1), answer()]),
    ("a part that goes backwards", RIGHT, [CUT, part(HALF, said=f"bytes {HALF}-{HALF - 1}/{N}"), answer()]),
    ("a part past the end", RIGHT, [CUT, part(HALF, said=f"bytes {HALF}-{N}/{N}"), answer()]),
    ("a part in other units", RIGHT, [CUT, part(HALF, said=f"items {HALF}-{N - 1}/{N}"), answer()]),
    ("a part with a range of letters", RIGHT, [CUT, part(HALF, said="bytes a-b/c"), answer()]),
    ("a part with a negative range", RIGHT, [CUT, part(HALF, said="bytes -5--1/9"), answer()]),
    ("a part with a range of 1,000 digits", RIGHT, [CUT, part(HALF, said=f"bytes {'1' * 1000}-2/3"), answer()]),
    ("a part without a range", RIGHT, [CUT, part(HALF, said=""), answer()]),
    ("a part with two ranges", RIGHT,
     [CUT, answer("206 x", f"Content-Range: bytes {HALF}-{N - 1}/{N}", "Content-Range: bytes 0-1/2",
                  body=CONTENT[HALF:]), answer()]),
    ("a part whose length is another", RIGHT, [CUT, part(HALF, length=7), answer()]),
    ("a part of unknown total", RIGHT, [CUT, part(HALF, said=f"bytes {HALF}-{N - 1}/*")]),
    ("a part longer than its range", REFUSED,
     [CUT, answer("206 x", f"Content-Range: bytes {HALF}-{N - 1}/{N}", "Transfer-Encoding: chunked",
                  body=b"%x\r\n%s\r\n0\r\n\r\n" % (HALF + 9, CONTENT[HALF:] + b"x" * 9), length=None)]),
    ("several parts in one", REFUSED,
     [CUT, answer("206 x", "Content-Type: multipart/byteranges; boundary=x", body=b"--x")]),
    ("only parts that do not fit", REFUSED, [CUT, part(HALF, etag='"two"')]),
    ("a part to a request for the whole", REFUSED, [part(0)]),
    ("a part to a request for the whole, cut", REFUSED, [part(0, 50)]),
    ("416, then the whole", RIGHT, [CUT, answer("416 x", f"Content-Range: bytes */{HALF}", body=b""), answer()]),
    ("416 that calls the part whole", REFUSED, [CUT, answer("416 x", f"Content-Range: bytes */{HALF}", body=b"")]),
    ("416 to a request for the whole", REFUSED, [answer("416 x", "Content-Range: bytes */0", body=b"")]),
    ("always cut, no ranges", REFUSED, [CUT]),
    ("nothing comes", REFUSED, [answer(body=b"", length=N)]),
    ("not a word", REFUSED, [b""]),
    ("no HTTP", REFUSED, [b"220 ftp ready\r\n"]),
    ("half a head", REFUSED, [b"HTTP/1.1 200 OK\r\nContent-Le"]),
    ("a status of letters", REFUSED, [b"HTTP/1.1 abc OK\r\n\r\n"]),
    ("a line of 100,000 signs", REFUSED, [answer("200 OK", "X: " + "y" * 100_000)]),
    ("1,000 header lines", REFUSED, [answer("200 OK", *(f"X-{k}: y" for k in range(1000)))]),
    ("length in letters", REFUSED, [answer(length="many")]),
    ("negative length", REFUSED, [answer(length=-5)]),
    ("two lengths", REFUSED, [answer("200 OK", "Content-Length: 7")]),
    ("a length of 1,000 digits", REFUSED, [answer(length="1" * 1000)]),
    ("an absurd length", REFUSED, [answer(length=HUGE)]),
    ("length and more bytes", RIGHT, [answer(body=CONTENT + b"more", length=N)]),
    ("no length, whole", REFUSED, [answer(length=None)]),
    ("no length, cut", REFUSED, [answer(body=CONTENT[:HALF], length=None)]),
    ("in chunks", RIGHT, [chunked(CONTENT)]),
    ("in chunks that break off", REFUSED, [chunked(CONTENT, end=b"")]),
    ("in chunks that break off, then the rest", REFUSED, [chunked(CONTENT[:HALF], end=b"5\r\nab"), answer("503 x")]),
    ("in chunks of nonsense", REFUSED, [chunked(b"", end=b"zz\r\nabc\r\n")]),
    ("in chunks of negative size", REFUSED, [chunked(b"", end=b"-5\r\nabc\r\n")]),
    ("in chunks without end", REFUSED, [chunked(CONTENT * 9)]),  # the largest is set to 100,000 bytes here
    ("chunks and another length", REFUSED,
     [answer("200 OK", "Transfer-Encoding: chunked", body=b"5\r\nabcde\r\n0\r\n\r\n", length=9)]),
    ("packed by gzip", REFUSED, [answer("200 OK", "Content-Encoding: gzip")]),
    ("transferred by gzip", REFUSED, [answer("200 OK", "Transfer-Encoding: gzip, chunked", length=None)]),
    ("a web page", REFUSED, [answer("200 OK", "Content-Type: text/html; charset=utf-8", body=b"<html>sign in")]),
    ("a web page for the rest", REFUSED, [CUT, answer("200 OK", "Content-Type: text/html", body=b"<html>")]),
    ("201", REFUSED, [answer("201 Created")]),
    ("203, changed on the way", REFUSED, [answer("203 Non-Authoritative", body=OTHER)]),
    ("204", REFUSED, [answer("204 No Content", body=b"")]),
    ("304", REFUSED, [answer("304 Not Modified", body=b"")]),
    ("404", REFUSED, [answer("404 Not Found", body=b"no")]),
    ("500 for the rest", REFUSED, [CUT, answer("500 x", body=b"")]),
    ("moved to the file", RIGHT, [answer(MOVED, "Location: /there", body=b""), answer()]),
    ("moved with an endless body", RIGHT, [answer(MOVED, "Location: /there", body=b"x", length=10**9), answer()]),
    ("moved in a circle", REFUSED, [answer(MOVED, "Location: /file", body=b"")]),
    ("moved nowhere", REFUSED, [answer(MOVED, body=b"")]),
    ("moved to nonsense", REFUSED, [answer(MOVED, "Location: http://[::1", body=b"")]),
    ("moved to another machine over http", REFUSED, [answer(MOVED, "Location: http://192.0.2.1/file", body=b"")]),
    ("moved to a name that looks local", REFUSED, [answer(MOVED, "Location: http://127.0.0.1@192.0.2.1/", body=b"")]),
    ("moved to a local file", REFUSED, [answer(MOVED, "Location: file:///etc/hostname", body=b"")]),
    ("moved to ftp", REFUSED, [answer(MOVED, "Location: ftp://192.0.2.1/file", body=b"")]),
    ("moved to data", REFUSED, [answer(MOVED, "Location: data:,abc", body=b"")]),
    ("the rest moved to another machine", REFUSED, [CUT, answer("307 x", "Location: http://192.0.2.1/file", body=b"")]),
    ("an ETag of nonsense, cut", REFUSED, [answer(body=CONTENT[:HALF], length=N, etag='"a"b\x7f')]),
]  # fmt: skip


@contextlib.contextmanager
def serving(answers: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A server of these answers; yields its address and the requests that it has had."""
    listener, requests = socket.create_server(("127.0.0.1", 0)), []

    def work() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(4096) or b"\r\n\r\n"
                requests.append(request)
                connection.sendall(answers[min(len(requests), len(answers)) - 1])
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(0.2)
                connection.recv(4096)  # a close with unread bytes would reset the connection under the client

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file", requests
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def outcome(answers: list[bytes], path: Path) -> str:
    """What comes of a download from this server: "right", "refused", or what is wrong."""
    with serving(answers) as (url, _):
        try:
            size = module.download(url, path, progress=False)
        except (ConnectionError, ValueError) as error:
            if not re.search(r"http|file:|ftp:|data:", str(error)):
                return f"a message without the address: {error}"
        else:
            return RIGHT if size == N and path.read_bytes() == CONTENT else f"wrong bytes, {size}"
    with serving([answer(etag='"honest"')]) as (url, _):  # what was left behind spoils nothing
        module.download(url, path, progress=False)
    return REFUSED if path.read_bytes() == CONTENT else "wrong bytes afterwards"


@contextlib.contextmanager
def small_limits() -> Iterator[None]:
    """Seconds and bytes that suit a test."""
    before = module.TIMEOUT_S, module.MAX_BYTES
    module.TIMEOUT_S, module.MAX_BYTES = 2, 100_000
    try:
        yield
    finally:
        module.TIMEOUT_S, module.MAX_BYTES = before


@pytest.mark.parametrize(("name", "expected", "answers"), MODES, ids=[mode[0] for mode in MODES])
def test_a_hostile_server_is_refused_or_gives_the_right_bytes(tmp_path, name, expected, answers):
    with small_limits():
        assert outcome(answers, tmp_path / "part") == expected


@pytest.mark.parametrize("where", ["http://192.0.2.1/file", "ftp://192.0.2.1/x", "file:///etc/hostname"])
def test_a_redirect_is_refused_before_anything_is_sent_there(tmp_path, monkeypatch, where):
    called = []
    real = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda at, *a, **k: (called.append(at[0]), real(at, *a, **k))[1])
    with (
        serving([answer(MOVED, f"Location: {where}", body=b"")]) as (url, _),
        pytest.raises((ValueError, ConnectionError)),
    ):
        module.download(url, tmp_path / "part", progress=False)
    assert called == ["127.0.0.1"]


def test_from_https_no_redirect_leads_to_this_machine():
    module._check_scheme("https://b.example/file", after="https://a.example/file")
    with pytest.raises(module.NotHttps, match="over https alone, got http://127.0.0.1"):
        module._check_scheme("http://127.0.0.1/file", after="https://a.example/file")


def test_a_slow_link_advances_from_its_first_byte(tmp_path):
    listener, path, seen = socket.create_server(("127.0.0.1", 0)), tmp_path / "part", []

    def work() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            head = answer()
            connection.sendall(head[: -N + 1])
            deadline = time.monotonic() + 5
            while not path.stat().st_size and time.monotonic() < deadline:
                time.sleep(0.01)
            seen.append(path.read_bytes())
            connection.sendall(CONTENT[1:])

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    module.download(f"http://127.0.0.1:{listener.getsockname()[1]}/file", path, progress=False)
    thread.join()
    listener.close()
    assert seen == [CONTENT[:1]] and path.read_bytes() == CONTENT


def test_a_server_that_falls_silent_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    listener = socket.create_server(("127.0.0.1", 0))  # takes connections, says nothing
    with pytest.raises(ConnectionError, match="no answer"):
        module.download(f"http://127.0.0.1:{listener.getsockname()[1]}/file", tmp_path / "part", progress=False)
    listener.close()


@pytest.mark.parametrize("kind", ["link", "dangling", "hard link", "pipe"])
def test_a_planted_part_is_not_written_through(tmp_path, kind):
    victim, path = tmp_path / "victim", tmp_path / "part"
    victim.write_bytes(b"mine")
    if kind == "hard link":
        os.link(victim, path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim if kind == "link" else tmp_path / "new")
    with (
        serving([answer()]) as (url, requests),
        pytest.raises(ValueError, match=r"part is (a link|shared with).*remove it"),
    ):
        module.download(url, path, progress=False)
    assert victim.read_bytes() == b"mine" and not (tmp_path / "new").exists() and not requests


def test_a_planted_etag_is_neither_read_nor_written_through(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "part"
    victim.write_text('"one"\n')
    path.write_bytes(OTHER[:HALF])
    (tmp_path / "part.etag").symlink_to(victim)
    with serving([CUT, part(HALF)]) as (url, requests):
        module.download(url, path, progress=False)
    assert path.read_bytes() == CONTENT and victim.read_text() == '"one"\n'
    assert b"Range" not in requests[0] and b"Range: bytes=10240-" in requests[1]


def test_two_processes_do_not_write_one_file(tmp_path):
    with module._own(tmp_path / "part"), serving([answer()]) as (url, requests):
        with pytest.raises(ConnectionError, match="another process is fetching it"):
            module.download(url, tmp_path / "part", progress=False)
    assert not requests


def test_another_size_than_the_published_one_is_refused_before_a_byte_is_kept(tmp_path):
    with serving([answer()]) as (url, _):
        with pytest.raises(ValueError, match="must have 7 bytes, got 20,480 by the server's word"):
            module.download(url, tmp_path / "part", n_bytes=7, progress=False)
        assert not list(tmp_path.iterdir())
    with serving([answer(length=None)]) as (url, _):  # a server that says no length will do where ours is published
        assert module.download(url, tmp_path / "part", n_bytes=N, progress=False) == N
    with serving([answer(length=None, body=CONTENT[:HALF])]) as (url, _):
        with pytest.raises(ConnectionError, match="cut off at 10,240 of 20,480"):
            module.download(url, tmp_path / "short", n_bytes=N, progress=False)


def main() -> None:
    """Print the share of modes with their right outcome."""
    right = []
    with small_limits(), tempfile.TemporaryDirectory() as folder:
        for k, (name, expected, answers) in enumerate(MODES):
            found = outcome(answers, Path(folder) / str(k))
            right.append(found == expected)
            if found != expected:
                print(f"{name}: expected {expected}, got {found}")
    print(json.dumps({"download.right": {"value": sum(right) / len(right), "n": len(right), "unit": "share"}}))


if __name__ == "__main__":
    main()
