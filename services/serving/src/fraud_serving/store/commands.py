"""The commands of a transaction: append it to a history, read a daily row. Their constant parts are built once."""

from typing import Final

from fraud.core.daily import Snapshot, Table
from fraud.core.history import Layout
from fraud_serving.store.connection import SCRIPT_SHA, command

_ANY: Final = b"%b"


class HistoryAppend:
    """Reads the history of an entity and appends an event, in one atomic round trip.

    The reply is the argument of `Layout.prior_history`.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout: Final = layout
        self.pack: Final = layout.packer.pack
        """(event time in us, stored integers) -> record."""
        keys = [layout.history_key("\0").encode(), layout.ids_key("\0").encode()]
        self._key_bytes = len(keys[0]) - 1
        bounds = (layout.max_events, layout.keep_us, layout.packer.size)
        self._text = b"".join(
            (
                b"*11\r\n$7\r\nEVALSHA\r\n$40\r\n", SCRIPT_SHA, b"\r\n$1\r\n2\r\n",
                *(b"$%d\r\n" + key.replace(b"\0", _ANY) + b"\r\n" for key in keys),
                b"$", str(layout.packer.size).encode(), b"\r\n%b\r\n$8\r\n%b\r\n$%d\r\n%b\r\n",
                *(b"$%d\r\n%d\r\n" % (len(str(bound)), bound) for bound in bounds),
            )
        )  # fmt: skip

    def command(self, entity_id: str, record: bytes, transaction: bytes, event_us: int) -> bytes:
        """The command. `transaction`: 8 bytes, the hash of the transaction id."""
        id_, at = entity_id.encode(), b"%d" % event_us
        size = self._key_bytes + len(id_)
        return self._text % (size, id_, size, id_, record, transaction, len(at), at)


class PublishedSnapshot:
    """A published daily snapshot, and the command that reads an entity's row."""

    __slots__ = ("_key_bytes", "_text", "day", "default", "id")

    def __init__(self, table: Table, snapshot: Snapshot) -> None:
        self.day, self.id, self.default = snapshot.day, snapshot.id, snapshot.default
        key = table.row_key(snapshot.id, "\0").encode()
        self._key_bytes = len(key) - 1
        self._text = b"*2\r\n$3\r\nGET\r\n$%d\r\n" + key.replace(b"%", b"%%").replace(b"\0", _ANY) + b"\r\n"

    def command(self, entity_id: str) -> bytes:
        """Read the row of an entity. The reply is its bytes (`Table.unpack`), or nil without one."""
        id_ = entity_id.encode()
        return self._text % (self._key_bytes + len(id_), id_)


def pointer_command(table: Table) -> bytes:
    """Read the pointer of a table: the published snapshots by day."""
    return command(b"HGETALL", table.pointer_key.encode())
