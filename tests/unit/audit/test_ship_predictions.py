"""Shipping the prediction log: each answer once, whatever was interrupted, torn or sent again."""

import datetime as dt
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
import structlog

from fraud.audit import prediction_log, ship_predictions
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings

NOON = 1_772_625_600_000_000  # 2026-03-04T12:00:00Z
DAY = 86_400_000_000


def record(number: int, served_us: int = NOON, **more: object) -> bytes:
    line = {
        "prediction_id": f"p{number}", "transaction_id": None, "user_id": None, "merchant_id": None,
        "merchant_category": "travel", "amount": 12.5, "distance_from_home": None, "event_us": None, "hour_of_day": 3,
        "day_of_week": 2, "served_us": served_us + number, "sequence": None, "newest_us": None, "history": "none",
        "degraded": False, "transaction_velocity_1h": 0.0, "avg_amount_7d": None, "unique_merchants_30d": 0,
        "fraud_probability": 0.25, "is_fraud": False, "threshold": 0.5, "model_version": "3", "model_sha256": "ab",
        "feature_hash": "cd", "latency_us": 200,
    }  # fmt: skip
    return json.dumps(line | more).encode() + b"\n"


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "predictions").mkdir()
    settings = Settings(home=tmp_path)
    params = Params.load(Path(__file__).parents[3] / "params.yaml")
    return Context(settings, params, structlog.get_logger())


def ship(context: Context) -> ship_predictions.Result:
    return ship_predictions.run(ship_predictions.Config(), context)


def shipped(context: Context, day: str = "2026-03-04") -> list[str]:
    return catalog.PREDICTIONS.at(context.settings.lake_uri).read(day)["prediction_id"].to_pylist()


def segment(context: Context, name: str = "segment-1-a.jsonl") -> Path:
    return context.settings.prediction_log / name


def test_answers_land_in_the_day_they_were_given_in_order_of_time(context: Context) -> None:
    segment(context).write_bytes(record(3) + record(1) + record(2, NOON + DAY))
    result = ship(context)
    assert (result.rows, result.days) == (3, ["2026-03-04", "2026-03-05"])
    assert shipped(context) == ["p1", "p3"]
    assert shipped(context, "2026-03-05") == ["p2"]
    assert catalog.PREDICTIONS.at(context.settings.lake_uri).read("2026-03-04").schema.equals(prediction_log.SCHEMA)


def test_a_second_look_ships_what_was_written_since_and_nothing_twice(context: Context) -> None:
    segment(context).write_bytes(record(1))
    ship(context)
    with segment(context).open("ab") as file:
        file.write(record(2))
    segment(context, "segment-2-b.jsonl").write_bytes(record(3))
    result = ship(context)
    assert (result.segments, result.rows, result.repeated) == (2, 2, 0)
    assert shipped(context) == ["p1", "p2", "p3"]
    assert ship(context).rows == 0


def test_a_line_that_is_still_being_written_waits_for_its_end(context: Context) -> None:
    whole = record(2)
    segment(context).write_bytes(record(1) + whole[:40])
    assert ship(context).rows == 1
    segment(context).write_bytes(record(1) + whole)
    assert ship(context).rows == 1
    assert shipped(context) == ["p1", "p2"]


def test_a_torn_last_line_of_a_dead_process_stays_unread(context: Context) -> None:
    segment(context).write_bytes(record(1) + record(2)[:40])
    assert ship(context).rows == 1
    assert ship(context).segments == 0


def test_a_run_that_died_after_publishing_is_repeated_without_a_trace(context: Context, tmp_path: Path) -> None:
    segment(context).write_bytes(b"".join(record(n) for n in range(50)))
    ship(context)
    manifest = tmp_path / "lake/predictions/dt=2026-03-04/_manifest.json"
    first = manifest.read_bytes()
    (tmp_path / "lake/predictions/_shipped.json").unlink()  # as if killed before it was written
    result = ship(context)
    assert (result.rows, result.repeated, result.days) == (0, 50, [])
    assert manifest.read_bytes() == first


