"""Shipping the prediction log: each answer once, whatever was interrupted, torn or sent again."""

import datetime as dt
import os
from pathlib import Path

import pyarrow as pa
import pytest
import structlog
from deltalake import DeltaTable
from tests.served_answers import THREE, TWO_ENTITIES, line

from fraud.audit import prediction_log, ship_predictions
from fraud.core.declaration import Declaration, parse
from fraud.job import Context
from fraud.lake import catalog, dataset, records
from fraud.params import Params
from fraud.settings import Settings

NOON = 1_772_625_600_000_000  # 2026-03-04T12:00:00Z
DAY = 86_400_000_000


def flat(number: int, served_us: int = NOON, **more: object) -> dict[str, object]:
    return {
        "prediction_id": f"p{number}", "transaction_id": None, "user_id": None, "merchant_id": None, "amount": 12.5,
        "event_us": None, "hour_of_day": 3, "day_of_week": 2, "served_us": served_us + number, "history": "none",
        "degraded": False, "fraud_probability": 0.25, "is_fraud": False, "threshold": 0.5, "model_version": "3",
        "model_sha256": "ab", "feature_hash": "cd", "latency_us": 200, **more,
    }  # fmt: skip


def record(number: int, served_us: int = NOON, **more: object) -> bytes:
    """An answer of a version with the project's declaration."""
    values = {
        "merchant_category": "travel", "distance_from_home": None, "transaction_velocity_1h": 0.0,
        "avg_amount_7d": None, "unique_merchants_30d": 0, **more,
    }  # fmt: skip
    return line(flat(number, served_us, **values), THREE)


def of_two_entities(number: int, **more: object) -> bytes:
    """An answer of a version with another declaration."""
    values = {
        "channel": "app", "country": "fr", "distance": 1.25, "terminal_id": f"t{number}", "in_person": True,
        "card_count_1h": 2.0, "terminal_cards_1d": 3, "shop_fraud_rate_7d": 0.01, "sequence_card": 4,
        "sequence_terminal": 2**40, "newest_us_card": NOON, "newest_us_terminal": None,
        "snapshot_shop": "2026-03-04-0123456789ab", "model_version": "4", "feature_hash": "ef", **more,
    }  # fmt: skip
    return line(flat(number, **values), TWO_ENTITIES)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "predictions").mkdir()
    settings = Settings(home=tmp_path)
    params = Params.load(Path(__file__).parents[3] / "params.yaml")
    return Context(settings, params, THREE, structlog.get_logger())


def ship(context: Context) -> ship_predictions.Result:
    today = dt.date(2026, 3, 8)  # not that of the clock: retention would drop the days of these answers
    return ship_predictions.run(ship_predictions.Config(today=today), context)


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
    schema = catalog.PREDICTIONS.at(context.settings.lake_uri).read("2026-03-04").schema
    assert schema.equals(catalog.PREDICTIONS.schema(THREE))


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
    first = catalog.PREDICTIONS.at(context.settings.lake_uri).open()
    (tmp_path / "lake/predictions/_shipped/segment-1-a.jsonl").unlink()  # as if killed before it was written
    result = ship(context)
    assert (result.rows, result.repeated, result.days) == (0, 50, [])
    assert catalog.PREDICTIONS.at(context.settings.lake_uri).open() == first


def test_how_often_it_runs_changes_no_byte_of_the_partition(context: Context, tmp_path: Path) -> None:
    lines = [record(n, fraud_probability=n / 100) if n % 3 else of_two_entities(n) for n in range(100)]
    lines = lines[1::2] + lines[::2]
    for start in range(0, 100, 10):
        with segment(context).open("ab") as file:
            file.write(b"".join(lines[start : start + 10]))
        ship(context)
    at_once = Context(Settings(home=tmp_path / "other"), context.params, THREE, context.log)
    (tmp_path / "other/predictions").mkdir(parents=True)
    segment(at_once).write_bytes(b"".join(lines))
    ship(at_once)
    step_by_step, whole = (catalog.PREDICTIONS.at(c.settings.lake_uri).open() for c in (context, at_once))
    assert step_by_step.contents == whole.contents


