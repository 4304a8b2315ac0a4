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
"""A reply as hiredis parses it, or NO_REPLY. None is the store's own null."""
NO_REPLY: Final = Ellipsis
"""The store did not reply in time, or it refused the command."""


def command(*parts: bytes) -> bytes:
    """A command in the Redis protocol."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


LOAD_SCRIPT: Final = command(b"SCRIPT", b"LOAD", SCRIPT)


class _Pending:
    """Commands that were sent together and whose replies are not complete. `future` is None if they are not used."""

    __slots__ = ("future", "left", "replies", "sent_s")

    def __init__(self, future: "asyncio.Future[list[Reply]] | None", commands: int, sent_s: float) -> None:
        self.future, self.left, self.sent_s = future, commands, sent_s
        self.replies: list[Reply] = []

    def end(self) -> None:
        """Set the result, with NO_REPLY for each reply that is missing. Later replies are not used."""
        if self.future is not None and not self.future.done():
            self.future.set_result([*self.replies, *[NO_REPLY] * self.left] if self.left else self.replies)


class Connection(asyncio.Protocol):
    """Replies arrive in the order of the commands. `on_error` is called with the kind of each error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_error: Callable[[str], None]) -> None:
        self.pending: deque[_Pending] = deque()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop, self._on_error = loop, on_error
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it

    def request(self, data: bytes, commands: int = 1) -> "asyncio.Future[list[Reply]]":
        """Queue commands. The future gets the list of their replies.

        All commands queued in one event-loop iteration leave in one write.
        """
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        if self.closed.done():
            # Between the loss of the connection and the next step of the task that reconnects.
            future.set_result([NO_REPLY] * commands)
            return future
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)
        self._out.append(data)
        self.pending.append(_Pending(future, commands, self._loop.time()))
        return future

    def send(self, data: bytes) -> None:
        """Queue a command whose reply is not used. It leaves with the next request or check of the deadlines."""
        if not self.closed.done():
            self._out.append(data)
            self.pending.append(_Pending(None, 1, self._loop.time()))

    def flush(self) -> None:
        """Write the queued commands. While the connection closes they are dropped; `connection_lost` ends them."""
        self._flush_scheduled = False
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self.pending
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not Ellipsis:
                first = pending[0]
                first.left -= 1
                if isinstance(reply, hiredis.ReplyError):
                    reply = self._refused(reply)
                if first.future is not None:
                    first.replies.append(reply)
                if not first.left:
                    pending.popleft()
                    first.end()
        except (hiredis.ProtocolError, IndexError):
            self._on_error("protocol")
            self.abort()

    def _refused(self, reply: hiredis.ReplyError) -> Reply:
        self._on_error("reply")
        _log.warning("online store refused a command: %s", reply)
        if str(reply).startswith("NOSCRIPT"):
            self.send(LOAD_SCRIPT)
        return NO_REPLY

    def expire(self, before_s: float) -> None:
        """End the wait for commands sent before `before_s` (loop time). Close a connection that hangs."""
        self.flush()
        for pending in self.pending:
            if pending.sent_s > before_s:
                break
            if pending.future is not None and not pending.future.done():
                self._on_error("timeout")
                pending.end()
        if self.pending and self.pending[0].sent_s < self._loop.time() - HUNG_S:
            self._on_error("hung")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        for pending in self.pending:
            pending.end()
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
