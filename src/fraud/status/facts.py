"""The facts of `fraud status`. None: the source is not configured or did not answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal


@dataclass(frozen=True, slots=True)
class Source:
    """A source that was read. `problem` is "" when it answered."""

    name: str
    problem: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version. `declaration` is the hash of the feature declaration it was trained with."""

    version: str
    level: str
    declaration: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Served:
    """A version that answers, as Prometheus has it.

    `share`: its part of the decisions of the last five minutes; None without decisions.
    """

    version: str
    processes: int
    share: float | None


@dataclass(frozen=True, slots=True)
class Ready:
    """The answer of serving's /ready."""

    ready: bool
    version: str
    store_connected: bool


@dataclass(frozen=True, slots=True)
class Traffic:
    """Figures of serving and of the stream in Prometheus. None: there is no such series."""

    serving_targets: int
    """Replicas that Prometheus scrapes."""
    serving_up: int
    answers_per_second: float | None
    degraded_share: float | None
    """Of the answers of the last five minutes."""
    consumers: int
    """Consumers of the topic that Prometheus scrapes; 0 without streaming."""
    consumers_up: int
    lag_messages: float | None


@dataclass(frozen=True, slots=True)
class Promotion:
    """A change of Production."""

    at: datetime
    action: str
    version: str
    replaced: str | None
    actor: str
    reason: str
    waived: str = ""
    """The waived gates and the day on which the waiver ends."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """A dataset's newest day and the time of its last publication. `declaration`: of a dataset of features."""

    dataset: str
    declaration: str
    newest_day: date
    published_at: datetime
    rows: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest snapshot of a daily table."""

    entity: str
    table: str
    day: date


@dataclass(frozen=True, slots=True)
class Skew:
    """The newest skew report. `mismatches`: served values that differ, by feature, without those that have none."""

    day: date
    compared: int
    mismatches: Mapping[str, int]
    events_lost: int


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert of Alertmanager. `suppressed`: it is silenced, or inhibited by another alert."""

    name: str
    severity: str
    state: Literal["active", "suppressed"]
    since: datetime
    summary: str
    runbook: str
    """URL."""


@dataclass(frozen=True, slots=True)
class DagRun:
    """A run of a DAG that ended in the last day."""

    dag: str
    run: str
    ended_at: datetime
    failed: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was read."""

    now: datetime
    declaration: str
    """Hash of the project's feature declaration."""
    docs_url: str = ""
    """URL of docs/; "" without one."""
    sources: tuple[Source, ...] = ()
    production: Version | None = None
    versions: tuple[Version, ...] | None = None
    """The newest versions of the registry, newest first."""
    ready: Ready | None = None
    served: tuple[Served, ...] | None = None
    traffic: Traffic | None = None
    promotions: tuple[Promotion, ...] | None = None
    """Newest first."""
    datasets: tuple[Freshness, ...] | None = None
    snapshots: tuple[Snapshot, ...] | None = None
    """The newest of each daily table in the lake."""
    online_snapshots: tuple[Snapshot, ...] | None = None
    """The newest of each daily table that is published in the online store."""
    services_down: tuple[str, ...] | None = None
    """Services whose health check fails."""
    failed_jobs: tuple[str, ...] | None = None
    """Jobs whose last finished run failed."""
    skew: Skew | None = None
    alerts: tuple[Alert, ...] | None = None
    dag_runs: tuple[DagRun, ...] | None = None
    """Newest first."""

    @property
    def answered(self) -> frozenset[str]:
        """The names of the sources that answered."""
        return frozenset(source.name for source in self.sources if not source.problem)
