"""Parts of serving compared with the libraries that could replace them. Runs in the serving environment.

    .venv/serving/bin/python tests/bench/libraries_serving.py PART [ARGUMENT ...]

`libraries.py` installs the libraries, starts the servers of a part and runs this program. Each part prints one line of
JSON and imports only what it measures.
"""
# ruff: noqa: PLC0415

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

CONNECTIONS: Final = 16
USERS: Final = 400
NOON: Final = 1_767_268_800_000_000


def settings(library: str) -> dict[str, Any]:
    """CPU ms and memory of reading the environment, in a process with all imports of serving."""
    import fraud_serving.http.app
    from fraud_serving.settings import Settings

    cpu, peak = time.process_time(), _resident_mb()
    reader: Callable[[], Settings] = lambda: Settings.load(os.environ)  # noqa: E731
    if library == "pydantic-settings":
        from pydantic_settings import BaseSettings, SettingsConfigDict

        class FromEnvironment(BaseSettings, Settings):  # type: ignore[misc]
            model_config = SettingsConfigDict(
                env_prefix="SERVING_", env_ignore_empty=True, extra="forbid", frozen=True, title=fraud_serving.__name__
            )

        reader = FromEnvironment
    reader()
    found = {"cpu_ms": 1e3 * (time.process_time() - cpu), "mb": _resident_mb() - peak}
    os.environ["SERVING_PORTS"] = "1"
    try:
        reader()
    except Exception as error:  # noqa: BLE001 - whatever it raises is the refusal
        return found | {"misspelt": str(error)}
    return found | {"misspelt": "accepted"}


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def logs(lines: int = 100_000) -> dict[str, float]:
    """CPU us per line of the access log, written to /dev/null: ours, and structlog with two JSON encoders."""
    import msgspec
    import structlog

    from fraud_serving.log.access_log import AccessLog

    found = {}
    with Path(os.devnull).open("wb") as nowhere:
        log = AccessLog("all")
        cpu = time.process_time()
        for n in range(lines):
            log.add("checkout", "/predict", 200, n, 227)
            if n % 1000 == 999:
                nowhere.write(log._encode([log._lines.popleft() for _ in range(len(log._lines))]))
        found["ours"] = 1e6 * (time.process_time() - cpu) / lines
        for name, renderer in (
            ("structlog_json", structlog.processors.JSONRenderer(lambda *a, **k: json.dumps(*a, **k).encode())),
            ("structlog_msgspec", structlog.processors.JSONRenderer(lambda event, **_: msgspec.json.encode(event))),
        ):
            logger = structlog.wrap_logger(
                structlog.BytesLogger(nowhere), [structlog.processors.TimeStamper(), renderer],
                wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=True,
            )  # fmt: skip
            cpu = time.process_time()
            for n in range(lines):
                logger.info("request", client="checkout", endpoint="/predict", status=200, duration_us=n, bytes=227)
            found[name] = 1e6 * (time.process_time() - cpu) / lines
    return found


def store(url: str, requests: int = 20_000) -> dict[str, float]:
    """CPU us of reading a user's history and appending to it, minus the event loop, 16 requests at a time."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_store(url, requests))


async def _store(url: str, requests: int) -> dict[str, float]:
    import redis.asyncio

    from fraud.core.columns import StoredColumn, text_hash
    from fraud.core.contract import US_PER_DAY, id_hash
    from fraud.core.history import APPEND_SCRIPT, Layout
    from fraud_serving.metrics import Metrics
    from fraud_serving.store.address import StoreAddress
    from fraud_serving.store.commands import HistoryAppend, event_arguments
    from fraud_serving.store.connection import NO_REPLY
    from fraud_serving.store.store import ServerStore

    columns = (StoredColumn("amount", "number", 4), StoredColumn("merchant_id", "id", 0))
    layout = Layout("user", "user_id", columns, 1_024, 37 * US_PER_DAY)
    append = HistoryAppend(layout)

    ours = ServerStore(StoreAddress.of(url), deadline_s=5.0, answer_ttl_s=60, metrics=Metrics())
    await ours.start()
    theirs = redis.asyncio.Redis.from_url(url, max_connections=CONNECTIONS)
    script = await theirs.script_load(APPEND_SCRIPT)

    async def nothing(_: int) -> None:
        await asyncio.sleep(0)

    async def own_client(i: int) -> None:
        record = append.pack(NOON + i, 10_000, text_hash(f"m{i % 40}"))
        transaction = id_hash(f"o{i}").to_bytes(8, "little")
        future = ours.send(append.command(f"u{i % USERS}", record, event_arguments(transaction, NOON + i)), 1)
        assert future is not None
        assert await future != [NO_REPLY]

    async def library(i: int) -> None:
        arguments = layout.append_arguments(f"r{i}", NOON + i, (10_000, text_hash(f"m{i % 40}")))
        user = f"u{i % USERS}"
        assert await theirs.evalsha(script, 2, layout.history_key(user), layout.ids_key(user), *arguments)

    async def cpu_us(begin: Callable[[int], Awaitable[None]], first: int) -> float:
        async def client(offset: int) -> None:
            for i in range(first + offset, first + requests, CONNECTIONS):
                await begin(i)

        cpu = time.process_time()
        await asyncio.gather(*(client(n) for n in range(CONNECTIONS)))
        return 1e6 * (time.process_time() - cpu) / requests

    await cpu_us(own_client, 0)
    empty = await cpu_us(nothing, 0)
    found = {
        "ours": await cpu_us(own_client, requests) - empty,
        "redis_asyncio": await cpu_us(library, requests) - empty,
    }
    await ours.close()
    await theirs.aclose()
    return found


def application() -> Any:  # noqa: ANN401 - an ASGI application, for a server that wants a factory
    """Serving's ASGI application, as `python -m fraud_serving` makes it."""
    from fraud_serving.http import app
    from fraud_serving.service import Service
    from fraud_serving.settings import Settings

    return app.public(Service.of(Settings.load(os.environ)))


class Rsgi:
    """`POST /predict` for the RSGI interface of granian, and `/ready` for the start of the benchmark."""

    def __init__(self) -> None:
        from fraud_serving.http import app
        from fraud_serving.service import Service
        from fraud_serving.settings import Settings

        self._service = Service.of(Settings.load(os.environ))
        self._app = app.public(self._service)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(self._service.start())

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:  # noqa: ANN401 - granian's own
        if scope.path == "/ready":
            protocol.response_empty(200 if self._service.scorer.model else 503, [])
            return
        headers = [(name.encode(), value.encode()) for name, value in scope.headers.items()]
        body = await protocol()
        self._app.start()
        response = await self._app.respond(scope.method, scope.path, scope.query_string.encode(), headers, body)
        protocol.response_bytes(response.status, [("content-type", "application/json")], response.body)


def rsgi() -> Rsgi:
    """A factory, which granian requires."""
    return Rsgi()


def uvicorn_asgi() -> None:
    """Serve the application with uvicorn's protocol, without the direct path of `protocol.py`."""
    import uvicorn

    uvicorn.run(
        application(), host="127.0.0.1", port=int(os.environ["SERVING_PORT"]), loop="uvloop", http="httptools",
        access_log=False, log_level="error", server_header=False, date_header=False,
    )  # fmt: skip


PARTS: Final[dict[str, Callable[..., Any]]] = {
    "settings": settings, "logs": logs, "store": store, "uvicorn-asgi": uvicorn_asgi
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])))
