"""From facts to the list of what is wrong. The limits are those of the alerts (infra/prometheus/rules)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Final

from fraud.printing import duration, figure
from fraud.status.facts import DagRun, Facts, Freshness, Snapshot

PUBLISHED_LIMITS: Final = {"transactions": timedelta(hours=26), "labels": timedelta(days=3)}
"""Longest time since the last publication of a delivered dataset."""
GRACE: Final = timedelta(hours=2)
"""Time in which a computed dataset has to follow its input."""
DEGRADED_LIMIT: Final = 0.01
LAG_LIMIT: Final = 10_000
WATCHDOG: Final = "Watchdog"
"""The alert that always fires."""
_REGISTRY_SERVICE: Final = "mlflow"
_WITHOUT_SEVERITY: Final = "none"
_SHOWN_FEATURES: Final = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, what to do first, and the URL or path of its runbook, "" without one."""

    text: str
    hint: str
    runbook: str = ""

    @property
    def line(self) -> str:
        """All parts on one line."""
        return "; ".join(part for part in (self.text, self.hint, self.runbook) if part)


def problems(facts: Facts) -> list[Problem]:
    """Everything that is wrong, the most urgent first."""
    found = [
        *_unanswered(facts), *_serving(facts), *_alerts(facts), *_skew(facts), *_stream(facts), *_freshness(facts),
        *_snapshots(facts), *_runs(facts),
    ]  # fmt: skip
    return list(dict.fromkeys(found))


def _runbook(facts: Facts, alert: str) -> str:
    return f"{facts.docs_url or 'docs'}/runbooks/{alert}.md"


def _unanswered(facts: Facts) -> Iterator[Problem]:
    for source in facts.sources:
        if source.problem:
            yield Problem(f"{source.name} cannot be read: {source.problem}", source.hint)
    for service in facts.services_down or ():
        if service == _REGISTRY_SERVICE and "registry" not in facts.answered:
            continue
        alert = "AirflowDown" if service.startswith("airflow-") else "ServiceDown"
        yield Problem(f"the service {service} is down", "look at its log", _runbook(facts, alert))


def _serving(facts: Facts) -> Iterator[Problem]:
    production = facts.production.version if facts.production else None
    if "registry" in facts.answered and production is None:
        yield Problem("no version is in production", "fraud train, then fraud promote")
    traffic = facts.traffic
    if traffic is not None and traffic.serving_up < max(traffic.serving_targets, 1):
        text = f"{traffic.serving_up} of {traffic.serving_targets} serving replicas answer Prometheus"
        yield Problem(text, "look at the logs of the replicas", _runbook(facts, "ServingDown"))
    if facts.ready is not None and not facts.ready.ready:
        text = "serving has no model; it answers by the level 0 rule"
        yield Problem(text, "check the model registry", _runbook(facts, "NoProductionModel"))
    if facts.ready is not None and not facts.ready.store_connected:
        text = "serving is not connected to the online store; its answers are degraded"
        yield Problem(text, "check the online store", _runbook(facts, "OnlineStoreDown"))
    served = {one.version for one in facts.served or ()}
    if facts.ready is not None and facts.ready.ready:
        served.add(facts.ready.version)
    others = sorted(served - {production})
    if production is not None and others:
        text = f"serving answers with version {', '.join(others)}, and version {production} is in production"
        yield Problem(text, "the log of serving has the reason", _runbook(facts, "ServingBehindRegistry"))
    share = traffic.degraded_share if traffic else None
    if share is not None and share > DEGRADED_LIMIT:
        text = f"{share:.1%} of the answers are degraded (limit {DEGRADED_LIMIT:.0%})"
        yield Problem(text, "check the online store and the model", _runbook(facts, "DegradedAnswers"))


def _alerts(facts: Facts) -> Iterator[Problem]:
    if facts.alerts is None:
        return
    if not any(alert.name == WATCHDOG for alert in facts.alerts):
        text = f"the alert {WATCHDOG}, which always fires, is not in Alertmanager, so no other alert would arrive"
        yield Problem(text, "check Prometheus and its address of Alertmanager", _runbook(facts, WATCHDOG))
    for alert in sorted(facts.alerts, key=lambda a: (a.severity != "page", a.since)):
        if alert.state == "active" and alert.severity != _WITHOUT_SEVERITY:
            since = f"for {duration(facts.now - alert.since)}"
            text = f"alert {alert.name} ({alert.severity}) fires {since}: {alert.summary}"
            yield Problem(text, "follow its runbook", alert.runbook)


def _skew(facts: Facts) -> Iterator[Problem]:
    skew = facts.skew
    if skew is None or not (skew.mismatches or skew.events_lost):
        return
    worst = sorted(skew.mismatches, key=lambda name: (-skew.mismatches[name], name))
    parts = [f"{figure(skew.mismatches[name])} of {name}" for name in worst[:_SHOWN_FEATURES]]
    parts += [f"{len(worst) - _SHOWN_FEATURES} more features"] * (len(worst) > _SHOWN_FEATURES)
    parts += [f"{figure(skew.events_lost)} lost events"] * bool(skew.events_lost)
    text = f"skew on {skew.day}: served values differ from recomputed ones: {', '.join(parts)}"
    yield Problem(text, "promotions are refused until it is fixed", _runbook(facts, "SkewFound"))


