"""The faults of the fire drill. Each is a context manager: the fault is active inside and undone at the end.

Faults of processes are real (signals, limits, connections). Faults of data change the drill's copy of the exporter's
input (tables, JSON records of reports, job records). The platform's data is not changed.
"""

import itertools
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from fraud import declaration_file
from fraud.core import short_request
from fraud.embedded import processes, services
from fraud.embedded.fire_drill import undo
from fraud.embedded.fire_drill.alert_watch import Watch
from fraud.embedded.fire_drill.traffic import Pool, Traffic
from fraud.embedded.fire_drill.undo import Undo
from fraud.embedded.processes import Process
from fraud.embedded.stack import Stack
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.lake.records import Partition
from fraud.uris import uri_of

_STOPPED_S, _RUNNING_S = 0.22, 0.002
"""Seconds for which serving is stopped (longer than the latency objective) and runs, in turn."""
_BATCH: Final = 200
_CALLER_S: Final = 10.0
_POLL_S: Final = 0.05
_CALLERS: Final = 400
"""More than serving's limit of requests in progress (SERVING_MAX_IN_FLIGHT, 96)."""

_BEFORE_SNAPSHOTS: Final = "2001-01-01T12:00:00Z"


class NotPossibleError(Exception):
    """The stack lacks something that the fault needs. The message names it."""


@dataclass(frozen=True, slots=True)
class Site:
    """The running parts of a drill, into which faults are injected."""

    stack: Stack
    undo: Undo
    copy: Path
    """The exporter's input: lake/, reports/, job_runs/."""
    exporter: Process
    traffic: Traffic
    pool: Pool
    watch: Watch
    usual_share: float


Fault = Callable[[Site], AbstractContextManager[None]]


def process_of(site: Site, service: str) -> Process:
    found = processes.running_process(service, site.stack.run)
    if found is None:
        hint = "; make start STREAM=1" if service in ("stream", "kafka") else ""
        raise NotPossibleError(f"{service} does not run{hint}")
    return found


@contextmanager
def _frozen(site: Site, found: Sequence[Process]) -> Iterator[None]:
    with site.undo.after(undo.stopped(found)):
        for process in found:
            os.kill(process.pid, signal.SIGSTOP)
        yield


def frozen(service: str) -> Fault:
    """Stop every process of the service (SIGSTOP). Its port stays open and requests get no answer."""

    @contextmanager
    def fault(site: Site) -> Iterator[None]:
        with _frozen(site, processes.in_session(process_of(site, service).pid)):
            yield

    return fault


@contextmanager
def exporter_frozen(site: Site) -> Iterator[None]:
    """Stop the drill's exporter (SIGSTOP)."""
    with _frozen(site, [site.exporter]):
        yield


@contextmanager
def repeating(step: Callable[[], None]) -> Iterator[None]:
    """Call `step` repeatedly in a thread until the end of the `with` block."""
    ended = threading.Event()

    def work() -> None:
        while not ended.is_set():
            step()

    thread = threading.Thread(target=work, name="drill-fault")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _caller(site: Site, path: str, body: Callable[[], Mapping[str, Any]]) -> Callable[[], None]:
    """A step that sends one request and ignores the answer."""

    def step() -> None:
        with suppress(httpx.HTTPError):
            httpx.post(f"{site.stack.url('serving')}{path}", json=body(), timeout=_CALLER_S)
        time.sleep(_POLL_S)

    return step


def throttle(process: Process) -> None:
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(_STOPPED_S)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(_RUNNING_S)


