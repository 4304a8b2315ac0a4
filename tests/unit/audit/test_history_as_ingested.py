"""Window features at each transaction in order of ingestion, by hand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from tests.served_answers import THREE, TWO_ENTITIES

from fraud.audit.history_as_ingested import LakeHistory
from fraud.core.daily import Table
from fraud.core.plan import Plan
from fraud.lake import catalog

DAY = "2026-03-01"
NAMES = ("transaction_velocity_1h", "avg_amount_7d", "unique_merchants_30d")
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
    catalog.TRANSACTIONS.at(uri).publish(DAY, table)
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
    found = LakeHistory.load(uri, Plan(THREE), {DAY: ["before", "late", "after", "not there"], "2026-03-02": ["early"]})
    assert found.features == {
        "before": dict(zip(NAMES, (1.0, 10.0, 1), strict=True)),
        "late": dict(zip(NAMES, (1.0, 10.0, 1), strict=True)),
        "after": dict(zip(NAMES, (3.0, 20.0, 3), strict=True)),
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
    found = LakeHistory.load(uri, Plan(THREE), {DAY: ["asks"]}).features
    assert found == {"asks": dict(zip(NAMES, (0.0, 10.0, 1), strict=True))}


def test_each_entity_has_its_own_history_and_a_row_without_an_entity_has_the_empty_values(tmp_path: Path) -> None:
    def row(name: str, card: str, terminal: str | None, minutes: int, **more: object) -> dict[str, object]:
        at = NOON + timedelta(minutes=minutes)
        return {"transaction_id": name, "event_timestamp": at, "created_timestamp": at, "user_id": card,
                "merchant_id": "m1", "amount": 10.0 + minutes, "channel": "app", "country": "de", "distance": None,
                "terminal_id": terminal, "in_person": None, **more}  # fmt: skip

    rows = [
        row("a", "u", "t1", 0, distance=2.5, in_person=True),
        row("b", "v", "t1", 1),
        row("c", "u", "t1", 2, channel="web", in_person=False, distance=1.25),
        row("d", "u", None, 3, channel="web"),
        row("e", "w", "t1", 4),
    ]
    uri = f"file://{tmp_path}"
    table = pa.Table.from_pylist(rows, schema=catalog.TRANSACTIONS.schema(TWO_ENTITIES))
    catalog.TRANSACTIONS.at(uri).publish(DAY, table)
    found = LakeHistory.load(uri, Plan(TWO_ENTITIES), {DAY: ["c", "d", "e"]}).features
    card = ("card_count_1h", "card_count_7d", "card_max_distance_30d", "card_in_person_7d", "card_same_channel")
    terminal = ("terminal_cards_1d", "terminal_mean_7d")
    assert [found["c"][name] for name in card] == [1.0, 1.0, 2.5, 1.0, 0.0]
    assert [found["c"][name] for name in terminal] == [2.0, 10.5]
    assert [found["d"][name] for name in card] == [2.0, 2.0, 2.5, 0.5, 1.0]
    assert [found["d"][name] for name in terminal] == [0.0, None]
    assert [found["e"][name] for name in card] == [0.0, 0.0, None, None, None]
    assert [found["e"][name] for name in terminal] == [2.0, 11.0]


def snapshot(uri: str, table: Table, day: str, rows: list[tuple[str | None, float, float | None, float]]) -> None:
    """Rows (shop, count, mean, fraud rate); None is the default row."""
    ids, *columns = (list(column) for column in zip(*rows, strict=True))
    names = {table.id_column: pa.array(ids, pa.string())}
    values = {name: pa.array(column, pa.float64()) for name, column in zip(table.names, columns, strict=True)}
    catalog.daily(table).at(uri).publish(day, pa.table({**names, **values}))


def test_daily_values_are_those_of_the_snapshot_that_holds_at_the_event_time(tmp_path: Path) -> None:
    uri, plan = f"file://{tmp_path}", Plan(TWO_ENTITIES)
    [table] = plan.tables
    snapshot(uri, table, "2026-03-01", [("m1", 3.0, 8.5, 0.1), (None, 0.0, None, 0.05)])
    snapshot(uri, table, "2026-02-28", [("m1", 9.0, 9.5, 0.2), (None, 0.0, None, 0.06)])
    rows = [
        {"transaction_id": name, "event_timestamp": at, "created_timestamp": at, "user_id": "u", "merchant_id": shop,
         "amount": 10.0, "channel": "app", "country": "de"}
        for name, shop, at in (
            ("today", "m1", NOON), ("before three", "m1", NOON.replace(hour=2)), ("unknown shop", "m2", NOON),
            ("no snapshot", "m1", NOON + timedelta(days=1)),
        )
    ]  # fmt: skip
    for day in (DAY, "2026-03-02"):
        own = [row for row in rows if str(row["event_timestamp"]).startswith(day)]
        table_of_day = pa.Table.from_pylist(own, schema=catalog.TRANSACTIONS.schema(TWO_ENTITIES))
        catalog.TRANSACTIONS.at(uri).publish(day, table_of_day)
    found = LakeHistory.load(
        uri, plan, {DAY: ["today", "before three", "unknown shop"], "2026-03-02": ["no snapshot"]}
    ).features
    daily = {name: [values[feature] for feature in table.names] for name, values in found.items()}
    assert daily == {
        "today": [3.0, 8.5, 0.1], "before three": [9.0, 9.5, 0.2], "unknown shop": [0.0, None, 0.05],
        "no snapshot": [0.0, None, None],
    }  # fmt: skip
