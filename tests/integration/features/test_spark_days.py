"""`build-features` on Spark: the partitions, and so the bytes, of the one-machine build, and its refusals."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import structlog

from fraud import declaration_file
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.errors import BadInputError
from fraud.features import build_daily, build_features
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.records import Contents
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
FIRST = date(2026, 1, 1)
FIRST_US = (FIRST - date(1970, 1, 1)).days * US_PER_DAY
SHIPPED = declaration_file.load_of(ROOT)
"""Windows of users and devices, daily features of merchants."""
pytestmark = pytest.mark.usefixtures("spark")


def day(number: int) -> str:
    return (FIRST + timedelta(number)).isoformat()


def transactions(rows: int, days: int, seed: int) -> pa.Table:
    """Half of them one user's, who has more than the bound; ties to the microsecond, an eighth ingested late."""
    rng = np.random.default_rng(seed)
    event = FIRST_US + np.sort(rng.integers(0, days * 24 * 12, rows)) * (US_PER_HOUR // 12)
    learned = event + np.where(rng.random(rows) < 1 / 8, rng.integers(0, 20 * 24, rows) * US_PER_HOUR, 0)
    user = np.where(rng.random(rows) < 0.5, 0, rng.integers(1, 40, rows))
    timestamp = pa.timestamp("us", "UTC")
    table = pa.table(
        {
            "transaction_id": [f"t{i:06}" for i in range(rows)],
            "event_timestamp": pa.array(event, timestamp),
            "created_timestamp": pa.array(learned, timestamp),
            "user_id": [f"user {i}" for i in user],
            "merchant_id": [f"m{i}" for i in rng.integers(0, 300, rows)],
            "amount": np.rint(rng.lognormal(3, 1, rows) * 100 + 1) / 100,
            "card_present": pa.array([(True, False, None)[i] for i in rng.integers(0, 3, rows)], pa.bool_()),
            "country": [("de", "fr", "jp")[i] for i in rng.integers(0, 3, rows)],
            "device_id": pa.array([None if i == 0 else f"d{i}" for i in rng.integers(0, 30, rows)], pa.string()),
            "distance_from_home": pa.array(np.where(rng.random(rows) < 0.2, np.nan, 3.5), from_pandas=True),
            "merchant_category": [("grocery", "travel")[i] for i in rng.integers(0, 2, rows)],
        }
    )
    return table.sort_by([(k, "ascending") for k in ("event_timestamp", "created_timestamp", "transaction_id")])


def publish(home: Path, rows: pa.Table) -> None:
    """Every day, one without rows included, in two objects each."""
    dataset = catalog.TRANSACTIONS.at(f"file://{home}/lake")
    numbers = (np.asarray(rows["event_timestamp"].cast(pa.int64())) - FIRST_US) // US_PER_DAY
    for number in range(numbers.max() + 1):
        own = rows.filter(pa.array(numbers == number))
        half = own.num_rows // 2
        dataset.publish(day(number), [own.slice(0, half), own.slice(half)])


def build(home: Path, engine: str) -> build_features.Result:
    settings = Settings.model_validate({"home": home, "project": ROOT, "feature_engine": engine})
    context = Context(settings, Params.load(ROOT / "params.yaml"), SHIPPED, structlog.get_logger())
    build_daily.build(SHIPPED, context)
    return build_features.run(build_features.Config(), context)


def published(home: Path) -> Contents:
    return catalog.features(SHIPPED.stored_hash).at(f"file://{home}/lake").open().contents


@pytest.mark.parametrize(
    ("rows", "days", "at_once"),
    [(400, 6, 6_000_000), pytest.param(6_000, 45, 2_500, marks=pytest.mark.slow, id="in several steps")],
)
def test_days_built_on_spark_have_the_bytes_of_the_one_machine_build(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: int,
    days: int,
    at_once: int,
) -> None:
    """Before and after a delivery of newer days and late rows; one day has no rows."""
    monkeypatch.setattr(build_features, "ROWS_IN_MEMORY", at_once)
    table = transactions(rows, days, seed=1)
    hole = pa.scalar(FIRST + timedelta(days // 2))
    table = table.filter(pc.not_equal(table["event_timestamp"].cast(pa.date32()), hole))
    homes = {engine: tmp_path / engine for engine in ("one-machine", "spark")}
    before = table.filter(pc.less(table["created_timestamp"].cast(pa.int64()), FIRST_US + (days - 2) * US_PER_DAY))
    for delivered in (before, table):
        for home in homes.values():
            publish(home, delivered)
        results = {engine: build(home, engine) for engine, home in homes.items()}
        assert results["spark"] == results["one-machine"]
        assert published(homes["spark"]) == published(homes["one-machine"])
    built = catalog.features(SHIPPED.stored_hash).at(f"file://{homes['spark']}/lake").read_range(day(0), day(days))
    assert built is not None
    assert built.num_rows == table.num_rows
    for name in ("user_count_30d", "device_users_7d", "merchant_count_7d", "card_present_share_7d"):
        assert len(set(built[name].to_pylist())) > 3, name
    with capsys.disabled():
        print(f"\nspark against one machine: {built.num_rows} rows of {days} days, the same bytes")
    assert build(homes["spark"], "spark").days_built == 0


def test_transactions_out_of_order_are_refused_as_on_one_machine(tmp_path: Path) -> None:
    rows = transactions(50, 2, seed=2)
    publish(tmp_path, rows)
    swapped = rows.slice(0, 2)
    catalog.TRANSACTIONS.at(f"file://{tmp_path}/lake").publish(day(0), swapped.take([1, 0]))
    with pytest.raises(BadInputError, match="not sorted"):
        build(tmp_path, "spark")
