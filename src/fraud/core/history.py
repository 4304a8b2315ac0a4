"""A user's event history in the online store: one compact value per user, ordered by sequence.

Value of `history_key(user)`: a 16-byte header (base, newest) and then 24-byte records. The record at index i has
sequence `base + i`; `newest` is the latest event time (us) of all events of the user, including removed ones.
Value of `ids_key(user)`: one 16-byte entry per record (transaction id hash, newest before this event). The entries make
the append idempotent: a retry reads the same history as its first attempt, as long as fewer than MAX_EVENTS events of
the user were appended in between.

Events that can be in no later window are not kept. An event more than RETENTION_US older than `newest` is not appended,
and `load_events.lua` removes a prefix of such events. At most 3 * MAX_EVENTS events of a user are kept.

Both keys of a user have the same hash tag, so that a script can use them on a cluster. `append_event.lua` reads and
appends in one atomic round trip; the store orders concurrent requests of a user.
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


class PriorHistory(NamedTuple):
    """The history of a user before an event that was appended."""

    sequence: int
    """The sequence of the event: the number of events of the user that were appended before it."""
    newest_us: int
    """Latest event time before this event was appended; 0 without history."""
    events: NDArray[np.void]
    """RECORD[n], n <= MAX_EVENTS: the events with the highest sequences below this one, in order of sequence."""
    repeated: bool
    """True when this transaction_id was appended before. Nothing was written then."""


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
    """ARGV of `append_event.lua` without the bound (MAX_EVENTS): record, id, event time."""
    return _EVENT.pack(event_us, units, id_hash(merchant_id)), _ID.pack(id_hash(transaction_id)), event_us


def prior_history(reply: tuple[int, int, int, bytes]) -> PriorHistory:
    """Parse the reply of `append_event.lua`: (sequence, newest_before, repeated, records)."""
    sequence, newest, repeated, records = reply
    return PriorHistory(sequence, newest, np.frombuffer(records, dtype=RECORD), bool(repeated))


def stored(value: bytes) -> tuple[int, int, NDArray[np.void]]:
    """Parse a value of `history_key`: (base, newest, RECORD[n]). b"" stands for an absent key."""
    if not value:
        return 0, 0, np.zeros(0, dtype=RECORD)
    base, newest = HEADER.unpack_from(value)
    return base, newest, np.frombuffer(value, dtype=RECORD, offset=HEADER.size)
