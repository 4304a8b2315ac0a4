"""The HTTP connection: uvicorn's, with a short way for the request that matters.

`POST /predict` with a body of known length goes from the parser to `Front.exchange` and back into the socket in one
write: no scope, no message dictionaries, no headers looked at twice. Everything else (pieces of unknown length,
`Expect`, HTTP/1.0, requests sent before the last was answered) takes uvicorn's own way through ASGI, to the same
answers. docs/serving.md says what that bought.
"""

import asyncio
import logging
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fraud_serving.http import TOO_MANY, Front, Reply

_log = logging.getLogger(__name__)
_PREDICT: Final = (b"/predict", b"/predict?explain=true")
_LONG_WAY: Final = frozenset((b"transfer-encoding", b"expect", b"upgrade"))
_STATUS: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_FAILED: Final = Reply(500, b'{"error":"internal","reason":"a fault of the service"}')
_JSON: Final = b"content-type: application/json\r\n"


def _as_bytes(reply: Reply, *, keep_alive: bool) -> bytes:
    more = b"".join(b"%b: %b\r\n" % header for header in reply.headers)
    if not keep_alive and b"connection: " not in more:
        more += b"connection: close\r\n"
    return b"%b%bcontent-length: %d\r\n%b\r\n%b" % (_STATUS[reply.status], _JSON, len(reply.body), more, reply.body)


_SHED: Final = _as_bytes(TOO_MANY, keep_alive=True)


class _Event:
    """Stands where uvicorn wakes up an ASGI application: here nobody sleeps."""

    def set(self) -> None:
        """Nobody waits."""


class _Exchange:
    """One request on the short way: what the base class reads and writes of a request it believes to be its own."""

    __slots__ = ("body", "disconnected", "keep_alive", "message_event", "more_body", "response_complete")
    _EVENT: Final = _Event()

    def __init__(self) -> None:
        self.body = bytearray()
        self.more_body = self.keep_alive = True
        self.disconnected = self.response_complete = False
        self.message_event = self._EVENT


class FrontProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=...)`; the application is a `Front`, or any other on the long way."""

    _overdue: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        if self._is_short():
            self.cycle = cast("Any", _Exchange())
            return
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers.extend(headers)
        super().on_headers_complete()

    def _is_short(self) -> bool:
        if self.url not in _PREDICT or not isinstance(self.app, Front):
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1" or not parser.should_keep_alive():
            return False
        length = 0
        for name, value in self.headers:
            if name in _LONG_WAY:
                return False
            if name == b"content-length":
                length = int(value)  # the parser has seen to its being one number
        return 0 < length <= min(self.app.max_body_bytes, HIGH_WATER_LIMIT)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = self.cycle
        if isinstance(cycle, _Exchange) and cycle.more_body and self._overdue is None:
            # The rest of the body comes later, or never.
            self._overdue = self.loop.call_later(cast("Front", self.app).body_deadline_s, self._give_up)

    def _give_up(self) -> None:
        self._overdue = None
        cycle = self.cycle
        if isinstance(cycle, _Exchange) and cycle.more_body and not self.transport.is_closing():
            cycle.keep_alive = False
            self._send(cycle, cast("Front", self.app).too_slow("/predict"))

    def on_message_complete(self) -> None:
        cycle = self.cycle
        if not isinstance(cycle, _Exchange):
            super().on_message_complete()
            return
        if cycle.response_complete:
            return
        cycle.more_body = False
        if self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
        front = cast("Front", self.app)
        if len(self.tasks) >= front.max_in_flight:
            # Before any work is done for it: under overload this is what most requests cost.
            front.count_shed("/predict")
            self._write(cycle, _SHED)
            return
        exchange = front.exchange("POST", "/predict", self.url[9:], self.headers, bytes(cycle.body))
        task = self.loop.create_task(exchange)
        self.tasks.add(task)  # a stopping server waits for these
        task.add_done_callback(partial(self._answered, cycle))

    def _answered(self, cycle: _Exchange, task: "asyncio.Task[Reply]") -> None:
        self.tasks.discard(task)
        if task.cancelled():
            self.transport.close()
            return
        error = task.exception()
        if error is not None:
            _log.error("POST /predict failed", exc_info=error)
        self._send(cycle, task.result() if error is None else _FAILED)

    def _send(self, cycle: _Exchange, reply: Reply) -> None:
        self._write(cycle, _as_bytes(reply, keep_alive=cycle.keep_alive))

    def _write(self, cycle: _Exchange, response: bytes) -> None:
        cycle.response_complete = True
        if cycle.disconnected:
            return
        self.transport.write(response)
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
        super().connection_lost(exc)
