"""A user's event history online: one compact value per user, in the order in which the store learned of the events.

Value of `history_key(user)`: a 16-byte header (base, newest) and then 24-byte records. The record at index i has
sequence `base + i`; `newest` is the latest event time (us) among all events the user ever had, trimmed ones included.
Value of `ids_key(user)`: one 16-byte entry per record (transaction id hash, newest before this event). It makes the
append idempotent and lets a retry see exactly the history its first attempt saw, as long as fewer than MAX_EVENTS
events of the user came in between.

What no later window can hold is not kept: an event more than RETENTION_US behind `newest` is not taken in, and
`load_events.lua` lets go of such a prefix. A user with very many events keeps the last 2 to 3 times MAX_EVENTS.

Both keys of a user share a hash tag, so that one script can touch them on a cluster too. `append_event.lua` reads
and appends in one atomic round trip; concurrent requests of one user are ordered by the store.
"""

import struct
from importlib.resources import files
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.contract import id_hash
from fraud.core.features import RETENTION_US

HEADER: Final = struct.Struct("<qq")
RECORD: Final = np.dtype([("event_us", "<i8"), ("units", "<i8"), ("merchant", "<u8")])
ENTRY: Final = np.dtype([("transaction", "<u8"), ("newest_before", "<i8")])
_EVENT: Final = struct.Struct("<qqQ")
_ID: Final = struct.Struct("<Q")


def _script(name: str) -> str:
    return f"local RETENTION_US = {RETENTION_US}\n" + files("fraud.core").joinpath(name).read_text()


APPEND_SCRIPT: Final = _script("append_event.lua")
LOAD_SCRIPT: Final = _script("load_events.lua")


class Known(NamedTuple):
    """What was known of a user when an event was taken in."""

    sequence: int
    """The event's own sequence: the number of the user's events taken in before it."""
    newest_us: int
    """Latest event time known before this event; 0 without history."""
    events: NDArray[np.void]
    """RECORD[n], n <= MAX_EVENTS, the events with the highest sequences below this one, in sequence order."""
    repeated: bool
    """True when this transaction_id was appended before: nothing was written this time."""


class Order(NamedTuple):
    """The stored events of a user, in the order in which the store received them."""

    base: int
    """Sequence of the first one."""
    newest_us: int
    """Latest event time of all events that were ever stored."""
    event_us: NDArray[np.int64]
    ids: NDArray[np.uint64]
    """Hashes of the transaction ids, [n]."""


def history_key(user_id: str) -> str:
    return f"h:{{{user_id}}}"


def ids_key(user_id: str) -> str:
    return f"i:{{{user_id}}}"


def append_arguments(transaction_id: str, event_us: int, units: int, merchant_id: str) -> tuple[bytes, bytes, int]:
    """ARGV of `append_event.lua`, the bound (MAX_EVENTS) excepted: record, id, event time."""
    return _EVENT.pack(event_us, units, id_hash(merchant_id)), _ID.pack(id_hash(transaction_id)), event_us


def known(reply: tuple[int, int, int, bytes]) -> Known:
    """The script's reply as `Known`: (sequence, newest_before, repeated, records)."""
    sequence, newest, repeated, records = reply
    return Known(sequence, newest, np.frombuffer(records, dtype=RECORD), bool(repeated))


def stored(value: bytes) -> tuple[int, int, NDArray[np.void]]:
    """A whole value of `history_key`: (base, newest, RECORD[n]). An absent value is b""."""
    if not value:
        return 0, 0, np.zeros(0, dtype=RECORD)
    base, newest = HEADER.unpack_from(value)
    return base, newest, np.frombuffer(value, dtype=RECORD, offset=HEADER.size)
