"""The online store's connection: one socket, and every request of an event-loop tick in one write.

Nothing here waits for a dead store longer than the deadline: a request whose reply is late gets None and goes on
without history, and the connection is built again in the background.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha1
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import hiredis

from fraud.core.features import MAX_EVENTS
from fraud.core.history import APPEND_SCRIPT, append_arguments, history_key, ids_key
from fraud_serving.metrics import Metrics

_log = logging.getLogger(__name__)
_SCRIPT: Final = APPEND_SCRIPT.encode()
_SHA: Final = sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()
_EVALSHA: Final = b"*9\r\n$7\r\nEVALSHA\r\n$40\r\n" + _SHA + b"\r\n$1\r\n2\r\n"
_BOUND: Final = str(MAX_EVENTS).encode()
_BOUND_PART: Final = b"\r\n$%d\r\n%b\r\n" % (len(_BOUND), _BOUND)
_FIRST_RETRY_S: Final = 0.05
_LONGEST_RETRY_S: Final = 1.0
_CONNECT_S: Final = 2.0
HUNG_S: Final = 1.0
"""A connection whose oldest reply is this late is given up. So no deadline of a request may be longer."""
_MAX_WAITING: Final = 50_000

Reply = Any
"""What the store answered, as hiredis parses it; None where it did not answer in time."""


def command(*parts: bytes) -> bytes:
    """A command as the Redis protocol writes it."""
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _accepted(reply: Reply) -> None:
    if reply is None:
        raise ConnectionError("it refused the login or went away")


class _Waiting:
    """A command on its way. `future` is None where nobody waits for the reply."""

    __slots__ = ("future", "since")

    def __init__(self, future: "asyncio.Future[Reply] | None", since: float) -> None:
        self.future, self.since = future, since


class _Connection(asyncio.Protocol):
    """Replies come back in the order in which commands went out."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_error: Callable[[str], None]) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.closed: asyncio.Future[None] = loop.create_future()
        self._loop, self._on_error = loop, on_error
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._out: list[bytes] = []
        self._flushing = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def send(self, data: bytes, future: "asyncio.Future[Reply] | None") -> None:
        """Queue a command. Everything queued in one tick leaves in one write.

        A command that nobody waits for leaves with the next one, or with the next look at the deadlines.
        """
        if self.closed.done():
            # Lost a moment ago, and whoever looks after connections has not run since: nobody would ever answer.
            if future is not None:
                future.set_result(None)
            return
        if future is not None and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)
        self._out.append(data)
        self.waiting.append(_Waiting(future, self._loop.time()))

    def flush(self) -> None:
        """Send what is queued. Where the connection is going, those who wait learn of it when it is gone."""
        self._flushing = False
        if self._out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not Ellipsis:
                self._resolve(self.waiting.popleft(), reply)
        except (hiredis.ProtocolError, IndexError):
            self._on_error("protocol")
            self.abort()

    def _resolve(self, waiting: _Waiting, reply: Reply) -> None:
        if isinstance(reply, hiredis.ReplyError):
            self._on_error("reply")
            _log.warning("the online store refused a command: %s", reply)
            if str(reply).startswith("NOSCRIPT"):
                self.send(command(b"SCRIPT", b"LOAD", _SCRIPT), None)
            reply = None
        if waiting.future is not None and not waiting.future.done():
            waiting.future.set_result(reply)

    def expire(self, before: float) -> None:
        """Let go of those who wait since before `before` (loop time). Gives up a connection that hangs."""
        self.flush()
        for waiting in self.waiting:
            if waiting.since > before:
                break
            if waiting.future is not None and not waiting.future.done():
                self._on_error("timeout")
                waiting.future.set_result(None)
        if self.waiting and self.waiting[0].since < self._loop.time() - HUNG_S:
            self._on_error("hung")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        for waiting in self.waiting:
            if waiting.future is not None and not waiting.future.done():
                waiting.future.set_result(None)
        self.waiting.clear()
        if not self.closed.done():
            self.closed.set_result(None)

    def close(self) -> None:
        """Let what was written leave, and end."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()


class Store:
    """Users' histories, by one connection that fixes itself. Start and close it on the event loop that uses it."""

    def __init__(self, url: str, deadline_s: float, answer_ttl_s: int, metrics: Metrics) -> None:
        self._url = urlsplit(url)
        self._deadline, self._metrics = deadline_s, metrics
        self._ttl = str(answer_ttl_s).encode()
        self._connection: _Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._first_try = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def start(self) -> None:
        """Begin to connect, and return after the first attempt, however it went."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._stay_connected()), loop.create_task(self._watch_deadlines())]
        await self._first_try.wait()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._connection is not None:
            self._connection.flush()
            self._connection.close()

    def begin_append(
        self, user_id: str, transaction_id: str, event_us: int, units: int, merchant_id: str
    ) -> "asyncio.Future[Reply] | None":
        """One atomic round trip: read the user's known history, append this event.

        The reply is `history.prior_history`'s argument; None in it, or instead of the future, when the store does not answer.
        """
        record, id_, at = append_arguments(transaction_id, event_us, units, merchant_id)
        history, ids, when = history_key(user_id).encode(), ids_key(user_id).encode(), b"%d" % at
        data = b"".join(
            (
                _EVALSHA, b"$%d\r\n%b\r\n$%d\r\n%b\r\n$24\r\n" % (len(history), history, len(ids), ids), record,
                b"\r\n$8\r\n", id_, b"\r\n$%d\r\n%b" % (len(when), when), _BOUND_PART,
            )
        )  # fmt: skip
        return self._send(data)

    async def remembered(self, key: bytes) -> bytes | None:
        """The answer that was given to an earlier attempt, None when there is none or no telling."""
        future = self._send(command(b"GET", key))
        found = None if future is None else await future
        return found if isinstance(found, bytes) else None

    def remember(self, key: bytes, answer: bytes) -> None:
        """Keep an answer for retries. Nobody waits for it; a lost one costs a retry its mark, nothing else."""
        connection = self._connection
        if connection is not None and len(connection.waiting) < _MAX_WAITING:
            connection.send(command(b"SET", key, answer, b"EX", self._ttl, b"NX"), None)

    def _send(self, data: bytes) -> "asyncio.Future[Reply] | None":
        connection = self._connection
        if connection is None or len(connection.waiting) >= _MAX_WAITING:
            self._metrics.store_error("down" if connection is None else "full")
            return None
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        connection.send(data, future)
        return future

    async def _watch_deadlines(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._deadline / 4)
            if self._connection is not None:
                self._connection.expire(loop.time() - self._deadline)

    async def _stay_connected(self) -> None:
        wait = _FIRST_RETRY_S
        while True:
            try:
                connection = await self._connect()
            except (OSError, TimeoutError, hiredis.ReplyError) as error:
                self._metrics.store_error("connect")
                _log.warning("the online store is not reachable: %s", error)
                self._first_try.set()
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_RETRY_S)
                continue
            self._connection, wait = connection, _FIRST_RETRY_S
            self._metrics.store_up = 1
            _log.info("the online store is connected")
            self._first_try.set()
            await connection.closed
            self._connection, self._metrics.store_up = None, 0
            _log.warning("the online store's connection is lost")

    async def _connect(self) -> _Connection:
        """A connection that is logged in and knows the script. Raises OSError, TimeoutError or ReplyError."""
        loop, url = asyncio.get_running_loop(), self._url
        context = ssl.create_default_context() if url.scheme == "rediss" else None
        async with asyncio.timeout(_CONNECT_S):
            _, connection = await loop.create_connection(
                lambda: _Connection(loop, self._metrics.store_error),
                url.hostname or "127.0.0.1",
                url.port or 6379,
                ssl=context,
            )
            try:
                for hello in self._greeting():
                    future: asyncio.Future[Reply] = loop.create_future()
                    connection.send(hello, future)
                    _accepted(await future)
            except BaseException:
                connection.abort()
                raise
        return connection

    def _greeting(self) -> list[bytes]:
        url, commands = self._url, []
        if url.password:
            user = [unquote(url.username).encode()] if url.username else []
            commands.append(command(b"AUTH", *user, unquote(url.password).encode()))
        if url.path.strip("/"):
            commands.append(command(b"SELECT", url.path.strip("/").encode()))
        return [*commands, command(b"SCRIPT", b"LOAD", _SCRIPT)]
