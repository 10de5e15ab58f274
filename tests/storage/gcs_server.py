"""A stand-in for Google Cloud Storage on loopback: the XML API that obstore speaks, in memory.

No emulator on PyPI or npm has that API's conditional puts. This one follows its documentation:
https://cloud.google.com/storage/docs/xml-api (generations, `x-goog-if-generation-match`). It
shows that requests are made right, not how Google answers them.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_objects: dict[str, tuple[bytes, int, datetime]] = {}
_lock = threading.Lock()
_generations = iter(range(1000, 10**9))


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """The server; yields the path of a service account file that points to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    account = folder / "account.json"
    address = f"http://127.0.0.1:{server.server_port}"
    empty = {"client_email": "", "private_key": "", "private_key_id": ""}
    account.write_text(json.dumps({"gcs_base_url": address, "disable_oauth": True, **empty}))
    yield str(account)
    server.shutdown()
    server.server_close()
    thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        wanted = self.headers.get("x-goog-if-generation-match")
        with _lock:
            current = _objects[self._key][1] if self._key in _objects else 0
            if wanted is not None and int(wanted) != current:
                self._answer(412)
                return
            _objects[self._key] = content, next(_generations), datetime.now(UTC)
        self._answer(200, headers=self._facts())

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._answer(200, _listing(self._key, query).encode())
        elif self._key not in _objects:
            self._answer(404)
        else:
            self._send_content()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        found = _objects.pop(self._key, None)
        self._answer(204 if found else 404)

    def _send_content(self) -> None:
        content, *_ = _objects[self._key]
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            self._answer(200, content, self._facts())
            return
        first, last = asked.groups()
        start = int(first) if first else max(0, len(content) - int(last))
        stop = min(int(last) + 1, len(content)) if first and last else len(content)
        told = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
        self._answer(206, content[start:stop], self._facts() | told)

    @property
    def _key(self) -> str:
        """`bucket/path of the object`."""
        return unquote(urlsplit(self.path).path).strip("/")

    def _facts(self) -> dict[str, str]:
        content, generation, at = _objects[self._key]
        return {
            "ETag": f'"{hashlib.md5(content).hexdigest()}"',
            "x-goog-generation": str(generation),
            "Last-Modified": format_datetime(at, usegmt=True),
        }

    def _answer(
        self, status: int, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: a test's output is for its failures."""


def _listing(bucket: str, query: dict[str, list[str]]) -> str:
    prefix, delimiter = (query.get(name, [""])[0] for name in ("prefix", "delimiter"))
    names = sorted(key.removeprefix(f"{bucket}/") for key in list(_objects))
    inside = [name for name in names if name.startswith(prefix)]
    parents = {
        prefix + name.removeprefix(prefix).split(delimiter)[0] + delimiter
        for name in inside
        if delimiter and delimiter in name.removeprefix(prefix)
    }
    kept = [name for name in inside if not any(name.startswith(parent) for parent in parents)]
    entries = "".join(
        f"<Contents><Key>{escape(name)}</Key>"
        f"<LastModified>{_objects[f'{bucket}/{name}'][2].isoformat()}</LastModified>"
        f'<ETag>"{hashlib.md5(_objects[f"{bucket}/{name}"][0]).hexdigest()}"</ETag>'
        f"<Size>{len(_objects[f'{bucket}/{name}'][0])}</Size></Contents>"
        for name in kept
    )
    folders = "".join(
        f"<CommonPrefixes><Prefix>{escape(parent)}</Prefix></CommonPrefixes>"
        for parent in sorted(parents)
    )
    return f'<?xml version="1.0"?><ListBucketResult>{entries}{folders}</ListBucketResult>'
