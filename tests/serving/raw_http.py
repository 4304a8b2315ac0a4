"""Sends the bytes of requests and reads the responses: for requests that no HTTP library can send."""

import json
import re
import socket
from collections.abc import Iterable
from typing import Any, NamedTuple


class Response(NamedTuple):
    """One response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


def send(port: int, pieces: Iterable[bytes] | bytes, *, method: str = "POST") -> list[Response]:
    """Send the pieces one by one, and read until the server closes. So the last request must close the connection.

    `method` HEAD: the responses have no bodies.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in [pieces] if isinstance(pieces, bytes) else pieces:
            line.sendall(piece)
        got = b""
        while piece := line.recv(65536):
            got += piece
    return list(_responses(got, method))


def _responses(got: bytes, method: str) -> Iterable[Response]:
    while got:
        head, _, got = got.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        status = re.fullmatch(r"HTTP/1\.1 (\d{3}) .+", line)
        assert status, line
        length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        assert len(got) >= length, got
        yield Response(int(status[1]), headers, got[:length])
        got = got[length:]


def request(target: str, body: bytes = b"", *headers: str, method: str = "POST", version: str = "1.1") -> bytes:
    """A request with a length, and `headers` as given."""
    head = [f"{method} {target} HTTP/{version}", "Host: checkout.test", *headers]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def chunked(target: str, body: bytes, *headers: str, trailers: str = "") -> bytes:
    """The same in chunks of 50 bytes."""
    head = [f"POST {target} HTTP/1.1", "Host: checkout.test", *headers, "Transfer-Encoding: chunked", "", ""]
    pieces = (body[start : start + 50] for start in range(0, len(body), 50))
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join(head).encode() + chunks + b"0\r\n" + trailers.encode() + b"\r\n"
