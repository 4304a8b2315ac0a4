"""The commands of a transaction: append it to a history, read a daily row.

The first `{` of a command is that of the hash tag of its key, which decides the slot on a cluster. The constant parts
of a command are built once per length of the entity's id.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
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
        self._keys = tuple(
            key("\0").encode().replace(b"%", b"%%").split(b"\0") for key in (layout.history_key, layout.ids_key)
        )
        self._formats: dict[int, bytes] = {}
        bounds = (layout.max_events, layout.keep_us, layout.packer.size)
        self._bounds = b"".join(b"\r\n$%d\r\n%d" % (len(str(bound)), bound) for bound in bounds) + b"\r\n"

    def command(self, entity_id: str, record: bytes, event: bytes) -> bytes:
        """The command. `event`: as `event_arguments` returns it."""
        id_ = entity_id.encode()
        return self._format(len(id_)) % (id_, id_, record, event)

    def commands(self, entity_ids: Sequence[str], records: Iterable[bytes], events: Iterable[bytes]) -> bytes:
        """The commands of several transactions."""
        ids = list(map(str.encode, entity_ids))
        lengths = list(map(len, ids))
        one = self._format(lengths[0])
        formats = one * len(ids) if len(set(lengths)) == 1 else b"".join(map(self._format, lengths))
        return formats % tuple(chain.from_iterable(zip(ids, ids, records, events, strict=True)))

    def _format(self, id_bytes: int) -> bytes:
        """The command for an id of this length, with places for the id (twice), the record and the event."""
        found = self._formats.get(id_bytes)
        if found is None:
            (before, after), (ids_before, ids_after) = self._keys
            size, ids_size = (
                id_bytes + len(key.replace(b"%%", b"%")) for key in (before + after, ids_before + ids_after)
            )
            found = self._formats[id_bytes] = (
                b"*11\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n2\r\n" % SCRIPT_SHA
                + b"$%d\r\n" % size + before + b"%b" + after + b"\r\n"
                + b"$%d\r\n" % ids_size + ids_before + b"%b" + ids_after + b"\r\n"
                + b"$%d\r\n" % self.layout.packer.size + b"%b%b" + self._bounds
            )  # fmt: skip
        return found


class PublishedSnapshot:
    """A published daily snapshot, and the command that reads an entity's row."""

    __slots__ = ("_formats", "_key", "day", "default", "from_us", "id", "until_us")

    def __init__(self, table: Table, snapshot: Snapshot) -> None:
        self.day, self.id, self.default = snapshot.day, snapshot.id, snapshot.default
        self.from_us = snapshot.day * US_PER_DAY + table.available_us
        """First event time (us) for which it holds."""
        self.until_us = self.from_us + US_PER_DAY
        """First event time (us) for which it is stale."""
        self._key = table.row_key(snapshot.id, "\0").encode().replace(b"%", b"%%").split(b"\0")
        self._formats: dict[int, bytes] = {}

    def command(self, entity_id: str) -> bytes:
        """Read the row of an entity. The reply is its bytes (`Table.unpack`), or nil without one."""
        id_ = entity_id.encode()
        found = self._formats.get(len(id_))
        if found is None:
            before, after = self._key
            size = len((before + after).replace(b"%%", b"%")) + len(id_)
            found = self._formats[len(id_)] = b"*2\r\n$3\r\nGET\r\n$%d\r\n" % size + before + b"%b" + after + b"\r\n"
        return found % id_


def pointer_command(table: Table) -> bytes:
    """Read the pointer of a table: the published snapshots by day."""
    return command(b"HGETALL", table.pointer_key.encode())
