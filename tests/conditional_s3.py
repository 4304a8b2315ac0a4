"""An S3 server for the Kafka broker's storage, with conditional writes. Its objects are in memory.

`rclone serve s3` (tests/s3.py) ignores `If-None-Match` and `If-Match`. The broker relies on them: after a restart over
a server without them it would write its first batch over the oldest one. Requests are not authenticated: the server
listens on a loopback port for the length of a `with` block, in threads of the tests' process, so it outlives a killed
broker.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from secrets import token_hex
from threading import Lock, Thread
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET: Final = "broker"


class Server(NamedTuple):
    """A running server: the environment variables of its clients, and its objects by key."""

    environment: dict[str, str]
    objects: dict[str, bytes]


@contextmanager
def running() -> Iterator[Server]:
    """A server with one empty bucket."""
    server = _Server()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Server(
            {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}", "AWS_ACCESS_KEY_ID": "any",
                "AWS_SECRET_ACCESS_KEY": token_hex(8), "AWS_DEFAULT_REGION": "us-east-1",
            },
            server.objects,
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.lock = Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}").strip("/")

    def _reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content_length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        key, expected = self._key(), self.headers.get("if-match")
        with self.server.lock:
            old = self.server.objects.get(key)
            taken = self.headers.get("if-none-match") == "*" and old is not None
            if taken or (expected is not None and (old is None or _etag(old) != expected)):
                self._reply(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            self.server.objects[key] = data
        self._reply(200, etag=_etag(data))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        if "list-type" in query:
            self._list({name: values[0] for name, values in query.items()})
            return
        data = self.server.objects.get(self._key())
        if data is None:
            self._reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        facts = {"etag": _etag(data), "last_modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        given = self.headers.get("range")
        if given is None:
            self._reply(200, data, **facts)
            return
        first, _, last = given.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data) - 1), len(data) - 1)
        self._reply(206, data[start : end + 1], content_range=f"bytes {start}-{end}/{len(data)}", **facts)

    def do_DELETE(self) -> None:
        self.server.objects.pop(self._key(), None)
        self._reply(204)

    def _list(self, query: dict[str, str]) -> None:
        """ListObjectsV2 of all keys in one page."""
        prefix, delimiter, after = query.get("prefix", ""), query.get("delimiter", ""), query.get("start-after", "")
        with self.server.lock:
            found = sorted(
                (key, data) for key, data in self.server.objects.items() if key.startswith(prefix) and key > after
            )
        contents, folders = [], set()
        for key, data in found:
            first, below, _ = key[len(prefix) :].partition("/")
            if delimiter and below:
                folders.add(f"{prefix}{first}/")
            else:
                contents.append(
                    f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                    f"<ETag>{escape(_etag(data))}</ETag><Size>{len(data)}</Size></Contents>"
                )
        common = [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in sorted(folders)]
        body = (
            f'<?xml version="1.0"?><ListBucketResult><Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix>'
            f"<IsTruncated>false</IsTruncated>{''.join(contents + common)}</ListBucketResult>"
        )
        self._reply(200, body.encode(), content_type="application/xml")

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""


def _etag(data: bytes) -> str:
    return f'"{md5(data, usedforsecurity=False).hexdigest()}"'
