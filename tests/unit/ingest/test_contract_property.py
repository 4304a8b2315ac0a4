"""What ingest stores of a declared value is what `fraud.core.columns` makes of it, for any value and declaration."""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.core import columns
from fraud.core.declaration import Declaration, parse
from fraud.core.declaration_types import CategoryColumn, NumberColumn
from fraud.ingest.landing import in_schema
from fraud.ingest.validation import in_contract, quarantine_reasons
from fraud.lake import catalog

NOW = datetime(2025, 3, 1, tzinfo=UTC)
AMOUNT = {"name": "amount", "kind": "request", "op": "column", "column": "amount"}
TEXTS = st.one_of(
    st.none(), st.text(max_size=6), st.text(min_size=127, max_size=130, alphabet="ab "),
    st.sampled_from(["", " ", "nan", "NULL", "web", " web ", "app", "4.1E+15", "#REF!", "a\tb", "007", "\u00a0x"]),
)  # fmt: skip
NUMBERS = st.one_of(st.none(), st.floats(-3, 3), st.floats(), st.sampled_from([-0.0, 0.5, 0.125, 1.005, -2.0, 2.0]))
FLAGS = st.one_of(st.none(), st.sampled_from(["true", " F", "yes", "N", "1", "0.0", "", " "]), st.text(max_size=3))
NUMBER = st.integers(0, 6).map(lambda n: {"type": "number", "unit": "x", "min": -2, "max": 2, "decimals": n})
COLUMN = st.one_of(
    st.tuples(st.just({"type": "id"}), TEXTS),
    st.tuples(st.just({"type": "category", "learn": 3}), TEXTS),
    st.tuples(st.just({"type": "category", "values": ["web", "app", "other"]}), TEXTS),
    st.tuples(st.just({"type": "number", "unit": "x", "min": -2, "max": 2}), NUMBERS),
    st.tuples(NUMBER, NUMBERS),
    st.tuples(st.just({"type": "flag"}), FLAGS),
)


def one_by_one(column: Any, value: Any) -> Any:  # noqa: ANN401 - a value of any column
    """By the functions of core. Raises ValueError for an invalid value."""
    if isinstance(column, NumberColumn):
        return None if value is None or math.isnan(value) else columns.number(column, value)
    if isinstance(column, CategoryColumn):
        return columns.category(column, value)
    return columns.flag(value) if column.type == "flag" else columns.identifier(value)


def delivered(declaration: Declaration, name: str, value: object) -> pa.Table:
    types = dict(catalog.transaction_columns(declaration))
    kind = pa.string() if declaration.columns[name].type != "number" else types[name]
    at = pa.array([NOW], pa.timestamp("us", "UTC"))
    built_in = {"transaction_id": ["t"], "user_id": ["u"], "merchant_id": ["m"], "event_timestamp": at, "amount": [1.0]}
    return pa.table({**built_in, name: pa.array([value], kind)})


@settings(max_examples=150, deadline=None)
@given(COLUMN, st.sampled_from(["x", "order", "of_card"]))
def test_a_declared_value_alone_and_in_a_delivery(drawn: tuple[dict[str, Any], Any], name: str) -> None:
    written, value = drawn
    declaration = parse({"columns": {name: written}, "features": [AMOUNT]})
    column = declaration.columns[name]
    table = in_schema("file", "transactions", declaration, delivered(declaration, name, value))
    [reason] = quarantine_reasons("transactions", declaration, table, NOW).to_pylist()
    try:
        expected = one_by_one(column, value)
    except ValueError:
        assert reason is not None
        assert name in reason
        return
    assert reason is None
    rows, _ = in_contract(table, declaration)
    assert rows.schema.equals(catalog.TRANSACTIONS.schema(declaration))
    [stored] = rows[name].to_pylist()
    assert (stored, type(stored)) == (expected, type(expected))
    if isinstance(stored, float):
        assert math.copysign(1, stored) == math.copysign(1, expected)


def test_the_page_of_data_documents_the_texts_of_flags() -> None:
    page = (Path(__file__).parents[3] / "docs/data.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith("| `flag` |")]
    assert all(f"`{text}`" in line for text in ("1", "t", "yes", "y", "0", "f", "no", "n"))
