"""Recompute window and daily features from the lake's transactions in the order of their ingestion time.

The batch engines compute the same values for all rows at once. This module uses the point function of the request path
instead, one event at a time, so that replay compares both.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud.audit.daily_snapshots import DailySnapshots, Lookup
from fraud.core.daily import Table
from fraud.core.plan import Plan
from fraud.core.windows import WindowSet
from fraud.features.daily_values import snapshot_id
from fraud.features.engines.arrow_records import as_declared, microseconds, stored_records
from fraud.lake import catalog

_ORDER: Final = ("created_timestamp", "event_timestamp", "transaction_id")
Values = dict[str, float | None]
"""Features by name."""


@dataclass(frozen=True, slots=True)
class LakeHistory:
    """Transactions and their features. Create it with `load`."""

    features: Mapping[str, Values]
    """By transaction_id. A missing transaction is not in the lake."""
    rows: pa.Table
    """The transactions, with the columns of the plan's declaration."""

    @classmethod
    def load(cls, lake_uri: str, plan: Plan, transactions: Mapping[str, Collection[str]]) -> Self:
        """Compute the features of transaction ids by event day, as the plan declares them."""
        schema = catalog.TRANSACTIONS.schema(plan.declaration)
        dataset, found = catalog.TRANSACTIONS.at(lake_uri).open(), [schema.empty_table()]
        for day in sorted({*transactions} & {*dataset.partitions()}):
            rows = as_declared(dataset.read_as(day, schema), plan.declaration)
            ids = pa.array(sorted(transactions[day]), pa.string())
            found.append(rows.filter(pc.is_in(rows["transaction_id"], ids)))
        rows = pa.concat_tables(found)
        features: dict[str, Values] = {transaction: {} for transaction in rows["transaction_id"].to_pylist()}
        for windows in plan.windows:
            for transaction, values in _windows(lake_uri, plan, windows, rows):
                features[transaction] |= dict(zip(windows.names, values, strict=True))
        for table in plan.tables:
            for transaction, values in _daily(lake_uri, table, rows):
                features[transaction] |= dict(zip(table.names, values, strict=True))
        return cls(features, rows)


def _windows(lake_uri: str, plan: Plan, windows: WindowSet, rows: pa.Table) -> Iterator[tuple[str, list[float | None]]]:
    """The window features of an entity of each of `rows`, by transaction id."""
    layout = windows.layout
    for row in rows.filter(pc.is_null(rows[layout.id_column]))["transaction_id"].to_pylist():
        yield row, list(windows.empty)
    schema = pa.schema(
        [field for field in catalog.TRANSACTIONS.schema(plan.declaration)
         if field.name in {*_ORDER, layout.id_column, *(column.name for column in layout.columns)}]
    )  # fmt: skip
    entities = pa.array(sorted(set(rows[layout.id_column].drop_null().to_pylist())), pa.string())
    dataset, tables = catalog.TRANSACTIONS.at(lake_uri).open(), [schema.empty_table()]
    for day in dataset.partitions():
        events = as_declared(dataset.read_as(day, schema), plan.declaration).select(schema.names)
        tables.append(events.filter(pc.is_in(events[layout.id_column], entities)))
    events = pa.concat_tables(tables).sort_by([(key, "ascending") for key in (layout.id_column, *_ORDER)])
    selected = set(rows["transaction_id"].to_pylist())
    records = stored_records(events, microseconds(events["event_timestamp"]), layout)
    entity, newest_us, kept = None, 0, list[int]()
    for i, (name, transaction) in enumerate(
        zip(events[layout.id_column].to_pylist(), events["transaction_id"].to_pylist(), strict=True)
    ):
        if name != entity:
            entity, newest_us, kept = name, 0, []
        at_us, *own = records[i].tolist()
        if transaction in selected:
            before = records[np.array(kept[-layout.max_events :], dtype=np.int64)]
            yield transaction, windows.evaluate(before, newest_us, at_us, own)
        if at_us >= newest_us - layout.keep_us:
            kept.append(i)
            newest_us = max(newest_us, at_us)


def _daily(lake_uri: str, table: Table, rows: pa.Table) -> Iterator[tuple[str, list[float | None]]]:
    """The daily features of each of `rows` in the snapshot that holds at its event time, by transaction id."""
    snapshots, dataset = dict[int, str | None](), catalog.daily(table).at(lake_uri).open()
    at_us, ids = microseconds(rows["event_timestamp"]).tolist(), rows[table.id_column].to_pylist()
    for day in {table.day_of(us) for us in at_us}:
        name = str(np.datetime64(day, "D"))
        partition = dataset.partition(name)
        snapshots[day] = snapshot_id(partition) if partition else None
    lookups: list[Lookup] = [
        (table, snapshot, entity_id)
        for us, entity_id in zip(at_us, ids, strict=True)
        if (snapshot := snapshots[table.day_of(us)]) is not None and entity_id is not None
    ]
    found = DailySnapshots.load(lake_uri, lookups)
    for transaction, us, entity_id in zip(rows["transaction_id"].to_pylist(), at_us, ids, strict=True):
        values = found.values(table, snapshots[table.day_of(us)], entity_id)
        if isinstance(values, list):
            yield transaction, values
