"""Declared columns of each type through landing zone, import and ingest, and partitions from before a declaration."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import structlog
import yaml

from fraud.core.declaration import Declaration, parse
from fraud.declaration_file import load, load_of
from fraud.errors import BadConfigError, BadInputError
from fraud.ingest import import_data, ingest_transactions
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings

ROOT: Final = Path(__file__).parents[3]
THREE: Final = load(ROOT / "tests/declarations/three.yaml")
SHIPPED: Final = load_of(ROOT)
NOON: Final = datetime(2025, 3, 1, 12, tzinfo=UTC)
AMOUNT: Final = {"name": "amount", "kind": "request", "op": "column", "column": "amount"}
BUILT_IN: Final = ("transaction_id", "event_timestamp", "created_timestamp", "user_id", "merchant_id", "amount")


def declaration(**columns: dict[str, Any]) -> Declaration:
    return parse({"columns": columns, "features": [AMOUNT]})


OF_EACH_TYPE: Final = declaration(
    order={"type": "id"},  # a keyword of SQL
    channel={"type": "category", "values": ["web", "app", "unknown"], "unknown": "unknown"},
    country={"type": "category", "learn": 5},
    score={"type": "number", "unit": "points", "min": -100, "max": 100, "decimals": 1},
    day={"type": "number", "unit": "km", "min": 0, "max": 1e9},
    vip={"type": "flag"},
)


def context(home: Path, declared: Declaration = OF_EACH_TYPE) -> Context:
    settings = Settings(home=home, project=ROOT)
    return Context(settings, Params.load(ROOT / "params.yaml"), declared, structlog.get_logger())


def land(home: Path, name: str, **columns: list[Any]) -> None:
    """A landing file with the built-in columns and the given ones; t0, t1, ... a minute apart."""
    rows = len(next(iter(columns.values())))
    table: dict[str, Any] = {
        "transaction_id": [f"t{n}" for n in range(rows)], "user_id": ["u"] * rows, "merchant_id": ["m"] * rows,
        "event_timestamp": pa.array([NOON + timedelta(minutes=n) for n in range(rows)], pa.timestamp("us", "UTC")),
        "amount": [1.0] * rows, **columns,
    }  # fmt: skip
    path = home / f"landing/transactions/{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)


def run(home: Path, declared: Declaration = OF_EACH_TYPE) -> ingest_transactions.Result:
    return ingest_transactions.run(ingest_transactions.Config(), context(home, declared))


def in_lake(home: Path, day: str = "2025-03-01") -> pa.Table:
    return catalog.TRANSACTIONS.at(f"file://{home}/lake").read(day)


def test_each_type_is_stored_in_its_own_terms(tmp_path: Path) -> None:
    land(
        tmp_path, "a", order=[7, 8, None], channel=["web", "fax", None], country=[" GB ", "", "nan"],
        score=[0.25, -99.96, float("nan")], vip=[1, 0, None],
    )  # fmt: skip
    result = run(tmp_path)
    assert (result.accepted, result.unknown_categories) == (3, {"channel": 2})
    table = in_lake(tmp_path)
    assert table.schema.equals(catalog.TRANSACTIONS.schema(OF_EACH_TYPE))
    assert table.select(["channel", "country", "day", "order", "score", "vip"]).to_pylist() == [
        {"channel": "web", "country": "GB", "day": None, "order": "7", "score": 0.2, "vip": True},
        {"channel": "unknown", "country": "other", "day": None, "order": "8", "score": -100.0, "vip": False},
        {"channel": "unknown", "country": "other", "day": None, "order": None, "score": None, "vip": None},
    ]


@pytest.mark.parametrize(
    ("column", "values", "reasons"),
    [
        ("score", [-100.5], {"score is below -100 points": 1}),
        ("score", [float("inf")], {"score is above 100 points": 1}),
        ("day", [1e9 + 1], {"day is above 1000000000 km": 1}),
        ("order", ["x" * 129], {"order is longer than 128 characters": 1}),
        ("country", ["x" * 129], {"country is longer than 128 characters": 1}),
        ("channel", ["w\teb"], {"a value could not be read": 1, "channel has a control character or a line break": 1}),
        (
            "order",
            [2.0**53],
            {"a value could not be read": 1, "order is a number too large to be exact in its type": 1},
        ),
        ("vip", ["perhaps"], {"a value could not be read": 1, "vip is neither true nor false": 1}),
        ("vip", [7], {"a value could not be read": 1, "vip is neither true nor false": 1}),
    ],
)
def test_an_unusable_value_is_quarantined_with_its_reason(
    tmp_path: Path, column: str, values: list[object], reasons: dict[str, int]
) -> None:
    land(tmp_path, "a", **{column: values})
    result = run(tmp_path)
    assert (result.accepted, result.quarantine_reasons) == (0, reasons)
    quarantine = catalog.QUARANTINE.at(f"file://{tmp_path}/lake")
    table = quarantine.read(quarantine.partitions()[0])
    assert set(catalog.QUARANTINE.schema(OF_EACH_TYPE).names) == set(table.column_names)
    assert {table.schema.field(name).type for name in OF_EACH_TYPE.columns} == {pa.string()}


def test_a_reason_names_its_own_column_and_not_one_that_ends_like_it(tmp_path: Path) -> None:
    declared = declaration(id={"type": "id"}, device_id={"type": "id"})
    land(tmp_path, "a", id=["a"], device_id=["4.1E+15"])
    rounded = "device_id is a long number in scientific notation, as a spreadsheet writes it (its last digits are lost)"
    assert run(tmp_path, declared).quarantine_reasons == {"a value could not be read": 1, rounded: 1}


@pytest.mark.parametrize(
    ("column", "values"),
    [("score", ["1.5"]), ("score", [True]), ("vip", [b"1"]), ("channel", [True]), ("order", [[1]])],
)
def test_a_declared_column_of_the_wrong_type_stops_the_run(tmp_path: Path, column: str, values: list[object]) -> None:
    land(tmp_path, "a", **{column: values})
    with pytest.raises(BadInputError, match=f"column {column} has the wrong type"):
        run(tmp_path)
    assert not (tmp_path / "lake").exists()


def test_a_column_that_is_not_declared_is_ignored_and_none_is_needed(tmp_path: Path) -> None:
    land(tmp_path, "a", colour=["red"])
    assert run(tmp_path).accepted == 1
    assert "colour" not in in_lake(tmp_path).column_names
    assert in_lake(tmp_path)["order"].to_pylist() == [None]


def test_days_from_before_a_declaration_are_read_and_reopened(tmp_path: Path) -> None:
    land(tmp_path, "a", distance_from_home=[1.5, None], merchant_category=["home", "travel"])
    run(tmp_path, THREE)
    first = in_lake(tmp_path)
    assert set(first.column_names) == {*BUILT_IN, "distance_from_home", "merchant_category"}
    # t0 again without the new columns, t1 with a value in one of them, t2 is new.
    land(
        tmp_path, "b", distance_from_home=[1.5, None, 2.0], merchant_category=["home", "travel", "home"],
        country=[None, "GB", "FR"], card_present=[None, None, True], device_id=["", None, "d1"],
    )  # fmt: skip
    result = run(tmp_path, SHIPPED)
    assert (result.accepted, result.duplicates, result.conflicting_duplicates) == (1, 2, 1)
    table = in_lake(tmp_path)
    assert table.schema.equals(catalog.TRANSACTIONS.schema(SHIPPED))
    assert table.select(first.column_names).slice(0, 2).equals(first)
    assert table.select(["country", "card_present", "device_id"]).to_pylist() == [
        {"country": None, "card_present": None, "device_id": None},
        {"country": None, "card_present": None, "device_id": None},
        {"country": "FR", "card_present": True, "device_id": "d1"},
    ]
    assert run(tmp_path, SHIPPED).files_known == 2


def test_a_day_keeps_a_column_that_is_no_longer_declared(tmp_path: Path) -> None:
    land(tmp_path, "a", score=[1.0], order=["o1"])
    run(tmp_path)
    land(tmp_path, "b", score=[1.0, 2.0])
    shorter = declaration(score={"type": "number", "unit": "points", "min": -100, "max": 100, "decimals": 1})
    assert run(tmp_path, shorter).conflicting_duplicates == 0
    table = in_lake(tmp_path)
    assert table["order"].to_pylist() == ["o1", None]
    assert table["score"].to_pylist() == [1.0, 2.0]


def test_a_column_cannot_become_another_type(tmp_path: Path) -> None:
    land(tmp_path, "a", channel=["web"])
    run(tmp_path)
    land(tmp_path, "b", channel=[1.0])
    with pytest.raises(BadInputError, match="column channel of another type") as caught:
        run(tmp_path, declaration(channel={"type": "number", "unit": "x", "min": 0, "max": 9}))
    assert "another name" in caught.value.hint


MAPPING: Final = {
    "name": "shop", "source": {"format": "csv"}, "transaction_id": {"column": "id"},
    "event_timestamp": {"column": "at", "format": "ISO8601"}, "user_id": {"column": "user"},
    "merchant_id": {"column": "shop"}, "amount": {"column": "usd"},
}  # fmt: skip
HEADER: Final = "id,at,user,shop,usd,iso,mode,km,browser,print\n"
LINE: Final = "a{n},2025-03-01T10:00:00Z,u,m,1.5,{iso},{mode},{km},{browser},{print}\n"


def bring(home: Path, lines: list[dict[str, str]], declared: Declaration, /, **columns: object) -> import_data.Result:
    source, mapping = home / "source.csv", home / "mapping.yaml"
    values = {"iso": "", "mode": "", "km": "", "browser": "", "print": ""}
    source.write_text(HEADER + "".join(LINE.format(n=n, **values | line) for n, line in enumerate(lines)))
    mapping.write_text(yaml.safe_dump(MAPPING | columns))
    result = import_data.run(import_data.Config(source=str(source), mapping=mapping), context(home, declared))
    assert isinstance(result, import_data.Result)
    return result


def test_a_mapping_has_device_country_and_flag(tmp_path: Path) -> None:
    lines = [
        {"iso": "UK", "mode": "Chip", "km": "16.09344", "browser": "b", "print": "1"}, {"iso": "FR", "mode": "online"},
        {"mode": "telex"},
    ]  # fmt: skip
    result = bring(
        tmp_path, lines, SHIPPED, device_id={"columns": ["browser", "print"], "prefix": "d-"},
        country={"column": "iso", "map": {"UK": "GB"}}, merchant_category={"constant": "travel"},
        card_present={"column": "mode", "true_values": ["chip"], "false_values": ["online"]},
        distance_from_home={"column": "km", "unit": "kilometres"},
    )  # fmt: skip
    assert (result.rows_in, result.unreadable) == (3, 1)
    taken = run(tmp_path, SHIPPED)
    assert (taken.accepted, taken.quarantined) == (2, 1)
    assert taken.quarantine_reasons == {"a value could not be read": 1, "card_present is neither true nor false": 1}
    names = ["device_id", "country", "merchant_category", "card_present", "distance_from_home"]
    assert in_lake(tmp_path).select(names).to_pylist() == [
        dict(zip(names, ("d-b-1", "GB", "travel", True, pytest.approx(10.0)), strict=True)),
        dict(zip(names, (None, "FR", "travel", False, None), strict=True)),
    ]


def test_a_check_shows_every_declared_column(tmp_path: Path) -> None:
    source, mapping = tmp_path / "source.csv", tmp_path / "mapping.yaml"
    lines = [{"iso": "GB", "mode": "yes", "km": "3"}, {"iso": "", "mode": "perhaps", "km": "far"}]
    values = {"browser": "", "print": ""}
    source.write_text(HEADER + "".join(LINE.format(n=n, **values | line) for n, line in enumerate(lines)))
    columns = {"country": {"column": "iso"}, "vip": {"column": "mode"}, "score": {"column": "km"},
               "order": {"constant": "o"}}  # fmt: skip
    mapping.write_text(yaml.safe_dump(MAPPING | columns))
    config = import_data.Config(source=str(source), mapping=mapping, check=True)
    result = import_data.run(config, context(tmp_path))
    assert isinstance(result, import_data.MappingCheck)
    found = {
        str(c["column"]): (c["reads"], c["read"], c["null"], c["unreadable"], c["example"]) for c in result.columns
    }
    assert {name: found[name] for name in OF_EACH_TYPE.columns} == {
        "order": ("", 2, 0, 0, " -> o"), "channel": ("", 0, 2, 0, ""), "country": ("iso", 1, 1, 0, "GB -> GB"),
        "score": ("km", 1, 0, 1, "3 -> 3.0"), "day": ("", 0, 2, 0, ""), "vip": ("mode", 1, 0, 1, "yes -> True"),
    }  # fmt: skip
    assert result.reasons == ["transaction a1: score: not a number: 'far'; vip: is neither true nor false: 'perhaps'"]


@pytest.mark.parametrize(("unit", "expected"), [("km", 111.1949), ("miles", 69.0933), ("metres", 111194.9)])
def test_the_distance_of_two_places_is_in_the_unit_of_its_column(tmp_path: Path, unit: str, expected: float) -> None:
    """One degree of latitude is pi / 180 of the radius of 6,371.0088 km: 111.195 km."""
    declared = declaration(away={"type": "number", "unit": unit, "min": 0, "max": 1e6})
    circle = {"home": ["km", "print"], "merchant": ["browser", "print"]}
    bring(tmp_path, [{"km": "41", "browser": "40", "print": "7"}], declared, away={"great_circle": circle})
    run(tmp_path, declared)
    [away] = in_lake(tmp_path)["away"].to_pylist()
    assert away == pytest.approx(expected, rel=1e-4)


def test_a_number_may_be_a_constant_scaled_or_with_a_currency_sign(tmp_path: Path) -> None:
    line = {"km": "$1.5"}
    bring(tmp_path, [line], OF_EACH_TYPE, score={"column": "km", "remove": "$", "scale": 10}, day={"constant": 3.5},
          vip={"constant": True})  # fmt: skip
    run(tmp_path)
    # `day` is in km, a length, but a constant is in the declared unit.
    assert in_lake(tmp_path).select(["score", "day", "vip"]).to_pylist() == [{"score": 15.0, "day": 3.5, "vip": True}]


def test_a_second_import_after_a_new_declaration_changes_nothing(tmp_path: Path) -> None:
    lines = [{"iso": "GB"}, {}]
    bring(tmp_path, lines, THREE)
    run(tmp_path, THREE)
    before = in_lake(tmp_path)
    bring(tmp_path, lines, SHIPPED)
    again = run(tmp_path, SHIPPED)
    assert (again.rows_in, again.duplicates, again.conflicting_duplicates) == (2, 2, 0)
    assert in_lake(tmp_path).equals(before)


@pytest.mark.parametrize(
    ("columns", "key", "expected"),
    [
        ({"devise_id": {"column": "x"}}, "devise_id", "a column of features.yaml: channel, country, day, order"),
        ({"declared": {}}, "declared", "one of name, source"),
        ({"order": {"colum": "x"}}, "order.colum", "Extra inputs"),
        ({"order": {}}, "order", "exactly one of column, columns, constant"),
        ({"vip": {"column": "x", "constant": True}}, "vip", "exactly one of column, constant"),
        ({"vip": {"column": "x", "true_values": ["1"], "false_values": ["TRUE"]}}, "vip", "cannot mean true and false"),
        ({"vip": {"column": "x", "true_values": [True]}}, "vip.true_values.0", "valid string"),
        ({"score": {"column": "x", "unit": "miles"}}, "score", "leave unit out: points is no length"),
        ({"score": {"column": "x", "constant": 1}}, "score", "exactly one of column, constant, great_circle"),
        ({"score": {"constant": 101}}, "score", "from -100 to 100 points"),
        ({"score": {"constant": 1, "scale": 2}}, "score", "scale only applies to column"),
        ({"score": {"great_circle": {"home": ["a", "b"], "merchant": ["c", "d"]}}}, "score", "this one is in points"),
        ({"score": {"column": "x", "remove": "."}}, "the whole file", "score.remove contains source.decimal"),
        ({"day": {"column": "x"}}, "day", "give the unit of column: miles, kilometres, metres"),
        ({"day": {"column": "x", "unit": "parsec"}}, "day.unit", "'miles'"),
        ({"channel": {"column": "x", "map": {"w": "www"}}}, "channel", "['www'] is not in the column's list: web, app"),
        ({"channel": {"constant": "fax"}}, "channel", "['fax'] is not in the column's list"),
        ({"country": {"column": "x", "map": {"a\tb": "GB"}}}, "country", "control character"),
        ({"country": "x"}, "country", "valid dictionary"),
    ],
)
def test_a_wrong_section_of_a_declared_column_is_named(
    tmp_path: Path, columns: dict[str, Any], key: str, expected: str
) -> None:
    with pytest.raises(BadConfigError) as caught:
        bring(tmp_path, [{}], OF_EACH_TYPE, **columns)
    assert caught.value.message == f"{tmp_path / 'mapping.yaml'}: {key}"
    assert expected in caught.value.expected
    json.dumps(caught.value.got)


def test_a_column_that_is_mapped_to_null_is_not_mapped(tmp_path: Path) -> None:
    bring(tmp_path, [{"iso": "GB"}], OF_EACH_TYPE, country=None)
    run(tmp_path)
    assert in_lake(tmp_path)["country"].to_pylist() == ["other"]
