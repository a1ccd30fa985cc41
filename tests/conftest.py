"""What several test files share: a web server in the test process, which breaks when told to."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Server(ThreadingHTTPServer):
    """files: path -> bytes. cut_after: bytes an answer, then the connection drops. n_answers: then 503."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.redirects, self.headers = dict(files), {}, {}
        self.cut_after = self.n_answers = None
        self.knows_ranges = True
        self.ranges, self.n_sent = [], 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def etag(self, path: str) -> str:
        return f'"{hashlib.sha256(self.files[path]).hexdigest()}"'


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer(with_body=True)

    def do_HEAD(self):
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        server = self.server
        if self.path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[self.path])
            self.end_headers()
            return
        if with_body and server.n_answers is not None and len(server.ranges) >= server.n_answers:
            self.send_error(503)
            return
        if self.path not in server.files:
            self.send_error(404)
            return
        content = server.files[self.path]
        wanted = self.headers.get("Range")
        if with_body:
            server.ranges.append(wanted)
        same = self.headers.get("If-Range", server.etag(self.path)) == server.etag(self.path)
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted and same and server.knows_ranges else 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", server.etag(self.path))
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            sent = content[start:][: server.cut_after]
            server.n_sent += len(sent)  # before the client can have it all and look
            self.wfile.write(sent)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    """Files by path -> a running `Server` on this machine."""
    running = []

    def start(files: dict[str, bytes]) -> Server:
        server = Server(files)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()
