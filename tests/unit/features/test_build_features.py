"""The incremental build: the same bytes as a clean one, and no more work than the change asks for."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import structlog
from tests.oracle_windows import Event, Feature, window_values

from fraud import declaration_file
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.declaration import Declaration, parse
from fraud.core.plan import tables
from fraud.errors import BadInputError
from fraud.features import build_daily, build_features, days
from fraud.features.daily_values import daily_values
from fraud.features.engines import arrow_records, arrow_windows
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
FIRST = date(2026, 1, 1)
FIRST_US = (FIRST - date(1970, 1, 1)).days * US_PER_DAY
THREE: Final = declaration_file.load(ROOT / "tests/declarations/three.yaml")
WINDOWS: Final[dict[str, list[tuple[str, str | None, str]]]] = {
    "user": [("count", None, "1h"), ("mean", "amount", "7d"), ("distinct", "merchant_id", "30d"),
             ("matches", "merchant_category", "7d"), ("same_as_last", "device_id", "30d")],
    "device": [("distinct", "user_id", "1d"), ("max", "amount", "7d"), ("share", "card_present", "7d"),
               ("seconds_since_last", None, "7d")],
}  # fmt: skip
"""Aggregate, column and window of each feature, by entity."""
TWO_ENTITIES: Final = parse(
    {
        "columns": {
            "merchant_category": {"type": "category", "values": ["grocery", "travel", "other"]},
            "device_id": {"type": "id"},
            "card_present": {"type": "flag"},
        },
        "entities": {
            "user": {"id": "user_id", "max_events": 8, "keep": "37d"},
            "device": {"id": "device_id", "max_events": 8, "keep": "8d"},
            "merchant": {"id": "merchant_id"},
        },
        "features": [
            *(
                {"name": f"{entity}_{i}", "kind": "window", "entity": entity, "aggregate": aggregate, "window": window,
                 **({"column": column} if column else {})}
                for entity, windows in WINDOWS.items() for i, (aggregate, column, window) in enumerate(windows)
            ),
            {"name": "merchant_count", "kind": "daily", "entity": "merchant", "aggregate": "count", "days": 7},
        ],
    }
)  # fmt: skip


def context(folder: Path, declaration: Declaration = THREE) -> Context:
    settings = Settings(home=folder, project=ROOT)
    return Context(settings, Params.load(ROOT / "params.yaml"), declaration, structlog.get_logger())


def table(event_us: list[int], created_us: list[int], users: list[str], ids: list[str] | None = None) -> pa.Table:
    """Rows with the columns of both declarations; every third without a device."""
    n = len(event_us)
    timestamp = pa.timestamp("us", "UTC")
    unsorted = pa.table(
        {
            "transaction_id": ids or [f"t{i:05}" for i in range(n)],
            "event_timestamp": pa.array(event_us, timestamp),
            "created_timestamp": pa.array(created_us, timestamp),
            "user_id": users,
            "merchant_id": [f"m{i % 7}" for i in range(n)],
            "amount": [1.0 + i / 100 for i in range(n)],
            "card_present": pa.array([(True, False, None)[i % 5 % 3] for i in range(n)], pa.bool_()),
            "device_id": pa.array([None if i % 3 == 0 else f"d{i % 4}" for i in range(n)], pa.string()),
            "distance_from_home": pa.array([None if i % 3 == 0 else float(i) for i in range(n)], pa.float64()),
            "merchant_category": [("grocery", "travel")[i % 2] for i in range(n)],
        }
    )
    keys = ("event_timestamp", "created_timestamp", "transaction_id")
    return unsorted.sort_by([(key, "ascending") for key in keys])


def day(number: int) -> str:
    return (FIRST + timedelta(number)).isoformat()


def publish(folder: Path, transactions: pa.Table) -> None:
    """All days from the first row's to the last's, empty ones included."""
    dataset = catalog.TRANSACTIONS.at(f"file://{folder}/lake")
    numbers = (np.asarray(transactions["event_timestamp"].cast(pa.int64())) - FIRST_US) // US_PER_DAY
    for number in range(numbers.min(), numbers.max() + 1):
        dataset.publish(day(number), transactions.filter(pa.array(numbers == number)))


def build(folder: Path, of: Declaration = THREE, **flags: object) -> build_features.Result:
    return build_features.run(build_features.Config.model_validate(flags), context(folder, of))


def content(folder: Path, declaration: Declaration = THREE) -> dict[str, str]:
    dataset = catalog.features(declaration.stored_hash).at(f"file://{folder}/lake")
    return {p: partition.content_sha256 for p, partition in dataset.open().contents.partitions.items()}


def built(folder: Path, declaration: Declaration = THREE) -> pa.Table:
    rows = catalog.features(declaration.stored_hash).at(f"file://{folder}/lake").read_range("2026", "2027")
    assert rows is not None
    return rows


def random_rows(seed: int, n: int) -> pa.Table:
    """Four users over 60 days; one row in seven is ingested up to 45 days late."""
    rng = np.random.default_rng(seed)
    event = FIRST_US + rng.integers(0, 60 * 24, n) * US_PER_HOUR
    lateness = np.where(rng.random(n) < 0.15, rng.integers(0, 45 * 24, n), 0) * US_PER_HOUR
    created = event + lateness + rng.integers(0, 3, n) * US_PER_HOUR
    return table(event.tolist(), created.tolist(), [f"u{i}" for i in rng.integers(0, 4, n)])


def expected_windows(rows: pa.Table) -> dict[str, list[float | None]]:
    """The window features of TWO_ENTITIES by the oracle, in the order of `rows`."""
    records = rows.to_pylist()
    at, ingested = (np.asarray(rows[f"{name}_timestamp"].cast(pa.int64())) for name in ("event", "created"))
    found: dict[str, list[float | None]] = {}
    for entity, windows in WINDOWS.items():
        columns = sorted({column for _, column, _ in windows if column})
        features = [
            Feature(aggregate, columns.index(column) if column else -1,
                    int(window[:-1]) * {"h": US_PER_HOUR, "d": US_PER_DAY}[window[-1]],
                    10_000 if column == "amount" else 1)
            for aggregate, column, window in windows
        ]  # fmt: skip
        declared = TWO_ENTITIES.entities[entity]
        assert declared.max_events is not None
        assert declared.keep is not None
        of_entity: dict[Any, list[int]] = {}
        for i, record in enumerate(records):
            key = record[declared.id]
            of_entity.setdefault(("none", i) if key is None else key, []).append(i)
        values: dict[int, list[float | None]] = {}
        for members in of_entity.values():
            events = [
                Event(int(at[i]), int(ingested[i]),
                      tuple(round(records[i][c] * 10_000) if c == "amount" else records[i][c] for c in columns))
                for i in members
            ]  # fmt: skip
            oracle = window_values(events, features, declared.max_events, declared.keep)
            values |= {members[k]: row for k, row in oracle.items()}
        for f in range(len(windows)):
            found[f"{entity}_{f}"] = [values[i][f] for i in range(len(records))]
    return found


@pytest.mark.parametrize("at_once", [400, 6_000_000])
def test_nightly_builds_with_late_rows_end_in_the_bytes_of_one_clean_build_and_in_the_oracles_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Two entities with different bounds and retention, one of them null in a third of the rows; daily values too."""
    monkeypatch.setattr(build_features, "ROWS_IN_MEMORY", at_once)
    everything = random_rows(seed=7, n=700)
    for night in (40, 41, 110):
        known = pc.less(everything["created_timestamp"].cast(pa.int64()), FIRST_US + night * US_PER_DAY)
        publish(tmp_path / "nightly", everything.filter(known))
        build_daily.build(TWO_ENTITIES, context(tmp_path / "nightly"))
        build(tmp_path / "nightly", TWO_ENTITIES)
    publish(tmp_path / "clean", everything)
    build_daily.build(TWO_ENTITIES, context(tmp_path / "clean"))
    build(tmp_path / "clean", TWO_ENTITIES)

    assert content(tmp_path / "nightly", TWO_ENTITIES) == content(tmp_path / "clean", TWO_ENTITIES)
    rows = built(tmp_path / "nightly", TWO_ENTITIES)
    assert rows["transaction_id"].equals(everything["transaction_id"])
    for name, expected in expected_windows(everything).items():
        assert rows[name].to_pylist() == expected, name
    (merchants,) = tables(TWO_ENTITIES)
    event_us = arrow_records.microseconds(everything["event_timestamp"])
    snapshots = catalog.daily(merchants).at(f"file://{tmp_path}/clean/lake").open()
    daily = daily_values(snapshots, merchants, everything["merchant_id"], event_us)
    assert rows["merchant_count"].to_pylist() == daily[0].tolist()
    assert len(set(daily[0].tolist())) > 10


