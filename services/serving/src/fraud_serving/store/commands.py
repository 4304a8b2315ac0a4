"""The commands of a transaction: append it to a history, read a daily row.

A command is a tuple of byte strings, which the caller joins with those of the other commands. Its constant parts are
built once per length of the entity's id.
"""

from typing import Final

from fraud.core.contract import US_PER_DAY
from fraud.core.daily import Snapshot, Table
from fraud.core.history import Layout
from fraud_serving.store.connection import SCRIPT_SHA, command


def event_arguments(transaction: bytes, event_us: int) -> bytes:
    """What the appends of one event to all histories have in common. `transaction`: 8 bytes, the hash of its id."""
    return b"\r\n$8\r\n%b\r\n$%d\r\n%d" % (transaction, len(str(event_us)), event_us)


class HistoryAppend:
    """Reads the history of an entity and appends an event, in one atomic round trip.

    The reply is the argument of `Layout.prior_history`.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout: Final = layout
        self.pack: Final = layout.packer.pack
        """(event time in us, stored integers) -> record."""
        self._keys = tuple(key("\0").encode().split(b"\0") for key in (layout.history_key, layout.ids_key))
        self._heads: dict[int, tuple[bytes, bytes, bytes]] = {}
        bounds = (layout.max_events, layout.keep_us, layout.packer.size)
        self._bounds = b"".join(b"\r\n$%d\r\n%d" % (len(str(bound)), bound) for bound in bounds) + b"\r\n"

    def command(self, entity_id: str, record: bytes, event: bytes) -> tuple[bytes, ...]:
        """The command. `event`: as `event_arguments` returns it."""
        id_ = entity_id.encode()
        head = self._heads.get(len(id_))
        if head is None:
            head = self._heads[len(id_)] = self._head(len(id_))
        return head[0], id_, head[1], id_, head[2], record, event, self._bounds

    def _head(self, id_bytes: int) -> tuple[bytes, bytes, bytes]:
        """What is before, between and after the two places of an id with this length, up to the record."""
        (before, after), (ids_before, ids_after) = self._keys
        size, ids_size = (id_bytes + len(a) + len(b) for a, b in self._keys)
        return (
            b"*11\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n2\r\n$%d\r\n%b" % (SCRIPT_SHA, size, before),
            b"%b\r\n$%d\r\n%b" % (after, ids_size, ids_before),
            b"%b\r\n$%d\r\n" % (ids_after, self.layout.packer.size),
        )


class PublishedSnapshot:
    """A published daily snapshot, and the command that reads an entity's row."""

    __slots__ = ("_heads", "_key", "day", "default", "from_us", "id", "until_us")

    def __init__(self, table: Table, snapshot: Snapshot) -> None:
        self.day, self.id, self.default = snapshot.day, snapshot.id, snapshot.default
        self.from_us = snapshot.day * US_PER_DAY + table.available_us
        """First event time (us) for which it holds."""
        self.until_us = self.from_us + US_PER_DAY
        """First event time (us) for which it is stale."""
        self._key = table.row_key(snapshot.id, "\0").encode().split(b"\0")
        self._heads: dict[int, tuple[bytes, bytes]] = {}

    def command(self, entity_id: str) -> tuple[bytes, ...]:
        """Read the row of an entity. The reply is its bytes (`Table.unpack`), or nil without one."""
        id_ = entity_id.encode()
        head = self._heads.get(len(id_))
        if head is None:
            before, after = self._key
            size = len(before) + len(id_) + len(after)
            head = self._heads[len(id_)] = (b"*2\r\n$3\r\nGET\r\n$%d\r\n%b" % (size, before), after + b"\r\n")
        return head[0], id_, head[1]


def pointer_command(table: Table) -> bytes:
    """Read the pointer of a table: the published snapshots by day."""
    return command(b"HGETALL", table.pointer_key.encode())
