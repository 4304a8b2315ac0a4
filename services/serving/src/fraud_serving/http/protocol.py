"""The HTTP connection: uvicorn's protocol, with a short path for `POST /predict`.

`POST /predict` with a `Content-Length` goes from the parser to `PredictApp.respond`, and the response is written to the
socket in one call, without ASGI scope and messages. All other requests (chunked or compressed bodies, `Expect`,
HTTP/1.0, pipelined requests) take uvicorn's path through ASGI and get the same answers. docs/performance.md has the
measurement.

Bytes that are not one well-framed HTTP/1.x request are refused here, with the JSON body of every other error.
"""

import asyncio
import logging
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fraud_serving.http.predict import TOO_MANY, PredictApp, RefusedError, Response, response_to
from fraud_serving.schema import Problem

_log = logging.getLogger(__name__)
MAX_HEAD_BYTES: Final = 65_536
"""Names and values of the headers."""
MAX_TARGET_BYTES: Final = 8_192
"""Path and query."""
_LINGER_S: Final = 2.0
"""After its last response a connection is read this long, until its client closes it."""
_PREDICT: Final = (b"/predict", b"/predict?explain=true")
_ASGI_ONLY: Final = frozenset((b"transfer-encoding", b"expect", b"content-encoding"))
_STATUS: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_FAILED: Final = Response(500, b'{"error":"internal","reason":"unexpected error in the service"}')
_JSON: Final = b"content-type: application/json\r\n"


def _as_bytes(response: Response, *, keep_alive: bool) -> bytes:
    more = b"".join(b"%b: %b\r\n" % header for header in response.headers)
    if not keep_alive and b"connection: " not in more:
        more += b"connection: close\r\n"
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (
        _STATUS[response.status],
        _JSON,
        len(response.body),
        more,
        response.body,
    )


_SHED: Final = _as_bytes(TOO_MANY, keep_alive=True)


def _malformed(reason: str) -> RefusedError:
    return RefusedError(400, Problem("http", reason))


_HEAD_TOO_LARGE: Final = RefusedError(
    431, Problem("head_too_large", f"expected headers of at most {MAX_HEAD_BYTES} bytes")
)
_TARGET_TOO_LONG: Final = RefusedError(
    414, Problem("target_too_long", f"expected a path and query of at most {MAX_TARGET_BYTES} bytes")
)
_NO_PROXY: Final = RefusedError(405, Problem("method", "CONNECT is not supported: this is not a proxy"))


class _NoEvent:
    """Replaces the event that wakes an ASGI application; the short path has none."""

    def set(self) -> None:
        """Do nothing."""


class _ShortRequest:
    """One request on the short path, with the attributes that the base class uses of its own requests."""

    __slots__ = ("body", "disconnected", "keep_alive", "message_event", "more_body", "response_complete")
    _EVENT: Final = _NoEvent()

    def __init__(self) -> None:
        self.body = bytearray()
        self.more_body = self.keep_alive = True
        self.disconnected = self.response_complete = False
        self.message_event = self._EVENT


class _Transport:
    """The transport of a request on the ASGI path. An early close lets a client that still sends read the response."""

    __slots__ = ("_cycle", "_protocol", "is_closing", "write")

    def __init__(self, protocol: "PredictProtocol") -> None:
        self._protocol, self._cycle = protocol, protocol.cycle
        self.write, self.is_closing = protocol.transport.write, protocol.transport.is_closing

    def close(self) -> None:
        if self._cycle.response_complete and self._cycle.more_body:
            self._protocol.drop_input()
        else:
            self._protocol.transport.close()


class PredictProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=...)`. Only a `PredictApp` takes the short path."""

    _body_timer: asyncio.TimerHandle | None = None
    _head_bytes: int | None = None
    """Bytes received of incomplete headers: 0 in the read in which they start, None between two requests."""
    _refusal: RefusedError | None = None
    """The last response on this connection, while requests before it are not answered."""
    _input_dropped = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as the base class
        super().connection_made(transport)
        # A connection that never completes its headers is closed like an idle one.
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        if self._input_dropped:
            return
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse(_refused(error))
            return
        if self._head_bytes is not None:
            # The first read of the headers may begin with bytes before them, so counting starts with the next read.
            self._head_bytes += len(data) if self._head_bytes else 1
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_HEAD_TOO_LARGE)
            return
        cycle = self.cycle
        if isinstance(cycle, _ShortRequest) and cycle.more_body and self._body_timer is None:
            # The rest of the body is not here yet.
            self._body_timer = self.loop.call_later(cast("PredictApp", self.app).body_deadline_s, self._on_body_timeout)

    def _feed(self, data: bytes | memoryview) -> None:
        """Parse `data`. An offer to upgrade the connection is ignored, as RFC 9110 (7.8) allows.

        After such headers the parser skips the body and treats the following bytes as the new protocol. So the headers
        are parsed again without `Upgrade`, and then the bytes after them. Raises HttpParserError.
        """
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = memoryview(data)[upgrade.args[0] :]
                self.parser.feed_data(self._head_without_upgrade())
            else:
                return

    def _head_without_upgrade(self) -> bytes:
        parser = self.parser
        line = b"%b %b HTTP/%b\r\n" % (parser.get_method(), self.url, parser.get_http_version().encode())
        headers = (b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade")
        return b"%b%b\r\n" % (line, b"".join(headers))

    def _refuse(self, refused: RefusedError) -> None:
        """Answer bytes that are not a request, after the requests before them are answered, and close."""
        waiting = bool(self.pipeline)
        if waiting and self.pipeline[0][0].more_body:
            self.pipeline.popleft()  # the request with the malformed body
        cycle = self.cycle
        if waiting or not (cycle is None or cycle.response_complete or cycle.more_body):
            self._refusal, self._input_dropped = refused, True
        else:
            self._refuse_now(refused)

    def _refuse_now(self, refused: RefusedError) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        response = response_to(refused)
        if isinstance(self.app, PredictApp):
            self.app.count_malformed(response)
        self.transport.write(_as_bytes(response, keep_alive=False))
        self.drop_input()
        self._linger()

    def drop_input(self) -> None:
        """Close the sending side of the connection after its last response.

        Closing both sides while the client still sends resets the connection, and the client may not receive the
        response. So its data are read and dropped until it closes, at most `_LINGER_S`.
        """
        self._input_dropped = True
        self.pipeline.clear()
        self.transport.write_eof()

    def _linger(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(_LINGER_S, self.transport.close)

    def on_response_complete(self) -> None:
        last = not self.pipeline
        super().on_response_complete()
        if self._input_dropped and not self.transport.is_closing():
            if self._refusal is None:
                self._linger()
            elif last:
                refused, self._refusal = self._refusal, None
                self._refuse_now(refused)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        self._unset_keepalive_if_required()
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise _NO_PROXY
            return  # `_feed` parses it again
        if self._is_short():
            self.cycle = cast("Any", _ShortRequest())
            return
        version = self.parser.get_http_version()
        self._check_head(version)
        url, headers = self.url, self.headers
        expect = self.expect_100_continue and version != "1.0"
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()
        self.cycle.transport = cast("Any", _Transport(self))
        self.headers = []  # trailers of a chunked body do not join the headers

    def _check_head(self, version: str) -> None:
        """Refuse heads that the parser accepts and the service does not support. Raises RefusedError."""
        if version not in ("1.0", "1.1"):
            raise _malformed(f"expected HTTP/1.1, got HTTP/{version}")
        if len(self.url) > MAX_TARGET_BYTES:
            raise _TARGET_TOO_LONG
        if sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            raise _HEAD_TOO_LARGE
        try:
            path = httptools.parse_url(self.url).path
        except httptools.HttpParserInvalidURLError:
            path = None
        if path is None:
            raise _malformed("expected a request target that is a path or a URL with a path")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or version == "1.0"):
            # A proxy may read such framing differently: request smuggling.
            raise _malformed("Transfer-Encoding: expected `chunked` alone, in HTTP/1.1")

    def _is_short(self) -> bool:
        if self.url not in _PREDICT or not isinstance(self.app, PredictApp):
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1" or not parser.should_keep_alive():
            return False
        length = head_bytes = 0
        for name, value in self.headers:
            if name in _ASGI_ONLY:
                return False
            if name == b"content-length":
                length = int(value)  # the parser refuses anything but one number
            head_bytes += len(name) + len(value)
        return head_bytes <= MAX_HEAD_BYTES and 0 < length <= min(self.app.max_body_bytes, HIGH_WATER_LIMIT)

    def _on_body_timeout(self) -> None:
        self._body_timer = None
        cycle = self.cycle
        if isinstance(cycle, _ShortRequest) and cycle.more_body and not self.transport.is_closing():
            cycle.keep_alive = False
            self._send(cycle, cast("PredictApp", self.app).body_timeout("/predict"))

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        cycle = self.cycle
        if not isinstance(cycle, _ShortRequest):
            super().on_message_complete()
            return
        if cycle.response_complete:
            return
        cycle.more_body = False
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        app = cast("PredictApp", self.app)
        if app.is_full:
            # Before any work is done for it: under overload most requests end here.
            app.count_shed("/predict")
            self._write(cycle, _SHED)
            return
        app.start()
        response = app.respond("POST", "/predict", self.url[9:], self.headers, bytes(cycle.body))
        task = self.loop.create_task(response)
        self.tasks.add(task)  # the server waits for these when it stops
        task.add_done_callback(partial(self._answered, cycle))

    def _answered(self, cycle: _ShortRequest, task: "asyncio.Task[Response]") -> None:
        self.tasks.discard(task)
        if task.cancelled():
            self.transport.close()
            return
        error = task.exception()
        if error is not None:
            _log.error("POST /predict failed", exc_info=error)
        self._send(cycle, task.result() if error is None else _FAILED)

    def _send(self, cycle: _ShortRequest, response: Response) -> None:
        self._write(cycle, _as_bytes(response, keep_alive=cycle.keep_alive))

    def _write(self, cycle: _ShortRequest, response: bytes) -> None:
        cycle.response_complete = True
        if cycle.disconnected:
            return
        self.transport.write(response)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._body_timer is not None:
            self._body_timer.cancel()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)


def _refused(error: httptools.HttpParserError) -> RefusedError:
    """The refusal of bytes that the parser or a callback refused. Raises any other error of a callback."""
    if not isinstance(error, httptools.HttpParserCallbackError):
        return _malformed(f"expected an HTTP/1.1 request: {error}")
    if isinstance(error.__context__, RefusedError):
        return error.__context__
    raise error