def test_a_changed_daily_snapshot_builds_the_two_days_on_which_it_holds(tmp_path: Path) -> None:
    times = [FIRST_US + d * US_PER_DAY + US_PER_HOUR for d in range(12)]
    publish(tmp_path, table(times, times, ["u"] * 12))
    build_daily.build(TWO_ENTITIES, context(tmp_path))
    build(tmp_path, TWO_ENTITIES)
    (merchants,) = tables(TWO_ENTITIES)
    snapshots = catalog.daily(merchants).at(f"file://{tmp_path}/lake")
    rows = snapshots.read(day(5))
    doubled = pc.multiply(rows["merchant_count"], 2.0)
    snapshots.publish(day(5), rows.set_column(1, "merchant_count", doubled))
    assert build(tmp_path, TWO_ENTITIES).days_built == 2
    at_1am = built(tmp_path, TWO_ENTITIES)["merchant_count"].to_pylist()  # until 03:00 the snapshot before holds
    assert at_1am[6] == 0.0  # the merchant of day 6 comes again a week later
    assert build(tmp_path, TWO_ENTITIES).days_built == 0


def test_declarations_have_datasets_of_their_own_and_equal_features_share_one(tmp_path: Path) -> None:
    times = [FIRST_US + d * US_PER_DAY for d in range(3)]
    publish(tmp_path, table(times, times, ["u"] * 3))
    renamed = THREE.model_copy(update={"features": THREE.features[1:]})  # one request feature less
    live = Context(
        Settings(home=tmp_path, project=ROOT), Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger(),
        lambda: [TWO_ENTITIES, renamed],
    )  # fmt: skip
    result = build_features.run(build_features.Config(live=True), live)
    assert (result.declarations, result.days_built) == (2, 6)
    assert content(tmp_path).keys() == content(tmp_path, TWO_ENTITIES).keys() == {day(0), day(1), day(2)}


