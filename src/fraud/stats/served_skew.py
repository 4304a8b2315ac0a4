"""Compare served features with recomputed ones, value by value and bit by bit.

The order of a user's events is read from the online store, because only the store records it: an event may be appended
after its answer was given, and the events of a late file are appended when the file is loaded. The values of the events
are read from the lake. The recomputed features are `windows.evaluate` over the events that `core.features` defines.
"""

import struct
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.features import MAX_EVENTS, RETENTION_US, WINDOW_FEATURES
from fraud.core.history import RECORD

Value = float | int | str | None
LONGEST_WINDOW_US: Final = max(feature.window_us for feature in WINDOW_FEATURES)
_FLOAT: Final = struct.Struct("<d")


@dataclass(slots=True)
class FeatureSkew:
    """Counts of the comparisons of one feature."""

    equal: int = 0
    mismatch: int = 0
    missing: int = 0
    """Served as null, recomputed as a value."""
    extra: int = 0
    """Served as a value, recomputed as null."""
    worst: float = 0.0
    """Largest absolute difference of two numbers."""
    examples: list[str] = field(default_factory=list)

    @property
    def differences(self) -> int:
        """Number of comparisons that were not equal."""
        return self.mismatch + self.missing + self.extra

    def add(self, served: Value, recomputed: Value, prediction_id: str) -> None:
        """Count one pair. The first five differences are kept as examples."""
        if same(served, recomputed):
            self.equal += 1
            return
        if served is None:
            self.missing += 1
        elif recomputed is None:
            self.extra += 1
        else:
            self.mismatch += 1
            if not isinstance(served, str) and not isinstance(recomputed, str):
                self.worst = max(self.worst, abs(served - recomputed))
        if len(self.examples) < 5:
            self.examples.append(f"{prediction_id}: served {served!r}, recomputed {recomputed!r}")


@dataclass(slots=True)
class Tally:
    """Counts over the answers of a day."""

    features: dict[str, FeatureSkew]
    records: int = 0
    compared: int = 0
    """Answers whose window features were recomputed."""
    skipped: Counter[str] = field(default_factory=Counter)
    not_landed: int = 0
    """Answers whose transaction is not in the lake yet."""
    contradicted: int = 0
    """Answers whose transaction differs from the one with the same id that the lake kept."""
    events_lost: int = 0
    probabilities: int = 0
    probabilities_wrong: int = 0
    probabilities_unchecked: int = 0
    """Answers of the rule, or of a version that is no longer in the registry."""
    probabilities_worst: float = 0.0

    def add_probabilities(self, differences: NDArray[np.float64], bound: float) -> None:
        """Count absolute differences, [n]; one above `bound` is a difference."""
        self.probabilities += len(differences)
        self.probabilities_wrong += int((differences > bound).sum())
        self.probabilities_worst = max(self.probabilities_worst, float(differences.max(initial=0.0)))

    def report(self) -> dict[str, Any]:
        """The counts for the JSON report."""
        mismatches = sum(feature.differences for feature in self.features.values())
        found = mismatches or self.probabilities_wrong or self.events_lost
        compared = self.compared or self.probabilities or any(feature.equal for feature in self.features.values())
        return {
            "records": self.records,
            "compared": self.compared,
            "mismatches": mismatches,
            "features": {name: asdict(feature) for name, feature in self.features.items()},
            "skipped": dict(self.skipped),
            "not_landed": self.not_landed,
            "contradicted": self.contradicted,
            "events_lost": self.events_lost,
            "probabilities": {
                "checked": self.probabilities,
                "wrong": self.probabilities_wrong,
                "unchecked": self.probabilities_unchecked,
                "worst": self.probabilities_worst,
            },
            "verdict": "skew" if found else "ok" if compared else "nothing",
        }


def same(served: Value, recomputed: Value) -> bool:
    """Whether two values have the same bits. Numbers are compared as float64: 3 equals 3.0, 0.0 differs from -0.0."""
    if served is None or recomputed is None or isinstance(served, str) or isinstance(recomputed, str):
        return served == recomputed
    return _FLOAT.pack(served) == _FLOAT.pack(recomputed)


class Order(NamedTuple):
    """A user's events in order of their sequence, as far as the store keeps them."""

    base: int
    """Sequence of the first one."""
    newest_us: int
    """Latest event time of all events that were ever appended."""
    event_us: NDArray[np.int64]
    ids: NDArray[np.uint64]


class Values(NamedTuple):
    """Records of events by the hash of their transaction id: sorted, each id once."""

    ids: NDArray[np.uint64]
    records: NDArray[np.void]
    """history.RECORD[n]."""


class History(NamedTuple):
    """The history that a transaction should have been served with."""

    newest_us: int
    events: NDArray[np.void]
    """history.RECORD[n], n <= MAX_EVENTS."""
    unexplained: int
    """Events of the store that are in a window and that no source delivered."""


def history_before(order: Order, sequence: int, transaction: int, event_us: int, values: Values) -> History | None:
    """The user's history for the transaction (id hash, event time) with this sequence.

    None when the store no longer has it: the store was lost and filled again, or dropped events of a window.
    """
    place = sequence - order.base
    if not 0 <= place <= len(order.ids):
        return None
    newest_us = int(order.event_us[:place].max()) if place else 0
    too_late = event_us < newest_us - RETENTION_US
    if not too_late and (place == len(order.ids) or int(order.ids[place]) != transaction):
        return None
    reach_us = max(event_us - LONGEST_WINDOW_US, newest_us - RETENTION_US)
    dropped_before_us = order.newest_us - RETENTION_US if len(order.ids) < 2 * MAX_EVENTS else order.newest_us
    if order.base > 0 and place < MAX_EVENTS and reach_us < min(dropped_before_us, event_us):
        return None
    first = max(0, place - MAX_EVENTS)
    ids, times = order.ids[first:place], order.event_us[first:place]
    found, at = locate(values, ids)
    in_reach = (times < event_us) & (times >= reach_us)
    return History(newest_us, values.records[at[found]], int((in_reach & ~found).sum()))


def locate(values: Values, ids: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of `ids` are in `values`, bool[n], and at which index, int64[n] (undefined for the others)."""
    if not len(values.ids):
        return np.zeros(len(ids), dtype=np.bool_), np.zeros(len(ids), dtype=np.int64)
    at = np.minimum(np.searchsorted(values.ids, ids), len(values.ids) - 1)
    return values.ids[at] == ids, at


def lost(order: Order, ids: NDArray[np.uint64], event_us: NDArray[np.int64]) -> int:
    """Number of a user's events (of days that were loaded) that are missing from the store.

    Events older than the retention are not counted. The result is 0 for a user with a full history, since the store may
    have dropped any of the events.
    """
    if len(order.ids) >= 2 * MAX_EVENTS:
        return 0
    due = event_us >= order.newest_us - RETENTION_US
    return int((due & ~np.isin(ids, order.ids)).sum())


def values_of(ids: NDArray[np.uint64], records: NDArray[np.void]) -> Values:
    """Values sorted by id. Of events with the same id, the first is used."""
    unique, first = np.unique(ids, return_index=True)
    return Values(unique, records[first] if len(first) else np.zeros(0, dtype=RECORD))
