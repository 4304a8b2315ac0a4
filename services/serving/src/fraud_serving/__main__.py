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
from fraud_serving.http.protocol import FrontProtocol
from fraud_serving.service import Service
from fraud_serving.settings import BadSettingError, Settings

_BAD_SETTING = 2
"""Exit code, as of the `fraud` command."""
_GRACE_S = 30
_KEEP_ALIVE_S = 75
"""Longer than a caller or a load balancer keeps an idle connection (60 s is usual): who closes first must not be us,
for a request that is on its way then is lost."""
_GC_THRESHOLD = 20_000
"""A request leaves no cycles behind: collecting every 700 allocations finds nothing."""


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(), "logger": record.name, "event": record.getMessage(),
        }  # fmt: skip
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Beside(uvicorn.Server):
    """A second server on the loop: signals are the first one's business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(application: ASGIApp, host: str, port: int) -> uvicorn.Config:
    return uvicorn.Config(
        application, host=host, port=port, loop="none", http=FrontProtocol, ws="none", lifespan="on",
        access_log=False, log_config=None, server_header=False, date_header=False, proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S, timeout_keep_alive=_KEEP_ALIVE_S,
    )  # fmt: skip


async def _serve(settings: Settings, service: Service) -> None:
    front = uvicorn.Server(_config(app.public(service), settings.host, settings.port))
    if not settings.internal_port:
        await front.serve()
        return
    beside = _Beside(_config(app.internal(service), settings.host, settings.internal_port))
    internal = asyncio.create_task(beside.serve())
    try:
        await front.serve()
    finally:
        beside.should_exit = True
        await internal


def main() -> None:
    """Run until SIGTERM or SIGINT; what is in flight is answered, what was answered is logged."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per poll is no news
    try:
        settings = Settings.load(os.environ)
        service = Service.of(settings)
    except BadSettingError as error:
        print(f"fraud_serving: {error}", file=sys.stderr)  # noqa: T201 - for the person who starts it
        sys.exit(_BAD_SETTING)
    # What start-up made lives as long as the process: no collection need walk it again.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    uvloop.run(_serve(settings, service))


if __name__ == "__main__":
    main()