def test_a_declaration_file_is_built_beside_the_projects(tmp_path: Path) -> None:
    times = [FIRST_US + d * US_PER_DAY for d in range(3)]
    publish(tmp_path, table(times, times, ["u"] * 3))
    result = build(tmp_path, TWO_ENTITIES, declaration=ROOT / "tests/declarations/three.yaml")
    assert (result.declarations, result.days_built) == (2, 6)
    assert built(tmp_path)["unique_merchants_30d"].to_pylist() == [0, 1, 2]


def test_a_column_that_old_partitions_do_not_have_is_null_there(tmp_path: Path) -> None:
    times = [FIRST_US + d * US_PER_DAY for d in range(3)]
    rows = table(times, times, ["u"] * 3)
    publish(tmp_path, rows.drop_columns(["device_id", "merchant_category", "card_present"]))
    catalog.TRANSACTIONS.at(f"file://{tmp_path}/lake").publish(day(2), rows.slice(2))
    build(tmp_path, TWO_ENTITIES)
    found = built(tmp_path, TWO_ENTITIES)
    assert found["device_id"].to_pylist() == [None, None, "d2"]
    assert found["device_0"].to_pylist() == [0, 0, 0]
    assert found["user_3"].to_pylist() == [0.0, 1.0, 0.0]  # a null category is `other`, as in a request without one