def test_an_answer_logged_twice_is_shipped_once(context: Context) -> None:
    segment(context).write_bytes(record(1) + record(1))
    result = ship(context)
    assert (result.rows, result.repeated) == (1, 1)


@pytest.mark.parametrize(
    "bad", [b"{}\n", b"[1]\n", b"null\n", b"\x00\xff\n", b'{"prediction_id":"x"}\n', b"{\n",
     record(9).replace(b'"amount": 12.5', b'"amount": null'), record(9).replace(b'"amount": 12.5', b'"amount": NaN'),
     record(9).replace(b"false", b"0"), record(9).replace(b'"hour_of_day": 3', b'"hour_of_day": 3.5'),
     record(9).replace(b'"columns": {', b'"columns": {"amount": 1, '), record(9).replace(b'"features"', b'"f"'),
     record(9).replace(b'"sequences": {', b'"sequences": {"device": "1", ')],
)  # fmt: skip
def test_a_line_that_is_no_record_is_counted_and_the_others_are_shipped(context: Context, bad: bytes) -> None:
    segment(context).write_bytes(record(1) + bad + record(2))
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
    found: pa.Table = catalog.PREDICTIONS.at(context.settings.lake_uri).read("2026-03-04")
    assert found["avg_amount_7d"].to_pylist() == values


def rows_of(context: Context, day: str = "2026-03-04") -> dict[str, dict[str, object]]:
    rows = catalog.PREDICTIONS.at(context.settings.lake_uri).read(day).to_pylist()
    return {row["prediction_id"]: row for row in rows}


def test_answers_of_two_declarations_in_one_segment_are_shipped_without_loss(context: Context) -> None:
    segment(context).write_bytes(record(1, distance_from_home=4.5) + of_two_entities(2) + record(3))
    assert ship(context).rows == 3
    found = rows_of(context)
    assert (found["p1"]["distance_from_home"], found["p1"]["channel"]) == (4.5, None)
    other = found["p2"]
    assert {name: other[name] for name in ("channel", "country", "distance", "terminal_id", "in_person")} == {
        "channel": "app", "country": "fr", "distance": 1.25, "terminal_id": "t2", "in_person": True,
    }  # fmt: skip
    assert (other["sequence_card"], other["sequence_terminal"], other["newest_us_card"]) == (4, 2**40, NOON)
    assert (other["snapshot_shop"], other["terminal_cards_1d"]) == ("2026-03-04-0123456789ab", 3.0)
    assert (other["merchant_category"], other["transaction_velocity_1h"]) == (None, None)
    schema = catalog.PREDICTIONS.at(context.settings.lake_uri).read("2026-03-04").schema
    declared = catalog.PREDICTIONS.schema(THREE).names
    assert schema.names[: len(declared)] == declared
    assert schema.names[len(declared) :] == sorted(schema.names[len(declared) :])
    assert {schema.field(name).type for name in ("sequence_card", "newest_us_card")} == {pa.int64()}


def test_a_column_without_any_value_is_added_when_it_gets_one(context: Context) -> None:
    segment(context).write_bytes(of_two_entities(1, in_person=None))
    ship(context)
    assert "in_person" not in rows_of(context)["p1"]
    segment(context, "segment-2-b.jsonl").write_bytes(of_two_entities(2, in_person=False))
    ship(context)
    assert [row["in_person"] for row in rows_of(context).values()] == [None, False]


def one_column(column: dict[str, object]) -> Declaration:
    return parse({"columns": {"place": column}, "features": [{"name": "hour_of_day", "kind": "request",
                                                                "op": "hour_of_day"}]})  # fmt: skip


