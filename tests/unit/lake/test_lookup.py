"""Rows by id from partitions of several declarations, and tables in the columns of another one."""

from pathlib import Path

import pyarrow as pa
import pytest

from fraud.errors import BadInputError
from fraud.lake.dataset import Dataset, conformed
from fraud.lake.lookup import rows_with_ids

SCHEMA = pa.schema([("transaction_id", pa.string()), ("amount", pa.float64()), ("order", pa.string())])


def test_partitions_with_other_columns_are_looked_up_together(tmp_path: Path) -> None:
    dataset = Dataset(f"file://{tmp_path}", "transactions")
    assert rows_with_ids(dataset.open(), pa.array(["a"]), SCHEMA) is None
    dataset.publish("2025-03-01", pa.table({"transaction_id": ["a", "b"], "amount": [1.0, 2.0]}))
    dataset.publish("2025-03-02", pa.table({"order": ["o"], "amount": [3.0], "more": [True], "transaction_id": ["c"]}))
    found = rows_with_ids(dataset.open(), pa.chunked_array([["a"], ["c", "x"]]), SCHEMA)
    assert found is not None
    assert found.schema.equals(SCHEMA)
    assert found.sort_by("transaction_id").to_pylist() == [
        {"transaction_id": "a", "amount": 1.0, "order": None}, {"transaction_id": "c", "amount": 3.0, "order": "o"},
    ]  # fmt: skip


def test_a_column_that_no_partition_has_is_null(tmp_path: Path) -> None:
    dataset = Dataset(f"file://{tmp_path}", "transactions")
    dataset.publish("2025-03-01", pa.table({"transaction_id": ["a"], "amount": [1.0]}))
    found = rows_with_ids(dataset.open(), pa.array(["a"]), SCHEMA)
    assert found is not None
    assert found["order"].to_pylist() == [None]


def test_a_table_in_the_columns_of_another_declaration() -> None:
    table = pa.table({"more": [1], "amount": pa.array([2], pa.int32()), "transaction_id": ["a"]})
    assert conformed(table, SCHEMA).to_pylist() == [{"transaction_id": "a", "amount": 2.0, "order": None}]


def test_a_type_that_a_column_cannot_have_is_named_with_what_to_do() -> None:
    with pytest.raises(BadInputError, match="column amount of another type") as caught:
        conformed(pa.table({"transaction_id": ["a"], "amount": ["much"]}), SCHEMA)
    assert "another name" in caught.value.hint
