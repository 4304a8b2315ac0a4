"""The fire drill: inject a fault for each alert into the running stack; measure when the alert fires and resolves.

The committed rules run in a second Prometheus in which a day takes two minutes (`alert_watch`); all times are of that
clock. The drill starts with a quiet period without faults, in which no alert may fire.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final

from fraud.embedded import processes
from fraud.embedded.fire_drill import alert_watch, alerts_page, faults, record, stream_faults
from fraud.embedded.fire_drill.alert_watch import Watch
from fraud.embedded.fire_drill.faults import NotPossibleError, Site
from fraud.embedded.fire_drill.record import AlertTiming, Record
from fraud.embedded.fire_drill.traffic import Traffic, sort_candidates
from fraud.embedded.fire_drill.undo import Undo
from fraud.embedded.processes import Process
from fraud.embedded.servers import prometheus
from fraud.embedded.sockets import free_port
from fraud.embedded.stack import Stack
from fraud.errors import BadConfigError, FraudError, UnavailableError
from fraud.uris import uri_of

QUIET_S: Final = 150.0
"""Longer than the day of the drill's clock."""
DETECT_S: Final = 420.0
RESOLVE_S: Final = 420.0
_POLL_S: Final = 0.25
_READY_S: Final = 120.0
_EXPORTER: Final = "drill-exporter"
NEEDED: Final = (
    "serving", "valkey", "mlflow", "prometheus", "alertmanager",
    "airflow-api-server", "airflow-scheduler", "airflow-dag-processor",
)  # fmt: skip
_RUN: Final = {"job": "drill", "finished_s": 1.0, "exit_code": 0, "error": "", "result": None}


class DrillFailedError(FraudError):
    """An alert did not fire during its fault, fired without a fault, or did not resolve."""


# Description, fault, and the alerts that must fire. Alertmanager groups the alerts of one fault.
FAULTS: Final[tuple[tuple[str, faults.Fault, tuple[str, ...]], ...]] = (
    ("serving is stopped", faults.frozen("serving"), ("ServingDown",)),
    (
        "serving is overloaded",
        faults.overload,
        ("AvailabilityBudgetBurnsFast", "AvailabilityBudgetBurns", "AvailabilityBudgetBurnsSlow"),
    ),
    (
        "serving gets a hundredth of the processor",
        faults.slow,
        ("LatencyBudgetBurnsFast", "LatencyBudgetBurns", "LatencyBudgetBurnsSlow", "LatencyP99High"),
    ),
    (
        "the online store is stopped",
        faults.store_frozen,
        ("ServiceDown", "OnlineStoreDown", "DegradedAnswers"),
    ),
    ("the consumer of the topic is stopped", faults.frozen("stream"), ("StreamConsumerDown",)),
    ("the consumer of the topic gets a hundredth of the processor", stream_faults.stream_behind, ("StreamLagHigh",)),
    ("bad messages in the topic", stream_faults.bad_messages, ("StreamRejectedHigh",)),
    ("payments without a daily snapshot", faults.no_snapshot, ("DailySnapshotLate",)),
    ("Airflow's scheduler is stopped", faults.frozen("airflow-scheduler"), ("AirflowDown",)),
    ("Airflow's DAG processor is stopped", faults.frozen("airflow-dag-processor"), ("AirflowDown",)),
    ("Airflow's API server is stopped", faults.frozen("airflow-api-server"), ("AirflowDown",)),
    ("the registry is stopped", faults.frozen("mlflow"), ("RegistryUnreachable",)),
    ("a tampered model is Production", faults.tampered_model, ("ArtefactRefused", "ServingBehindRegistry")),
    ("serving finds no model", faults.no_model, ("NoProductionModel",)),
    ("the disk of the prediction log is full", faults.full_disk, ("PredictionLogLost",)),
    ("ten times the usual share of flagged transactions", faults.attack, ("FraudRatioOffBaseline",)),
    ("amounts of ten times the usual", faults.wrong_units, ("AmountOffTraining",)),
    ("flagged transactions near the threshold", faults.low_confidence, ("ConfidenceLow",)),
    ("no delivery for 27 hours", faults.aged("transactions", 27), ("TransactionsStale",)),
    ("no labels for 73 hours", faults.aged("labels", 73), ("LabelsStale",)),
    ("a day without features", faults.ahead("transactions"), ("FeaturesStale",)),
    (
        "a day without scores and drift report",
        faults.ahead("transactions", "features"),
        ("ScoresStale", "MonitorBehind"),
    ),
    (
        "a delivery of bad rows",
        faults.edited(
            "job_runs/ingest/succeeded.json",
            lambda r: r.update(result={"accepted": 90, "quarantined": 10, "duplicates": 0}),
            _RUN,
        ),
        ("QuarantineRateHigh",),
    ),
    ("a job fails", faults.edited("job_runs/score/last.json", lambda r: r.update(exit_code=1), _RUN), ("JobFailed",)),
    (
        "a job hangs",
        faults.edited(
            "job_runs/score/last.json",
            lambda r: r.update(exit_code=None, finished_s=None, started_s=time.time() - 4 * 3600),
            _RUN,
        ),
        ("JobStuck",),
    ),
    (
        "a gate failed",
        faults.edited(
            "job_runs/train/succeeded.json",
            lambda r: r.update(result={"gates": [{"name": "drill", "passed": False}]}),
            _RUN,
        ),
        ("GatesFailed",),
    ),
    ("drift", faults.edited("reports/drift/*/drift.json", lambda r: r.update(verdict="drift")), ("DriftFound",)),
    (
        "concept drift",
        faults.edited("reports/concept/*/concept.json", lambda r: r.update(verdict="drift")),
        ("ConceptDriftFound",),
    ),
    ("skew", faults.edited("reports/skew/*/skew.json", lambda r: r.update(events_lost=1)), ("SkewFound",)),
    ("a job's record is damaged", faults.unreadable, ("SourceUnreadable",)),
    ("the exporter is stopped", faults.exporter_frozen, ("PlatformMetricsDown",)),
    ("Prometheus has no Alertmanager", faults.no_alertmanager, ("AlertmanagerDown",)),
)