@pytest.mark.parametrize("apart", [False, True], ids=["one run", "two runs"])
def test_a_column_that_changed_its_type_is_text_and_is_read_back_by_its_declaration(
    context: Context, apart: bool
) -> None:
    number = one_column({"type": "number", "unit": "km", "min": 0, "max": 9})
    flag, text = one_column({"type": "flag"}), one_column({"type": "id"})
    lines = [line(flat(0, place=0.1 + 0.2), number), line(flat(1, place=3), number), line(flat(2, place=True), flag),
             line(flat(3, place="3"), text), line(flat(4, place=None), number)]  # fmt: skip
    for i, some in enumerate(lines if apart else [b"".join(lines)]):
        segment(context, f"segment-{i}-a.jsonl").write_bytes(some)
        ship(context)
    rows = rows_of(context)
    assert [row["place"] for row in rows.values()] == ["0.30000000000000004", "3.0", "true", "3", None]
    declared = {"p0": number, "p1": number, "p2": flag, "p3": text, "p4": number}
    read = [prediction_log.typed(rows[name], declaration)["place"] for name, declaration in declared.items()]
    assert read == [0.1 + 0.2, 3.0, True, "3", None]


def test_all_days_get_the_column_as_text_when_a_declaration_changes_its_type(context: Context) -> None:
    number, flag = one_column({"type": "number", "unit": "km", "min": 0, "max": 9}), one_column({"type": "flag"})
    lake = catalog.PREDICTIONS.at(context.settings.lake_uri)
    for day, some in enumerate((record(0), line(flat(1, NOON + DAY, place=2), number))):
        segment(context, f"segment-{day}-a.jsonl").write_bytes(some)
        ship(context)
    before = lake.open()
    segment(context, "segment-2-a.jsonl").write_bytes(line(flat(2, NOON + 2 * DAY, place=True), flag))
    ship(context)
    assert lake.open().number == before.number + 1
    days = ["2026-03-04", "2026-03-05", "2026-03-06"]
    assert [lake.read(day)["place"].to_pylist() for day in days] == [[None], ["2.0"], ["true"]]
    with_delta = DeltaTable(context.settings.home / "lake/predictions").to_pyarrow_table(columns=["dt", "place"])
    assert [row["place"] for row in with_delta.sort_by("dt").to_pylist()] == [None, "2.0", "true"]
    assert before.read(days[1])["place"].to_pylist() == [2.0]


def test_an_id_that_looks_like_a_time_or_a_number_stays_text(context: Context) -> None:
    values = ["2026-03-04", "2026-03-04T12:00:00Z", "007", "1e5", "NaN"]
    segment(context).write_bytes(b"".join(of_two_entities(n, terminal_id=v) for n, v in enumerate(values)))
    ship(context)
    assert [row["terminal_id"] for row in rows_of(context).values()] == values


class KilledError(BaseException):
    """Stands for the death of the process: no `except Exception` of the job catches it."""


