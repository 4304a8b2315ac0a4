"""Collect metrics of lake, jobs, reports, registry and services at each scrape, without state.

Sources are read independently. A source that cannot be read gives `fraud_source_up` 0 and no other metrics. A value
that does not exist yet (no score, no report) has no series. docs/adr/0020-batch-metrics-by-exporter.md has the reasons.
"""

import json
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import httpx
import pyarrow.compute as pc
from prometheus_client.core import GaugeMetricFamily, Metric

from fraud.core.declaration import Declaration
from fraud.errors import FraudError
from fraud.job import Context
from fraud.lake import catalog, job_runs
from fraud.lake.objects import listed, located
from fraud.monitoring import declared_metrics, online_store_metrics
from fraud.monitoring.declared_metrics import day_seconds, family
from fraud.registry import mlflow_client, model_versions
from fraud.registry.mlflow_client import lookup, registry_errors
from fraud.settings import Settings
from fraud.streams.redis_client import STORE_ERRORS

REPORTS: Final = ("drift", "concept", "skew")
_AIRFLOW_OPTIONAL: Final = ("triggerer",)
BASELINE_DAYS: Final = 28
MIN_BASELINE_DAYS: Final = 7
ASSUMED_SPREAD: Final = 0.25
"""Relative standard deviation of a day's share of flagged transactions, assumed until MIN_BASELINE_DAYS were scored."""
_PROBE_SECONDS: Final = 2.0
LIVE_SECONDS: Final = 300.0
FEATURES: Final = "features"
"""Value of the label `dataset` of all datasets of features."""
_UNREADABLE: Final = (FraudError, OSError, *STORE_ERRORS, httpx.HTTPError, KeyError, ValueError)
"""Errors of a source that is down or has unexpected content."""


class PlatformMetrics:
    """Collector of all sources. `jobs` are the names of the monitored jobs."""

    def __init__(self, context: Context, jobs: Iterable[str]) -> None:
        settings = context.settings
        self._settings, self._jobs = settings, sorted(jobs)
        self._one_at_a_time = threading.Lock()
        self._live = _Live(context)
        self._sources: Final[Mapping[str, Callable[[], Iterator[Metric]]]] = {
            "declarations": lambda: declared_metrics.declarations(self._live.read()),
            "lake": lambda: lake(settings.lake_uri, self._live.declarations),
            "predictions": lambda: declared_metrics.missing(settings.lake_uri, self._live.declarations),
            "jobs": lambda: jobs_last_runs(settings.job_runs_uri, self._jobs),
            "reports": lambda: reports(settings.reports_uri),
            "registry": lambda: registry(settings),
            "services": lambda: services(settings, self._live.declarations),
        }
        """In the order in which they are read."""

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registration does not read the sources."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Read every source. Scrapes are serialized, so an abandoned scrape does not run in parallel with the next."""
        with self._one_at_a_time:
            return iter(list(self._collect()))

    def _collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("fraud_source_up", "1 when this source could be read", labels=["source"])
        for name, read in self._sources.items():
            try:
                families = list(read())
            except _UNREADABLE:
                up.add_metric([name], 0)
            else:
                up.add_metric([name], 1)
                yield from families
        yield up
        docs = GaugeMetricFamily("fraud_docs_info", "URL of docs/", labels=["url"])
        docs.add_metric([self._settings.docs_url], 1)
        yield docs


class _Live:
    """The declarations that are in use. They are read again after `LIVE_SECONDS`."""

    def __init__(self, context: Context) -> None:
        self._context, self._read_at = context, -math.inf
        self._live: Sequence[Declaration] = ()

    @property
    def declarations(self) -> list[Declaration]:
        """The project's declaration, and those of the versions with an alias as they were read last."""
        return list({d.hash: d for d in (self._context.declaration, *self._live)}.values())

    def read(self) -> Sequence[Declaration]:
        """The declarations of the versions with an alias. Raises FraudError when the registry does not answer."""
        if time.monotonic() - self._read_at > LIVE_SECONDS:
            _check_mlflow(self._context.settings)
            self._live, self._read_at = self._context.live_declarations(), time.monotonic()
        return self._live


def _check_mlflow(settings: Settings) -> None:
    """Raises HTTPError after a short time. MLflow's client retries longer than a scrape may take."""
    httpx.get(f"{settings.mlflow_url}/health", timeout=_PROBE_SECONDS).raise_for_status()


