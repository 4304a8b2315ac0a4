"""Changes of the last day, and of which version since when."""

from dataclasses import replace

from tests.unit.status.healthy import HEALTHY, PROMOTION, hours_ago

from fraud.status.changes import changes, since
from fraud.status.facts import DagRun, Promotion, Version


def test_a_day_without_a_change_has_none() -> None:
    assert changes(HEALTHY) == []


def test_promotions_versions_declarations_and_failed_runs_of_the_day_are_changes() -> None:
    eight = Version("8", "mlp", "c" * 64, hours_ago(3))
    promoted = Promotion(hours_ago(2), "promote", "8", "7", "bob", "gates passed", "money until 2026-04-01")
    facts = replace(
        HEALTHY, production=eight, versions=(eight, *(HEALTHY.versions or ())), declaration="c" * 64,
        promotions=(promoted, *(HEALTHY.promotions or ())),
        dag_runs=(DagRun("score_nightly", "r3", hours_ago(0.5), True), DagRun("x", "r1", hours_ago(1), False)),
    )  # fmt: skip
    assert changes(facts) == [
        "2 h ago: version 8 replaced version 7 (promote by bob: gates passed; waived: money until 2026-04-01)",
        "feature declaration of Production: aaaaaaaaaaaa before, cccccccccccc now",
        "3 h ago: version 8 was registered, level mlp",
        "30 min ago: the run r3 of the DAG score_nightly failed",
    ]


def test_a_declaration_that_no_version_in_production_has_is_listed() -> None:
    facts = replace(HEALTHY, declaration="d" * 64)
    assert changes(facts) == ["features.yaml (dddddddddddd) differs from the declaration of Production (aaaaaaaaaaaa)"]


def test_a_version_serves_since_its_last_promotion() -> None:
    again = replace(PROMOTION, at=hours_ago(1), version="6", replaced="7", action="rollback")
    facts = replace(HEALTHY, promotions=(again, *(HEALTHY.promotions or ())))
    assert since(facts, "6") == again
    assert since(facts, "7") == PROMOTION
    assert since(facts, "5") is None
