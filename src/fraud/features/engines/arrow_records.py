"""Arrow tables of transactions as the integers that histories store (`fraud.core.history`)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.columns import NO_FLAG, NO_HASH, StoredColumn, numbers_to_stored, text_hash
from fraud.core.contract import id_hash
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn
from fraud.core.history import EVENT_US, Layout


def id_hashes(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Hashes of transaction ids, uint64[n]."""
    return np.fromiter((id_hash(text) for text in ids), dtype=np.uint64)


def as_declared(table: pa.Table, declaration: Declaration) -> pa.Table:
    """The table with the categories of a declaration: null, an absent column and a text that is not in a closed list
    become `unknown`, as in a request. The lake has the lists of the project's declaration; a version may have others.
    """
    for name, column in declaration.columns.items():
        if not isinstance(column, CategoryColumn):
            continue
        unknown = pa.scalar(column.unknown, pa.string())
        if name not in table.column_names:
            table = table.append_column(name, pa.repeat(unknown, table.num_rows))
            continue
        texts = pc.fill_null(table[name].cast(pa.string()), unknown)
        if column.learn is None and column.values is not None:
            texts = pc.if_else(pc.is_in(texts, value_set=pa.array(column.values, pa.string())), texts, unknown)
        table = table.set_column(table.column_names.index(name), name, texts)
    return table


def stored_records(table: pa.Table, at_us: NDArray[np.int64], layout: Layout) -> NDArray[np.void]:
    """Layout.record[n] of n transactions at `at_us`. A column that the table does not have is null."""
    records = np.empty(table.num_rows, dtype=layout.record)
    records[EVENT_US] = at_us
    for column in layout.columns:
        has = column.name in table.column_names and not pa.types.is_null(table.schema.field(column.name).type)
        records[column.name] = _stored(table[column.name], column) if has else column.null
    return records


def _stored(values: pa.ChunkedArray, column: StoredColumn) -> NDArray[np.integer[Any]]:
    if column.type == "number":
        return numbers_to_stored(column, pc.fill_null(values.cast(pa.float64()), np.nan).to_numpy())
    if column.type == "flag":
        flags: NDArray[np.uint8] = pc.fill_null(values.cast(pa.bool_()).cast(pa.uint8()), NO_FLAG).to_numpy()
        return flags
    texts = values.cast(pa.string()).combine_chunks().dictionary_encode()
    hashes = np.array([*(text_hash(text) for text in texts.dictionary.to_pylist()), NO_HASH], dtype=np.uint64)
    stored: NDArray[np.uint64] = hashes[pc.fill_null(texts.indices, len(hashes) - 1).to_numpy()]
    return stored
