"""Facts of a platform without a problem."""

from datetime import UTC, date, datetime, timedelta
from typing import Final

from fraud.status.facts import (
    Alert,
    DagRun,
    Facts,
    Freshness,
    Promotion,
    Ready,
    Served,
    Skew,
    Snapshot,
    Source,
    Traffic,
    Version,
)

NOW: Final = datetime(2026, 3, 5, 12, tzinfo=UTC)
DAY: Final = date(2026, 3, 4)


def hours_ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


WATCHDOG: Final = Alert(
    "Watchdog", "none", "active", hours_ago(100), "Always firing", "http://docs/runbooks/Watchdog.md"
)
TRAFFIC: Final = Traffic(
    serving_targets=2, serving_up=2, answers_per_second=12.5, degraded_share=0.0, consumers=0, consumers_up=0,
    lag_messages=None,
)  # fmt: skip
DATASETS: Final = {
    "transactions": Freshness("transactions", "", DAY, hours_ago(10), 4_000),
    "labels": Freshness("labels", "", DAY, hours_ago(10), 20),
    "features": Freshness("features", "aaaaaaaaaaaa", DAY, hours_ago(9.5), 4_000),
    "scores": Freshness("scores", "", DAY, hours_ago(9), 4_000),
}
SNAPSHOT: Final = Snapshot("merchant", "1234abcd", date(2026, 3, 5))
PROMOTION: Final = Promotion(hours_ago(50), "promote", "7", "6", "ada", "better at night")
HEALTHY: Final = Facts(
    now=NOW,
    declaration="a" * 64,
    docs_url="http://docs",
    sources=tuple(Source(name) for name in ("registry", "lake", "Prometheus", "Alertmanager")),
    production=Version("7", "boosting", "a" * 64, hours_ago(60)),
    versions=(Version("7", "boosting", "a" * 64, hours_ago(60)), Version("6", "logistic", "b" * 64, hours_ago(600))),
    ready=Ready(ready=True, version="7", store_connected=True),
    served=(Served("7", 2, 1.0),),
    traffic=TRAFFIC,
    promotions=(PROMOTION, Promotion(hours_ago(590), "promote", "6", None, "ada", "first")),
    datasets=tuple(DATASETS.values()),
    snapshots=(SNAPSHOT,),
    online_snapshots=(SNAPSHOT,),
    services_down=(),
    failed_jobs=(),
    skew=Skew(DAY, 4_000, {}, 0),
    alerts=(WATCHDOG,),
    dag_runs=(DagRun("score_nightly", "r2", hours_ago(9), failed=False),),
)
