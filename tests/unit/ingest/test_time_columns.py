"""Times of every spelling and unit become the same moments; a bad one costs its own row."""

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest

from fraud.errors import BadConfigError, BadInputError
from fraud.ingest.mapping.number_columns import Numbers
from fraud.ingest.mapping.row_errors import RowErrors
from fraud.ingest.mapping.sections import Source, Time
from fraud.ingest.mapping.time_columns import Times

TEN = datetime(2024, 3, 1, 10, tzinfo=UTC)
YEARS = "between the years 1900 and 2200"


def moments(time: dict[str, object], *columns: pa.Array) -> tuple[list[datetime | None], list[str | None]]:
    """The moments and the errors of a time whose columns are c0, c1, ..."""
    named = {f"c{place}": column for place, column in enumerate(columns)}
    errors = RowErrors(len(columns[0]))
    origin: dict[str, object] = {"columns": list(named)} if len(named) > 1 else {"column": "c0"}
    times = Times(named, Numbers(Source(format="csv"), named, errors), errors)
    return times.moments("at", Time.model_validate(origin | time)).to_pylist(), errors.texts.to_pylist()


def texts(time: dict[str, object], *values: str | None) -> tuple[list[datetime | None], list[str | None]]:
    return moments(time, pa.array(values, pa.string()))


@pytest.mark.parametrize("offset", ["Z", "z", " Z", " UTC", "UTC", " GMT", "+00", "+0000", "+00:00", " +00", "-00:00"])
@pytest.mark.parametrize("expected", ["ISO8601", "%Y-%m-%d %H:%M:%S%z", "%Y-%m-%d %H:%M:%S.%f %z"])
def test_every_spelling_of_the_offset_with_and_without_a_fraction(offset: str, expected: str) -> None:
    found, errors = texts(
        {"format": expected}, f"2024-03-01 10:00:00{offset}", None, f"2024-03-01 10:00:00.25{offset}",
        f" 2024-03-01 10:00:00.123456{offset} ",
    )  # fmt: skip
    assert found == [TEN, None, TEN.replace(microsecond=250_000), TEN.replace(microsecond=123_456)]
    assert errors == [None] * 4


@pytest.mark.parametrize(
    "text",
    [
        "2024-03-01T12:30:00+02:30", "2024-03-01T05:00-05", "2024-03-01 10Z", "20240301T100000Z",
        "2024-03-01T10:00:00.000000000Z", "2024-03-01T10:00:00,0Z",
    ],
)  # fmt: skip
def test_iso_8601_with_an_offset(text: str) -> None:
    assert texts({"format": "ISO8601"}, text) == ([TEN], [None])


@pytest.mark.parametrize("text", ["2024-03-01", "2024-03", "2024-03-01 10:00", "2024-03-01T10:00:00.5"])
def test_the_end_of_a_date_is_no_offset(text: str) -> None:
    found, [error] = texts({"format": "ISO8601"}, text)
    assert (found, str(error).startswith("at: no time zone")) == ([None], True)
    assert texts({"format": "ISO8601", "zone": "UTC"}, text)[1] == [None]


def test_an_offset_in_the_text_and_a_zone_in_the_mapping_contradict_each_other() -> None:
    found, errors = texts({"format": "ISO8601", "zone": "Europe/Berlin"}, "2024-03-01 11:00", "2024-03-01 11:00 UTC")
    assert found == [TEN, None]
    assert errors[1] == "at: a time zone in the text, and Europe/Berlin in the mapping: '2024-03-01 11:00 UTC'"


@pytest.mark.parametrize("expected", ["ISO8601", "%Y-%m-%d %H:%M:%S%z"])
@pytest.mark.parametrize(
    "text",
    [
        "9999-12-31 00:00:00Z", "0001-01-01 00:00:00Z", "1899-12-31 23:59:59Z", "2200-01-01 00:00:00Z", "now Z",
        "today", "2024-02-30 00:00:00Z", "2024-03-01 24:30:00Z", "NaT", "",
    ],
)  # fmt: skip
def test_one_impossible_text_costs_its_own_row_alone(expected: str, text: str) -> None:
    found, errors = texts({"format": expected}, "2024-03-01 10:00:00Z", text, "2024-03-01 10:00:00Z")
    assert found == [TEN, None, TEN]
    assert [error is None for error in errors] == [True, False, True]
    assert f"'{text}'" in str(errors[1])


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        ("us", 1_709_287_200_000_000), ("ms", 1_709_287_200_000), ("s", 1_709_287_200), ("min", 28_488_120),
        ("h", 474_802), ("d", 19_783 + 10 / 24),
    ],
)  # fmt: skip
def test_numbers_count_units_since_1970(unit: str, value: float) -> None:
    """19,783 days lie between 1970-01-01 and 2024-03-01."""
    assert moments({"unit": unit}, pa.array([value, None])) == ([TEN, None], [None, None])
    assert texts({"unit": unit}, str(value))[0] == [TEN]


