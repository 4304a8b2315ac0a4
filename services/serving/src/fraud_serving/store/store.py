"""The online store: histories, daily rows, and the answers kept for retries.

A request waits for the store no longer than the deadline. After that, and while the store is down, it is answered
without history; a background task reconnects.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar, Final

from fraud_serving.metrics import Metrics
from fraud_serving.store.address import StoreAddress
from fraud_serving.store.connection import NO_REPLY, Pending, Reply, command
from fraud_serving.store.link import Link

MAX_PENDING: Final = 50_000
Replies = asyncio.Future[list[Reply]]


class Store(ABC):
    """Start and close it on the event loop that uses it."""

    takes_single_commands: ClassVar[bool] = False
    """Whether each item that is sent must be one command."""

    def __init__(self, deadline_s: float, answer_ttl_s: int, metrics: Metrics) -> None:
        self._deadline_s, self._metrics = deadline_s, metrics
        ttl = b"$2\r\nEX\r\n$%d\r\n%d\r\n$2\r\nNX\r\n" % (len(str(answer_ttl_s)), answer_ttl_s)
        pair = b"$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
        self._set, self._set_get = b"*6\r\n" + pair + ttl, b"*7\r\n" + pair + ttl + b"$3\r\nGET\r\n"

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether every key can be reached."""

    @abstractmethod
    async def start(self) -> None:
        """Start to connect. Returns after the first attempt, also if it failed."""

    @abstractmethod
    async def close(self) -> None:
        """Stop reconnecting, write what is queued and close the connections."""

    @abstractmethod
    def send(self, commands: Sequence[bytes], count: int) -> Replies | None:
        """Send `count` commands. The future gets their replies; NO_REPLY after the deadline or an error.

        Each item is one command; or several, unless `takes_single_commands`. There is no future while the store is not
        connected.
        """

    @abstractmethod
    def send_keyed(self, keys: Sequence[bytes], commands: Sequence[bytes]) -> Replies | None:
        """`send` of whole commands, each with one key."""

    @abstractmethod
    def send_later(self, key: bytes, data: bytes) -> None:
        """Send a command whose reply is not used, with the next request. It may be lost."""

    async def replies(self, keys: Sequence[bytes], commands: Sequence[bytes]) -> list[Reply]:
        """The replies to commands that are no part of a request, each with one key."""
        future = self.send_keyed(keys, commands) if self.connected else None
        return [NO_REPLY] * len(commands) if future is None else await future

    async def find_answer(self, key: bytes) -> bytes | None:
        """The answer kept under `key`; None if there is none or the store does not reply in time."""
        future = self.send_keyed((key,), (command(b"GET", key),))
        found = None if future is None else (await future)[0]
        return found if isinstance(found, bytes) else None

    def keep_answer(self, key: bytes, answer: bytes) -> None:
        """Keep an answer under `key` unless one is kept. Does not wait for the reply; the write may be lost."""
        self.send_later(key, self._set % (len(key), key, len(answer), answer))

    def keep_answers(self, keys: Sequence[bytes], answers: Sequence[bytes]) -> Replies | None:
        """`keep_answer` of several in one write. Each reply is None, or the answer that was kept before."""
        put = self._set_get
        return self.send_keyed(
            keys, [put % (len(k), k, len(answer), answer) for k, answer in zip(keys, answers, strict=True)]
        )


class ServerStore(Store):
    """The store on one server."""

    def __init__(self, address: StoreAddress, deadline_s: float, answer_ttl_s: int, metrics: Metrics) -> None:
        super().__init__(deadline_s, answer_ttl_s, metrics)
        self._link = Link(address, *address.nodes[0], metrics, self._changed)
        self._task: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._link.connection is not None

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._check_deadlines())
        self._link.start()
        await self._link.attempted.wait()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._link.close()

    def send(self, commands: Sequence[bytes], count: int) -> Replies | None:
        return self._send(b"".join(commands), count)

    def send_keyed(self, keys: Sequence[bytes], commands: Sequence[bytes]) -> Replies | None:  # noqa: ARG002
        return self._send(b"".join(commands), len(commands))

    def _send(self, data: bytes, commands: int) -> Replies | None:
        connection = self._link.connection
        if connection is None or len(connection.pending) >= MAX_PENDING:
            self._metrics.store_error("down" if connection is None else "full")
            return None
        return connection.request(data, commands)

    def send_later(self, key: bytes, data: bytes) -> None:  # noqa: ARG002
        connection = self._link.connection
        if connection is not None and len(connection.pending) < MAX_PENDING:
            connection.send_later(data, Pending(None, 1, asyncio.get_running_loop().time()))

    def _changed(self) -> None:
        self._metrics.store_up = int(self.connected)

    async def _check_deadlines(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._deadline_s / 4)
            if self._link.connection is not None:
                self._link.connection.expire(loop.time() - self._deadline_s)