def test_how_often_it_runs_changes_no_byte_of_the_partition(context: Context, tmp_path: Path) -> None:
    lines = [record(n, fraud_probability=n / 100) for n in range(100)]
    lines = lines[1::2] + lines[::2]
    for start in range(0, 100, 10):
        with segment(context).open("ab") as file:
            file.write(b"".join(lines[start : start + 10]))
        ship(context)
    at_once = Context(Settings(home=tmp_path / "other"), context.params, context.log)
    (tmp_path / "other/predictions").mkdir(parents=True)
    segment(at_once).write_bytes(b"".join(lines))
    ship(at_once)
    partitions = [tmp_path / home / "lake/predictions/dt=2026-03-04/_manifest.json" for home in ("", "other")]
    assert partitions[0].read_bytes() == partitions[1].read_bytes()


def test_an_answer_logged_twice_is_shipped_once(context: Context) -> None:
    segment(context).write_bytes(record(1) + record(1))
    result = ship(context)
    assert (result.rows, result.repeated) == (1, 1)


@pytest.mark.parametrize("line", [b"{}\n", b"[1]\n", b"null\n", b"\x00\xff\n", b'{"prediction_id":"x"}\n', b"{\n"])
def test_a_line_that_is_no_record_is_counted_and_the_others_are_shipped(context: Context, line: bytes) -> None:
    segment(context).write_bytes(record(1) + line + record(2))
    result = ship(context)
    assert (result.rows, result.unreadable) == (2, 1)
    assert shipped(context) == ["p1", "p2"]


def test_a_segment_larger_than_a_part_is_read_in_parts(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "BYTES_AT_ONCE", 1_500)
    segment(context).write_bytes(b"".join(record(n) for n in range(20)))
    assert ship(context).rows == 20
    assert len(shipped(context)) == 20


def test_floats_come_through_to_the_last_bit(context: Context) -> None:
    values = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, 0.30000001192092896]
    segment(context).write_bytes(b"".join(record(n, avg_amount_7d=v) for n, v in enumerate(values)))
    ship(context)
    table: pa.Table = catalog.PREDICTIONS.at(context.settings.lake_uri).read("2026-03-04")
    assert table["avg_amount_7d"].to_pylist() == values


def test_new_records_are_added_to_a_partition_without_the_challenger_columns(context: Context) -> None:
    segment(context).write_bytes(record(1))
    ship(context)
    lake = catalog.PREDICTIONS.at(context.settings.lake_uri)
    old = lake.read("2026-03-04").drop_columns(["challenger_version", "challenger_probability"])
    lake.publish("2026-03-04", old)
    segment(context, "segment-2-b.jsonl").write_bytes(record(2, challenger_version="9", challenger_probability=0.5))
    ship(context)
    assert lake.read("2026-03-04")["challenger_version"].to_pylist() == [None, "9"]


def test_retention_drops_days_that_are_too_old_and_segments_that_are_in_the_lake(context: Context) -> None:
    torn = segment(context, f"segment-{NOON}-a.jsonl")
    torn.write_bytes(record(1) + record(2, NOON + DAY) + record(3)[:30])
    fresh = segment(context, f"segment-{NOON + 401 * DAY}-b.jsonl")
    fresh.write_bytes(record(4, NOON + 401 * DAY))
    for path, day in ((torn, 0), (fresh, 401)):
        os.utime(path, ns=(0, (NOON + day * DAY) * 1_000))
    today = dt.date(2026, 3, 4) + dt.timedelta(days=401)  # the default of 400 days is up for 2026-03-04
    result = ship_predictions.run(ship_predictions.Config(today=today), context)
    assert (result.rows, result.expired, result.removed) == (3, ["2026-03-04"], 1)
    assert result.days == ["2026-03-05", "2027-04-09"]
    assert [path.name for path in prediction_log.segments(context.settings.prediction_log)] == [fresh.name]
    folder = context.settings.home / "lake/predictions"
    assert not (folder / "dt=2026-03-04").exists()
    assert list(json.loads((folder / "_shipped.json").read_text())) == [fresh.name]
    again = ship_predictions.run(ship_predictions.Config(today=today), context)
    assert (again.rows, again.expired, again.removed) == (0, [], 0)


def test_a_segment_with_lines_that_were_not_shipped_stays(context: Context) -> None:
    path = segment(context, f"segment-{NOON}-a.jsonl")
    path.write_bytes(record(1))
    os.utime(path, ns=(0, NOON * 1_000))
    assert not prediction_log.is_finished(path, 0, NOON + 2 * DAY)
    assert prediction_log.is_finished(path, path.stat().st_size, NOON + 2 * DAY)
    assert not prediction_log.is_finished(path, path.stat().st_size, NOON + DAY - 1)
