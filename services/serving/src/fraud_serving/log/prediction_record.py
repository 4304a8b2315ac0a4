"""The prediction record: one line of the prediction log."""

from collections.abc import Sequence
from hashlib import sha256
from itertools import chain, repeat
from typing import Final

import msgspec
from msgspec import Struct, defstruct

_encode = msgspec.json.Encoder().encode
_ID_DIGITS: Final = 32


class PredictionRecord(Struct, gc=False, omit_defaults=True):
    """One answer and everything it was computed from. Times are us, UTC; docs/architecture.md lists the fields."""

    prediction_id: str
    served_us: int
    latency_us: int
    transaction_id: str | None
    user_id: str | None
    merchant_id: str | None
    amount: float
    event_us: int | None
    hour_of_day: int
    day_of_week: int
    history: str
    degraded: bool
    fraud_probability: float
    is_fraud: bool
    threshold: float
    model_version: str
    model_sha256: str
    feature_hash: str
    columns: Struct
    """The declared columns; of a type that `named_values` returns."""
    features: Struct
    """The window and daily features; of a type that `named_values` returns."""
    sequences: dict[str, int]
    """Entity -> the transaction's place in the entity's stored history."""
    newest_us: dict[str, int]
    """Entity -> latest event time before this transaction."""
    snapshots: dict[str, str]
    """Entity -> id of the daily snapshot."""
    challenger_version: str | None = None
    challenger_probability: float | None = None
    traceparent: str | None = None
    """W3C trace context of the request or message, with SERVING_TRACES."""


def named_values(names: Sequence[str]) -> type[Struct]:
    """A type whose instances are created from values in the order of `names`, and encoded as an object of them.

    A dictionary of 24 values takes ten times as long to create and has ten times the size.
    """
    fields = [(f"value_{i}", float | str | bool | None) for i in range(len(names))]
    return defstruct("NamedValues", fields, gc=False, rename={f"value_{i}": name for i, name in enumerate(names)})


class Lines(Struct, gc=False):
    """Records of several answers as lines of the prediction log, and the ids of these answers.

    An id is a hash of all that the answer was computed from: the record without id and times.
    """

    ids: list[str]
    _rests: list[bytes]
    """The lines without id and times, which come first."""

    @classmethod
    def of(cls, records: Sequence[PredictionRecord]) -> "Lines":
        """`records`: with an empty id, and 0 for both times."""
        first = len(_START + _TIMES % (0, 0))
        rests = [_encode(record)[first:] for record in records]
        return cls([sha256(rest).hexdigest()[:_ID_DIGITS] for rest in rests], rests)

    def served(
        self, rows: Sequence[int], served_us: int, latency_us: int, traceparents: Sequence[str | None] = ()
    ) -> bytes:
        """The lines of the records at `rows`, whose answers share these times (us). `traceparents`: of all records."""
        ids, rests = self.ids, self._rests
        if len(rows) < len(ids):
            ids, rests = [ids[i] for i in rows], [rests[i] for i in rows]
        times = _TIMES % (served_us, latency_us)
        of_lines = [times + _trace(traceparents[i]) for i in rows] if traceparents else repeat(times)
        parts = zip(repeat(_START), map(str.encode, ids), of_lines, rests, repeat(b"\n"))
        return b"".join(chain.from_iterable(parts))


def _trace(traceparent: str | None) -> bytes:
    return b"" if traceparent is None else b'"traceparent":%b,' % _encode(traceparent)


_START: Final = b'{"prediction_id":"'
_TIMES: Final = b'","served_us":%d,"latency_us":%d,'