class Drill:
    """One drill. `progress` is called with each line of progress. Raises BadConfigError when the stack does not run."""

    def __init__(self, stack: Stack, progress: Callable[[str], None]) -> None:
        self._stack, self._progress = stack, progress
        missing = [name for name in NEEDED if processes.running_process(name, stack.run) is None]
        program = prometheus.binary()
        if missing or program is None:
            raise BadConfigError(
                "the drill needs a running stack", got=f"not running: {missing}", hint="make demo DETACH=1"
            )
        self._program, self._undo = program, Undo(stack)

    def run(self, only: list[str], *, fresh: bool = False) -> Record:
        """Inject all faults, or those of the named alerts, and print a table.

        A drill of all faults continues an interrupted one unless `fresh`, and at its end writes the table to the
        documentation. Raises DrillFailedError at the end, also for a fault that is not possible.
        """
        self._undo.repair_all()
        for name in (_EXPORTER, alert_watch.NAME):
            processes.stop(name, self._stack.run)
        path = self._stack.project / (record.CHOSEN if only else record.ALL)
        done = Record.begin(path, record.identity(self._stack), fresh=fresh or bool(only))
        chosen = [entry for entry in FAULTS if not only or set(only) & set(entry[2])]
        left = [entry for entry in chosen if entry[0] not in done.faults]
        if len(left) < len(chosen):
            self._progress(
                f"continuing the drill of {done.sessions[0].started}: {len(left)} of {len(chosen)} faults left"
            )
        if not self._stack.stream and any("Stream" in alert for _, _, alerts in left for alert in alerts):
            self._progress("the stack has no streaming: the drill will fail on its alerts; make start STREAM=1")
        with self._site() as site:
            noise = self._fired_without_fault(site)
            done.sessions[-1].fired_without_fault = sorted(noise)
            for number, (name, fault, alerts) in enumerate(left, start=1):
                self._progress(f"fault {number} of {len(left)}: {name}")
                done.add(self._inject(site, name, fault, alerts, noise))
        done.complete = True
        done.write()
        self._print(done)
        if not only:
            page = alerts_page.write_result(self._stack.project, "fire drill", done.as_markdown())
            self._progress(f"the table is in {page}")
        if failure := done.failure():
            raise DrillFailedError("the drill found alerts that do not work", got=f"\n{failure}", hint=f"read {path}")
        return done

    @contextmanager
    def _site(self) -> Iterator[Site]:
        folder = self._stack.home / "drill"
        shutil.rmtree(folder, ignore_errors=True)
        copy_exporters_input(self._stack.home, folder / "copy")
        url = self._stack.url("serving")
        self._progress("sorting requests by serving's decision")
        pool = sort_candidates(url)
        with ExitStack() as stack:
            port = free_port()
            exporter = stack.enter_context(self._exporter(folder, port))
            ports = {"serving": self._stack.ports["serving"], "platform": port,
                     "alertmanager": self._stack.ports["alertmanager"]}  # fmt: skip
            if self._stack.stream:
                ports["stream"] = self._stack.ports["stream"]
            watch = stack.enter_context(
                closing(Watch(folder / "prometheus", self._stack, self._program, free_port(), ports))
            )
            self._until(watch.is_ready, "the drill's Prometheus")
            self._until(lambda: watch.value('up{job="platform"} == 1') is not None, "the drill's exporter")
            share = watch.value("fraud_baseline_flagged_ratio") or 0.0
            mean = watch.value("fraud_baseline_amount_mean")
            traffic = stack.enter_context(closing(Traffic(url, pool, share, mean)))
            yield Site(self._stack, self._undo, folder / "copy", exporter, traffic, pool, watch, share)

    @contextmanager
    def _exporter(self, folder: Path, port: int) -> Iterator[Process]:
        copy = uri_of(folder / "copy")
        env = self._stack.environment("ml") | {
            "FRAUD_LAKE_URI": f"{copy}/lake", "FRAUD_REPORTS_URI": f"{copy}/reports",
            "FRAUD_JOB_RUNS_URI": f"{copy}/job_runs",
        }  # fmt: skip
        command = [self._stack.program("ml", "fraud"), "export-metrics", f"--port={port}"]
        try:
            yield processes.start(_EXPORTER, command, env, self._stack.run, folder / "exporter.log")
        finally:
            processes.stop(_EXPORTER, self._stack.run)

    def _until(self, condition: Callable[[], bool], server: str) -> None:
        deadline = time.monotonic() + _READY_S
        while not condition():
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{server} is not ready after {_READY_S:.0f} s", hint=f"read {self._stack.home / 'drill'}"
                )
            time.sleep(_POLL_S)

    def _fired_without_fault(self, site: Site) -> set[str]:
        """The alerts that fire during QUIET_S of usual traffic without a fault."""
        self._progress(f"{QUIET_S:.0f} s of usual traffic without a fault: no alert may fire")
        fired: set[str] = set()
        deadline = time.monotonic() + QUIET_S
        while time.monotonic() < deadline:
            fired |= site.watch.firing() - {"Watchdog"}
            time.sleep(_POLL_S)
        self._progress(f"fired: {sorted(fired)}" if fired else "no alert fired")
        return fired

    def _inject(
        self, site: Site, name: str, fault: faults.Fault, alerts: tuple[str, ...], noise: set[str]
    ) -> list[AlertTiming]:
        skipped = [AlertTiming(alert, name, None, None, "fired before") for alert in alerts if alert in noise]
        alerts = tuple(alert for alert in alerts if alert not in noise)
        if not alerts:
            return skipped
        # An alert that an earlier fault fired must have resolved, or its time would be measured for this fault.
        self._times(site, lambda firing: {a for a in alerts if a not in firing}, len(alerts), RESOLVE_S)
        try:
            with fault(site):
                detected = self._times(site, lambda firing: {a for a in alerts if a in firing}, len(alerts), DETECT_S)
        except NotPossibleError as error:
            self._progress(f"  not possible: {error}")
            return skipped + [AlertTiming(alert, name, None, None, f"not possible: {error}") for alert in alerts]
        resolved = self._times(site, lambda firing: {a for a in alerts if a not in firing}, len(alerts), RESOLVE_S)
        timings = [AlertTiming(a, name, detected.get(a), resolved.get(a)) for a in alerts]
        for timing in timings:
            self._progress(
                f"  {timing.alert}: fired after {_s(timing.detected_s)}, resolved after {_s(timing.resolved_s)}"
            )
        return skipped + timings

    def _times(
        self, site: Site, selected: Callable[[set[str]], set[str]], count: int, limit_s: float
    ) -> dict[str, float]:
        """Seconds until `selected`, applied to the firing alerts, first returned each alert."""
        started, times = time.monotonic(), dict[str, float]()
        while len(times) < count and time.monotonic() - started < limit_s:
            for alert in selected(site.watch.firing()):
                times.setdefault(alert, time.monotonic() - started)
            time.sleep(_POLL_S)
        return times

    def _print(self, done: Record) -> None:
        self._progress(f"{'alert':<30}{'fired':>8}{'resolved':>10}  fault")
        for t in done.alerts:
            note = f" ({t.note})" if t.note else ""
            self._progress(f"{t.alert:<30}{_s(t.detected_s):>8}{_s(t.resolved_s):>10}  {t.fault}{note}")
        self._progress(f"{done.seconds / 60:.1f} minutes in {len(done.sessions)} session(s)")


def _s(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def copy_exporters_input(home: Path, copy: Path) -> None:
    """Copy what the exporter reads, with its times: tables without data objects, answers, reports, job records."""
    tables = [f"lake/{depth}/{folder}/*" for depth in ("*", "*/*") for folder in ("_delta_log", "_partitions")]
    for pattern in (*tables, "lake/predictions/dt=*/*.parquet", "reports/*/*/*.json", "job_runs/*/*.json"):
        for path in home.glob(pattern):
            target = copy / path.relative_to(home)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
    copy.mkdir(parents=True, exist_ok=True)
