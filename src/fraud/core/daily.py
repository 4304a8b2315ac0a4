"""Daily features: the table of an entity, its snapshots, and which of them holds for a transaction.

The snapshot of day D holds what was known when D began. It holds for transactions at t with
`D + available_us <= t < D + 1 day + available_us`. An entity without a row has the values of the default row.

In the online store a row is the value of `Table.row_key`: float64 in the order of `names`, NaN for null. The hash
`Table.pointer_key` has one field per published day: its value is the snapshot's id and default row (`Snapshot`). It is
written last, so a snapshot is visible as a whole or not at all.
"""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import isnan
from typing import NamedTuple

from fraud.core.contract import US_PER_DAY
from fraud.core.declaration_types import DailyFeature
from fraud.core.history import hash_tag


@dataclass(frozen=True)
class Table:
    """The daily features of one entity."""

    entity: str
    id_column: str
    features: tuple[DailyFeature, ...]
    available_us: int
    """Time of day (us after midnight UTC) from which a day's snapshot holds."""
    columns: tuple[tuple[str, int], ...]
    """Aggregated columns with their decimals; sums are over integers."""

    @cached_property
    def id(self) -> str:
        """8 hex digits that identify the table in keys of the store."""
        features = [
            f.model_dump(mode="json", exclude={"description", "default", "group", "input"}) for f in self.features
        ]
        meaning = json.dumps([self.entity, self.id_column, features, self.available_us, self.columns], sort_keys=True)
        return sha256(meaning.encode()).hexdigest()[:8]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @cached_property
    def empty(self) -> tuple[float | None, ...]:
        """Values while no snapshot is published; None is null."""
        return tuple(feature.empty for feature in self.features)

    @cached_property
    def days_before(self) -> int:
        """Days of transactions before D that the snapshot of D needs."""
        return max(feature.first_day_before for feature in self.features)

    @cached_property
    def _row(self) -> struct.Struct:
        return struct.Struct(f"<{len(self.features)}d")

    @property
    def row_bytes(self) -> int:
        """Size of a row in the store."""
        return self._row.size

    @property
    def pointer_key(self) -> str:
        return f"daily:{self.id}"

    def row_key(self, snapshot_id: str, entity_id: str) -> str:
        return f"d:{self.id}:{snapshot_id}:{hash_tag(self.id_column, entity_id)}"

    def pack(self, values: Sequence[float | None]) -> bytes:
        """One row as the store keeps it."""
        return self._row.pack(*(float("nan") if value is None else value for value in values))

    def unpack(self, data: bytes) -> list[float | None]:
        """The values of a row; None is null. Raises struct.error for another length."""
        values = self._row.unpack(data)
        if isnan(sum(values)):  # one call instead of one per value
            return [None if isnan(value) else value for value in values]
        return list(values)

    def day_of(self, at_us: int) -> int:
        """Day (since 1970) whose snapshot holds at a time."""
        return (at_us - self.available_us) // US_PER_DAY


class Snapshot(NamedTuple):
    """A published snapshot."""

    day: int
    """Days since 1970."""
    id: str
    default: list[float | None]
    """Values of an entity without a row."""

    def to_json(self) -> str:
        return json.dumps({"day": self.day, "id": self.id, "default": self.default})

    @classmethod
    def from_json(cls, text: str | bytes) -> "Snapshot":
        """Raises ValueError, KeyError or TypeError for another text."""
        found = json.loads(text)
        return cls(int(found["day"]), str(found["id"]), [None if v is None else float(v) for v in found["default"]])


def snapshots(pointer: Mapping[bytes, bytes]) -> list[Snapshot]:
    """The published snapshots from the content of `Table.pointer_key`, newest first."""
    return sorted((Snapshot.from_json(value) for value in pointer.values()), key=lambda s: -s.day)


def snapshot_at(table: Table, published: Iterable[Snapshot], at_us: int | None) -> Snapshot | None:
    """The newest published snapshot (`published`: newest first) that holds, or held before, at a time (us).

    None without one. A transaction without a time has the newest. A snapshot of another day than `table.day_of(at_us)`
    is stale.
    """
    for snapshot in published:
        if at_us is None or snapshot.day <= table.day_of(at_us):
            return snapshot
    return None
