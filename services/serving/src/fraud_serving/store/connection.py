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

_REDIRECTS: Final = ("MOVED ", "ASK ", "TRYAGAIN", "CLUSTERDOWN", "READONLY")


def command(*parts: bytes) -> bytes:
    """A command in the Redis protocol."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def is_redirect(error: hiredis.ReplyError) -> bool:
    """Whether a node of a cluster did not execute a command, because of the slot or the state of the cluster."""
    return str(error).startswith(_REDIRECTS)


LOAD_SCRIPT: Final = command(b"SCRIPT", b"LOAD", SCRIPT)


class Pending:
    """Commands that were sent together and whose replies are not complete. `future` is None if they are not used."""

    __slots__ = ("count", "future", "redirected", "replies", "sent_s")
    follows_redirects = False
    """Whether the reply to a command that the node of a cluster did not execute is its error (`is_redirect`)."""

    def __init__(self, future: "asyncio.Future[list[Reply]] | None", count: int, sent_s: float) -> None:
        self.future, self.count, self.sent_s = future, count, sent_s
        self.replies: list[Reply] = []
        self.redirected = False
        """Whether a reply is such an error."""

    def waits(self) -> bool:
        """Whether a caller waits for the replies."""
        return self.future is not None and not self.future.done()

    def end(self) -> None:
        """Set the result, with NO_REPLY for each reply that is missing. Later replies are not used."""
        if self.future is not None and not self.future.done():
            missing = self.count - len(self.replies)
            self.future.set_result([*self.replies, *[NO_REPLY] * missing] if missing else self.replies)


class Connection(asyncio.Protocol):
    """Replies arrive in the order of the commands. `on_error` is called with the kind of each error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_error: Callable[[str], None]) -> None:
        self.pending: deque[Pending] = deque()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop, self._on_error = loop, on_error
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._out: list[bytes] = []
        self._flush_scheduled = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's class does not inherit from it

    def request(self, data: bytes, commands: int = 1) -> "asyncio.Future[list[Reply]]":
        """Queue commands. The future gets the list of their replies."""
        future: asyncio.Future[list[Reply]] = self._loop.create_future()
        self.send(data, Pending(future, commands, self._loop.time()))
        return future

    def send(self, data: bytes, pending: Pending) -> None:
        """Queue commands. All commands queued in one event-loop iteration leave in one write."""
        if not self._flush_scheduled:
            self._flush_scheduled = True
            self._loop.call_soon(self.flush)
        self.send_later(data, pending)

    def send_later(self, data: bytes, pending: Pending) -> None:
        """Queue commands that leave with the next `send` or check of the deadlines."""
        if self.closed.done():
            # Between the loss of the connection and the next step of the task that reconnects.
            pending.end()
            return
        self._out.append(data)
        self.pending.append(pending)

    def flush(self) -> None:
        """Write the queued commands. While the connection closes they are dropped; `connection_lost` ends them."""
        self._flush_scheduled = False
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        pending, get = self.pending, self._reader.gets
        try:
            while (reply := get()) is not Ellipsis:
                first = pending[0]
                replies, count = first.replies, first.count
                while reply is not Ellipsis:
                    replies.append(self._refused(reply, first) if isinstance(reply, hiredis.ReplyError) else reply)
                    if len(replies) == count:
                        pending.popleft()
                        first.end()
                        break
                    reply = get()
        except (hiredis.ProtocolError, IndexError):
            self._on_error("protocol")
            self.abort()

    def _refused(self, reply: hiredis.ReplyError, pending: Pending) -> Reply:
        if pending.follows_redirects and is_redirect(reply):
            pending.redirected = True
            return reply
        self._on_error("reply")
        _log.warning("online store refused a command: %s", reply)
        if str(reply).startswith("NOSCRIPT"):
            self.send_later(LOAD_SCRIPT, Pending(None, 1, self._loop.time()))
        return NO_REPLY

    def expire(self, before_s: float) -> None:
        """End the wait for commands sent before `before_s` (loop time). Close a connection that hangs."""
        self.flush()
        for pending in self.pending:
            if pending.sent_s > before_s:
                break
            if pending.waits():
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
