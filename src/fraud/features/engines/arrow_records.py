"""Arrow tables of transactions as the integers that histories store (`fraud.core.history`)."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.columns import StoredColumn, category, numbers_to_stored, text_hash
from fraud.core.contract import id_hash
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn, Column
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
        stored = stored_values(column, table[column.name]) if has else np.array(column.null)
        records[column.name] = stored.astype(layout.record[column.name])
    return records


def stored_values(column: StoredColumn, values: pa.ChunkedArray, declared: Column | None = None) -> NDArray[np.int64]:
    """The stored integers (`fraud.core.columns`) of a column of the lake, int64[n]; a hash has the bits of its uint64.

    `values` are numbers, bool, or text as it is or dictionary-encoded. With `declared`, null and a text that is not in
    the closed list of a category are its unknown value, as with `as_declared`: the lake may have another list.
    """
    if column.type == "number":
        given: NDArray[np.float64] = pc.fill_null(values.cast(pa.float64()), float("nan")).to_numpy()
        return numbers_to_stored(column, given)
    if column.type == "flag":
        flags: NDArray[np.int64] = pc.fill_null(values.cast(pa.bool_()).cast(pa.int64()), column.null).to_numpy()
        return flags
    codes, texts = text_codes(values)
    given_or_null: list[str | None] = [*texts, None]  # the code of a null, -1, is the last one
    if isinstance(declared, CategoryColumn):
        given_or_null = [category(declared, text) for text in given_or_null]
    hashes = np.array([column.null if t is None else text_hash(t) for t in given_or_null], dtype=np.uint64)
    of_rows: NDArray[np.int64] = hashes.view(np.int64)[codes]
    return of_rows


def text_codes(values: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str | None]]:
    """A text column as int32 codes, [n], of the different texts; -1 for null."""
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    whole = encoded.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # without rows, or with several chunks in older versions
        whole = whole.chunk(0) if whole.num_chunks else pa.array([], encoded.type)
    codes: NDArray[np.int32] = pc.fill_null(whole.indices, -1).cast(pa.int32()).to_numpy()
    return codes, whole.dictionary.to_pylist()


def microseconds(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A timestamp[us] column without nulls as int64 microseconds since 1970."""
    values: NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    return values