def test_a_run_killed_at_any_write_is_completed_by_the_next_one(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = record(1) + of_two_entities(2, served_us=NOON + DAY) + of_two_entities(3) + record(4)
    segment(context).write_bytes(lines)
    ship(context)
    expected = {path.relative_to(tmp_path / "lake"): path.read_bytes() for path in files(tmp_path / "lake")}
    writes, after = dataset.put_atomically, 0
    while True:
        home = tmp_path / f"killed-{after}"
        (home / "predictions").mkdir(parents=True)
        killed = Context(Settings(home=home), context.params, THREE, context.log)
        segment(killed).write_bytes(lines)
        left = [after]

        def write(uri: str, data: bytes, left: list[int] = left) -> None:
            if not left[0]:
                raise KilledError
            left[0] -= 1
            writes(uri, data)

        for module in (dataset, records, ship_predictions):
            monkeypatch.setattr(module, "put_atomically", write)
        try:
            ship(killed)
        except KilledError:
            for module in (dataset, records, ship_predictions):
                monkeypatch.setattr(module, "put_atomically", writes)
            ship(killed)
        else:
            break
        assert {path.relative_to(home / "lake"): path.read_bytes() for path in files(home / "lake")} == expected
        after += 1
    assert after == 4  # two partitions of an object each, the record of the commit, and the offsets


def files(folder: Path) -> list[Path]:
    """The files below a folder, without the logs, which contain times."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.parent.name != "_delta_log")


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
    assert catalog.PREDICTIONS.at(context.settings.lake_uri).partitions() == ["2026-03-05", "2027-04-09"]
    assert [path.name for path in (folder / "_shipped").iterdir()] == [fresh.name]
    again = ship_predictions.run(ship_predictions.Config(today=today), context)
    assert (again.rows, again.expired, again.removed) == (0, [], 0)


def of_host(context: Context, tmp_path: Path, name: str, served: dict[str, bytes]) -> Context:
    """The context of another host: a prediction log of its own, and the lake of `context`."""
    settings = Settings(home=tmp_path / name, lake_uri=context.settings.lake_uri)
    settings.prediction_log.mkdir(parents=True)
    for segment_name, lines in served.items():
        (settings.prediction_log / segment_name).write_bytes(lines)
    return Context(settings, context.params, context.declaration, context.log)


def test_a_host_that_commits_while_another_one_ships_loses_and_doubles_nothing(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(context, f"segment-{NOON}-a.jsonl").write_bytes(record(1) + record(2) + record(5, NOON + DAY))
    other = of_host(
        context,
        tmp_path,
        "other",
        {f"segment-{NOON}-b.jsonl": record(3) + record(2), f"segment-{NOON}-c.jsonl": record(4)},
    )
    committed, waiting = dataset.Dataset.commit, [other]

    def commit(self: dataset.Dataset, *arguments: object) -> int:
        """Between the merge and the commit of this host, the other one ships everything."""
        if waiting:
            assert ship(waiting.pop()).rows == 3
        return committed(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset.Dataset, "commit", commit)
    result = ship(context)
    assert (result.rows, result.repeated, result.days) == (2, 1, ["2026-03-04", "2026-03-05"])
    assert shipped(context) == ["p1", "p2", "p3", "p4"]
    assert shipped(context, "2026-03-05") == ["p5"]
    for each in (context, other):
        assert (ship(each).segments, ship(each).repeated) == (0, 0), "each host finds its own offsets"


def test_a_run_ends_while_answers_are_logged_faster_than_it_ships(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment(context).write_bytes(record(0))
    committed, logged = dataset.Dataset.commit, 1

    def commit(self: dataset.Dataset, *arguments: object) -> int:
        nonlocal logged
        assert logged < 50
        with segment(context).open("ab") as file:
            file.write(record(logged))
        logged += 1
        return committed(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset.Dataset, "commit", commit)
    assert ship(context).rows == 1
    assert ship(context).rows == logged - 2
    assert shipped(context) == [f"p{number}" for number in range(logged - 1)]


def test_a_host_leaves_the_offsets_of_other_hosts_until_their_answers_have_expired(
    context: Context, tmp_path: Path
) -> None:
    name = f"segment-{NOON}-a.jsonl"
    segment(context, name).write_bytes(record(1))
    ship(context)
    other = of_host(context, tmp_path, "other", {})
    offset = tmp_path / "lake/predictions/_shipped" / name
    today = dt.date(2026, 3, 4) + dt.timedelta(days=401)
    ship_predictions.run(ship_predictions.Config(today=today), other)
    assert offset.read_bytes() == str(len(record(1))).encode()
    result = ship_predictions.run(ship_predictions.Config(today=today + dt.timedelta(days=1)), other)
    assert (result.expired, offset.exists()) == ([], False)


def test_a_segment_with_lines_that_were_not_shipped_stays(context: Context) -> None:
    path = segment(context, f"segment-{NOON}-a.jsonl")
    path.write_bytes(record(1))
    os.utime(path, ns=(0, NOON * 1_000))
    assert not prediction_log.is_finished(path, 0, NOON + 2 * DAY)
    assert prediction_log.is_finished(path, path.stat().st_size, NOON + 2 * DAY)
    assert not prediction_log.is_finished(path, path.stat().st_size, NOON + DAY - 1)
