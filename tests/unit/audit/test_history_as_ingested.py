"""Window features at each transaction in order of ingestion, by hand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from fraud.audit.history_as_ingested import LakeHistory
from fraud.lake import catalog

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STAMP = pa.timestamp("us", "UTC")


def lake(folder: Path, *rows: tuple[str, str, datetime, datetime, float, str]) -> str:
    """Rows (id, user, event, learned, amount, merchant) as one day; windows do not ask which."""
    ids, users, event, learned, amount, merchant = (list(column) for column in zip(*rows, strict=True))
    table = pa.table(
        {
            "transaction_id": ids, "user_id": users, "merchant_id": merchant,
            "merchant_category": ["travel"] * len(ids),
            "event_timestamp": pa.array(event, STAMP), "created_timestamp": pa.array(learned, STAMP), "amount": amount,
            "distance_from_home": pa.array([None] * len(ids), pa.float64()),
        }
    )  # fmt: skip
    uri = f"file://{folder}"
    catalog.TRANSACTIONS.at(uri).publish("2026-03-01", table)
    return uri


def test_a_late_event_counts_only_for_rows_with_a_later_ingestion_time(tmp_path: Path) -> None:
    def ago(minutes: int) -> datetime:
        return NOON - timedelta(minutes=minutes)

    uri = lake(
        tmp_path,
        ("early", "u", ago(50), ago(50), 10.0, "m1"),
        ("before", "u", ago(20), ago(20), 30.0, "m2"),
        ("late", "u", ago(40), ago(10), 20.0, "m3"),
        ("after", "u", NOON, NOON, 99.0, "m1"),
        ("other", "v", ago(1), ago(1), 5.0, "m9"),
    )
    found = LakeHistory.load(uri, ["u"], ["before", "late", "after", "other"])
    assert found.windows == {
        "before": (1.0, 10.0, 1),
        "late": (1.0, 10.0, 1),
        "after": (3.0, 20.0, 3),
    }
    assert found.rows["transaction_id"].to_pylist() == ["before", "late", "after"]


def test_an_event_behind_the_retention_is_not_stored(tmp_path: Path) -> None:
    old = NOON - timedelta(days=37, microseconds=1)
    uri = lake(
        tmp_path,
        ("new", "u", NOON, NOON, 10.0, "m1"),
        ("ancient", "u", old, NOON + timedelta(seconds=1), 10.0, "m2"),
        ("kept", "u", old + timedelta(microseconds=1), NOON + timedelta(seconds=2), 10.0, "m3"),
        ("asks", "u", old + timedelta(days=1), NOON + timedelta(seconds=3), 10.0, "m1"),
    )
    assert LakeHistory.load(uri, ["u"], ["asks"]).windows == {"asks": (0.0, 10.0, 1)}
