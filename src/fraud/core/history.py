"""The event history of an entity (a user, a device) in the online store, ordered by sequence.

Value of `Layout.history_key`: a 16-byte header (base, newest) and then one record per event: the event time (us) and
the stored columns. The record at index i has sequence `base + i`; `newest` is the latest event time of all events of
the entity, including removed ones. Value of `Layout.ids_key`: one 16-byte entry per record (transaction id hash, newest
before this event). The entries make the append idempotent: a retry reads the same history as its first attempt, as long
as fewer than `max_events` events of the entity were appended in between.

The history at an event e is the `max_events` events with the highest sequence below e's. An event that is more than
`keep_us` older than *newest* at its ingestion is not added. `load_events.lua` removes a prefix of events that old. At
most 3 * max_events events of an entity are kept.

All keys of an entity have the same hash tag, so that they are in one slot of a cluster: a script can use both, and what
is lost with a node is lost for its entities alone. `append_event.lua` reads and appends in one atomic round trip; the
store orders concurrent requests of an entity. A layout with other columns or bounds has other keys, so that versions
with different layouts can be served from one store.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.resources import files
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.columns import StoredColumn
from fraud.core.contract import id_digest

HEADER: Final = struct.Struct("<qq")
ENTRY: Final = np.dtype([("transaction", "<u8"), ("newest_before", "<i8")])
EVENT_US: Final = "event_us"
APPEND_SCRIPT: Final = files("fraud.core").joinpath("append_event.lua").read_text()
LOAD_SCRIPT: Final = files("fraud.core").joinpath("load_events.lua").read_text()


def hash_tag(id_column: str, entity_id: str) -> str:
    """What decides the slot of an entity's keys on a cluster."""
    return f"{{{id_column}:{entity_id}}}"


@dataclass(frozen=True)
class Layout:
    """What an entity's records contain, and how many are kept. Equal layouts share the stored histories."""

    entity: str
    id_column: str
    columns: tuple[StoredColumn, ...]
    """Sorted by name."""
    max_events: int
    keep_us: int

    @cached_property
    def id(self) -> str:
        """8 hex digits that identify the layout in keys of the store."""
        columns = [list(column) for column in self.columns]
        meaning = json.dumps([self.entity, self.id_column, columns, self.max_events, self.keep_us])
        return sha256(meaning.encode()).hexdigest()[:8]

    @cached_property
    def packer(self) -> struct.Struct:
        """Packs one record: event time (us), then the stored integers in the order of `columns`."""
        return struct.Struct("<q" + "".join(column.format for column in self.columns))

    @cached_property
    def record(self) -> np.dtype[np.void]:
        """The numpy type of a record: `event_us` and a field per column."""
        kinds = {"q": "<i8", "Q": "<u8", "B": "u1"}
        return np.dtype([(EVENT_US, "<i8"), *((column.name, kinds[column.format]) for column in self.columns)])

    def history_key(self, entity_id: str) -> str:
        return f"h:{self.id}:{hash_tag(self.id_column, entity_id)}"

    def ids_key(self, entity_id: str) -> str:
        return f"i:{self.id}:{hash_tag(self.id_column, entity_id)}"

    @property
    def materialized_key(self) -> str:
        """Hash of the days that were loaded from the lake: day -> content hash of the partition."""
        return f"materialized:{self.id}"

    def append_arguments(
        self, transaction_id: str, event_us: int, stored: Sequence[int]
    ) -> tuple[bytes, bytes, int, int, int, int]:
        """ARGV of `append_event.lua`. `stored`: the event's integers in the order of `columns`."""
        record = self.packer.pack(event_us, *stored)
        return record, id_digest(transaction_id), event_us, self.max_events, self.keep_us, len(record)

    def load_arguments(self, records: NDArray[np.void], ids: NDArray[np.uint64]) -> tuple[bytes, bytes, int, int, int]:
        """ARGV of `load_events.lua`: events of one entity in order of ingestion, record[n] and hashed ids [n]."""
        size = self.record.itemsize
        return records.tobytes(), ids.astype("<u8").tobytes(), self.max_events, self.keep_us, size

    def prior_history(self, reply: tuple[int, int, int, bytes]) -> "PriorHistory":
        """Parse the reply of `append_event.lua`: (sequence, newest_before, repeated, records)."""
        sequence, newest, repeated, records = reply
        return PriorHistory(sequence, newest, np.frombuffer(records, dtype=self.record), bool(repeated))

    def stored(self, value: bytes) -> tuple[int, int, NDArray[np.void]]:
        """Parse a value of `history_key`: (base, newest, record[n]). b"" stands for an absent key."""
        if not value:
            return 0, 0, np.zeros(0, dtype=self.record)
        base, newest = HEADER.unpack_from(value)
        return base, newest, np.frombuffer(value, dtype=self.record, offset=HEADER.size)


class PriorHistory(NamedTuple):
    """The history of an entity before an event that was appended."""

    sequence: int
    """The sequence of the event: the number of events of the entity that were appended before it."""
    newest_us: int
    """Latest event time before this event was appended; 0 without history."""
    events: NDArray[np.void]
    """Layout.record[n], n <= max_events: the events with the highest sequences below this one, in order of sequence."""
    repeated: bool
    """True when this transaction_id was appended before. Nothing was written then."""


class Order(NamedTuple):
    """The stored events of an entity, in the order in which the store received them."""

    base: int
    """Sequence of the first one."""
    newest_us: int
    """Latest event time of all events that were ever stored."""
    event_us: NDArray[np.int64]
    ids: NDArray[np.uint64]
    """Hashes of the transaction ids, [n]."""
