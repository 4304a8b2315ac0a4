"""How days are named on the command line, and how a day is cut into slices."""

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from fraud.core.plan import Plan
from fraud.declaration_file import load
from fraud.lake import catalog, objects
from fraud.scoring import score, slices
from fraud.scoring.score import Config
from fraud.scoring.scorer import input_schema

THREE = Plan(load(Path(__file__).parents[3] / "tests/declarations/three.yaml"))
INPUT = input_schema(THREE)
FEATURES = catalog.features(THREE.stored_hash)


def test_one_day_or_a_span_or_neither() -> None:
    assert Config.model_validate({"date": "2026-03-01"}).date == dt.date(2026, 3, 1)
    span = Config.model_validate({"from": "2026-03-01", "to": "2026-03-03"})
    assert (span.first, span.last) == (dt.date(2026, 3, 1), dt.date(2026, 3, 3))
    assert Config().date is None


@pytest.mark.parametrize(
    "flags",
    [
        {"from": "2026-03-01"},
        {"to": "2026-03-01"},
        {"date": "2026-03-01", "from": "2026-03-01", "to": "2026-03-02"},
        {"from": "2026-03-02", "to": "2026-03-01"},
        {"date": "yesterday"},
        {"days": 3},
    ],
)
def test_contradictions_are_refused(flags: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(flags)


def features_of(rows: int) -> pa.Table:
    at = [dt.datetime(2026, 3, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=i) for i in range(rows)]
    texts, numbers = [f"t{i}" for i in range(rows)], [float(i) for i in range(rows)]
    columns = {
        "transaction_id": texts, "user_id": texts, "event_timestamp": at, "merchant_category": texts,
        "amount": numbers, "distance_from_home": numbers, "transaction_velocity_1h": numbers,
        "avg_amount_7d": numbers, "unique_merchants_30d": list(range(rows)),
    }  # fmt: skip
    return pa.table({name: columns[name] for name in INPUT.names}, schema=INPUT)


@pytest.mark.parametrize("rows_per_group", [3, 4, 10, 25, 1_000])
def test_slices_cover_a_day_once_and_in_order_however_its_files_are_laid_out(
    rows_per_group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = features_of(60)
    features = FEATURES.at(f"file://{tmp_path}")
    monkeypatch.setattr(objects, "ROWS_PER_GROUP", rows_per_group)
    source = features.publish("2026-03-01", iter([whole.slice(0, 25), whole.slice(25, 0), whole.slice(25)]))
    monkeypatch.setattr(slices, "ROWS_PER_GROUP", 4)
    found = list(slices.slices_of(features, "2026-03-01", source))
    # 25 rows by 4 are seven slices, an object without rows is one, 35 rows are nine.
    assert len(found) == 7 + 1 + 9
    assert pa.concat_tables([slices.read_slice(piece, INPUT) for piece in found]).equals(whole)


def test_small_days_are_scored_together_and_a_large_one_ends_its_group() -> None:
    piece = slices.Slice("", "", objects.DataObject(name="", rows=0, bytes=0, sha256="", columns=()), 0, 0)
    sizes = [1] * 20 + [40] + [1] * 3
    together = list(score._together(([piece] * size for size in sizes), lambda: 0))
    assert [len(group) for group in together] == [16, 4 + 40, 3]


def test_a_first_slice_verifies_its_object(tmp_path: Path) -> None:
    features = FEATURES.at(f"file://{tmp_path}")
    source = features.publish("2026-03-01", features_of(5))
    path = Path(features.object_uris("2026-03-01")[0].removeprefix("file://"))
    path.write_bytes(path.read_bytes() + b" ")
    (piece,) = slices.slices_of(features, "2026-03-01", source)
    with pytest.raises(ValueError, match="as published"):
        slices.read_slice(piece, INPUT)


def test_a_column_that_an_object_lacks_is_named(tmp_path: Path) -> None:
    features = FEATURES.at(f"file://{tmp_path}")
    source = features.publish("2026-03-01", features_of(5).drop_columns(["amount", "avg_amount_7d"]))
    (piece,) = slices.slices_of(features, "2026-03-01", source)
    with pytest.raises(ValueError, match="no column amount, avg_amount_7d"):
        slices.read_slice(piece, INPUT)
