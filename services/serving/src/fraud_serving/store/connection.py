"""One connection to a server of the Redis protocol: commands of one event-loop iteration leave in one write."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from hashlib import sha1
from typing import Any, Final, cast

import hiredis

from fraud.core.history import APPEND_SCRIPT

_log = logging.getLogger(__name__)
SCRIPT: Final = APPEND_SCRIPT.encode()
SCRIPT_SHA: Final = sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
HUNG_S: Final = 1.0
"""A connection whose oldest reply is this late is closed, so the deadline of a request cannot be longer."""

Reply = Any
"""A reply as hiredis parses it; None if the store did not reply in time or refused the command."""


def command(*parts: bytes) -> bytes:
    """A command in the Redis protocol."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


LOAD_SCRIPT: Final = command(b"SCRIPT", b"LOAD", SCRIPT)


class _PendingCommand:
    """A command without a reply yet. `future` is None if its reply is not used."""

    __slots__ = ("future", "sent_s")

    def __init__(self, future: "asyncio.Future[Reply] | None", sent_s: float) -> None:
        self.future, self.sent_s = future, sent_s


class Connection(asyncio.Protocol):
    """Replies arrive in the order of the commands. `on_error` is called with the kind of each error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_error: Callable[[str], None]) -> None:
        self.pending: deque[_PendingCommand] = deque()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop, self._on_error = loop, on_error
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it

    def send(self, data: bytes, future: "asyncio.Future[Reply] | None") -> None:
        """Queue a command. All commands queued in one event-loop iteration leave in one write.

        A command without a future leaves with the next one that has one, or with the next check of the deadlines.
        """
        if self.closed.done():
            # Between the loss of the connection and the next step of the task that reconnects.
            if future is not None:
                future.set_result(None)
            return
        if future is not None and not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)
        self._out.append(data)
        self.pending.append(_PendingCommand(future, self._loop.time()))

    def flush(self) -> None:
        """Write the queued commands. While the connection closes they are dropped; `connection_lost` ends them."""
        self._flush_scheduled = False
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not Ellipsis:
                self._resolve(self.pending.popleft(), reply)
        except (hiredis.ProtocolError, IndexError):
            self._on_error("protocol")
            self.abort()

    def _resolve(self, pending: _PendingCommand, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._on_error("reply")
            _log.warning("online store refused a command: %s", reply)
            if str(reply).startswith("NOSCRIPT"):
                self.send(LOAD_SCRIPT, None)
            reply = None
        if pending.future is not None and not pending.future.done():
            pending.future.set_result(reply)

    def expire(self, before_s: float) -> None:
        """Set None for commands sent before `before_s` (loop time). Close a connection that hangs."""
        self.flush()
        for pending in self.pending:
            if pending.sent_s > before_s:
                break
            if pending.future is not None and not pending.future.done():
                self._on_error("timeout")
                pending.future.set_result(None)
        if self.pending and self.pending[0].sent_s < self._loop.time() - HUNG_S:
            self._on_error("hung")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        for pending in self.pending:
            if pending.future is not None and not pending.future.done():
                pending.future.set_result(None)
        self.pending.clear()
        if not self.closed.done():
            self.closed.set_result(None)

    def close(self) -> None:
        """Close after what was written has left."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()