@pytest.mark.parametrize(
    ("unit", "value"), [("s", 24 * 3_600 + 10 * 3_600), ("h", 34), ("min", 2_040), ("d", 1 + 10 / 24)]
)
def test_numbers_count_from_a_start_of_their_own(unit: str, value: float) -> None:
    for since in ("2024-02-29T00:00:00Z", "2024-02-29T01:00:00+01:00", datetime(2024, 2, 29, tzinfo=UTC)):
        assert moments({"unit": unit, "since": since}, pa.array([value]))[0] == [TEN]


@pytest.mark.parametrize("wrong", [1_709_287_200_000, 253_402_214_400, -62_135_596_800, float("inf"), 2.0**62])
def test_one_number_in_another_unit_or_out_of_range_costs_its_own_row_alone(wrong: float) -> None:
    found, errors = moments({"unit": "s"}, pa.array([1_709_287_200, wrong], pa.float64()))
    assert found == [TEN, None]
    assert errors[0] is None
    assert str(errors[1]).startswith(f"at: not a time {YEARS}: ")


def test_no_number_is_no_time() -> None:
    assert moments({"unit": "s"}, pa.array([float("nan"), None])) == ([None, None], [None, None])


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
@pytest.mark.parametrize("zone", [None, "UTC"])
def test_timestamps_out_of_range_cost_their_own_row(unit: str, zone: str | None) -> None:
    ticks = {"s": 1, "ms": 1_000, "us": 1_000_000}[unit]
    seconds = [1_709_287_200, 253_402_214_400, -62_135_596_800]  # 2024-03-01 10:00, 9999-12-31, 0001-01-01
    column = pa.array([value * ticks for value in seconds] + [2**62], pa.timestamp(unit, zone))
    found, errors = moments({} if zone else {"zone": "UTC"}, column)
    assert found == [TEN, None, None, None]
    assert [error is None for error in errors] == [True, False, False, False]


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_a_date_is_midnight_in_the_zone(kind: pa.DataType) -> None:
    column = pa.array([date(2024, 3, 1), date(9999, 12, 31), date(1, 1, 1)], kind)
    found, errors = moments({"zone": "Europe/Berlin"}, column)
    assert found == [datetime(2024, 2, 29, 23, tzinfo=UTC), None, None]
    assert [error is None for error in errors] == [True, False, False]


def test_a_time_in_several_columns() -> None:
    parts = [pa.array([2024, 2024]), pa.array([3, 2]), pa.array([1, 30]), pa.array(["10:00", "10:00"])]
    found, errors = moments({"separator": " ", "format": "%Y %m %d %H:%M", "zone": "UTC"}, *parts)
    assert found == [TEN, None]
    assert errors == [None, f"at: not a time like %Y %m %d %H:%M {YEARS}: '2024 2 30 10:00'"]


def test_the_type_of_a_column_decides_what_the_mapping_must_give() -> None:
    with pytest.raises(BadConfigError, match=r"at\.format is missing"):
        texts({}, "2024-03-01")
    with pytest.raises(BadConfigError, match=r"at\.zone is missing"):
        moments({}, pa.array([0], pa.timestamp("us")))
    with pytest.raises(BadInputError, match="wrong type") as caught:
        moments({"format": "ISO8601"}, pa.array([1_709_287_200]))
    assert "at.unit" in caught.value.hint
    with pytest.raises(BadInputError, match="column c1 has the wrong type"):
        moments({"format": "%Y-%m-%d", "zone": "UTC"}, pa.array(["2024"]), pa.array([3.0]))
