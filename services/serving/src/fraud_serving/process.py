"""What the processes of this package have in common: log lines, garbage collection, the server of the internal port."""

import asyncio
import ctypes
import gc
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, NoReturn

import uvicorn
from starlette.types import ASGIApp

from fraud_serving.http.protocol import PredictProtocol

_BAD_SETTING: Final = 2
"""Exit code, the same as of the `fraud` command."""
_GRACE_S: Final = 30
_KEEP_ALIVE_S: Final = 75
"""Longer than clients and load balancers keep an idle connection (usually 60 s), so that they close it first: a request
that is sent while the server closes the connection is lost."""
_GC_THRESHOLD: Final = 20_000
"""A request creates no reference cycles, so Python's default of 700 allocations collects too often."""

_TRIM_S: Final = 10


class _JsonLines(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(), "logger": record.name, "event": record.getMessage(),
        }  # fmt: skip
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class InternalServer(uvicorn.Server):
    """The server of the internal port. It leaves the signals to the process's main task."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def server_config(application: ASGIApp, host: str, port: int) -> uvicorn.Config:
    """The configuration of a server of this package."""
    return uvicorn.Config(
        application, host=host, port=port, loop="none", http=PredictProtocol, ws="none", lifespan="on",
        access_log=False, log_config=None, server_header=False, date_header=False, proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S, timeout_keep_alive=_KEEP_ALIVE_S,
    )  # fmt: skip


def configure_logging() -> None:
    """JSON lines on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every poll


def configure_garbage_collection() -> None:
    """Exclude the objects created until now, which live as long as the process, from garbage collection."""
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)


def trim_function() -> Callable[[int], int] | None:
    """The function of glibc that returns free memory to the system. Its argument is the number of bytes to keep.

    None with another C library.
    """
    function: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return function


async def return_free_memory() -> None:
    """Return free memory to the system every `_TRIM_S` seconds, until cancelled.

    A batch of messages needs arrays of some 100 KB to some MB for some milliseconds, and glibc keeps the free space
    between smaller blocks. Without this the resident memory grows by some MB per million messages.
    """
    trim = trim_function()
    while trim is not None:
        await asyncio.sleep(_TRIM_S)
        await asyncio.to_thread(trim, 0)


def exit_for_setting(error: Exception) -> NoReturn:
    """End the process before anything was started."""
    print(f"fraud_serving: {error}", file=sys.stderr)  # noqa: T201 - an error message for a terminal
    sys.exit(_BAD_SETTING)
