"""Each way in which the platform can be wrong gives one problem, and a platform without a fault gives none."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.status.healthy import (
    DATASETS,
    DAY,
    HEALTHY,
    NOW,
    SNAPSHOT,
    TRAFFIC,
    WATCHDOG,
    hours_ago,
)

from fraud.status.facts import Alert, DagRun, Facts, Freshness, Ready, Served, Skew, Source
from fraud.status.problems import DEGRADED_LIMIT, GRACE, LAG_LIMIT, PUBLISHED_LIMITS, problems

ROOT = Path(__file__).resolve().parents[3]
RUNBOOKS = "http://docs/runbooks"
BEFORE = {"newest_day": date(2026, 3, 3)}
RECENT = {"published_at": hours_ago(1)}


def texts(facts: Facts) -> list[str]:
    return [problem.text for problem in problems(facts)]


def with_dataset(**changed: dict[str, Any]) -> tuple[Freshness, ...]:
    return tuple(replace(found, **changed.get(name, {})) for name, found in DATASETS.items())


def test_a_platform_without_a_fault_has_no_problem() -> None:
    assert problems(HEALTHY) == []


def test_nothing_that_was_not_read_is_a_problem() -> None:
    assert problems(Facts(now=NOW, declaration="a" * 64)) == []


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {"sources": (Source("registry", "status 500", "check it"),)},
            "registry cannot be read: status 500",
        ),
        ({"services_down": ("mlflow",)}, "the service mlflow is down"),
        ({"services_down": ("airflow-scheduler",)}, "the service airflow-scheduler is down"),
        ({"production": None}, "no version is in production"),
        ({"traffic": replace(TRAFFIC, serving_up=1)}, "1 of 2 serving replicas answer Prometheus"),
        ({"traffic": replace(TRAFFIC, serving_up=0, serving_targets=0)}, "0 of 0 serving replicas answer Prometheus"),
        ({"ready": Ready(False, "rule", True)}, "serving has no model; it answers by the level 0 rule"),
        (
            {"ready": Ready(True, "7", False)},
            "serving is not connected to the online store; its answers are degraded",
        ),
        (
            {"served": (Served("6", 1, 0.5), Served("7", 1, 0.5))},
            "serving answers with version 6, and version 7 is in production",
        ),
        (
            {"ready": Ready(True, "6", True)},
            "serving answers with version 6, and version 7 is in production",
        ),
        ({"traffic": replace(TRAFFIC, degraded_share=0.25)}, "25.0% of the answers are degraded (limit 1%)"),
        (
            {"alerts": ()},
            "the alert Watchdog, which always fires, is not in Alertmanager, so no other alert would arrive",
        ),
        (
            {"skew": Skew(DAY, 10, {"amount": 2}, 0)},
            "skew on 2026-03-04: served values differ from recomputed ones: 2 of amount",
        ),
        (
            {"skew": Skew(DAY, 10, {"a": 1, "b": 4, "c": 2, "d": 3, "e": 1}, 5)},
            (
                "skew on 2026-03-04: served values differ from recomputed ones: "
                "4 of b, 3 of d, 2 of c, 2 more features, 5 lost events"
            ),
        ),
        ({"traffic": replace(TRAFFIC, consumers=2, consumers_up=1)}, "1 of 2 stream consumers answer Prometheus"),
        (
            {"traffic": replace(TRAFFIC, consumers=1, consumers_up=1, lag_messages=12_000.0)},
            "12,000 messages wait for their decision (limit 10,000)",
        ),
        (
            {"datasets": with_dataset(transactions={"published_at": hours_ago(27)})},
            "no new transactions for 27 h (limit 26 h)",
        ),
        ({"datasets": with_dataset(labels={"published_at": hours_ago(73)})}, "no new labels for 3 d (limit 3 d)"),
        (
            {"datasets": with_dataset(features=BEFORE, scores=BEFORE)},
            (
                "the newest features of the declaration aaaaaaaaaaaa are of 2026-03-03, "
                "the transactions they are computed from of 2026-03-04"
            ),
        ),
        (
            {"datasets": with_dataset(scores={"newest_day": date(2026, 3, 3)})},
            "the newest scores are of 2026-03-03, the features they are computed from of 2026-03-04",
        ),
        (
            {"snapshots": (replace(SNAPSHOT, day=DAY),), "online_snapshots": (replace(SNAPSHOT, day=DAY),)},
            "the newest daily snapshot of merchant is of 2026-03-04, the newest transactions of 2026-03-04",
        ),
        (
            {"online_snapshots": (replace(SNAPSHOT, day=DAY),)},
            (
                "the newest daily snapshot of merchant in the online store is of 2026-03-04, "
                "in the lake it is of 2026-03-05"
            ),
        ),
        (
            {"online_snapshots": ()},
            "the newest daily snapshot of merchant in the online store does not exist, in the lake it is of 2026-03-05",
        ),
        ({"failed_jobs": ("score",)}, "the last run of fraud score failed"),
        (
            {"dag_runs": (DagRun("ingest", "r2", hours_ago(1), True), DagRun("ingest", "r1", hours_ago(2), False))},
            "the last run of the DAG ingest failed 1 h ago",
        ),
    ],
)  # fmt: skip
def test_a_fault_is_one_problem(changed: dict[str, Any], text: str) -> None:
    assert texts(replace(HEALTHY, **changed)) == [text]


def test_a_registry_that_does_not_answer_is_one_problem() -> None:
    facts = replace(HEALTHY, sources=(Source("registry", "status 500"),), services_down=("mlflow",))
    assert texts(facts) == ["registry cannot be read: status 500"]


def test_an_alert_is_a_problem_with_its_runbook_and_pages_come_first() -> None:
    ticket = Alert("ScoresStale", "ticket", "active", hours_ago(30), "Scores are late", f"{RUNBOOKS}/ScoresStale.md")
    page = Alert("ServingDown", "page", "active", hours_ago(0.25), "No replica answers", f"{RUNBOOKS}/ServingDown.md")
    silenced = replace(page, name="SkewFound", state="suppressed")
    found = problems(replace(HEALTHY, alerts=(ticket, WATCHDOG, silenced, page)))
    assert [(problem.text, problem.runbook) for problem in found] == [
        ("alert ServingDown (page) fires for 15 min: No replica answers", f"{RUNBOOKS}/ServingDown.md"),
        ("alert ScoresStale (ticket) fires for 30 h: Scores are late", f"{RUNBOOKS}/ScoresStale.md"),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"datasets": with_dataset(transactions=RECENT, features=BEFORE, scores=BEFORE)},
        {"datasets": with_dataset(features=RECENT, scores=BEFORE)},
        {"datasets": with_dataset(transactions=RECENT), "online_snapshots": ()},
        {"datasets": with_dataset(scores={"newest_day": date(2026, 3, 5)})},
        {"snapshots": (replace(SNAPSHOT, day=date(2026, 3, 6)),)},
        {"traffic": replace(TRAFFIC, degraded_share=None, answers_per_second=0.0)},
        {"traffic": replace(TRAFFIC, degraded_share=DEGRADED_LIMIT)},
        {"served": ()},
        {"dag_runs": (DagRun("ingest", "r2", hours_ago(1), False), DagRun("ingest", "r1", hours_ago(2), True))},
    ],
    ids=[
        "features-soon", "scores-soon", "online-soon", "scores-ahead", "tomorrow", "no-traffic", "limit", "no-info",
        "rerun",
    ],
)  # fmt: skip
def test_what_is_not_late_yet_and_what_recovered_is_no_problem(changed: dict[str, Any]) -> None:
    assert problems(replace(HEALTHY, **changed)) == []


def test_a_runbook_is_a_file_of_the_project_without_a_url_of_the_documentation() -> None:
    (problem,) = problems(replace(HEALTHY, docs_url="", failed_jobs=("score",)))
    assert (ROOT / problem.runbook).is_file()
    assert problem.line == (
        "the last run of fraud score failed; its task's log has the reason; docs/runbooks/JobFailed.md"
    )


def test_the_limits_are_those_of_the_alerts() -> None:
    files = (ROOT / "infra/prometheus/rules").glob("*.yml")
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    rules = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    for name, limit in PUBLISHED_LIMITS.items():
        assert rules[f"{name.capitalize()}Stale"]["expr"].endswith(f"> {limit.total_seconds():.0f}")
    assert rules["DegradedAnswers"]["expr"].endswith(f"> {DEGRADED_LIMIT}")
    assert rules["StreamLagHigh"]["expr"].endswith(f"> {LAG_LIMIT}")
    assert timedelta(hours=2) == GRACE
    assert {rules[name]["for"] for name in ("FeaturesStale", "ScoresStale")} == {"2h"}
