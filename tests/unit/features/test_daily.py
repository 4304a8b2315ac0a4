"""Daily snapshots equal a naive computation, bit by bit; a rebuild gives the bytes of a clean build."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.features import daily_oracle as oracle
from tests.unit.features.daily_oracle import DAY_0, Report, Row, day_name

from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.declaration import Declaration
from fraud.core.plan import tables
from fraud.errors import BadInputError
from fraud.features import build_daily
from fraud.features.daily_values import daily_values, snapshot_ids
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
PARAMS = Params.load(ROOT / "params.yaml")
EVERYTHING = [
    {"name": "rows_{days}", "aggregate": "count", "days": [1, 3]},
    {"name": "spent", "aggregate": "sum", "column": "amount", "days": 2},
    {"name": "mean_fee", "aggregate": "mean", "column": "fee", "days": 3},
    {"name": "users_{days}", "aggregate": "distinct", "column": "user_id", "days": [1, 4]},
    {"name": "rate_{days}", "aggregate": "fraud_rate", "days": [1, 3], "label_delay_days": 1, "strength": 2},
]


def context(folder: Path, declared: Declaration) -> Context:
    made = Settings.model_validate({"home": folder, "project": ROOT})
    return Context(made, PARAMS, declared, structlog.get_logger())


def build(folder: Path, declared: Declaration) -> build_daily.Result:
    return build_daily.build(declared, context(folder, declared))


def published(folder: Path, declared: Declaration) -> dict[str, Any]:
    dataset = catalog.daily(tables(declared)[0]).at(oracle.lake_of(folder))
    return dict(dataset.open().contents.partitions)


times = st.sampled_from([0, 1, 5 * US_PER_HOUR, US_PER_DAY - 1])
rows = st.lists(
    st.builds(
        lambda day, at, late, merchant, user, amount, fee, channel: Row(
            "", day * US_PER_DAY + at, day * US_PER_DAY + at + late, merchant, user, amount, fee, channel
        ),
        st.integers(0, 7), times, st.sampled_from([0, 0, 0, 1, US_PER_DAY, 3 * US_PER_DAY, -2 * US_PER_DAY]),
        st.sampled_from(["a", "b", "café", "z z", None]), st.sampled_from(["u1", "u2", "u3"]),
        st.sampled_from([0.0001, 1.1, 33.3333, 999_999_999.9999]), st.sampled_from([None, -0.01, 0.07, 5.0]),
        st.sampled_from([None, "web", "app"]),
    ),
    min_size=1, max_size=25,
)  # fmt: skip
reports = st.lists(
    st.tuples(st.integers(0, 24), st.integers(-2, 9), times, st.booleans()), max_size=25
)  # (row, days after its day, time, fraud)
features = st.lists(
    st.one_of(
        st.fixed_dictionaries({"aggregate": st.just("count"), "days": st.integers(1, 5)}),
        st.fixed_dictionaries(
            {"aggregate": st.sampled_from(["sum", "mean"]), "column": st.sampled_from(["amount", "fee"]),
             "days": st.integers(1, 5)}
        ),
        st.fixed_dictionaries(
            {"aggregate": st.just("distinct"), "column": st.sampled_from(["user_id", "channel"]),
             "days": st.integers(1, 5)}
        ),
        st.fixed_dictionaries(
            {"aggregate": st.just("fraud_rate"), "days": st.integers(1, 4), "label_delay_days": st.integers(0, 3),
             "strength": st.sampled_from([0, 0.1, 20])}
        ),
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(features, rows, reports, st.integers(0, 25), st.integers(0, 25))
def test_snapshots_equal_the_naive_ones_after_every_delivery_and_their_bytes_those_of_a_clean_build(
    chosen: list[dict[str, Any]], log: list[Row], labels: list[tuple[int, int, int, bool]], first: int, labelled: int
) -> None:
    declared = oracle.declaration([{"name": f"f{i}", **feature} for i, feature in enumerate(chosen)])
    table = tables(declared)[0]
    log = [row._replace(id=f"t{i}") for i, row in enumerate(log)]
    found = [
        Report(log[i].id, max(log[i].event // US_PER_DAY + after, 0) * US_PER_DAY + at, fraud)
        for i, after, at, fraud in labels
        if i < len(log)
    ]
    deliveries = [(log[:first] or log[:1], found[:labelled]), (log, found)]
    with tempfile.TemporaryDirectory() as name:
        folder, clean = Path(name) / "nightly", Path(name) / "clean"
        before: dict[str, Any] = {}
        for delivered, reported in deliveries:
            oracle.publish(oracle.lake_of(folder), delivered, reported)
            result = build(folder, declared)
            days = [row.event // US_PER_DAY for row in delivered]
            assert (result.first_day, result.last_day) == (day_name(min(days) + 1), day_name(max(days) + 1))
            for day in range(min(days) + 1, max(days) + 2):
                assert oracle.snapshot(oracle.lake_of(folder), table, day) == oracle.expected(
                    declared, delivered, reported, day
                )
            again = build(folder, declared)
            assert (again.parts_built, again.days_built) == (0, 0)
            before = before or published(folder, declared)
        new_rows = [row for row in deliveries[1][0] if row not in deliveries[0][0]]
        new_reports = [report for report in deliveries[1][1] if report not in deliveries[0][1]]
        since = min([*(max(r.created, r.event) for r in new_rows), *(r.at for r in new_reports), 99 * US_PER_DAY])
        after = published(folder, declared)
        for day, partition in before.items():
            if day <= day_name(since // US_PER_DAY):
                assert after[day] == partition
        oracle.publish(oracle.lake_of(clean), *deliveries[1])
        build(clean, declared)
        # A day of labels or transactions before the first delivery's first day has snapshots of its own.
        assert published(clean, declared) == {d: m for d, m in after.items() if d in published(clean, declared)}


def row(
    name: str, day: float, merchant: str | None = "a", late_days: float = 0, *, user: str = "u", amount: float = 1.0,
    fee: float | None = None,
) -> Row:  # fmt: skip
    at = int(day * US_PER_DAY)
    return Row(name, at, at + int(late_days * US_PER_DAY), merchant, user, amount, fee, None)


def test_a_snapshot_by_hand(tmp_path: Path) -> None:
    """Day 4: counts of days 3 and 1-3, sum of days 2-3, mean of days 1-3, users, fraud rates of days 2 and 0-2."""
    declared = oracle.declaration(EVERYTHING)
    log = [
        row("t0", 0.5, amount=8.0), row("t1", 1.5, user="v", fee=0.03), row("t2", 2.25, "b", amount=2.5),
        row("t3", 3.0, amount=0.0001), row("t4", 3.9, "a", late_days=1), row("t5", 3.5, None),
    ]  # fmt: skip
    labels = [
        Report("t0", 2 * US_PER_DAY, True), Report("t2", 2 * US_PER_DAY, True), Report("t1", 4 * US_PER_DAY - 1, True),
        Report("t2", 4 * US_PER_DAY - 1, False), Report("t3", 4 * US_PER_DAY, True),
    ]  # fmt: skip
    oracle.publish(oracle.lake_of(tmp_path), log, labels)
    build(tmp_path, declared)
    found = oracle.snapshot(oracle.lake_of(tmp_path), tables(declared)[0], 4)
    # t4 is known on day 4, so not to this snapshot. Two frauds among the three rows of days 0-2.
    assert found == {
        "a": [1.0, 2.0, 0.0001, 0.03, 1, 2, 0.0, (2 + 2 * (2 / 3)) / (2 + 2)],
        "b": [0.0, 1.0, 2.5, None, 0, 1, 0.0, (2 * (2 / 3)) / (1 + 2)],
        None: [0.0, 0.0, 0.0, None, 0, 0, 0.0, 2 / 3],
    }


def test_values_come_from_the_snapshot_that_holds_or_its_default_row(tmp_path: Path) -> None:
    declared = oracle.declaration(EVERYTHING[:1] + EVERYTHING[2:3] + EVERYTHING[4:])
    table, lake = tables(declared)[0], oracle.lake_of(tmp_path)
    oracle.publish(lake, [row("t0", 0.5), row("t1", 1.5), row("t2", 2.5, "b")], [Report("t0", 1 * US_PER_DAY, True)])
    build(tmp_path, declared)
    three = 3 * US_PER_HOUR
    at = np.array([1, 1, 2, 2, 2, 3, 4, 9]) * US_PER_DAY + np.array(
        [three - 1, three, three - 1, three, 0, three, 0, 0]
    )
    ids = pa.array(["a", "a", "a", "a", "new", None, "b", "a"])
    snapshots = catalog.daily(table).at(lake).open()
    values = daily_values(snapshots, table, ids, at + DAY_0 * US_PER_DAY)
    assert values[0].tolist() == [0, 1, 1, 1, 0, 0, 1, 0]
    assert np.isnan(values[2]).all()
    third = values[3].tolist()  # fraud rate of one day, known a day later
    assert np.isnan([third[0], third[5], third[7]]).all()
    assert third[1:5] == [0.0, 0.0, 1.0, 0.0]
    assert third[6] == 0.0
    names = snapshot_ids(lake, table, at + DAY_0 * US_PER_DAY).to_pylist()
    content = published(tmp_path, declared)["2026-01-02"].content_sha256
    assert names[:3] == [None, f"2026-01-02-{content[:12]}", f"2026-01-02-{content[:12]}"]
    assert [name and name[:10] for name in names[3:]] == ["2026-01-03", "2026-01-02", "2026-01-04", "2026-01-04", None]
    chunked = pa.chunked_array([ids.slice(0, 3), ids.slice(3)])
    assert np.array_equal(daily_values(snapshots, table, chunked, at + DAY_0 * US_PER_DAY), values, equal_nan=True)


def test_a_column_that_old_partitions_do_not_have_is_null(tmp_path: Path) -> None:
    declared = oracle.declaration(EVERYTHING[:3])
    lake = oracle.lake_of(tmp_path)
    oracle.publish(lake, [row("t0", 0.5), row("t1", 1.5, fee=0.5)], [])
    dataset = catalog.TRANSACTIONS.at(lake)
    dataset.publish(day_name(0), dataset.read(day_name(0)).drop_columns(["fee", "channel"]))
    build(tmp_path, declared)
    assert oracle.snapshot(lake, tables(declared)[0], 2)["a"] == [1.0, 2.0, 2.0, 0.5]
    dataset.publish(day_name(0), dataset.read(day_name(0)).drop_columns(["shop"]))
    build(tmp_path, declared)
    assert oracle.snapshot(lake, tables(declared)[0], 2)["a"] == [1.0, 1.0, 1.0, 0.5]


def test_memory_in_steps_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = oracle.declaration(EVERYTHING)
    log = [row(f"t{i}", i / 4, "abc"[i % 3], late_days=i % 2) for i in range(40)]
    for name in ("whole", "steps"):
        oracle.publish(oracle.lake_of(tmp_path / name), log, [Report("t3", 3 * US_PER_DAY, True)])
    build(tmp_path / "whole", declared)
    monkeypatch.setattr(build_daily, "PART_ROWS_IN_MEMORY", 10)
    build(tmp_path / "steps", declared)
    assert published(tmp_path / "steps", declared) == published(tmp_path / "whole", declared)


def test_days_after_retention_are_not_built_from_fewer_inputs(tmp_path: Path) -> None:
    declared = oracle.declaration(EVERYTHING)  # reads 4 days
    lake, table = oracle.lake_of(tmp_path), tables(declared)[0]
    oracle.publish(lake, [row(f"t{i}", i + 0.5) for i in range(12)], [])
    build(tmp_path, declared)
    before = published(tmp_path, declared)
    catalog.daily(table).at(lake).expire(day_name(8))
    catalog.daily_parts(table).at(lake).expire(day_name(2))
    catalog.TRANSACTIONS.at(lake).expire(day_name(2))
    assert build(tmp_path, declared).first_day == day_name(8)
    assert published(tmp_path, declared) == {day: m for day, m in before.items() if day >= day_name(8)}
    # The first snapshot of a new table is that of which every transaction is kept.
    other = oracle.declaration(EVERYTHING[:1])
    assert build(tmp_path, other).first_day == day_name(2 + 3)


def test_a_declaration_without_daily_features_builds_nothing_and_a_lake_without_transactions_is_bad_input(
    tmp_path: Path,
) -> None:
    declared = oracle.declaration(EVERYTHING)
    with pytest.raises(BadInputError, match="no transactions"):
        build(tmp_path, declared)
    oracle.publish(oracle.lake_of(tmp_path), [row("t0", 0.5)], [])
    result = build_daily.run(
        build_daily.Config(live=True),
        Context(Settings.model_validate({"home": tmp_path, "project": ROOT}), PARAMS, declared,
                structlog.get_logger(), lambda: [declared, oracle.declaration(EVERYTHING[:1])]),
    )  # fmt: skip
    assert (result.tables, result.days_built) == (2, 2)
