"""Every invariant of a soak holds on a good night, and breaks on a state that violates it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.soak import invariants
from tests.soak.state import Monitors, Observed
from tests.unit.soak.good_night import GOOD


def with_part(part: str, **changed: Any) -> Observed:  # noqa: ANN401 - values of any field
    return replace(GOOD, **{part: replace(getattr(GOOD, part), **changed)})


def with_feed(name: str, **changed: int) -> Observed:
    return replace(GOOD, feeds={**GOOD.feeds, name: replace(GOOD.feeds[name], **changed)})


FALSIFIED = [
    ("conservation", with_feed("transactions", quarantined=9), "1010 rows in, 1009 accounted for"),
    ("conservation", with_feed("transactions", delivered=1011), "1011 rows delivered, 1010 ingested"),
    ("conservation", with_feed("transactions", in_lake=979, ids=979), "980 accepted, 979 in the lake"),
    ("conservation", with_feed("transactions", ids=978), "2 rows of the lake are repeated"),
    ("conservation", with_feed("labels", in_lake=51, ids=51), "labels: 50 accepted, 51 in the lake"),
    ("scored", with_part("scores", unscored=1), "1 transactions without a score"),
    ("scored", with_part("scores", unknown=2), "2 scores without a transaction"),
    ("scored", with_part("scores", days=0), "no day has scores"),
    ("answered", with_part("answers", answered=399), "1 of 400 payments without a 200"),
    ("answered", with_part("answers", unlogged=1), "1 answers without a record, at most 0 allowed"),
    ("answered", replace(with_part("answers", unlogged=41), serving_killed=True), "at most 40 allowed"),
    ("answered", with_part("answers", unreadable=1), "1 unreadable lines"),
    ("no_skew", with_part("skew", mismatches=1), "1 served values differ"),
    ("no_skew", with_part("skew", events_lost=1), "1 events are lost"),
    ("no_skew", with_part("skew", probabilities_wrong=1), "1 probabilities differ"),
    ("no_skew", with_part("skew", compared=0), "none of 400 answers could be compared"),
    ("history_verifies", with_part("registry", chain="changed at entry 1"), "changed at entry 1"),
    ("one_production", with_part("registry", in_stage=("1", "2")), "stage Production: ['1', '2']"),
    ("one_production", with_part("registry", in_stage=()), "stage Production: []"),
    ("one_production", with_part("registry", alias="1"), "alias: 1, history: 2"),
    ("one_production", with_part("registry", served="1"), "served: 1, history: 2"),
    ("no_orphan", replace(GOOD, orphans=("17 python",)), "17 python"),
    ("runs_succeed", replace(GOOD, failed=("score_nightly.score",)), "score_nightly.score failed"),
    ("runs_succeed", replace(GOOD, expected_failures=("ingest_transactions.ingest",)), "ingest did not fail"),
    ("audits", with_part("audit", problems=("a: threshold",)), "a: threshold"),
    ("audits", with_part("audit", different=("1 of 8 answers differ",)), "1 of 8 answers differ"),
    ("audits", with_part("audit", sampled=0), "nothing was sampled"),
    (
        "bad_candidate_is_refused", replace(GOOD, candidate_is_bad=True, production_before="2"),
        "version 3 failed ['better_than_production'], none of",
    ),
    (
        "bad_candidate_is_refused",
        replace(with_part("registry", failed_gates=("auc",)), candidate_is_bad=True, production_before="1"),
        "Production changed from 1 to 2",
    ),
    ("rollback_restores", replace(GOOD, rolled_back_to="1"), "Production is 2, expected 1"),
]  # fmt: skip


def test_every_invariant_holds_on_a_good_night() -> None:
    assert invariants.broken(GOOD) == {}


@pytest.mark.parametrize(("name", "seen", "found"), FALSIFIED)
def test_a_falsified_state_breaks_its_invariant_and_no_other(name: str, seen: Observed, found: str) -> None:
    wrong = invariants.broken(seen)
    assert list(wrong) == [name]
    assert found in wrong[name]


def test_every_invariant_is_falsified_above() -> None:
    assert {name for name, _, _ in FALSIFIED} == {check.__name__ for check in invariants.INVARIANTS}


@pytest.mark.parametrize(
    "seen",
    [
        replace(with_part("answers", unlogged=40, unreadable=1), serving_killed=True),
        replace(GOOD, failed=("ingest_transactions.ingest",), expected_failures=("ingest_transactions.ingest",)),
        replace(with_part("registry", failed_gates=("auc",)), candidate_is_bad=True, production_before="2"),
        replace(GOOD, rolled_back_to="2"),
    ],
)
def test_what_the_schedule_causes_breaks_nothing(seen: Observed) -> None:
    assert invariants.broken(seen) == {}


def drifting(verdicts: str, changed: int) -> list[tuple[list[str], Observed]]:
    """Nights with the verdicts "ok" (o), "drift" (d) or none (-); the data drift is in night `changed`."""
    named = {"o": "ok", "d": "drift", "-": ""}
    return [
        (["data drift"] if i == changed else [], replace(GOOD, monitors=Monitors(drift=named[letter])))
        for i, letter in enumerate(verdicts)
    ]


def test_a_data_drift_that_is_not_reported_within_a_week_is_found() -> None:
    found = invariants.data_drift_is_found(drifting("oddoooo-oo", 3))
    assert found == "verdicts since the change: ok, ok, ok, ok, none, ok, ok"


@pytest.mark.parametrize(("verdicts", "changed"), [("ooooooood", 2), ("oodoooooo", 2), ("oooooooo", 2), ("ooooooo", 9)])
def test_a_data_drift_that_is_reported_or_too_young_breaks_nothing(verdicts: str, changed: int) -> None:
    assert invariants.data_drift_is_found(drifting(verdicts, changed)) == ""


def test_a_record_is_read_back_from_json() -> None:
    seen = replace(GOOD, orphans=("17 python",), usage={})
    assert Observed.of(json.loads(json.dumps(seen.as_dict()))) == seen