def _gauge(name: str, text: str, values: Mapping[str, float | None], label: str = "") -> Iterator[Metric]:
    """One metric family, without series for None. Without a label, `values` has one entry with the key ""."""
    family = GaugeMetricFamily(name, text, labels=[label] if label else [])
    for key, value in values.items():
        if value is not None:
            family.add_metric([key] if label else [], value)
    if family.samples:
        yield family


def _one(name: str, text: str, value: float | None) -> Iterator[Metric]:
    return _gauge(name, text, {"": value})


def lake(lake_uri: str, declarations: Sequence[Declaration]) -> Iterator[Metric]:
    """Newest day of each dataset, its rows and publication; newest daily snapshots; the stored features.

    `features` exists per declaration; the label `declaration` is empty for other datasets.
    """
    newest: dict[tuple[str, ...], float] = {}
    published: dict[tuple[str, ...], float] = {}
    rows: dict[tuple[str, ...], float] = {}
    datasets = [((d.name, ""), d) for d in catalog.ALL if d.key == "dt"]
    stored = dict.fromkeys(d.stored_hash for d in declarations)
    datasets += [((FEATURES, hash_[:12]), catalog.features(hash_)) for hash_ in stored]
    for name, definition in datasets:
        dataset = definition.at(lake_uri)
        partitions = dataset.open().contents.partitions
        if not partitions:
            continue
        day = max(partitions)
        newest[name], rows[name] = day_seconds(day), partitions[day].rows
        published[name] = dataset.table.published()[day].timestamp()
    labels = ("dataset", "declaration")
    yield from family("fraud_dataset_newest_day_seconds", "Midnight UTC of the newest day", labels, newest)
    text = "Time of the last publication of the newest day"
    yield from family("fraud_dataset_published_seconds", text, labels, published)
    yield from family("fraud_dataset_rows", "Rows of the newest day", labels, rows)
    yield from declared_metrics.snapshots(lake_uri, declarations)
    yield from declared_metrics.feature_info(declarations)


def jobs_last_runs(job_runs_uri: str, jobs: Iterable[str]) -> Iterator[Metric]:
    """Last run of each job, and results of ingest, consistency and training."""
    runs = {job: run for job in jobs if (run := job_runs.last(job_runs_uri, job)) is not None}
    done = {job: run for job in jobs if (run := job_runs.last_success(job_runs_uri, job)) is not None}
    ended = {job: run for job, run in runs.items() if run.exit_code is not None}
    # Exit code 3, a refusal, is not a failure.
    failed = {job: float(run.exit_code not in (0, 3)) for job, run in ended.items()}
    running = {job: float(run.exit_code is None) for job, run in runs.items()}
    seconds = {job: (run.finished_s or run.started_s) - run.started_s for job, run in done.items()}
    yield from _gauge("fraud_job_failed", "1 when the last finished run failed", failed, "job_name")
    yield from _gauge("fraud_job_running", "1 when the last run has not finished", running, "job_name")
    started = {job: run.started_s for job, run in runs.items()}
    yield from _gauge("fraud_job_started_seconds", "Start time of the last run", started, "job_name")
    succeeded = {job: run.finished_s for job, run in done.items()}
    yield from _gauge("fraud_job_succeeded_seconds", "End time of the last successful run", succeeded, "job_name")
    yield from _gauge("fraud_job_duration_seconds", "Duration of the last successful run", seconds, "job_name")
    if (ingest := done.get("ingest")) and ingest.result:
        names = {"accepted": "accepted", "quarantined": "quarantined", "duplicate": "duplicates"}
        counts = {outcome: ingest.result.get(field) for outcome, field in names.items()}
        yield from _gauge("fraud_ingest_rows", "Rows of the last ingest, by outcome", counts, "outcome")
    if (consistency := done.get("consistency")) and consistency.result:
        compared, mismatches = consistency.result.get("compared"), consistency.result.get("mismatches")
        text = "Served answers that were compared with batch scores of the same model"
        yield from _one("fraud_consistency_compared", text, compared)
        yield from _one("fraud_consistency_mismatches", "Compared answers that differ", mismatches)
    if (train := done.get("train")) and train.result:
        gates = {str(gate["name"]): float(gate["passed"]) for gate in train.result.get("gates") or ()}
        yield from _gauge("fraud_gate_passed", "1 when the newest candidate passed this gate", gates, "gate")


