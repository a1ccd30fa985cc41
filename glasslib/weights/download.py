"""One file over https, resumed where it was cut off. What is in it is for the caller to check."""

from __future__ import annotations

import fcntl
import http.client
import os
import re
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from glasslib.results import write_bytes_atomic

CHUNK = 1 << 20
TIMEOUT_S = 60
MAX_BYTES = 20_000_000_000  # thirty times the largest file of the registry
LOCAL = ("127.0.0.1", "localhost")
STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e]*"')  # a weak one, W/"...", does not promise equal bytes
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class NotHttps(ValueError):
    """An address that is not fetched from."""


class _Unusable(Exception):
    """A part of the file that does not fit to what is here; the whole file may still come."""


@dataclass(frozen=True)
class _Place:
    """Where an answer's bytes belong: its first, the one after its last (None: unknown), and the whole file's size."""

    start: int
    stop: int | None
    total: int | None


def download(url: str, path: str | Path, *, n_bytes: int | None = None, progress: bool = True) -> int:
    """Fetch `url` into `path`, going on from what an earlier call left there.

    A cut connection is taken up again as long as each try brings new bytes. What was fetched before is kept only if the
    server says, by the same strong ETag, that the file has not changed since (it lies beside, in `path`.etag);
    otherwise the download starts anew. Nothing but 200 and the fitting part of a 206 is ever written.

    Args:
        url: https; plain http is taken from this machine alone. Every redirect is held to that before it is followed.
        path: the unfinished file. The caller checks and renames it. A link there is refused, not followed.
        n_bytes: what the file must have, if known; without it a server that tells no size is refused.
        progress: show a bar.

    Returns:
        The file's size, which is the one that the server gave.

    Raises:
        ValueError: another scheme than https, another size than `n_bytes`, or `path` is no file of its own.
        ConnectionError: no answer, an error or nonsense instead of the file, a connection cut without a new byte, or
            another process that fetches it. What was fetched stays: call again.
        OSError: it cannot be written, say because the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _own(path) as file:
        before = (
            os.fstat(file.fileno()).st_size if _noted(path)[0] else 0
        )  # a part of unknown origin counts for nothing
        while True:
            total = _attempt(url, file, path, n_bytes=n_bytes, progress=progress)
            size = os.fstat(file.fileno()).st_size
            if size == total:
                _etag_path(path).unlink(missing_ok=True)
                return size
            if size <= before:
                of = "an unknown number of" if total is None else f"{total:,}"
                raise ConnectionError(f"{url}: cut off at {size:,} of {of} bytes; run again to go on from there")
            before = size


@contextmanager
def _own(path: Path) -> Iterator[BinaryIO]:
    """The file open for this process alone; removed again if nothing came."""
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if path.is_symlink():
            raise ValueError(f"{path} is a link, expected an unfinished download; remove it") from error
        raise
    with open(number, "r+b", buffering=0) as file:  # unbuffered: what came is kept if this process is killed
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise ValueError(f"{path} is shared with another name or no regular file; remove it")
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConnectionError(f"{path}: another process is fetching it; wait for that one") from error
        try:
            yield file
        except BaseException:
            if not os.fstat(number).st_size:
                path.unlink(missing_ok=True)
                _etag_path(path).unlink(missing_ok=True)
            raise


def _attempt(url: str, file: BinaryIO, path: Path, *, n_bytes: int | None, progress: bool) -> int | None:
    """One request, or two where a part was of no use, read to its end or until it breaks; the whole file's size."""
    etag, total = _noted(path)
    have = os.fstat(file.fileno()).st_size if etag else 0
    if have and have == total:
        return total
    for start in (have, 0) if have else (0,):
        try:
            with _open(url, {"Range": f"bytes={start}-", "If-Range": etag} if start else {}) as response:
                place = _place(response, start, etag=etag, total=total, n_bytes=n_bytes)
                _check_size(url, place, n_bytes)
                _note(path, response.headers.get("ETag", ""), place.total)
                ended = _copy(response, file, place, url=url, name=path.stem, progress=progress)
        except _Unusable:
            continue
        return os.fstat(file.fileno()).st_size if place.total is None and ended else place.total
    raise ConnectionError(f"{url}: the server answers neither for the rest nor for the whole file; try later")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Each address is checked before anything is sent to it."""

    def redirect_request(self, request, response, code, message, headers, url):
        _check_scheme(url, after=request.full_url)
        response.read = lambda *_: b""  # urllib would read this answer to its end, which need not come
        return super().redirect_request(request, response, code, message, headers, url)


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    _check_scheme(url)
    headers = {"User-Agent": "glasslib", "Accept-Encoding": "identity", **headers}
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT_S)
    except NotHttps:
        raise
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and "Range" in headers:  # nothing after what is here: it is no part of that file
                raise _Unusable from error
            raise ConnectionError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConnectionError(f"{url}: no answer ({error}); is this machine online?") from error


def _place(response, have: int, *, etag: str, total: int | None, n_bytes: int | None) -> _Place:
    """Where the answer's bytes belong.

    Raises:
        _Unusable: a part that does not fit to the `have` bytes here, which are of the file with this ETag and size.
        ConnectionError: neither the file nor a part that was asked for.
    """
    headers, url = response.headers, response.url
    if response.status not in (200, 206):
        raise ConnectionError(f"{url}: the server answered {response.status} instead of the file")
    for name, allowed in (("Content-Encoding", ("", "identity")), ("Transfer-Encoding", ("", "chunked", "identity"))):
        if (found := headers.get(name, "").strip().lower()) not in allowed:
            raise ConnectionError(f"{url}: asked for the file as it is, got it with {name} {found[:40]!r}")
    kind = headers.get("Content-Type", "").strip().lower()
    if kind.startswith(("text/html", "multipart/")):
        raise ConnectionError(f"{url}: expected a file, got {kind[:60]!r}; does the address ask you to sign in?")
    length = _length(headers, url)
    if response.status == 200:
        known = n_bytes if length is None else length
        if known is None and not response.chunked:
            raise ConnectionError(f"{url}: the server does not say how long the file is; fetch it by other means")
        return _Place(0, known, known)
    if not have:
        raise ConnectionError(f"{url}: asked for the whole file, got a part of it (206); try another address")
    found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if not found or headers.get("ETag") != etag or len(headers.get_all("Content-Range")) > 1:
        raise _Unusable
    first, last = int(found[1]), int(found[2])
    whole = (total or n_bytes) if found[3] == "*" else int(found[3])
    fits = whole is not None and first == have <= last < whole and length in (None, last + 1 - first)
    if not fits or total not in (None, whole):
        raise _Unusable
    return _Place(first, last + 1, whole)


def _length(headers, url: str) -> int | None:
    values = {value.strip() for line in headers.get_all("Content-Length", []) for value in line.split(",")}
    if not values:
        return None
    if len(values) > 1 or not re.fullmatch(r"[0-9]{1,18}", *values):
        raise ConnectionError(f"{url}: Content-Length must be one number, got {', '.join(sorted(values))[:60]!r}")
    return int(*values)


def _check_size(url: str, place: _Place, n_bytes: int | None) -> None:
    said = place.total
    if said is not None and n_bytes is not None and said != n_bytes:
        raise ValueError(f"{url} must have {n_bytes:,} bytes, got {said:,} by the server's word")
    if said is not None and said > MAX_BYTES:
        raise ValueError(f"{url} must have at most {MAX_BYTES:,} bytes, got {said:,} by the server's word")


def _copy(response, file: BinaryIO, place: _Place, *, url: str, name: str, progress: bool) -> bool:
    """Write the answer where it belongs, as it comes; whether it ended by itself."""
    from tqdm import tqdm

    file.truncate(place.start)
    file.seek(place.start)
    position = place.start
    with tqdm(total=place.total, initial=position, unit="B", unit_scale=True, desc=name, disable=not progress) as bar:
        while True:
            try:
                chunk = response.read1(CHUNK)  # what is there, without waiting for a whole chunk
            except (OSError, http.client.HTTPException, ValueError):
                break
            if not chunk:
                os.fsync(file.fileno())
                return True
            position += len(chunk)
            if position > (MAX_BYTES if place.stop is None else place.stop):
                file.truncate(0)
                raise ConnectionError(
                    f"{url}: the server sends more than the {place.stop or MAX_BYTES:,} bytes it said"
                )
            file.write(chunk)
            bar.update(len(chunk))
    os.fsync(file.fileno())
    return False


def _note(path: Path, etag: str, total: int | None) -> None:
    """Keep the ETag beside the part if it is strong; without one the part is not continued."""
    if STRONG_ETAG.fullmatch(etag):
        write_bytes_atomic(_etag_path(path), f"{etag}\n{'' if total is None else total}\n".encode())
    else:
        _etag_path(path).unlink(missing_ok=True)


def _noted(path: Path) -> tuple[str, int | None]:
    """The ETag that the part was fetched under, "" if none, and the whole file's size if the server gave it."""
    noted = _etag_path(path)
    if noted.is_symlink() or not noted.is_file():
        return "", None
    etag, _, total = noted.read_bytes()[:1000].decode("ascii", errors="replace").strip().partition("\n")
    return (etag, int(total) if total.isdecimal() else None) if STRONG_ETAG.fullmatch(etag) else ("", None)


def _etag_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.etag")


def _check_scheme(url: str, *, after: str | None = None) -> None:
    """Refuse an address that is not https, but http on this machine; `after`: the one that led there, on it too."""
    parts, before = urlsplit(url), urlsplit(after or url)
    is_local = parts.scheme == "http" and parts.hostname in LOCAL and before.hostname in LOCAL
    if parts.scheme != "https" and not is_local:
        raise NotHttps(f"weights are fetched over https alone, got {url:.200}")
