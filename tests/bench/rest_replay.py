"""A simulated month sent through POST /predict by sixteen clients, and every answer compared with a recomputation.

    .venv/ml/bin/python tests/bench/rest_replay.py [--users 3600] [--days 31] [--swaps 50] [--kills 4]

All servers are real processes: Valkey, MLflow, serving. Two versions with different declarations (columns' lists,
features, layouts, daily tables) are registered; the alias `production` is set to the other one `--swaps` times, and
`staging` in between, so that the challenger is now the other version, now the same one. Transactions are sent in order
of their arrival; some arrive up to six days late, and a twelfth is sent twice. When the simulated time passes midnight,
the rows and labels of the day land, are ingested, the daily tables are built and `fraud materialize` runs: it is killed
with SIGKILL after a random command to the store, `--kills` times a night, and then completes. Every third night the
clients do not wait for it, so that answers with yesterday's snapshot occur, which name it. rest_replay_checks.py
compares. Prints one line of JSON.
"""

import argparse
import json
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import redis
import rest_replay_checks as checks
import structlog
from rest_replay_world import FILES, FIRST_DAY, ROOT, Month, Nights, model_of, nights, resolved, simulated

from fraud import declaration_file
from fraud.audit import replay as audit_replay
from fraud.core.contract import US_PER_DAY, US_PER_SECOND
from fraud.core.declaration import Declaration
from fraud.core.plan import Plan
from fraud.embedded.servers import mlflow_server, valkey
from fraud.errors import RefusedError
from fraud.features.online_store import OnlineHistory
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

sys.path.append(str(ROOT / "tests/serving"))

from servers import Registry, Serving, until

CLIENTS: Final = 16
TWICE: Final = 12
"""One transaction in so many is sent twice."""
LATEST_US: Final = 3 * 3_600 * US_PER_SECOND
"""The earliest `available_at` of the versions' daily tables: by then the night must be over."""
POLL_S: Final = 0.6
"""Serving reads the pointers of daily tables every half second."""
NIGHTS_UNTIL_LATE: Final = 3
"""Every so many nights the clients do not wait for the snapshots."""


FALSIFIED: Final = 5_000
"""The comparison itself is tested with so many records, some of them changed."""


class Sent(NamedTuple):
    """One request and its answer."""

    row: int
    status: int
    body: bytes


