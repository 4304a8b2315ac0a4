"""Latency reported by `fraud traffic`, locust and wrk for a server that stops for one second, and CPU per request.

The server answers immediately, except for 1 s in the middle of 12 s. At 200 requests/s, one request in twelve is
scheduled in that second, so the 99th percentile from the scheduled time of a request to its answer is 0.88 s.
"""

import argparse
import asyncio
import csv
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))

from libraries_supervision import environment

SECONDS: Final = 12
RATE: Final = 200
CONNECTIONS: Final = 4
ANSWER: Final = b'{"is_fraud":false,"degraded":false,"model_version":"1"}'
LOCUSTFILE: Final = f"""
from locust import FastHttpUser, constant_throughput, task
class Checkout(FastHttpUser):
    wait_time = constant_throughput({RATE / CONNECTIONS})
    @task
    def predict(self):
        self.client.post("/predict", data=b'{{"amount": 1.0}}', headers={{"content-type": "application/json"}})
"""
WRK: Final = """
wrk.method, wrk.body = "POST", '{"amount": 1.0}'
wrk.headers["content-type"] = "application/json"
function done(summary, latency)
  io.write(string.format('{"requests":%d,"p50_ms":%f,"p99_ms":%f}\\n', summary.requests, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3))
end
"""


class _Stalling(asyncio.Protocol):
    """The part of HTTP/1.1 that the three clients use. The stall is timed from the first request."""

    began = 0.0
    stalled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        cls = type(self)
        cls.began = cls.began or time.monotonic()
        if not cls.stalled and time.monotonic() > cls.began + SECONDS / 2:
            cls.stalled = True
            time.sleep(1)
        self._data += data
        while b"\r\n\r\n" in self._data:
            head, _, rest = self._data.partition(b"\r\n\r\n")
            lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            length = int(lines[0].split(b":")[1]) if lines else 0
            if len(rest) < length:
                return
            self._data = rest[length:]
            answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER)
            self._transport.write(answer + ANSWER)  # type: ignore[attr-defined]


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Stalling, "127.0.0.1", port)
    await server.serve_forever()


def wait_for(port: int, path: str, seconds: float = 60) -> None:
    """Wait until the server answers 200. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing answers at port {port}")


def _listening(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nothing listens at port {port}")


def _run(client: Callable[[int], dict[str, float]]) -> dict[str, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, __file__, str(port)])
    try:
        _listening(port)
        return client(port)
    finally:
        server.terminate()
        server.wait()


def _client(command: list[str]) -> tuple[str, float]:
    """(standard output, CPU seconds)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=dict(os.environ))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(folder: Path, peers: Path, uv: str) -> dict[str, dict[str, float]]:
    """Figures by client."""
    rows = SECONDS * RATE
    source = folder / "payments.parquet"
    at = [1_767_268_800_000_000 + n for n in range(rows)]
    texts = {
        name: [f"{name}{n % 500}" for n in range(rows)] for name in ("user_id", "merchant_id", "merchant_category")
    }
    columns = {
        "transaction_id": [str(n) for n in range(rows)], **texts, "amount": [1.0] * rows,
        "distance_from_home": [1.0] * rows, "event_timestamp": pa.array(at, pa.timestamp("us", "UTC")),
    }  # fmt: skip
    pq.write_table(pa.table(columns), source)
    (folder / "locustfile.py").write_text(LOCUSTFILE)
    (folder / "client.lua").write_text(WRK)
    locust_python = str(environment(peers, uv, "locust"))

    def ours(port: int) -> dict[str, float]:
        fraud = str(Path(sys.executable).with_name("fraud"))
        empty = _client([fraud, "traffic", "--help"])[1]
        out, cpu = _client([fraud, "traffic", "--source", str(source), "--url", f"http://127.0.0.1:{port}", "--rate",
                            str(RATE), "--concurrency", str(CONNECTIONS), "--json"])  # fmt: skip
        reported = json.loads(out)
        return _figures(reported["sent"], reported["p50_ms"], reported["p99_ms"], cpu - empty)

    def locust(port: int) -> dict[str, float]:
        _, cpu = _client([locust_python, "-m", "locust", "-f", str(folder / "locustfile.py"), "--headless", "-u",
                          str(CONNECTIONS), "-r", str(CONNECTIONS), "-t", f"{SECONDS}s", "--host",
                          f"http://127.0.0.1:{port}", "--csv", str(folder / "locust"), "--only-summary"])  # fmt: skip
        with (folder / "locust_stats.csv").open() as file:
            row = next(r for r in csv.DictReader(file) if r["Name"] == "Aggregated")
        return _figures(float(row["Request Count"]), float(row["50%"]), float(row["99%"]), cpu)

    def wrk(port: int) -> dict[str, float]:
        out, cpu = _client(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(folder / "client.lua"),
                            f"http://127.0.0.1:{port}/predict"])  # fmt: skip
        reported = json.loads(out.splitlines()[-1])
        return _figures(reported["requests"], reported["p50_ms"], reported["p99_ms"], cpu)

    return {"ours": _run(ours), "locust": _run(locust), "wrk": _run(wrk)}


def _figures(requests: float, p50_ms: float, p99_ms: float, cpu_s: float) -> dict[str, float]:
    return {"requests": requests, "p50_ms": p50_ms, "p99_ms": p99_ms, "client_cpu_us": 1e6 * cpu_s / requests}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int, help="of the server that stops for a second")
    asyncio.run(_serve(parser.parse_args().port))
