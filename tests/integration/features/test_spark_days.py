"""`build-features` on Spark: the partitions, and so the bytes, of the one-machine build, and its refusals."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import structlog
from tests.late_transactions import FIRST, FIRST_US, day, publish, transactions

from fraud import declaration_file
from fraud.core.contract import US_PER_DAY
from fraud.errors import BadInputError
from fraud.features import build_daily, build_features
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.records import Contents
from fraud.params import Params
from fraud.settings import Settings

ROOT = Path(__file__).parents[3]
SHIPPED = declaration_file.load_of(ROOT)
"""Windows of users and devices, daily features of merchants."""
pytestmark = pytest.mark.usefixtures("spark")


def build(home: Path, engine: str) -> build_features.Result:
    settings = Settings.model_validate({"home": home, "project": ROOT, "feature_engine": engine})
    context = Context(settings, Params.load(ROOT / "params.yaml"), SHIPPED, structlog.get_logger())
    build_daily.build(SHIPPED, context)
    return build_features.run(build_features.Config(), context)


def published(home: Path) -> Contents:
    return catalog.features(SHIPPED.stored_hash).at(f"file://{home}/lake").open().contents


@pytest.mark.parametrize(
    ("rows", "days", "at_once"),
    [
        (400, 6, 6_000_000),
        pytest.param(6_000, 45, 2_500, marks=[pytest.mark.long, pytest.mark.timeout(1_200)], id="in several steps"),
    ],
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
    monkeypatch.setattr(build_features, "ROWS_ON_SPARK", at_once)
    table = transactions(rows, days, seed=1)
    hole = pa.scalar(FIRST + timedelta(days // 2))
    table = table.filter(pc.not_equal(table["event_timestamp"].cast(pa.date32()), hole))
    homes = {engine: tmp_path / engine for engine in ("one-machine", "spark")}
    before = table.filter(pc.less(table["created_timestamp"].cast(pa.int64()), FIRST_US + (days - 2) * US_PER_DAY))
    for delivered in (before, table):
        for home in homes.values():
            publish(f"file://{home}/lake", delivered)
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


@pytest.mark.parametrize("objects", [1, 2])
def test_transactions_out_of_order_are_refused_as_on_one_machine(tmp_path: Path, objects: int) -> None:
    rows = transactions(50, 2, seed=2)
    publish(f"file://{tmp_path}/lake", rows)
    later, earlier = rows.slice(1, 1), rows.slice(0, 1)
    swapped = [pa.concat_tables([later, earlier])] if objects == 1 else [later, earlier]
    catalog.TRANSACTIONS.at(f"file://{tmp_path}/lake").publish(day(0), swapped)
    with pytest.raises(BadInputError, match="not sorted"):
        build(tmp_path, "spark")
