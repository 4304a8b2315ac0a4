"""Faults that the fire drill injects, each a context: broken inside, as it was outside.

Faults of processes are real (signals, limits, connections). Faults of data are made in the drill's own copy of what the
exporter reads (manifests, reports' JSON, job records): nothing of the platform's data is touched.
"""

import itertools
import json
import os
import resource
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from fraud.embedded import processes, services
from fraud.embedded.fire_drill import undo
from fraud.embedded.fire_drill.alert_watch import Watch
from fraud.embedded.fire_drill.traffic import Pool, Traffic
from fraud.embedded.fire_drill.undo import Undo
from fraud.embedded.processes import Process
from fraud.embedded.stack import Stack

_HOUR: Final = 3600
_STOPPED_S, _RUNNING_S = 0.22, 0.002
"""Stopped for longer than the objective."""
_BATCH: Final = 200
_CALLER_S: Final = 10.0
_POLL_S: Final = 0.05
_CALLERS: Final = 400
"""More than serving takes at once (SERVING_MAX_IN_FLIGHT, 96)."""


class NotPossibleError(Exception):
    """The stack has not what this fault needs; the message says what."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where faults are injected."""

    stack: Stack
    undo: Undo
    copy: Path
    """lake/, reports/, job_runs/ as the drill's exporter reads them."""
    exporter: Process
    traffic: Traffic
    pool: Pool
    watch: Watch
    usual_share: float


Fault = Callable[[Site], AbstractContextManager[None]]


def _process(site: Site, service: str) -> Process:
    found = processes.remembered(service, site.stack.run)
    if found is None:
        raise NotPossibleError(f"{service} does not run")
    return found


@contextmanager
def _frozen(site: Site, found: Sequence[Process]) -> Iterator[None]:
    with site.undo.after(undo.stopped(found)):
        for process in found:
            os.kill(process.pid, signal.SIGSTOP)
        yield


def frozen(service: str) -> Fault:
    """Every process of the service stands still: it holds its port and answers nobody."""

    @contextmanager
    def fault(site: Site) -> Iterator[None]:
        with _frozen(site, processes.in_session(_process(site, service).pid)):
            yield

    return fault


@contextmanager
def exporter_frozen(site: Site) -> Iterator[None]:
    """The drill's exporter answers nobody."""
    with _frozen(site, [site.exporter]):
        yield


@contextmanager
def _meanwhile(step: Callable[[], None]) -> Iterator[None]:
    """`step` again and again, in a thread of its own."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            step()

    thread = threading.Thread(target=work, name="drill-fault")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _caller(site: Site, path: str, body: Callable[[], Mapping[str, Any]]) -> Callable[[], None]:
    """A step that sends one more request, whatever comes back."""

    def step() -> None:
        with suppress(httpx.HTTPError):
            httpx.post(f"{site.stack.url('serving')}{path}", json=body(), timeout=_CALLER_S)
        time.sleep(_POLL_S)

    return step


@contextmanager
def slow(site: Site) -> Iterator[None]:
    """Serving gets the processor for a hundredth of the time, in pieces shorter than a batch takes."""
    serving = _process(site, "serving")

    def throttle() -> None:
        os.kill(serving.pid, signal.SIGSTOP)
        time.sleep(_STOPPED_S)
        os.kill(serving.pid, signal.SIGCONT)
        time.sleep(_RUNNING_S)

    usual = site.traffic.usual  # in order of amount: every so many of them have the usual mean
    batch = {"transactions": [usual[n * len(usual) // _BATCH] for n in range(_BATCH)]}
    with (
        site.undo.after(undo.stopped([serving])),
        _meanwhile(throttle),
        _meanwhile(_caller(site, "/predict/batch", lambda: batch)),
    ):
        yield


@contextmanager
def store_frozen(site: Site) -> Iterator[None]:
    """The online store answers nobody, while a user pays: the drill's own, so that nobody's history changes."""
    numbers = itertools.count()

    def payment() -> dict[str, Any]:
        return _payment(site, f"drill-{time.time()}-{next(numbers)}")

    with frozen("valkey")(site), _meanwhile(_caller(site, "/predict", payment)):
        yield


@contextmanager
def overload(site: Site) -> Iterator[None]:
    """More requests at work than serving takes: so many callers with one payment each, again and again, all at once.

    Each repeats its own payment of the drill's user, so that nobody's history changes, nor the drill's after the first.
    """
    began = time.time()
    with ExitStack() as stack:
        callers = []
        for number in range(_CALLERS):
            caller = stack.enter_context(
                socket.create_connection(("127.0.0.1", site.stack.ports["serving"]), _CALLER_S)
            )
            body = json.dumps(_payment(site, f"drill-{began}-{number}")).encode()
            head = f"POST /predict HTTP/1.1\r\nHost: drill\r\nContent-Length: {len(body)}\r\n\r\n"
            callers.append((caller, head.encode() + body))

        def ask() -> None:
            for caller, request in callers:
                caller.sendall(request)
            for caller, _ in callers:
                caller.recv(65_536)
            time.sleep(_POLL_S)

        stack.enter_context(_meanwhile(ask))
        yield


def _payment(site: Site, transaction: str) -> dict[str, Any]:
    """Of the drill's own user, and of the usual amount: another alert must not ring for it."""
    return {
        "transaction_id": transaction, "user_id": "drill", "merchant_id": "drill", "merchant_category": "grocery",
        "event_timestamp": datetime.now(UTC).isoformat(), "amount": site.traffic.mean_amount, "distance_from_home": 1.0,
    }  # fmt: skip