def reports(reports_uri: str) -> Iterator[Metric]:
    """The newest report of each kind."""
    found = {kind: _newest_report(reports_uri, kind) for kind in REPORTS}
    days = {kind: day_seconds(report[0]) for kind, report in found.items() if report}
    yield from _gauge("fraud_report_newest_day_seconds", "Midnight UTC of the newest report's day", days, "report")
    if (drift := found["drift"]) is not None:
        yield from _drift(drift[1])
    if (concept := found["concept"]) is not None:
        yield from _concept(concept[1])
    if (skew := found["skew"]) is not None:
        yield from _skew(skew[1])


def _newest_report(reports_uri: str, kind: str) -> tuple[str, Mapping[str, Any]] | None:
    folder = f"{reports_uri.rstrip('/')}/{kind}"
    days = [found.split("/")[0] for found in listed(folder, 2) if found.endswith(f"/{kind}.json")]
    if not days:
        return None
    fs, path = located(f"{folder}/{days[-1]}/{kind}.json")
    return days[-1], json.loads(fs.cat_file(path))


def _drift(report: Mapping[str, Any]) -> Iterator[Metric]:
    """Older reports have no value for the newest day."""
    features = report["features"]
    verdict = None if report["verdict"] == "unknown" else float(report["verdict"] == "drift")
    yield from _one(
        "fraud_drift_found", "1 when the verdict of the newest report is drift; no series when it is unknown", verdict
    )
    yield from _one("fraud_drift_share", "Share of the features that drifted", report["drifted_share"])
    limits = report["thresholds"]
    yield from _one(
        "fraud_drift_share_limit",
        "Share of drifted features above which training is requested",
        limits["drifted_share"],
    )
    yield from _one("fraud_drift_psi_limit", "PSI from which a feature counts as drifted", limits["psi"])
    text = "PSI of one feature on the newest day from which the verdict is drift"
    yield from _one("fraud_drift_newest_day_psi_limit", text, limits.get("newest_day_psi"))
    psi = {name: values["psi"] for name, values in features.items()}
    yield from _gauge("fraud_drift_psi", "Population stability index against the training part", psi, "feature")
    newest = {name: values.get("newest_day_psi") for name, values in features.items()}
    yield from _gauge(
        "fraud_drift_newest_day_psi", "Population stability index of the newest day alone", newest, "feature"
    )
    missing = {name: values["missing"]["current"] for name, values in features.items()}
    yield from _gauge("fraud_drift_missing_share", "Share of missing values", missing, "feature")
    unknown = {name: found["current"] for name, values in features.items() if (found := values.get("unknown"))}
    yield from _gauge("fraud_drift_unknown_category_share", "Share of unknown categories", unknown, "feature")
    prediction = report["prediction"]["psi"]
    yield from _one("fraud_drift_prediction_psi", "Population stability index of the probability", prediction)
    yield from _one("fraud_drift_rows", "Rows in the newest report", report["rows"])


def _concept(report: Mapping[str, Any]) -> Iterator[Metric]:
    verdict = None if report["verdict"] == "unknown" else float(report["verdict"] == "drift")
    text = "1 when decisions are worse than on the holdout; no series when the verdict is unknown"
    yield from _one("fraud_concept_drift_found", text, verdict)
    yield from _one(
        "fraud_concept_evidence", "Evidence that decisions are worse than on the holdout", report["evidence"]
    )
    yield from _one("fraud_concept_evidence_limit", "Evidence from which the verdict is drift", report["limit"])
    for name, text, figures in (
        ("fraud_concept_figure", "Figures of decisions on days with mature labels", report["figures"]),
        ("fraud_concept_promise", "Figures of decisions on the holdout", report["promise"]["figures"]),
    ):
        yield from _gauge(name, text, {figure: values[0] for figure, values in figures.items()}, "figure")
    days = report["days"]
    yield from _one("fraud_concept_days", "Days with mature labels and decisions of this version", len(days))
    counts: dict[str, float | None] = {
        name: sum(day[name] for day in days) for name in ("frauds", "late_frauds", "unlabelled", "unlabelled_stops")
    }
    text = (
        "Transactions of those days: frauds reported in time, reported late, without a label, stopped without a label"
    )
    yield from _gauge("fraud_concept_labels", text, counts, "known")


def _skew(report: Mapping[str, Any]) -> Iterator[Metric]:
    yield from _one("fraud_skew_rows", "Served answers whose features were recomputed", report["compared"])
    wrong: dict[str, float | None] = {
        name: counts["mismatch"] + counts["missing"] + counts["extra"] for name, counts in report["features"].items()
    }
    wrong["fraud_probability"] = report["probabilities"]["wrong"]
    yield from _gauge("fraud_skew_mismatches", "Served values that differ from the recomputed ones", wrong, "feature")
    yield from _one("fraud_skew_events_lost", "Events that are missing in the online store", report["events_lost"])