def requests_of(rows: pa.Table) -> list[bytes]:
    """The HTTP request of each transaction."""
    names = [name for name in rows.column_names if name not in ("created_timestamp", "event_timestamp")]
    times = rows["event_timestamp"].cast(pa.int64()).to_pylist()
    found = []
    for row, at in zip(rows.select(names).to_pylist(), times, strict=True):
        moment = datetime.fromtimestamp(at // US_PER_SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        body = json.dumps({**row, "event_timestamp": f"{moment}.{at % US_PER_SECOND:06d}Z"}).encode()
        found.append(b"POST /predict HTTP/1.1\r\nHost: replay\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    return found


def post(line: socket.socket, request: bytes) -> tuple[int, bytes]:
    """Send a request on an open connection; the status and the body of the response."""
    line.sendall(request)
    got = b""
    while b"\r\n\r\n" not in got:
        got += _received(line)
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += _received(line)
    return int(head.split(b" ", 2)[1]), body


def _received(line: socket.socket) -> bytes:
    got = line.recv(65536)
    if not got:
        raise ConnectionError("serving closed the connection")
    return got


class Clients:
    """Sends the log from sixteen connections. `allow` sets how far they may go."""

    def __init__(self, port: int, requests: Sequence[bytes], log: Sequence[int]) -> None:
        self._port, self._requests, self._log = port, requests, log
        self._next, self._allowed = 0, 0
        self._changed = threading.Condition()
        self._failed = False
        self.sent: list[list[Sent]] = [[] for _ in range(CLIENTS)]

    def allow(self, end: int) -> None:
        """Let the clients send the log up to `end`."""
        with self._changed:
            self._allowed = max(self._allowed, end)
            self._changed.notify_all()

    def reached(self, end: int) -> None:
        """Wait until the requests before `end` were taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._next >= end)
            assert not self._failed, "a client failed"

    @property
    def count(self) -> int:
        return self._next

    def run(self, client: int) -> None:
        """Send until the end of the log."""
        try:
            self._run(client)
        except BaseException:
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            raise

    def _run(self, client: int) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._failed or self._next < self._allowed or self._next == len(self._log)
                    )
                    if self._failed or self._next == len(self._log):
                        return
                    at = self._next
                    self._next += 1
                    self._changed.notify_all()
                row = self._log[at]
                self.sent[client].append(Sent(row, *post(line, self._requests[row])))


def log_of(month: Month) -> list[int]:
    """The rows in order of sending; a second copy follows after up to 40 other requests, or at once."""
    rng, n = np.random.default_rng(12), month.rows.num_rows
    twice = np.flatnonzero(np.arange(n) % TWICE == 0)
    places = np.concatenate([np.arange(n, dtype=float), twice + rng.integers(0, 40, len(twice)) + 0.5])
    rows = np.concatenate([np.arange(n), twice])
    found: list[int] = rows[np.argsort(places, kind="stable")].tolist()
    return found


@contextmanager
def pointer_watch(url: str, plans: Sequence[Plan]) -> Iterator[list[checks.Pointers]]:
    """Records each state of the pointers of all daily tables, with the time (us) at which it was first seen."""
    seen: list[checks.Pointers] = []
    tables = {table.id: table for plan in plans for table in plan.tables}
    stop = threading.Event()

    def look(client: redis.Redis) -> None:
        state = {id_: client.hgetall(table.pointer_key) for id_, table in tables.items()}
        if not seen or seen[-1].state != state:
            seen.append(checks.Pointers(time.time_ns() // 1_000, state))

    def watch() -> None:
        with redis.Redis.from_url(url) as client:
            while not stop.wait(0.02):
                look(client)

    with redis.Redis.from_url(url) as client:
        look(client)  # before the first request
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


class Swapper:
    """Sets the aliases, `swaps` times `production`, spread over the log."""

    def __init__(self, serving: Serving, registry: Registry, versions: Sequence[str]) -> None:
        self._serving, self._registry, self._versions = serving, registry, versions
        self.swaps = 0

    def run(self, clients: Clients, size: int, swaps: int) -> None:
        a, b = self._versions
        # (production, staging): (a, b), then the four states in turn.
        for k in range(2 * swaps):
            clients.reached(size * (k + 1) // (2 * swaps + 2))
            alias = ("production", "staging")[k % 2]
            version = (b, b, a, a)[k % 4]
            self._registry.promote(version, alias)
            if alias == "production":
                until(lambda version=version: self._serving.version() == version, f"version {version}", 60)
                self.swaps += 1


def night(
    day: int, month: Month, landing: str, jobs: Nights, kills: int, randomness: random.Random, counts: dict[str, int]
) -> None:
    """What runs after the end of a day (0 is the first)."""
    month.land(landing, day)
    jobs.run("ingest")
    for _ in range(kills):
        done = jobs.run("materialize", randomness.randint(1, counts["commands"]))
        counts["killed" if "sent" not in done else "completed"] += 1
    done = jobs.run("materialize")
    counts["completed"] += 1
    # A run after killed ones sends less than a whole one, so the largest number is kept.
    counts["commands"] = max(done["sent"], counts["commands"])


def replay(home: Path, given: argparse.Namespace, running: ExitStack) -> dict[str, Any]:
    started = time.monotonic()
    declared = [declaration_file.load(path) for path in FILES]
    month = simulated(declared[0], given.users, given.days)
    plans = [Plan(resolved(declaration, month.rows)) for declaration in declared]
    store_url = running.enter_context(valkey.running(home / "valkey")).url
    server = running.enter_context(mlflow_server.running(home / "mlflow"))
    settings = Settings.model_validate(
        {"home": home, "project": ROOT, "redis_url": store_url, "mlflow_url": server.url,
         "prediction_log": home / "serving/log"}
    )  # fmt: skip
    os.environ |= server.client_environment()
    registry = Registry(server.url, server.password, home / "models")
    running.callback(registry.close)
    models = [model_of(plan, month.rows, seed) for seed, plan in enumerate(plans)]
    versions = [registry.register(*model, git_commit="c0ffee") for model in models]
    for version, alias in zip(versions, ("production", "staging"), strict=True):
        registry.promote(version, alias)
    serving = Serving(
        home / "serving", store_url, registry, SERVING_CHALLENGER_ALIAS="staging", SERVING_STORE_DEADLINE_MS="1000",
        SERVING_LOG_QUEUE_RECORDS="1000000", PYTHONPATH=f"{ROOT / 'src'}:{ROOT / 'services/serving/src'}",
    )  # fmt: skip
    serving.python = str(ROOT / ".venv/serving/bin/python")
    running.callback(serving.close)
    serving.start()
    environment = {
        **os.environ, "FRAUD_HOME": str(home), "FRAUD_PROJECT": str(ROOT), "FRAUD_REDIS_URL": store_url,
        "FRAUD_MLFLOW_URL": server.url,
    }  # fmt: skip
    live = [plan.declaration for plan in plans]
    jobs = running.enter_context(nights(environment, given.entities_at_once, live))
    log = log_of(month)
    clients = Clients(serving.port, requests_of(month.rows), log)
    swapper, orders = Swapper(serving, registry, versions), checks.Orders(month.rows, plans)
    counts = {"commands": 50, "killed": 0, "completed": 0}
    randomness, arrived = random.Random(7), month.arrived_us[log]  # noqa: S311 - of the bench
    print(f"ready after {time.monotonic() - started:.0f} s: {len(log)} requests", file=sys.stderr)
    traffic = time.monotonic()
    with redis.Redis.from_url(store_url) as connection, pointer_watch(store_url, plans) as pointers:
        store = OnlineHistory(connection)
        with ThreadPoolExecutor(CLIENTS + 2) as pool:
            sending = [pool.submit(clients.run, client) for client in range(CLIENTS)]
            swapping = pool.submit(swapper.run, clients, len(log), given.swaps)
            running_night = None
            for day in range(given.days):
                midnight = (FIRST_DAY + day + 1) * US_PER_DAY
                end = int(np.searchsorted(np.maximum.accumulate(arrived), midnight))
                waited = int(np.searchsorted(np.maximum.accumulate(arrived), midnight + LATEST_US))
                clients.allow(waited if day % NIGHTS_UNTIL_LATE else end + (len(log) - end) // max(given.days - day, 1))
                clients.reached(end)
                if running_night is not None:
                    running_night.result()
                orders.read(store)
                running_night = pool.submit(
                    night, day, month, settings.landing_uri, jobs, given.kills, randomness, counts
                )
                if day % NIGHTS_UNTIL_LATE:
                    running_night.result()
                    time.sleep(POLL_S)
                print(f"day {day + 1}: {clients.count} sent, {swapper.swaps} swaps, {counts}", file=sys.stderr)
            clients.allow(len(log))
            for done in (running_night, swapping, *sending):
                assert done is not None
                done.result()
        seconds = time.monotonic() - traffic
        print(f"sent after {seconds:.0f} s", file=sys.stderr)
        jobs.run("materialize")
        orders.read(store)
    serving.stop()  # its log is complete then
    rebuilt = jobs.run("rebuild")["result"]
    print("comparing", file=sys.stderr)
    sent = [answer for some in clients.sent for answer in some]
    artifacts = dict(zip(versions, zip(plans, models, strict=True), strict=True))
    records = checks.log_of(settings)
    found = checks.compare(settings, records, sent, artifacts, orders, pointers, month.rows)
    changed = checks.falsified(records[-FALSIFIED:])
    control = checks.compare(settings, changed, [], artifacts, orders, pointers, month.rows)
    if given.audit:
        found["audit"] = audited(settings, declared[0], given.audit)
    return {
        "rows": month.rows.num_rows, **found,
        "found_of_falsified": {name: control[name] for name in ("mismatches", "mixed", "wrong_snapshot")},
        "swaps": swapper.swaps, "kills": counts["killed"],
        "materialize_runs": counts["completed"] + 1,
        "snapshots_changed_by_full_rebuild": rebuilt["days_changed"], "snapshots": rebuilt["days_built"],
        "seconds": round(seconds, 1), "requests_per_s": round(len(sent) / seconds),
    }  # fmt: skip


def audited(settings: Settings, declaration: Declaration, newest: int) -> dict[str, Any]:
    """What `fraud replay --newest` finds."""
    context = Context(settings, Params.load(settings.project / "params.yaml"), declaration, structlog.get_logger())
    try:
        result = audit_replay.run(audit_replay.Config(newest=newest), context)
    except RefusedError as error:
        return {"refused": error.message, "got": error.got}
    return {
        "equal": result.equal, "different": result.different, "recomputed": result.recomputed,
        "as_recorded": result.as_recorded,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=3_600)
    parser.add_argument("--days", type=int, default=31)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--kills", type=int, default=4, help="killed runs of materialize per night")
    parser.add_argument("--entities-at-once", type=int, default=100, help="entities that one command of a load covers")
    parser.add_argument("--audit", type=int, default=2_000, help="newest answers that `fraud replay` computes too")
    given = parser.parse_args()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr), ExitStack() as running:
        result = replay(Path(folder), given, running)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
