"""Labels: reports that come late, twice, against each other, or before their transaction."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import structlog

from fraud.declaration_file import load
from fraud.ingest import ingest_labels, ingest_transactions
from fraud.ingest.delivery import delivering
from fraud.ingest.landing import schema
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.labels import labels_as_of
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
THREE = load(ROOT / "tests/declarations/three.yaml")
NOON = datetime(2025, 3, 10, 12, tzinfo=UTC)
NOW = datetime(2025, 6, 1, tzinfo=UTC)
Report = tuple[str | None, bool | None, datetime | None]


def context(home: Path) -> Context:
    settings = Settings(home=home, project=ROOT)
    return Context(settings, Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger())


def land(home: Path, name: str, reports: list[Report]) -> None:
    rows = [dict(zip(("transaction_id", "is_fraud", "label_timestamp"), report, strict=True)) for report in reports]
    with delivering(f"file://{home}/landing") as delivery:
        delivery.add("labels", name, "test", pa.Table.from_pylist(rows, schema("labels", THREE)))


def run(home: Path) -> ingest_labels.Result:
    result = ingest_labels.run(ingest_labels.Config(now=NOW), context(home))
    assert result.rows_in == result.accepted + result.quarantined + result.duplicates
    return result


def known(home: Path, as_of: datetime) -> dict[str, bool]:
    return {
        r["transaction_id"]: r["is_fraud"]
        for r in labels_as_of(catalog.LABELS.at(f"file://{home}/lake").open(), as_of).to_pylist()
    }


def test_a_report_that_comes_twice_is_dropped_and_one_that_comes_late_is_counted(tmp_path: Path) -> None:
    land(tmp_path, "a", [("t1", True, NOON), ("t1", True, NOON), ("t2", False, NOON)])
    first = run(tmp_path)
    assert (first.accepted, first.duplicates, first.late) == (2, 1, 0)
    land(tmp_path, "b", [("t2", False, NOON), ("t3", True, NOON - timedelta(days=3)), ("t4", True, NOON)])
    second = run(tmp_path)
    assert (second.accepted, second.duplicates, second.late) == (2, 1, 1)
    assert catalog.LABELS.at(f"file://{tmp_path}/lake").partitions() == ["2025-03-07", "2025-03-10"]
    assert run(tmp_path).files == 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_conflicting_reports_the_latest_as_of_a_time_is_used_in_any_order_of_delivery(
    tmp_path: Path, order: tuple[int, int]
) -> None:
    reports: list[Report] = [("t1", True, NOON), ("t1", False, NOON + timedelta(days=5))]
    for n in order:
        land(tmp_path, f"file{n}-{order.index(n)}", [reports[n]])
        run(tmp_path)
    assert known(tmp_path, NOON - timedelta(microseconds=1)) == {}
    assert known(tmp_path, NOON) == {"t1": True}
    assert known(tmp_path, NOON + timedelta(days=5)) == {"t1": False}


def test_revisions_are_counted(tmp_path: Path) -> None:
    land(tmp_path, "a", [("t1", True, NOON), ("t1", False, NOON + timedelta(hours=1)), ("t2", True, NOON)])
    assert run(tmp_path).revisions == 1
    land(tmp_path, "b", [("t2", False, NOON + timedelta(hours=1))])
    assert run(tmp_path).revisions == 1


def test_of_opposite_reports_at_the_same_moment_fraud_stands(tmp_path: Path) -> None:
    land(tmp_path, "a", [("t1", True, NOON), ("t1", False, NOON)])
    assert run(tmp_path).accepted == 2
    assert known(tmp_path, NOW) == {"t1": True}


def test_a_report_about_an_unknown_transaction_is_kept_and_counted(tmp_path: Path) -> None:
    transaction = {
        "transaction_id": "t1", "event_timestamp": NOON, "user_id": "u", "merchant_id": "m", "amount": 1.0,
        "merchant_category": "travel",
    }  # fmt: skip
    table = pa.Table.from_pylist([transaction], schema("transactions", THREE))
    with delivering(f"file://{tmp_path}/landing") as delivery:
        delivery.add("transactions", "2025-03-10", "test", table)
    ingest_transactions.run(ingest_transactions.Config(now=NOW), context(tmp_path))
    land(tmp_path, "a", [("t1", True, NOON), ("t9", True, NOON)])
    result = run(tmp_path)
    assert (result.accepted, result.unknown_transactions) == (2, 1)
    assert known(tmp_path, NOW) == {"t1": True, "t9": True}


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ((None, True, NOON), "transaction_id is missing"),
        (("t1", None, NOON), "is_fraud is missing"),
        (("t1", True, None), "label_timestamp is missing"),
        (("t1", True, datetime(1999, 1, 1, tzinfo=UTC)), "label_timestamp is before the year 2000"),
        (
            ("t1", True, NOW + timedelta(days=2)),
            "label_timestamp is more than a day after the ingestion time",
        ),
    ],
)
def test_a_report_that_breaks_the_contract_is_quarantined(tmp_path: Path, report: Report, reason: str) -> None:
    land(tmp_path, "a", [report, ("t2", True, NOON)])
    result = run(tmp_path)
    assert (result.accepted, result.quarantined) == (1, 1)
    assert result.quarantine_reasons == {reason: 1}


def test_without_any_label_nothing_is_known(tmp_path: Path) -> None:
    assert labels_as_of(catalog.LABELS.at(f"file://{tmp_path}/lake").open(), NOW).num_rows == 0
    assert run(tmp_path).rows_in == 0
