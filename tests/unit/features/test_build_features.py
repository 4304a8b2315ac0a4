"""The incremental build: the same bytes as a clean one, and no more work than the change asks for."""

from datetime import date, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import structlog

from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.errors import BadInputError
from fraud.features import build_features, days
from fraud.features.engines import arrow_windows, kernel
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
FIRST = date(2026, 1, 1)
FIRST_US = (FIRST - date(1970, 1, 1)).days * US_PER_DAY


def context(folder: Path) -> Context:
    settings = Settings(home=folder, project=ROOT)
    return Context(settings, Params.load(ROOT / "params.yaml"), structlog.get_logger())


def table(event_us: list[int], created_us: list[int], users: list[str], ids: list[str] | None = None) -> pa.Table:
    n = len(event_us)
    timestamp = pa.timestamp("us", "UTC")
    unsorted = pa.table(
        {
            "transaction_id": ids or [f"t{i:05}" for i in range(n)],
            "event_timestamp": pa.array(event_us, timestamp),
            "created_timestamp": pa.array(created_us, timestamp),
            "user_id": users,
            "merchant_id": [f"m{i % 7}" for i in range(n)],
            "merchant_category": ["grocery"] * n,
            "amount": [1.0 + i / 100 for i in range(n)],
            "distance_from_home": pa.array([None if i % 3 == 0 else float(i) for i in range(n)], pa.float64()),
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


def build(folder: Path, **flags: object) -> build_features.Result:
    return build_features.run(build_features.Config.model_validate(flags), context(folder))


def content(folder: Path) -> dict[str, str]:
    dataset = catalog.FEATURES.at(f"file://{folder}/lake")
    return {p: manifest.content_sha256 for p in dataset.partitions() if (manifest := dataset.manifest(p))}


def test_nightly_builds_with_late_rows_end_in_the_bytes_of_one_clean_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "compute", partial(kernel.compute, bound=6))
    monkeypatch.setattr(build_features, "ROWS_IN_MEMORY", 400)
    rng = np.random.default_rng(7)
    n = 700
    event = FIRST_US + rng.integers(0, 60 * 24, n) * US_PER_HOUR
    lateness = np.where(rng.random(n) < 0.15, rng.integers(0, 45 * 24, n), 0) * US_PER_HOUR
    created = event + lateness + rng.integers(0, 3, n) * US_PER_HOUR
    everything = table(event.tolist(), created.tolist(), [f"u{i}" for i in rng.integers(0, 4, n)])
    for night in (40, 41, 110):
        known = pc.less(everything["created_timestamp"].cast(pa.int64()), FIRST_US + night * US_PER_DAY)
        publish(tmp_path / "nightly", everything.filter(known))
        build(tmp_path / "nightly")
    publish(tmp_path / "clean", everything)
    build(tmp_path / "clean")

    assert content(tmp_path / "nightly") == content(tmp_path / "clean")
    at_once = arrow_windows.with_windows(everything, arrow_windows.window_values(everything))
    built = catalog.FEATURES.at(f"file://{tmp_path}/nightly/lake").read_range("2026", "2027")
    assert built is not None
    assert built.equals(at_once.cast(built.schema))


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
    features = catalog.FEATURES.at(f"file://{tmp_path}/lake")
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
    features = catalog.FEATURES.at(f"file://{tmp_path}/lake")
    manifest = features.manifest(day(0))
    assert manifest is not None
    assert [made.rows for made in manifest.objects] == [3, 3, 3, 2]
    at_once = arrow_windows.with_windows(rows, arrow_windows.window_values(rows))
    assert features.read(day(0)).equals(at_once)


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
    features = catalog.FEATURES.at(f"file://{tmp_path}/lake").read_range("2026", "2027")
    assert features is not None
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
