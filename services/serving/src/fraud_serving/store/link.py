"""A connection to one server that is made again when it is lost."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import hiredis

from fraud_serving.metrics import Metrics
from fraud_serving.store.address import StoreAddress
from fraud_serving.store.connection import LOAD_SCRIPT, NO_REPLY, Connection, Reply, command

_log = logging.getLogger(__name__)
_FIRST_RETRY_S: Final = 0.05
_MAX_RETRY_S: Final = 1.0
CONNECT_S: Final = 2.0


def _check_accepted(reply: Reply) -> None:
    if reply is NO_REPLY:
        raise ConnectionError("login refused or connection closed")


class Link:
    """`connection` is None while there is none. Used on the event loop.

    `on_change` is called when `connection` has changed.
    """

    def __init__(
        self, address: StoreAddress, host: str, port: int, metrics: Metrics, on_change: Callable[[], None]
    ) -> None:
        self._address, self._metrics, self._on_change = address, metrics, on_change
        self.host: Final = host
        self.port: Final = port
        self.connection: Connection | None = None
        self.attempted: Final = asyncio.Event()
        """Set after the first attempt to connect."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to connect."""
        self._task = asyncio.get_running_loop().create_task(self._stay_connected())

    async def close(self) -> None:
        """Stop reconnecting, write what is queued and close the connection."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self.connection is not None:
            self.connection.flush()
            self.connection.close()

    async def connect(self) -> Connection:
        """A connection that is logged in, with the script loaded. Raises OSError, TimeoutError or ReplyError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_S):
            _, connection = await loop.create_connection(
                lambda: Connection(loop, self._metrics.store_error), self.host, self.port, ssl=self._address.tls_context
            )
            try:
                for first in self._first_commands():
                    _check_accepted((await connection.request(first))[0])
            except BaseException:
                connection.abort()
                raise
        return connection

    async def _stay_connected(self) -> None:
        wait_s, server = _FIRST_RETRY_S, f"online store at {self.host}:{self.port}"
        while True:
            try:
                connection = await self.connect()
            except (OSError, TimeoutError, hiredis.ReplyError) as error:
                self._metrics.store_error("connect")
                _log.warning("%s not reachable: %s", server, error)
                self.attempted.set()
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _MAX_RETRY_S)
                continue
            self.connection, wait_s = connection, _FIRST_RETRY_S
            _log.info("%s connected", server)
            self._on_change()
            self.attempted.set()
            await connection.closed
            self.connection = None
            _log.warning("%s: connection lost", server)
            self._on_change()

    def _first_commands(self) -> list[bytes]:
        address, commands = self._address, []
        if address.password:
            user = [address.user.encode()] if address.user else []
            commands.append(command(b"AUTH", *user, address.password.encode()))
        if address.database:
            commands.append(command(b"SELECT", b"%d" % address.database))
        return [*commands, LOAD_SCRIPT]
