"""A proxy in front of a store that answers 503, hangs, or cuts connections, by a seeded plan."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = ("503", "cut", "hang")
HANG_S = 3.0


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to a server of this machine; a share of them it spoils.

    A cut comes before the server has seen the request or after it has answered it: then the
    client does not know whether what it asked for was done.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = host, port
        self.share = 0.0
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self._chance, self._lock = random.Random(seed), threading.Lock()

    def fault(self) -> str:
        """What to do to the next request; mostly nothing."""
        with self._lock:
            self.requests += 1
            if self._chance.random() >= self.share:
                return ""
            kind = self._chance.choice(KINDS)
            self.faults[kind] += 1
            return kind

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault()
        if fault == "503":
            self.answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        if fault == "hang":
            time.sleep(HANG_S)
            self.cut()
            return
        connection = HTTPConnection(*self.server.target, timeout=60)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            found = connection.getresponse()
            content = found.read()
        finally:
            connection.close()
        if fault == "cut":
            self.cut()
            return
        self.answer(found.status, found.getheaders(), content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 (their names)

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = {n.lower(): v for n, v in headers}.get("content-length")
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", length or "0" if is_head else str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def running(host: str, port: int) -> Iterator[FaultyProxy]:
    """The proxy, for as long as the context is open."""
    proxy = FaultyProxy(host, port)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
