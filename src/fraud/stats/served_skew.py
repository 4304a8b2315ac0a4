"""Compare the features that serving used with recomputed ones, value by value, bit for bit.

The order of an entity's events is read from the online store, because no other source has it: an event whose answer did
not wait for the store may still have been stored, and an event of a late file is stored when it is loaded. The values
of the events are read from the lake, which received them independently. The window features are `WindowSet.evaluate`
over these events, as defined in `fraud.core.windows`.
"""

import struct
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.history import Layout, Order

Value = float | int | str | None
_FLOAT: Final = struct.Struct("<d")


@dataclass(slots=True)
class FeatureSkew:
    """Counts of equal and different values of a feature."""

    equal: int = 0
    mismatch: int = 0
    missing: int = 0
    """Null was served instead of a value."""
    extra: int = 0
    """A value was served instead of null."""
    worst: float = 0.0
    """The largest absolute difference of two numbers."""
    examples: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        return self.mismatch + self.missing + self.extra

    def add(self, served: Value, recomputed: Value, prediction_id: str) -> None:
        """Count one pair of values. The first five differences are kept as examples."""
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
    """Counts of a day's answers."""

    features: dict[str, FeatureSkew] = field(default_factory=dict)
    """By name of a feature or of a field of the request."""
    records: int = 0
    compared: int = 0
    """Answers whose window and daily features were all recomputed."""
    skipped: Counter[str] = field(default_factory=Counter)
    """The other answers, by the first reason. Those of their features that could be recomputed are compared."""
    snapshots: Counter[str] = field(default_factory=Counter)
    """Lookups of daily features, by the age of their snapshot: current, stale, missing."""
    not_landed: int = 0
    """Answers whose transaction is not in the lake yet."""
    contradicted: int = 0
    """Answers to a delivery of an id of which the lake keeps another delivery with a different content."""
    events_lost: int = 0
    probabilities: int = 0
    probabilities_wrong: int = 0
    probabilities_unchecked: int = 0
    """Answers by the rule, or by a version that is no longer available."""
    probabilities_worst: float = 0.0

    def add(self, name: str, served: Value, recomputed: Value, prediction_id: str) -> None:
        """Count one pair of values of a feature."""
        self.features.setdefault(name, FeatureSkew()).add(served, recomputed, prediction_id)

    def add_probabilities(self, differences: NDArray[np.float64], bound: float) -> None:
        """Count absolute differences, [n]; those above `bound` are wrong."""
        self.probabilities += len(differences)
        self.probabilities_wrong += int((differences > bound).sum())
        self.probabilities_worst = max(self.probabilities_worst, float(differences.max(initial=0.0)))

    def report(self) -> dict[str, Any]:
        """As in skew.json."""
        wrong = sum(feature.wrong for feature in self.features.values())
        found = wrong or self.probabilities_wrong or self.events_lost
        compared = self.compared or self.probabilities or any(feature.equal for feature in self.features.values())
        return {
            "records": self.records,
            "compared": self.compared,
            "mismatches": wrong,
            "features": {name: asdict(feature) for name, feature in self.features.items()},
            "skipped": dict(self.skipped),
            "snapshots": dict(self.snapshots),
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
    """Whether the bits are equal. Numbers are compared as float64, so 3 equals 3.0 and 0.0 differs from -0.0."""
    if served is None or recomputed is None or isinstance(served, str) or isinstance(recomputed, str):
        return served == recomputed
    return _FLOAT.pack(served) == _FLOAT.pack(recomputed)


class Values(NamedTuple):
    """Events by the hash of their transaction id: sorted, without duplicates."""

    ids: NDArray[np.uint64]
    records: NDArray[np.void]
    """Layout.record[n]."""


class History(NamedTuple):
    """The history of an entity before a transaction."""

    newest_us: int
    events: NDArray[np.void]
    """Layout.record[n], n <= max_events."""
    unexplained: int
    """Stored events within reach of the windows that were not delivered."""


def history_before(
    order: Order, sequence: int, transaction: int, event_us: int, values: Values, layout: Layout, longest_us: int
) -> History | None:
    """The entity's history before the transaction (id hash, event time) with this sequence.

    `longest_us` is the longest window. None when the store no longer has the history: it was lost and filled again, or
    has dropped events within reach.
    """
    place = sequence - order.base
    if not 0 <= place <= len(order.ids):
        return None
    newest_us = int(order.event_us[:place].max()) if place else 0
    too_late = event_us < newest_us - layout.keep_us
    if not too_late and (place == len(order.ids) or int(order.ids[place]) != transaction):
        return None
    reach_us = max(event_us - longest_us, newest_us - layout.keep_us)
    full = len(order.ids) >= 2 * layout.max_events
    dropped_us = order.newest_us if full else order.newest_us - layout.keep_us
    if order.base > 0 and place < layout.max_events and reach_us < min(dropped_us, event_us):
        return None
    first = max(0, place - layout.max_events)
    ids, times = order.ids[first:place], order.event_us[first:place]
    found, at = locate(values, ids)
    in_reach = (times < event_us) & (times >= reach_us)
    return History(newest_us, values.records[at[found]], int((in_reach & ~found).sum()))


def locate(values: Values, ids: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Whether each id is in `values`, bool[n], and its position, int64[n] (arbitrary for missing ids)."""
    if not len(values.ids):
        return np.zeros(len(ids), dtype=np.bool_), np.zeros(len(ids), dtype=np.int64)
    at = np.minimum(np.searchsorted(values.ids, ids), len(values.ids) - 1)
    return values.ids[at] == ids, at


def lost(order: Order, ids: NDArray[np.uint64], event_us: NDArray[np.int64], layout: Layout) -> int:
    """Number of an entity's events (of days that were loaded) that are missing in the store.

    Events older than the retention are not required. For an entity with 2 * max_events stored events or more, 0.
    """
    if len(order.ids) >= 2 * layout.max_events:
        return 0
    due = event_us >= order.newest_us - layout.keep_us
    return int((due & ~np.isin(ids, order.ids)).sum())


def values_of(ids: NDArray[np.uint64], records: NDArray[np.void]) -> Values:
    """Events sorted by id. Of duplicates the first is kept."""
    unique, first = np.unique(ids, return_index=True)
    return Values(unique, records[first])
