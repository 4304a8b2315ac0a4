"""Numbers that are text: decimal mark, thousands separator, and never another value than the one meant."""

from decimal import Decimal

import pyarrow as pa
import pytest

from fraud.errors import BadInputError
from fraud.ingest.mapping.number_columns import Numbers
from fraud.ingest.mapping.row_errors import RowErrors
from fraud.ingest.mapping.sections import Source


def floats(values: pa.Array, remove: str = "", **dialect: object) -> tuple[list[float | None], list[str | None]]:
    errors = RowErrors(len(values))
    source = Source.model_validate({"format": "csv", **dialect})
    return Numbers(source, {"c": values}, errors).floats("amount", "c", remove).to_pylist(), errors.texts.to_pylist()


EUROPE = {"decimal": ",", "thousands": "."}
COMMA = {"thousands": ","}


@pytest.mark.parametrize(
    ("text", "dialect", "value"),
    [
        ("1.234,56", EUROPE, 1234.56), ("12,50", EUROPE, 12.5), ("1.234", EUROPE, 1234.0),
        ("-1.234.567", EUROPE, -1234567.0),
        ("12,50", {"decimal": ","}, 12.5), ("1234,5e2", {"decimal": ","}, 123450.0), (",5", {"decimal": ","}, 0.5),
        ("1,234.50", COMMA, 1234.5), ("12,34,567.8", COMMA, 1234567.8), ("1234567", COMMA, 1234567.0),
        ("1 234", {"thousands": " "}, 1234.0), ("1\u00a0234", {"thousands": "\u00a0"}, 1234.0),
        ("1'234.5", {"thousands": "'"}, 1234.5), ("1.234", {}, 1.234), (" 12.5 ", {}, 12.5), ("5.", {}, 5.0),
        ("+1e-2", {}, 0.01),
    ],
)  # fmt: skip
def test_a_number_by_its_dialect(text: str, dialect: dict[str, object], value: float) -> None:
    assert floats(pa.array([text, None]), **dialect) == ([value, None], [None, None])


@pytest.mark.parametrize(
    ("text", "dialect"),
    [
        ("12,5", COMMA), ("1,2345", COMMA), ("1234,567", COMMA), (",123", COMMA), ("1.234,56", {}), ("12,50", {}),
        ("1.234,56", {"decimal": ","}), ("12.5", EUROPE), ("1.234.5", EUROPE), ("1 234", {}), ("(12.50)", {}),
        ("12.5 USD", {}), ("nan", {}), ("inf", {}), ("0x10", {}), ("1_000", {}), ("--1", {}), ("-", {}),
    ],
)  # fmt: skip
def test_what_is_no_number_in_the_dialect_is_unreadable(text: str, dialect: dict[str, object]) -> None:
    assert floats(pa.array(["1", text]), **dialect) == ([1.0, None], [None, f"amount: not a number: '{text}'"])


@pytest.mark.parametrize(
    ("text", "remove", "value"),
    [
        ("$-17.50", "$", -17.5), ("$1,234.50", "$,", 1234.5), ("12 €", "€", 12.0), ("12,5", ",", None),
        ("$12,50", "$,", None),
    ],
)  # fmt: skip
def test_characters_to_remove_never_change_the_value(text: str, remove: str, value: float | None) -> None:
    assert floats(pa.array([text]), remove)[0] == [value]


def test_numeric_columns_are_read_as_they_are_and_nan_is_null() -> None:
    assert floats(pa.array([1.5, float("nan"), None])) == ([1.5, None, None], [None] * 3)
    assert floats(pa.array([Decimal("12.50")]))[0] == [12.5]
    assert floats(pa.array([7], pa.uint8()))[0] == [7.0]
    with pytest.raises(BadInputError, match="column c has the wrong type"):
        floats(pa.array([True]))
