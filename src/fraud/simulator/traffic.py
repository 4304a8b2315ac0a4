"""Send transactions to POST /predict in an open loop with Poisson arrivals.

The arrival time of each request is drawn before the first one is sent, and latency is measured from the arrival time,
so a slow server does not reduce the load (coordinated omission). The transactions of a user are sent over one
connection, in order of event time.
"""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field

from fraud.core.contract import id_hash
from fraud.errors import BadConfigError, UnavailableError
from fraud.job import Context, JobConfig, JobResult
from fraud.simulator.payments import payments

_REPORT_S: Final = 5.0
_RETRY_S: Final = 0.1
_PATIENCE_S: Final = 10.0
"""Connections are retried for this long before the run fails."""


class Config(JobConfig):
    """Source, server and rate."""

    source: Path = Field(description="a Parquet file of transactions, or a folder of them (its transactions/, if any)")
    url: str = Field(default="http://127.0.0.1:8000", description="URL of serving")
    rate: float = Field(
        default=200.0,
        ge=0,
        description="mean arrivals per second; 0: each request as soon as the previous one is answered",
    )
    concurrency: int = Field(default=16, ge=1, le=1024, description="connections; a user's requests use the same one")
    limit: int | None = Field(default=None, ge=1, description="maximum number of transactions")
    seed: int = Field(default=0, ge=0, description="seed of the arrival times")
    key_file: Path | None = Field(default=None, description="file with the API key")


class Result(JobResult):
    """Counts of the answers, and latencies."""

    sent: int
    answered: int
    """Status 200."""
    refused: int
    """Status 422: rows that violate the contract."""
    failed: int
    """Any other status."""
    statuses: dict[str, int]
    resent: int
    """Requests that were sent again after a lost connection."""
    flagged_fraud: int
    degraded: int
    model_versions: dict[str, int]
    seconds: float
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass
class _Tally:
    statuses: Counter[int] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    fraud: int = 0
    degraded: int = 0
    resent: int = 0

    def add(self, status: int, body: bytes, latency_s: float) -> None:
        self.statuses[status] += 1
        self.latencies_s.append(latency_s)
        if status == 200:
            answer = json.loads(body)
            self.fraud += answer["is_fraud"]
            self.degraded += answer["degraded"]
            self.versions[answer["model_version"]] += 1


def run(config: Config, context: Context) -> Result:
    """Send all transactions, with all declared columns.

    Raises BadInputError for an unusable source, UnavailableError without an answer.
    """
    found = payments(config.source, context.declaration.columns, config.limit)
    bodies = [(id_hash(payment.user_id) % config.concurrency, payment.body) for payment in found]
    key = config.key_file.read_text().strip() if config.key_file else ""
    tally, began = _Tally(), time.perf_counter()
    asyncio.run(_Client(config, key, tally, context).send_all(bodies))
    seconds = time.perf_counter() - began
    p50, p99, worst = np.percentile(np.array(tally.latencies_s), [50, 99, 100]) * 1e3
    answered, refused = tally.statuses[200], tally.statuses[422]
    return Result(
        sent=len(bodies), answered=answered, refused=refused, failed=len(bodies) - answered - refused,
        statuses={str(status): n for status, n in sorted(tally.statuses.items())}, resent=tally.resent,
        flagged_fraud=tally.fraud, degraded=tally.degraded, model_versions=dict(sorted(tally.versions.items())),
        seconds=round(seconds, 3), per_second=round(len(bodies) / seconds, 1),
        p50_ms=round(float(p50), 3), p99_ms=round(float(p99), 3), max_ms=round(float(worst), 3),
    )  # fmt: skip


class _Client:
    """One connection per share of the requests, each in order."""

    def __init__(self, config: Config, key: str, tally: _Tally, context: Context) -> None:
        url = urlsplit(config.url)
        if url.scheme != "http" or not url.hostname:
            raise BadConfigError("--url is invalid", expected="http://host:port", got=config.url)
        self._host, self._port = url.hostname, url.port or 80
        self._config, self._tally, self._log = config, tally, context.log
        authority = f"x-api-key: {key}\r\n" if key else ""
        self._head = f"POST /predict HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\n{authority}"

    async def send_all(self, bodies: list[tuple[int, bytes]]) -> None:
        rng = np.random.default_rng(self._config.seed)
        rate = self._config.rate
        due = np.cumsum(rng.exponential(1 / rate, len(bodies))) if rate else np.zeros(len(bodies))
        shares: list[list[tuple[float, bytes]]] = [[] for _ in range(self._config.concurrency)]
        for (shard, body), at in zip(bodies, due.tolist(), strict=True):
            shares[shard].append((at, body))
        began = time.perf_counter()
        progress = asyncio.create_task(self._report(len(bodies)))
        try:
            async with asyncio.TaskGroup() as group:
                for share in shares:
                    group.create_task(self._send_share(share, began))
        except* UnavailableError as errors:
            raise errors.exceptions[0] from None
        finally:
            progress.cancel()

    async def _report(self, total: int) -> None:
        while True:
            await asyncio.sleep(_REPORT_S)
            done = len(self._tally.latencies_s)
            self._log.info("requests sent", done=done, of=total, statuses=dict(self._tally.statuses))

    async def _send_share(self, share: list[tuple[float, bytes]], began: float) -> None:
        line = _Line(self._host, self._port, self._tally)
        try:
            for at, body in share:
                wait = began + at - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                intended = began + at if self._config.rate else time.perf_counter()
                request = f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body
                status, answer = await line.exchange(request)
                self._tally.add(status, answer, time.perf_counter() - intended)
        finally:
            line.close()


class _Line:
    """One HTTP/1.1 connection. A lost connection is opened again."""

    def __init__(self, host: str, port: int, tally: _Tally) -> None:
        self._host, self._port, self._tally = host, port, tally
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; returns (status, body). Raises UnavailableError without an answer for `_PATIENCE_S`."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                if self._streams is None:
                    self._streams = await asyncio.open_connection(self._host, self._port)
                return await _exchange(*self._streams, request)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.close()
                if time.monotonic() > deadline:
                    raise UnavailableError(
                        f"no answer from {self._host}:{self._port}", got=repr(error), hint="fraud traffic --url"
                    ) from error
                self._tally.resent += 1
                await asyncio.sleep(_RETRY_S)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    length = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
    return status, await reader.readexactly(int(length.partition(b":")[2]))
