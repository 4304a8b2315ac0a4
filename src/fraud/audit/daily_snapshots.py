"""Values of daily tables in the snapshots that answers name."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import pyarrow as pa
import pyarrow.compute as pc

from fraud.core.daily import Table
from fraud.features.daily_values import snapshot_id
from fraud.lake import catalog

SNAPSHOT_REPLACED: Final = "the daily snapshot was replaced"
SNAPSHOT_GONE: Final = "the daily snapshot is no longer in the lake"
Lookup = tuple[Table, str, str]
"""Table, id of the snapshot, id of the entity."""
Rows = dict[str | None, list[float | None]]
"""Values by entity id; those of the default row under None."""


@dataclass(frozen=True, slots=True)
class DailySnapshots:
    """Rows of some entities in some snapshots. Create it with `load`."""

    _rows: dict[tuple[str, str], Rows | str]
    """By table id and snapshot id: the rows, or the reason why there are none."""

    @classmethod
    def load(cls, lake_uri: str, lookups: Iterable[Lookup]) -> Self:
        """Read each snapshot that is looked up once."""
        tables, ids = dict[str, Table](), defaultdict[tuple[str, str], set[str]](set)
        for table, snapshot, entity_id in lookups:
            tables[table.id] = table
            ids[table.id, snapshot].add(entity_id)
        return cls({key: _read(lake_uri, tables[key[0]], key[1], some) for key, some in ids.items()})

    def values(self, table: Table, snapshot: str | None, entity_id: str | None) -> list[float | None] | str:
        """Values in the order of `table.names`, or the reason why they are not known.

        Without an entity or a snapshot, those that hold while none is published.
        """
        if snapshot is None or entity_id is None:
            return list(table.empty)
        rows = self._rows[table.id, snapshot]
        return rows if isinstance(rows, str) else rows.get(entity_id, rows[None])


def snapshot_day(snapshot: str) -> str:
    """The day in the id of a snapshot, `<day>-<start of the content hash>`."""
    return snapshot.rpartition("-")[0]


def _read(lake_uri: str, table: Table, snapshot: str, ids: set[str]) -> Rows | str:
    dataset, day = catalog.daily(table).at(lake_uri).open(), snapshot_day(snapshot)
    partition = dataset.partition(day)
    if partition is None:
        return SNAPSHOT_GONE
    if snapshot != snapshot_id(partition):
        return SNAPSHOT_REPLACED
    rows = dataset.read(day, [table.id_column, *table.names])
    named = pa.array(sorted(ids), pa.string())
    rows = rows.filter(pc.or_(pc.is_null(rows[table.id_column]), pc.is_in(rows[table.id_column], named)))
    columns = [rows[name].cast(pa.float64()).to_pylist() for name in table.names]
    values = [list(row) for row in zip(*columns, strict=True)]
    return dict(zip(rows[table.id_column].to_pylist(), values, strict=True))
