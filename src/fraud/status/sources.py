"""Read the registry, the promotion history, the lake, the records of jobs and reports, and the services' health.

Each function returns values of fields of `fraud.status.facts.Facts`. Datasets, jobs, reports and services are read with
the functions of the exporter, so the values are those of its metrics.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, NamedTuple

import httpx
from prometheus_client.core import Metric

from fraud.core.declaration import Declaration
from fraud.job_list import MONITORED
from fraud.monitoring import platform_metrics
from fraud.registry import mlflow_client
from fraud.registry.mlflow_client import ModelVersion, lookup, registry_errors
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION
from fraud.registry.promotion_log import EXPORT, Entry, opened
from fraud.settings import Settings
from fraud.status.facts import Freshness, Promotion, Skew, Snapshot, Version

Values = Mapping[str, Any]
NEWEST_VERSIONS: Final = 100


class Sample(NamedTuple):
    """One series of the exporter."""

    labels: Mapping[str, str]
    value: float


def samples(families: Iterable[Metric]) -> dict[str, list[Sample]]:
    """The series of metric families, by name."""
    found: dict[str, list[Sample]] = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, []).append(Sample(sample.labels, sample.value))
    return found


def registry(settings: Settings, deadline_s: float) -> Values:
    """The production version and the newest versions. Raises FraudError or HTTPError."""
    if settings.mlflow_url.startswith("http"):  # MLflow's client retries for longer than the deadline
        httpx.get(f"{settings.mlflow_url}/health", timeout=deadline_s).raise_for_status()
    with registry_errors():
        client = mlflow_client.client(settings)
        production = lookup(client.get_model_version_by_alias, MODEL_NAME, PRODUCTION)
        newest = client.search_model_versions(
            f"name='{MODEL_NAME}'", max_results=NEWEST_VERSIONS, order_by=["version_number DESC"]
        )
    return {
        "production": None if production is None else _version(production),
        "versions": tuple(_version(version) for version in newest),
    }


def _version(found: ModelVersion) -> Version:
    return Version(
        str(found.version), found.tags.get("level", ""), found.tags.get("feature_hash", ""),
        datetime.fromtimestamp(found.creation_timestamp / 1e3, UTC),
    )  # fmt: skip


def promotion_history(settings: Settings) -> Values:
    """The changes of Production. Raises RefusedError when the history was changed, UnavailableError."""
    with opened(settings) as promotion:
        recorded = promotion.verify()
    changes = [row.entry for row in recorded if row.entry.action != EXPORT]
    return {"promotions": tuple(_promotion(entry) for entry in reversed(changes))}


def _promotion(entry: Entry) -> Promotion:
    waiver = entry.waiver
    waived = f"{', '.join(waiver.gates)} until {waiver.expires}" if waiver else ""
    at = datetime.fromisoformat(entry.at)
    return Promotion(at, entry.action, entry.version, entry.replaced, entry.actor, entry.reason, waived)


def lake(settings: Settings, declarations: Sequence[Declaration]) -> Values:
    """The newest day of each dataset, and the newest snapshot of each daily table."""
    found = samples(platform_metrics.lake(settings.lake_uri, declarations))
    published = {_key(s): s.value for s in found.get("fraud_dataset_published_seconds", ())}
    rows = {_key(s): s.value for s in found.get("fraud_dataset_rows", ())}
    datasets = tuple(
        Freshness(*_key(s), _day(s.value), _time(published[_key(s)]), int(rows[_key(s)]))
        for s in found.get("fraud_dataset_newest_day_seconds", ())
    )
    return {"datasets": datasets, "snapshots": _snapshots(found.get("fraud_daily_snapshot_newest_day_seconds", ()))}


def _key(sample: Sample) -> tuple[str, str]:
    return sample.labels["dataset"], sample.labels["declaration"]


def _snapshots(found: Iterable[Sample]) -> tuple[Snapshot, ...]:
    return tuple(Snapshot(s.labels["entity"], s.labels["table"], _day(s.value)) for s in found)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _day(seconds: float) -> date:
    return _time(seconds).date()


def jobs(settings: Settings) -> Values:
    """The jobs whose last finished run failed."""
    found = samples(platform_metrics.jobs_last_runs(settings.job_runs_uri, sorted(MONITORED)))
    failed = (s.labels["job_name"] for s in found.get("fraud_job_failed", ()) if s.value)
    return {"failed_jobs": tuple(failed)}


def reports(settings: Settings) -> Values:
    """The newest skew report."""
    found = samples(platform_metrics.reports(settings.reports_uri))
    if "fraud_skew_rows" not in found:
        return {"skew": None}
    days = {s.labels["report"]: _day(s.value) for s in found["fraud_report_newest_day_seconds"]}
    mismatches = {s.labels["feature"]: int(s.value) for s in found["fraud_skew_mismatches"] if s.value}
    (rows,), (lost,) = found["fraud_skew_rows"], found["fraud_skew_events_lost"]
    return {"skew": Skew(days["skew"], int(rows.value), mismatches, int(lost.value))}


def services(settings: Settings, declarations: Sequence[Declaration]) -> Values:
    """The services whose health check fails, and the daily snapshots in the online store."""
    has_server = settings.mlflow_url.startswith("http")
    found = samples(platform_metrics.services(settings, declarations))
    up = {s.labels["service"]: s.value for s in found["fraud_service_up"]}
    down = tuple(name for name, value in up.items() if not value and (has_server or name != "mlflow"))
    online = _snapshots(found.get("fraud_daily_snapshot_online_day_seconds", ()))
    return {"services_down": down, "online_snapshots": online if up["online-store"] else None}


def declarations_in_use(project: Declaration, live: Iterable[Declaration]) -> Iterator[Declaration]:
    """The project's declaration and those of the versions with an alias, each once."""
    yield from {declaration.hash: declaration for declaration in (project, *live)}.values()