@contextmanager
def full_disk(site: Site) -> Iterator[None]:
    """Serving may not make any file larger than it is: every write of the prediction log fails."""
    serving = _process(site, "serving")
    before = resource.prlimit(serving.pid, resource.RLIMIT_FSIZE)
    with site.undo.after(undo.limited(serving, before)):
        resource.prlimit(serving.pid, resource.RLIMIT_FSIZE, (1, before[1]))
        yield


@contextmanager
def no_alertmanager(site: Site) -> Iterator[None]:
    """Prometheus knows no Alertmanager any more."""
    site.watch.point("alertmanager", [])
    try:
        yield
    finally:
        site.watch.point("alertmanager", [site.stack.ports["alertmanager"]])


@contextmanager
def tampered_model(site: Site) -> Iterator[None]:
    """`production` names a version whose bytes are not what was registered."""
    with undo.registry(site.stack) as api:
        named = api.get("registered-models/alias", params={"name": undo.MODEL, "alias": "production"})
        if not named.is_success:
            raise NotPossibleError("there is no Production model")
        good = named.json()["model_version"]
        tags = [t if t["key"] != "model_sha256" else {**t, "value": "0" * 64} for t in good.get("tags", [])]
        made = api.post(
            "model-versions/create",
            json={"name": undo.MODEL, "source": good["source"], "run_id": good["run_id"], "tags": tags},
        )
        bad = made.raise_for_status().json()["model_version"]["version"]
        with site.undo.after(undo.renamed(good["version"], bad)):
            body = {"name": undo.MODEL, "alias": "production", "version": bad}
            api.post("registered-models/alias", json=body).raise_for_status()
            yield


@contextmanager
def no_model(site: Site) -> Iterator[None]:
    """Serving starts again, without its local copy, and follows a model that does not exist."""
    empty = {"SERVING_MODEL_CACHE": str(site.copy / "no-model"), "SERVING_MODEL_NAME": "drill-none"}
    with site.undo.after(undo.modelless()):
        services.restart(site.stack, services.serving(site.stack), empty)
        yield


@contextmanager
def attack(site: Site) -> Iterator[None]:
    """Ten times the usual share of stops."""
    if not site.pool.fraud:
        raise NotPossibleError("serving stops none of the drill's requests")
    site.traffic.fraud_share = min(10 * max(site.usual_share, 0.01), 0.9)
    try:
        yield
    finally:
        site.traffic.fraud_share = site.usual_share


@contextmanager
def wrong_units(site: Site) -> Iterator[None]:
    """Amounts of ten times what they were."""
    site.traffic.amount_factor = 10.0
    try:
        yield
    finally:
        site.traffic.amount_factor = 1.0


@contextmanager
def doubt(site: Site) -> Iterator[None]:
    """Stops near the threshold only, and enough of them to count."""
    if not site.pool.doubtful:
        raise NotPossibleError("serving stops none of the drill's requests")
    site.traffic.stops, site.traffic.fraud_share = site.pool.doubtful, max(site.usual_share, 0.05)
    try:
        yield
    finally:
        site.traffic.stops, site.traffic.fraud_share = site.pool.fraud, site.usual_share


def _newest(site: Site, dataset: str) -> Path:
    found = sorted((site.copy / "lake" / dataset).glob("dt=*/_manifest.json"))
    if not found:
        raise NotPossibleError(f"the lake has no {dataset}")
    return found[-1]


def aged(dataset: str, hours: float) -> Fault:
    """The newest day was published so long ago."""

    @contextmanager
    def fault(site: Site) -> Iterator[None]:
        path = _newest(site, dataset)
        before = path.stat().st_mtime
        os.utime(path, (before, time.time() - hours * _HOUR))
        try:
            yield
        finally:
            os.utime(path, (before, before))

    return fault


def ahead(*datasets: str) -> Fault:
    """These have one more day than those made of them."""

    @contextmanager
    def fault(site: Site) -> Iterator[None]:
        made = []
        for dataset in datasets:
            newest = _newest(site, dataset).parent
            day = date.fromisoformat(newest.name.removeprefix("dt=")) + timedelta(days=1)
            made.append(shutil.copytree(newest, newest.with_name(f"dt={day}")))
        try:
            yield
        finally:
            for folder in made:
                shutil.rmtree(folder)

    return fault


def edited(
    pattern: str, change: Callable[[dict[str, Any]], object], otherwise: Mapping[str, Any] | None = None
) -> Fault:
    """The newest file of the copy that matches has another content; `otherwise` is what it is where there is none."""

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
    """A job's record is no JSON."""
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
