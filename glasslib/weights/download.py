"""One file over https, resumed where it was cut off. What is in it is for the caller to check."""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

CHUNK = 1 << 20
TIMEOUT_S = 60
LOCAL = ("127.0.0.1", "localhost")


def download(url: str, path: str | Path, *, progress: bool = True) -> int | None:
    """Fetch `url` into `path`, going on from what an earlier call left there.

    A cut connection is taken up again as long as each try brings new bytes. What was fetched before is kept only if the
    server says that the file has not changed since (its ETag lies beside, in `path`.etag); otherwise it starts anew.

    Args:
        url: https; plain http is taken from this machine alone, also after a redirect.
        path: the unfinished file. The caller checks and renames it.
        progress: show a bar.

    Returns:
        The file's size as the server gave it, and as it now is; None if the server gave none.

    Raises:
        ValueError: another scheme than https.
        ConnectionError: no answer, an error instead of the file, or a connection cut without a new byte. What was
            fetched stays: call again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        before = path.stat().st_size if path.exists() else 0
        total = _attempt(url, path, progress=progress)
        size = path.stat().st_size if path.exists() else 0
        if total is None or size == total:
            _etag_path(path).unlink(missing_ok=True)
            return total
        if size <= before:
            raise ConnectionError(f"{url}: cut off at {size:,} of {total:,} bytes; run again to go on from there")


def _attempt(url: str, path: Path, *, progress: bool) -> int | None:
    """One request, read to its end or until it breaks; returns the whole file's size."""
    have = path.stat().st_size if path.exists() and _etag_path(path).exists() else 0
    headers = {"User-Agent": "glasslib", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": _etag_path(path).read_text()}
    _check_scheme(url)
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and (size := _size_of_416(error)) is not None:
            if size != have:  # longer than the file: of no use
                path.unlink()
            return size
        raise ConnectionError(f"{url}: the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{url}: no answer ({error}); is this machine online?") from error
    with response:
        _check_scheme(response.url)
        start = _start_of(response, have)
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):  # a weak one does not promise equal bytes
            _etag_path(path).write_text(etag)
        else:
            _etag_path(path).unlink(missing_ok=True)
        _copy(response, path, start=start, total=total, progress=progress)
    return total


def _start_of(response, have: int) -> int:
    """Where the answer's bytes belong: at what was asked for, or at 0 if the server sends the whole file."""
    if response.status != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != have:
        raise ConnectionError(
            f"{response.url}: asked for bytes from {have}, got {response.headers.get('Content-Range')!r}"
        )
    return have


def _copy(response, path: Path, *, start: int, total: int | None, progress: bool) -> None:
    from tqdm import tqdm

    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=path.stem, disable=not progress)
    with bar, open(path, "r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        try:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        except (OSError, http.client.HTTPException):
            if total is None:  # nobody could tell the piece from the whole
                raise
        file.flush()
        os.fsync(file.fileno())


def _size_of_416(error: urllib.error.HTTPError) -> int | None:
    """The whole size, which a server names when asked for bytes past the end: "bytes */1234"."""
    found = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range") or "")
    return int(found[1]) if found else None


def _etag_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.etag")


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise ValueError(f"weights are fetched over https alone, got {url}")