def test_an_unchanged_lake_is_not_read_again_and_a_forced_build_gives_the_same_bytes(tmp_path: Path) -> None:
    times = [FIRST_US + d * US_PER_DAY for d in range(5)]
    publish(tmp_path, table(times, times, ["u"] * 5))
    first = build(tmp_path)
    before = content(tmp_path)
    again, forced = build(tmp_path), build(tmp_path, full=True)
    assert (first.days_built, first.days_changed, first.rows) == (5, 5, 5)
    assert (again.days_built, again.days_unchanged, again.rows) == (0, 5, 0)
    assert (forced.days_built, forced.days_changed) == (5, 0)
    assert content(tmp_path) == before


def test_a_new_day_builds_that_day_alone(tmp_path: Path) -> None:
    times = [FIRST_US + d * US_PER_DAY + US_PER_HOUR for d in range(4)]
    publish(tmp_path, table(times[:3], times[:3], ["u"] * 3))
    build(tmp_path)
    publish(tmp_path, table(times, times, ["u"] * 4))
    result = build(tmp_path)
    assert (result.days_built, result.days_unchanged) == (1, 3)


def test_a_late_row_opens_only_the_days_it_can_touch(tmp_path: Path) -> None:
    """Its own day, the thirty whose look-back contains it, and the four after them.

    The look-back of the four starts before the row was ingested, so it may displace an event of a full history.
    """
    times = [FIRST_US + d * US_PER_DAY + US_PER_HOUR for d in range(48)]
    users, ids = ["u"] * 48, [f"t{d}" for d in range(48)]
    publish(tmp_path, table(times, times, users, ids))
    build(tmp_path)
    late = FIRST_US + 10 * US_PER_DAY
    publish(tmp_path, table([*times, late], [*times, late + 5 * US_PER_DAY], [*users, "u"], [*ids, "late"]))
    result = build(tmp_path)
    assert (result.days_built, result.days_unchanged) == (31 + 4, 48 - 35)
    features = catalog.features(THREE.stored_hash).at(f"file://{tmp_path}/lake")
    unique = [features.read(day(d))["unique_merchants_30d"].to_pylist() for d in (10, 14, 15)]
    assert unique[0] == [7, 7]  # the late row at midnight, then the day's own: both before knew ten days, seven shops
    velocity = [features.read(day(d))["transaction_velocity_1h"].to_pylist() for d in (10, 15)]
    assert velocity == [[0.0, 0.0], [0.0]]  # at day 10, 01:00, the row of 00:00 was not known yet