def registry(settings: Settings) -> Iterator[Metric]:
    """The production version, and the expected distribution of its answers."""
    _check_mlflow(settings)
    with registry_errors():
        client = mlflow_client.client(settings)
        version = lookup(client.get_model_version_by_alias, model_versions.MODEL_NAME, model_versions.PRODUCTION)
    if version is None:
        return
    info = GaugeMetricFamily("fraud_production_info", "1 for the production version", labels=["version", "level"])
    info.add_metric([str(version.version), version.tags.get("level", "")], 1)
    yield info
    amount, flagged = _training_means(settings, version.run_id, float(version.tags["threshold"]))
    ratio, spread = _flagged_baseline(settings.lake_uri, str(version.version), flagged)
    yield from _one("fraud_baseline_amount_mean", "Mean amount of the training part, USD", amount)
    yield from _one(
        "fraud_baseline_flagged_ratio", "Share of transactions that the production version flags on scored days", ratio
    )
    yield from _one("fraud_baseline_flagged_ratio_sigma", "Standard deviation of that share between days", spread)


@lru_cache(maxsize=2)
def _training_means(settings: Settings, run_id: str, threshold: float) -> tuple[float | None, float | None]:
    """Mean amount and flagged share of the run's reference; None without rows. Cached, because artifacts of a run do
    not change."""
    table = model_versions.reference(settings, run_id)
    flagged = pc.mean(pc.greater_equal(table["fraud_probability"], threshold).cast("float64")).as_py()
    return pc.mean(table["amount"]).as_py(), flagged


def _flagged_baseline(lake_uri: str, version: str, trained: float | None) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the daily flagged share over the newest days that this version scored.

    With fewer than MIN_BASELINE_DAYS scored days, the share on the training reference and ASSUMED_SPREAD are used.
    """
    scores = catalog.SCORES.at(lake_uri).open()
    days: list[tuple[int, int]] = []
    for day in scores.partitions()[-BASELINE_DAYS:]:
        partition = scores.partition(day)
        if partition is not None and partition.rows and partition.made_from.get("model_version") == version:
            days.append((int(partition.made_from["flagged"]), partition.rows))
    if len(days) < MIN_BASELINE_DAYS:
        return trained, None if trained is None else trained * ASSUMED_SPREAD
    ratio = sum(flagged for flagged, _ in days) / sum(rows for _, rows in days)
    return ratio, statistics.stdev(flagged / rows for flagged, rows in days)


def services(settings: Settings, declarations: Sequence[Declaration] = ()) -> Iterator[Metric]:
    """Health of services without metrics of their own, servers of the online store and its daily snapshots."""
    up: dict[str, float | None] = {"mlflow": _healthy(f"{settings.mlflow_url}/health")}
    if settings.airflow_url:
        up |= _airflow(settings.airflow_url)
    shards = online_store_metrics.info(settings) if settings.has_online_store else {}
    if settings.has_online_store:
        up["online-store"] = float(bool(shards))
    yield from _gauge("fraud_service_up", "1 when the health check of the service succeeds", up, "service")
    if shards:
        yield from online_store_metrics.families(shards)
        with online_store_metrics.connected(settings) as client:
            yield from declared_metrics.online_snapshots(client, declarations)


def _healthy(url: str) -> float:
    try:
        httpx.get(url, timeout=_PROBE_SECONDS).raise_for_status()
    except httpx.HTTPError:
        return 0.0
    return 1.0


def _airflow(url: str) -> dict[str, float | None]:
    """Health of each component, as reported by the API server; only the API server if it does not answer."""
    try:
        parts = httpx.get(f"{url}/api/v2/monitor/health", timeout=_PROBE_SECONDS).raise_for_status().json()
    except httpx.HTTPError:
        return {"airflow-api-server": 0.0}
    statuses = {part: (state or {}).get("status") for part, state in parts.items()}
    # A component that never ran has no status. It is unhealthy, unless it is optional.
    required = {part: status for part, status in statuses.items() if status or part not in _AIRFLOW_OPTIONAL}
    healthy = {f"airflow-{part.replace('_', '-')}": float(status == "healthy") for part, status in required.items()}
    return {"airflow-api-server": 1.0, **healthy}