def _stream(facts: Facts) -> Iterator[Problem]:
    traffic = facts.traffic
    if traffic is None:
        return
    if traffic.consumers_up < traffic.consumers:
        text = f"{traffic.consumers_up} of {traffic.consumers} stream consumers answer Prometheus"
        yield Problem(text, "look at the logs of the consumers", _runbook(facts, "StreamConsumerDown"))
    if traffic.lag_messages is not None and traffic.lag_messages > LAG_LIMIT:
        text = f"{figure(traffic.lag_messages)} messages wait for their decision (limit {LAG_LIMIT:,})"
        yield Problem(text, "start more consumers", _runbook(facts, "StreamLagHigh"))


def _newest(datasets: Sequence[Freshness], name: str) -> Freshness | None:
    return max((d for d in datasets if d.dataset == name), key=lambda d: d.newest_day, default=None)


def _is_late(now: datetime, day: date, source: Freshness, *, ahead: int = 0) -> bool:
    """Whether a dataset's newest day is behind that of its input, which was published long enough ago.

    `ahead`: days that the dataset is ahead of its input when it is up to date.
    """
    return day < source.newest_day + timedelta(ahead) and now - source.published_at > GRACE


def _freshness(facts: Facts) -> Iterator[Problem]:
    datasets = facts.datasets or ()
    for name, limit in PUBLISHED_LIMITS.items():
        newest = _newest(datasets, name)
        if newest is not None and facts.now - newest.published_at > limit:
            age = duration(facts.now - newest.published_at)
            text = f"no new {name} for {age} (limit {duration(limit)})"
            yield Problem(text, "check the DAG ingest_transactions", _runbook(facts, f"{name.capitalize()}Stale"))
    transactions, features = _newest(datasets, "transactions"), _newest(datasets, "features")
    for dataset in datasets:
        source = {"features": transactions, "scores": features}.get(dataset.dataset)
        if source is None or not _is_late(facts.now, dataset.newest_day, source):
            continue
        of = f" of the declaration {dataset.declaration}" if dataset.declaration else ""
        text = (
            f"the newest {dataset.dataset}{of} are of {dataset.newest_day}, "
            f"the {source.dataset} they are computed from of {source.newest_day}"
        )
        dag = {"features": "build_features", "scores": "score_nightly"}[dataset.dataset]
        yield Problem(text, f"check the DAG {dag}", _runbook(facts, f"{dataset.dataset.capitalize()}Stale"))


def _snapshots(facts: Facts) -> Iterator[Problem]:
    transactions = _newest(facts.datasets or (), "transactions")
    for snapshot in facts.snapshots or ():
        # The snapshot of day D + 1 holds what the transactions of day D add.
        if transactions is not None and _is_late(facts.now, snapshot.day, transactions, ahead=1):
            text = (
                f"the newest daily snapshot of {snapshot.entity} is of {snapshot.day}, "
                f"the newest transactions of {transactions.newest_day}"
            )
            yield Problem(text, "check the DAG build_features", _runbook(facts, "DailySnapshotLate"))
    if facts.online_snapshots is not None and facts.snapshots is not None:
        yield from _online(facts, facts.snapshots, facts.online_snapshots, transactions)


def _online(
    facts: Facts, in_lake: Sequence[Snapshot], online: Sequence[Snapshot], transactions: Freshness | None
) -> Iterator[Problem]:
    published = {snapshot.table: snapshot.day for snapshot in online}
    for snapshot in in_lake:
        # A snapshot is published once its day has begun.
        began = datetime.combine(snapshot.day, time(), facts.now.tzinfo)
        expected = min(snapshot.day, facts.now.date())
        day = published.get(snapshot.table)
        recent = transactions is not None and facts.now - max(transactions.published_at, began) <= GRACE
        if (day is None or day < expected) and not recent:
            newest = f"is of {day}" if day else "does not exist"
            text = (
                f"the newest daily snapshot of {snapshot.entity} in the online store {newest}, "
                f"in the lake it is of {snapshot.day}"
            )
            yield Problem(text, "fraud materialize", _runbook(facts, "DailySnapshotLate"))


def _runs(facts: Facts) -> Iterator[Problem]:
    for job in facts.failed_jobs or ():
        yield Problem(
            f"the last run of fraud {job} failed", "its task's log has the reason", _runbook(facts, "JobFailed")
        )
    newest: dict[str, DagRun] = {}
    for run in facts.dag_runs or ():
        newest.setdefault(run.dag, run)
    for run in newest.values():
        if run.failed:
            age = duration(facts.now - run.ended_at)
            yield Problem(f"the last run of the DAG {run.dag} failed {age} ago", "open the run in Airflow")