def test_a_day_of_several_objects_has_the_values_and_the_order_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transactions in three objects of 4, 4 and 3 rows, features in objects of 3."""
    times = [FIRST_US + i * US_PER_HOUR for i in range(11)]
    rows = table(times, times, ["u", "v"] * 5 + ["u"])
    catalog.TRANSACTIONS.at(f"file://{tmp_path}/lake").publish(day(0), [rows.slice(i, 4) for i in (0, 4, 8)])
    monkeypatch.setattr(days, "ROWS_PER_OBJECT", 3)
    build(tmp_path)
    features = catalog.features(THREE.stored_hash).at(f"file://{tmp_path}/lake")
    partition = features.partition(day(0))
    assert partition is not None
    assert [made.rows for made in partition.objects] == [3, 3, 3, 2]
    columns = [name for name, _ in catalog.transaction_columns(THREE)]
    at_once = arrow_windows.with_features(rows.select(columns), THREE, arrow_windows.window_values(rows, THREE))
    assert features.read(day(0)).equals(at_once)


def test_a_category_that_the_declaration_does_not_list_counts_as_unknown(tmp_path: Path) -> None:
    """The lake has the list of another declaration."""
    times = [FIRST_US + h * US_PER_HOUR for h in range(4)]
    rows = table(times, times, ["u"] * 4)
    texts = pa.array(["home", "garden", "other", "grocery"])
    publish(tmp_path, rows.set_column(rows.column_names.index("merchant_category"), "merchant_category", texts))
    build(tmp_path, TWO_ENTITIES)
    assert built(tmp_path, TWO_ENTITIES)["user_3"].to_pylist() == [0.0, 1.0, 2.0, 0.0]


def test_only_the_days_asked_for_are_built(tmp_path: Path) -> None:
    times = [FIRST_US + d * US_PER_DAY for d in range(10)]
    publish(tmp_path, table(times, times, ["u"] * 10))
    result = build(tmp_path, **{"from": "2026-01-03", "to": "2026-01-04"})
    assert (result.days_built, result.first_day, result.last_day) == (2, "2026-01-03", "2026-01-04")
    assert list(content(tmp_path)) == ["2026-01-03", "2026-01-04"]


def test_values_by_hand(tmp_path: Path) -> None:
    noon = FIRST_US + 12 * US_PER_HOUR
    times = [noon, noon + US_PER_HOUR, noon + US_PER_HOUR + 1, noon + 8 * US_PER_DAY]
    publish(tmp_path, table(times, times, ["u"] * 4))
    build(tmp_path)
    features = built(tmp_path)
    assert features["transaction_velocity_1h"].to_pylist() == [0.0, 1.0, 1.0, 0.0]
    assert features["avg_amount_7d"].to_pylist() == [None, 1.0, 1.005, None]
    assert features["unique_merchants_30d"].to_pylist() == [0, 1, 2, 3]


def test_an_empty_lake_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="fraud ingest"):
        build(tmp_path)


def test_unsorted_transactions_are_refused(tmp_path: Path) -> None:
    rows = table([FIRST_US, FIRST_US + 1], [FIRST_US, FIRST_US + 1], ["u", "u"])
    catalog.TRANSACTIONS.at(f"file://{tmp_path}/lake").publish(day(0), rows.take([1, 0]))
    with pytest.raises(BadInputError, match="not sorted"):
        build(tmp_path)


def test_a_killed_build_resumes_with_the_days_it_had_written_and_publishes_all_in_one_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path, random_rows(seed=3, n=300))
    lake = f"file://{tmp_path}/lake"
    features, every = catalog.features(THREE.stored_hash).at(lake), catalog.TRANSACTIONS.at(lake).partitions()
    assert len(every) > 4
    build_here = days.build_here

    def killed(target: days.Target, parts: list[days.Part]) -> Any:  # noqa: ANN401 - an iterator
        for built_days, each in enumerate(build_here(target, parts)):
            if built_days == 3:
                raise KeyboardInterrupt
            yield each

    with monkeypatch.context() as patch:
        patch.setattr(days, "build_here", killed)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path)
    assert (features.partitions(), list(features.staged())) == ([], every[:3])
    asked_for: list[str] = []

    def counted(target: days.Target, parts: list[days.Part]) -> Any:  # noqa: ANN401 - an iterator
        asked_for.extend(part.day for part in parts if part.to_build)
        return build_here(target, parts)

    monkeypatch.setattr(days, "build_here", counted)
    assert build(tmp_path).days_built == len(every)
    assert asked_for == every[3:]
    resumed = features.open()
    assert (resumed.number, resumed.partitions(), features.staged()) == (0, every, {})
    assert build(tmp_path, full=True).days_changed == 0
    assert features.open() == resumed
