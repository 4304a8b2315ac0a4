"""Window features of Arrow tables of transactions: stored integers of their columns, and the kernel per entity."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.columns import StoredColumn, to_stored
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import Column
from fraud.core.plan import layout
from fraud.errors import BadInputError
from fraud.features.engines import kernel
from fraud.features.engines.arrow_records import microseconds, stored_values, text_codes

Floats = NDArray[np.float64]
Values = Mapping[str, Floats]
"""Values of features by name, float64[n], NaN for null."""
ORDER: Final = ("event_timestamp", "created_timestamp")


class EntityWindows(NamedTuple):
    """The window features of one entity, for the kernel."""

    entity: str
    id_column: str
    names: tuple[str, ...]
    """Names of the features, in declared order."""
    windows: tuple[kernel.Window, ...]
    columns: tuple[StoredColumn, ...]
    """The aggregated columns: rows of the kernel's `columns`."""
    declared: tuple[Column, ...]
    """The declared columns of `columns`."""
    bound: int
    keep_us: int


def entities(declaration: Declaration) -> list[EntityWindows]:
    """The entities of a declaration that have window features, in order of their names."""
    return [_entity(declaration, name) for name in sorted(declaration.entities) if declaration.windows(name)]


def _entity(declaration: Declaration, name: str) -> EntityWindows:
    stored, features = layout(declaration, name), declaration.windows(name)
    index = {column.name: i for i, column in enumerate(stored.columns)}
    windows = []
    for feature in features:
        i = -1 if feature.column is None else index[feature.column]
        divisor = stored.columns[i].divisor if i >= 0 else 1
        value = 0
        if feature.aggregate == "share":
            value = 1 if feature.value is None else _signed(to_stored(stored.columns[i], feature.value))
        windows.append(kernel.Window(feature.aggregate, i, feature.window_us, divisor, value))
    return EntityWindows(
        name, stored.id_column, tuple(feature.name for feature in features), tuple(windows), stored.columns,
        tuple(declaration.column(column.name) for column in stored.columns),
        stored.max_events, stored.keep_us,
    )  # fmt: skip


def _signed(hashed: int) -> int:
    """A 64-bit hash as the int64 of the same bits."""
    return hashed - 2**64 if hashed >= 2**63 else hashed


def columns(declaration: Declaration) -> list[str]:
    """The columns of transactions that window features are computed from."""
    needed = {name for e in entities(declaration) for name in (e.id_column, *(c.name for c in e.columns))}
    return [*ORDER, *sorted(needed)]


def check_order(event_us: NDArray[np.int64], created_us: NDArray[np.int64]) -> None:
    """Raises BadInputError unless rows are sorted by event time, then ingestion time."""
    later = np.diff(event_us)
    if np.any((later < 0) | ((later == 0) & (np.diff(created_us) < 0))):
        raise BadInputError("transactions are not sorted", expected="order of event time, then ingestion time")


def entity_values(
    entity: EntityWindows, codes: NDArray[np.int32], event_us: NDArray[np.int64], created_us: NDArray[np.int64],
    stored: Sequence[NDArray[np.int64]], requested: NDArray[np.bool_] | None = None, threads: int = 1,
) -> Floats:  # fmt: skip
    """Values of an entity's features for each (requested) row: float64[len(entity.names), n], NaN for null.

    `codes` are equal for rows of the same entity, and -1 for a row without one, which has the values of an empty
    history. `stored` has the stored integers of `entity.columns`. Rows are sorted as `window_values` requires.
    """
    starts, order = kernel.group(codes, int(codes.max(initial=-1)) + 1)
    nulls = np.array([column.null for column in entity.columns], dtype=np.int64)
    return kernel.compute(
        entity.windows, starts, order, event_us, created_us, stored, nulls, entity.bound, entity.keep_us, threads,
        requested,
    )  # fmt: skip


def window_values(
    table: pa.Table, declaration: Declaration, requested: NDArray[np.bool_] | None = None, threads: int = 1
) -> dict[str, Floats]:
    """Values of the window features for each row of `table`, or for the `requested` rows in their order.

    `table` has `columns(declaration)`, is sorted by (event_timestamp, created_timestamp, transaction_id) and contains
    all rows of its entities that can be in a window. Raises BadInputError when it is not sorted.
    """
    event_us, created_us = microseconds(table["event_timestamp"]), microseconds(table["created_timestamp"])
    check_order(event_us, created_us)
    values: dict[str, Floats] = {}
    for entity in entities(declaration):
        stored = [
            stored_values(column, table[column.name], declared)
            for column, declared in zip(entity.columns, entity.declared, strict=True)
        ]
        codes, _ = text_codes(table[entity.id_column])
        computed = entity_values(entity, codes, event_us, created_us, stored, requested, threads)
        values |= zip(entity.names, computed, strict=True)
    return values


def with_features(table: pa.Table, declaration: Declaration, values: Values) -> pa.Table:
    """`table` with one column per window and daily feature, in declared order and dtype, NaN as null."""
    for feature in declaration.stored_features:
        array = pa.array(np.ascontiguousarray(values[feature.name]), from_pandas=True)
        table = table.append_column(feature.name, pc.cast(array, pa.type_for_alias(feature.dtype)))
    return table
