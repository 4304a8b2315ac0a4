"""`python -m fraud_serving`: one process, one event loop, settings from SERVING_* variables."""

import asyncio
import gc
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import uvicorn
import uvloop
from starlette.types import ASGIApp

from fraud_serving.http import app
from fraud_serving.http.protocol import PredictProtocol
from fraud_serving.service import Service
from fraud_serving.settings import BadSettingError, Settings

_BAD_SETTING = 2
"""Exit code, the same as of the `fraud` command."""
_GRACE_S = 30
_KEEP_ALIVE_S = 75
"""Longer than clients and load balancers keep an idle connection (usually 60 s), so that they close it first: a request
that is sent while the server closes the connection is lost."""
_GC_THRESHOLD = 20_000
"""A request creates no reference cycles, so Python's default of 700 allocations collects too often."""


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


class _InternalServer(uvicorn.Server):
    """The server of the internal port. The public server handles the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(application: ASGIApp, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        application, host=host, port=port, loop="none", http=PredictProtocol, ws="none", lifespan="on",
        access_log=False, log_config=None, server_header=False, date_header=False, proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S, timeout_keep_alive=_KEEP_ALIVE_S,
    )  # fmt: skip


async def _serve(settings: Settings, service: Service) -> None:
    public = uvicorn.Server(_config(app.public(service), settings.host, settings.port))
    if not settings.internal_port:
        await public.serve()
        return
    internal = _InternalServer(_config(app.internal(service), settings.host, settings.internal_port))
    task = asyncio.create_task(internal.serve())
    try:
        await public.serve()
    finally:
        internal.should_exit = True
        await task


def main() -> None:
    """Run until SIGTERM or SIGINT. Requests in progress are answered and logged before the process ends."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every poll
    try:
        settings = Settings.load(os.environ)
        service = Service.of(settings)
    except BadSettingError as error:
        print(f"fraud_serving: {error}", file=sys.stderr)  # noqa: T201 - an error message for a terminal
        sys.exit(_BAD_SETTING)
    # Objects created at start live as long as the process: exclude them from garbage collection.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    uvloop.run(_serve(settings, service))


if __name__ == "__main__":
    main()