@contextmanager
def slow(site: Site) -> Iterator[None]:
    """Serving runs for a hundredth of the time, in slices shorter than a batch takes."""
    serving = process_of(site, "serving")
    usual = site.traffic.usual  # sorted by amount: an even sample has the usual mean
    batch = {"transactions": [usual[n * len(usual) // _BATCH] for n in range(_BATCH)]}
    with (
        site.undo.after(undo.stopped([serving])),
        repeating(lambda: throttle(serving)),
        repeating(_caller(site, "/predict/batch", lambda: batch)),
    ):
        yield


@contextmanager
def store_frozen(site: Site) -> Iterator[None]:
    """Stop the online store while the drill's user pays. No other user's history changes."""
    numbers = itertools.count()

    def payment() -> dict[str, Any]:
        return payment_of(site, f"drill-{time.time()}-{next(numbers)}")

    with frozen("valkey")(site), repeating(_caller(site, "/predict", payment)):
        yield


@contextmanager
def overload(site: Site) -> Iterator[None]:
    """More concurrent requests than serving accepts: _CALLERS connections repeatedly send one payment each.

    Each connection repeats the same payment of the drill's user. No other user's history changes, and the drill's
    changes only once for each payment.
    """
    started = time.time()
    with ExitStack() as stack:
        callers = []
        for number in range(_CALLERS):
            caller = stack.enter_context(
                socket.create_connection(("127.0.0.1", site.stack.ports["serving"]), _CALLER_S)
            )
            body = json.dumps(payment_of(site, f"drill-{started}-{number}")).encode()
            head = f"POST /predict HTTP/1.1\r\nHost: drill\r\nContent-Length: {len(body)}\r\n\r\n"
            callers.append((caller, head.encode() + body))

        def send_all() -> None:
            for caller, request in callers:
                caller.sendall(request)
            for caller, _ in callers:
                caller.recv(65_536)
            time.sleep(_POLL_S)

        stack.enter_context(repeating(send_all))
        yield


def payment_of(site: Site, transaction: str) -> dict[str, Any]:
    """A payment of the drill's user with the usual amount, so that it does not fire another alert."""
    return {
        "transaction_id": transaction, "user_id": "drill", "merchant_id": "drill", short_request.CATEGORY: "grocery",
        "event_timestamp": datetime.now(UTC).isoformat(), "amount": site.traffic.mean_amount,
        short_request.DISTANCE: 1.0,
    }  # fmt: skip


@contextmanager
def no_snapshot(site: Site) -> Iterator[None]:
    """Payments at a merchant that are older than every daily snapshot. They have no user, so no history changes."""
    if site.watch.value("sum(serving_daily_snapshot_total)") is None:
        raise NotPossibleError("the Production version has no daily features")
    payment = payment_of(site, "") | {"event_timestamp": _BEFORE_SNAPSHOTS}
    del payment["transaction_id"], payment["user_id"]
    with repeating(_caller(site, "/predict", lambda: payment)):
        yield


@contextmanager
def full_disk(site: Site) -> Iterator[None]:
    """Limit serving's file size to one byte, so that every write to the prediction log fails."""
    serving = process_of(site, "serving")
    before = resource.prlimit(serving.pid, resource.RLIMIT_FSIZE)
    with site.undo.after(undo.limited(serving, before)):
        resource.prlimit(serving.pid, resource.RLIMIT_FSIZE, (1, before[1]))
        yield


@contextmanager
def no_alertmanager(site: Site) -> Iterator[None]:
    """Remove Alertmanager from Prometheus' targets."""
    site.watch.point("alertmanager", [])
    try:
        yield
    finally:
        site.watch.point("alertmanager", [site.stack.ports["alertmanager"]])


@contextmanager
def tampered_model(site: Site) -> Iterator[None]:
    """Move `production` to a version whose bytes do not have the registered sha256."""
    with undo.registry_client(site.stack) as api:
        production = api.get("registered-models/alias", params={"name": undo.MODEL, "alias": "production"})
        if not production.is_success:
            raise NotPossibleError("there is no Production model")
        good = production.json()["model_version"]
        tags = [t if t["key"] != "model_sha256" else {**t, "value": "0" * 64} for t in good.get("tags", [])]
        created = api.post(
            "model-versions/create",
            json={"name": undo.MODEL, "source": good["source"], "run_id": good["run_id"], "tags": tags},
        )
        bad = created.raise_for_status().json()["model_version"]["version"]
        with site.undo.after(undo.renamed(good["version"], bad)):
            body = {"name": undo.MODEL, "alias": "production", "version": bad}
            api.post("registered-models/alias", json=body).raise_for_status()
            yield


@contextmanager
def no_model(site: Site) -> Iterator[None]:
    """Restart serving without its local copy and with the name of a model that does not exist."""
    empty = {"SERVING_MODEL_CACHE": str(site.copy / "no-model"), "SERVING_MODEL_NAME": "drill-none"}
    with site.undo.after(undo.modelless()):
        services.restart(site.stack, services.serving(site.stack), empty)
        yield


@contextmanager
def attack(site: Site) -> Iterator[None]:
    """Ten times the usual share of flagged transactions."""
    if not site.pool.fraud:
        raise NotPossibleError("serving flags none of the drill's requests")
    site.traffic.fraud_share = min(10 * max(site.usual_share, 0.01), 0.9)
    try:
        yield
    finally:
        site.traffic.fraud_share = site.usual_share


@contextmanager
def wrong_units(site: Site) -> Iterator[None]:
    """Amounts multiplied by ten."""
    site.traffic.amount_factor = 10.0
    try:
        yield
    finally:
        site.traffic.amount_factor = 1.0


@contextmanager
def low_confidence(site: Site) -> Iterator[None]:
    """Flagged transactions only near the threshold, and enough of them for the alert."""
    if not site.pool.uncertain:
        raise NotPossibleError("serving flags none of the drill's requests")
    site.traffic.flagged, site.traffic.fraud_share = site.pool.uncertain, max(site.usual_share, 0.05)
    try:
        yield
    finally:
        site.traffic.flagged, site.traffic.fraud_share = site.pool.fraud, site.usual_share


def _newest(site: Site, name: str) -> tuple[Dataset, Partition]:
    if name == "features":
        name = catalog.features(declaration_file.load_of(site.stack.project).stored_hash).name
    dataset = Dataset(uri_of(site.copy / "lake"), name)
    partitions = dataset.open().contents.partitions
    if not partitions:
        raise NotPossibleError(f"the lake has no {name}")
    return dataset, partitions[max(partitions)]


def aged(dataset: str, hours: float) -> Fault:
    """The newest day of the dataset was published `hours` ago."""

    @contextmanager
    def fault(site: Site) -> Iterator[None]:
        table, newest = _newest(site, dataset)
        before = table.table.published()[newest.name]

        def publish(at: datetime) -> None:
            table.drop([newest.name])
            table.commit([newest], at=at)

        publish(datetime.now(UTC) - timedelta(hours=hours))
        try:
            yield
        finally:
            publish(before)

    return fault


def ahead(*datasets: str) -> Fault:
    """The datasets have one day more than the datasets that are computed from them."""

    @contextmanager
    def fault(site: Site) -> Iterator[None]:
        created: list[tuple[Dataset, str]] = []
        for dataset in datasets:
            table, newest = _newest(site, dataset)
            day = str(date.fromisoformat(newest.name) + timedelta(days=1))
            table.commit([replace(newest, name=day)])
            created.append((table, day))
        try:
            yield
        finally:
            for table, day in created:
                table.drop([day])

    return fault


def edited(
    pattern: str, change: Callable[[dict[str, Any]], object], otherwise: Mapping[str, Any] | None = None
) -> Fault:
    """Change the newest JSON file of the copy that matches `pattern`. `otherwise`: the content if there is none."""

    @contextmanager
    def fault(site: Site) -> Iterator[None]:
        found = sorted(site.copy.glob(pattern))
        if not found and otherwise is None:
            raise NotPossibleError(f"there is no {pattern} yet")
        path = found[-1] if found else site.copy / pattern
        before = path.read_bytes() if found else None
        record = json.loads(before) if before else {**(otherwise or {}), "started_s": time.time()}
        change(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
        try:
            yield
        finally:
            if before is None:
                path.unlink()
            else:
                path.write_bytes(before)

    return fault


@contextmanager
def unreadable(site: Site) -> Iterator[None]:
    """The record of a job is not valid JSON."""
    path = site.copy / "job_runs/ingest/last.json"
    before = path.read_bytes() if path.is_file() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    try:
        yield
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
