"""Values of declared columns at an entry point."""

import numpy as np
import pytest

from fraud.core import columns
from fraud.core.declaration import DeclarationError, parse
from fraud.core.declaration_types import CategoryColumn, NumberColumn

CENTS = NumberColumn(type="number", unit="EUR", min=-10, max=10, decimals=2)
CLOSED = CategoryColumn(type="category", values=("food", "other"))
LEARNT = CategoryColumn(type="category", learn=3)


@pytest.mark.parametrize(
    ("value", "rounded"), [(0.125, 0.12), (0.375, 0.38), (-0.001, 0.0), (10, 10.0), (-10.0, -10.0)]
)
def test_a_number_is_rounded_half_to_even_and_alone_as_in_an_array(value: float, rounded: float) -> None:
    assert columns.number(CENTS, value) == rounded
    alone = np.array([columns.number(CENTS, value)])
    assert columns.numbers(CENTS, np.array([value])).tobytes() == alone.tobytes()


@pytest.mark.parametrize("value", [10.01, -10.5, float("nan"), float("inf")])
def test_a_number_outside_its_bounds_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="from -10 to 10 EUR"):
        columns.number(CENTS, value)


@pytest.mark.parametrize(
    ("text", "flag"),
    [("true", True), (" T ", True), ("YES", True), ("y", True), ("1", True), ("1.0", True), ("False", False),
     ("f", False), ("no", False), ("N", False), ("0", False), ("", None), ("  ", None), (None, None)],
)  # fmt: skip
def test_texts_of_a_flag(text: str | None, flag: bool | None) -> None:
    assert columns.flag(text) is flag


@pytest.mark.parametrize("text", ["2", "maybe", "null", "on", "-1"])
def test_another_text_is_no_flag(text: str) -> None:
    with pytest.raises(ValueError, match="neither true nor false"):
        columns.flag(text)


@pytest.mark.parametrize(
    ("text", "closed", "learnt"),
    [("food", "food", "food"), (" food ", "food", "food"), ("zeppelins", "other", "zeppelins"), ("", "other", "other"),
     ("NULL", "other", "other"), (None, "other", "other")],
)  # fmt: skip
def test_categories(text: str | None, closed: str, learnt: str) -> None:
    assert columns.category(CLOSED, text) == closed
    assert columns.category(LEARNT, text) == learnt


@pytest.mark.parametrize("text", ["a\tb", "4.1e+15", "#REF!", "x" * 129])
def test_a_text_that_is_no_id_is_refused_as_id_and_as_category(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(has|is) "):
        columns.identifier(text)
    for column in (CLOSED, LEARNT):
        with pytest.raises(ValueError, match=r"^(has|is) "):
            columns.category(column, text)


@pytest.mark.parametrize(
    ("text", "expected"), [("", None), ("  ", None), ("nan", None), (None, None), (" d-1 ", "d-1"), ("007", "007")]
)
def test_an_optional_id(text: str | None, expected: str | None) -> None:
    assert columns.identifier(text) == expected


@pytest.mark.parametrize("name", ["source", "name", "label"])
def test_a_column_has_not_the_name_of_a_key_of_a_mapping(name: str) -> None:
    feature = {"name": "amount", "kind": "request", "op": "column", "column": "amount"}
    with pytest.raises(DeclarationError, match="the platform's own"):
        parse({"columns": {name: {"type": "id"}}, "features": [feature]})
