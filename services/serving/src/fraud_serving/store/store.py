"""The online store: histories, daily rows, and the answers kept for retries.

A request waits for the store no longer than the deadline. After that, and while the store is down, it is answered
without history; a background task reconnects.
"""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from urllib.parse import unquote, urlsplit

import hiredis

from fraud_serving.metrics import Metrics
from fraud_serving.store.connection import LOAD_SCRIPT, NO_REPLY, Connection, Reply, command

_log = logging.getLogger(__name__)
_FIRST_RETRY_S: Final = 0.05
_MAX_RETRY_S: Final = 1.0
_CONNECT_S: Final = 2.0
_MAX_PENDING: Final = 50_000


def _check_accepted(reply: Reply) -> None:
    if reply is NO_REPLY:
        raise ConnectionError("login refused or connection closed")


class Store:
    """One connection that is made again when it is lost. Start and close it on the event loop that uses it."""

    def __init__(self, url: str, deadline_s: float, answer_ttl_s: int, metrics: Metrics) -> None:
        self._url = urlsplit(url)
        self._deadline_s, self._metrics = deadline_s, metrics
        ttl = b"$2\r\nEX\r\n$%d\r\n%d\r\n$2\r\nNX\r\n" % (len(str(answer_ttl_s)), answer_ttl_s)
        pair = b"$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
        self._set, self._set_get = b"*6\r\n" + pair + ttl, b"*7\r\n" + pair + ttl + b"$3\r\nGET\r\n"
        self._connection: Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._first_attempt = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def start(self) -> None:
        """Start to connect. Returns after the first attempt, also if it failed."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._stay_connected()), loop.create_task(self._check_deadlines())]
        await self._first_attempt.wait()

    async def close(self) -> None:
        """Stop reconnecting, write what is queued and close the connection."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._connection is not None:
            self._connection.flush()
            self._connection.close()

    def send(self, data: bytes, commands: int) -> "asyncio.Future[list[Reply]] | None":
        """Send `commands` commands. The future gets their replies; NO_REPLY after the deadline or an error.

        There is no future while the store is not connected.
        """
        connection = self._connection
        if connection is None or len(connection.pending) >= _MAX_PENDING:
            self._metrics.store_error("down" if connection is None else "full")
            return None
        return connection.request(data, commands)

    async def replies(self, *commands: bytes) -> list[Reply]:
        """The replies to commands that are no part of a request."""
        future = self.send(b"".join(commands), len(commands)) if self.connected else None
        return [NO_REPLY] * len(commands) if future is None else await future

    async def find_answer(self, key: bytes) -> bytes | None:
        """The answer kept under `key`; None if there is none or the store does not reply in time."""
        future = self.send(command(b"GET", key), 1)
        found = None if future is None else (await future)[0]
        return found if isinstance(found, bytes) else None

    def keep_answer(self, key: bytes, answer: bytes) -> None:
        """Keep an answer under `key` unless one is kept. Does not wait for the reply; the write may be lost."""
        connection = self._connection
        if connection is not None and len(connection.pending) < _MAX_PENDING:
            connection.send(self._set % (len(key), key, len(answer), answer))

    def keep_answers(self, keys: Sequence[bytes], answers: Sequence[bytes]) -> "asyncio.Future[list[Reply]] | None":
        """`keep_answer` of several in one write. Each reply is None, or the answer that was kept before."""
        put = self._set_get
        commands = [put % (len(k), k, len(answer), answer) for k, answer in zip(keys, answers, strict=True)]
        return self.send(b"".join(commands), len(commands))

    async def _check_deadlines(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._deadline_s / 4)
            if self._connection is not None:
                self._connection.expire(loop.time() - self._deadline_s)

    async def _stay_connected(self) -> None:
        wait_s = _FIRST_RETRY_S
        while True:
            try:
                connection = await self._connect()
            except (OSError, TimeoutError, hiredis.ReplyError) as error:
                self._metrics.store_error("connect")
                _log.warning("online store not reachable: %s", error)
                self._first_attempt.set()
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _MAX_RETRY_S)
                continue
            self._connection, wait_s = connection, _FIRST_RETRY_S
            self._metrics.store_up = 1
            _log.info("online store connected")
            self._first_attempt.set()
            await connection.closed
            self._connection, self._metrics.store_up = None, 0
            _log.warning("online store connection lost")

    async def _connect(self) -> Connection:
        """A connection that is logged in, with the script loaded. Raises OSError, TimeoutError or ReplyError."""
        loop, url = asyncio.get_running_loop(), self._url
        context = ssl.create_default_context() if url.scheme == "rediss" else None
        async with asyncio.timeout(_CONNECT_S):
            _, connection = await loop.create_connection(
                lambda: Connection(loop, self._metrics.store_error),
                url.hostname or "127.0.0.1",
                url.port or 6379,
                ssl=context,
            )
            try:
                for first in self._first_commands():
                    _check_accepted((await connection.request(first))[0])
            except BaseException:
                connection.abort()
                raise
        return connection

    def _first_commands(self) -> list[bytes]:
        url, commands = self._url, []
        if url.password:
            user = [unquote(url.username).encode()] if url.username else []
            commands.append(command(b"AUTH", *user, unquote(url.password).encode()))
        if url.path.strip("/"):
            commands.append(command(b"SELECT", url.path.strip("/").encode()))
        return [*commands, LOAD_SCRIPT]
