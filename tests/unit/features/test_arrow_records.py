"""Columns of the lake as stored integers, compared with the conversion of one value."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.declaration_strategy import column_values, declarations

from fraud.core.columns import StoredColumn, text_hash, to_stored
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn
from fraud.core.plan import window_sets
from fraud.features.engines.arrow_records import stored_records, stored_values

TYPES = {"number": pa.float64(), "flag": pa.bool_(), "id": pa.string(), "category": pa.string()}
SHOP = StoredColumn("shop", "category", 0, "")


@settings(deadline=None)  # the first example imports
@given(data=st.data(), declaration=declarations(least=1))
def test_every_column_of_a_record_is_the_stored_integer_of_its_value(
    data: st.DataObject, declaration: Declaration
) -> None:
    """Columns that the table does not have, or has without a type, are null."""
    for windows in window_sets(declaration):
        columns = windows.layout.columns
        n = data.draw(st.integers(0, 5))
        rows = {c.name: [data.draw(column_values(declaration, c.name)) for _ in range(n)] for c in columns}
        absent = data.draw(st.sets(st.sampled_from([c.name for c in columns]))) if columns else set()
        untyped = data.draw(st.booleans())
        table = pa.table(
            {"row": pa.array(range(n), pa.int64())}
            | {c.name: pa.array(rows[c.name], TYPES[c.type]) for c in columns if c.name not in absent}
            | ({name: pa.nulls(n) for name in absent} if untyped else {})
        )
        at_us = np.arange(n)
        records = stored_records(table, at_us, windows.layout)
        assert records.dtype == windows.layout.record
        assert records.tolist() == [
            (i, *(to_stored(c, None if c.name in absent else rows[c.name][i]) for c in columns)) for i in range(n)
        ]


@pytest.mark.parametrize("encoded", [False, True], ids=["text", "dictionary"])
def test_a_text_outside_the_closed_list_is_unknown_where_the_declaration_is_given(encoded: bool) -> None:
    declared = CategoryColumn(type="category", values=("food", "other"), unknown="other")
    texts = pa.chunked_array([["food", "cars"], [None, "food"]], pa.string())
    texts = texts.dictionary_encode() if encoded else texts
    food, other, cars = (text_hash(text) for text in ("food", "other", "cars"))
    assert stored_values(SHOP, texts, declared).view(np.uint64).tolist() == [food, other, other, food]
    assert stored_values(SHOP, texts).view(np.uint64).tolist() == [food, cars, 0, food]
