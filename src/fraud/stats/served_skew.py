"""Was a transaction served with the features it should have had? The comparison, value by value, bit by bit.

The store alone knows in which order it learned of a user's events (an answer given without waiting for it may still
have been taken in, and a late file is learned of when it is loaded), so the order is read from the store. The values
are not: they come from the lake, which got them on another way. What is rebuilt is `windows.evaluate` over the events
the meaning in `core.features` names.
"""

import struct
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.features import MAX_EVENTS, RETENTION_US, WINDOW_FEATURES
from fraud.core.history import RECORD, Order

Value = float | int | str | None
LONGEST_WINDOW_US: Final = max(feature.window_us for feature in WINDOW_FEATURES)
_FLOAT: Final = struct.Struct("<d")


@dataclass(slots=True)
class FeatureSkew:
    """How often what was served is what is recomputed."""

    equal: int = 0
    mismatch: int = 0
    missing: int = 0
    """Served as null, though there was a value."""
    extra: int = 0
    """Served with a value, though there was none."""
    worst: float = 0.0
    """The largest absolute difference of two numbers."""
    examples: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        return self.mismatch + self.missing + self.extra

    def add(self, served: Value, recomputed: Value, prediction_id: str) -> None:
        """Count one pair; the first few wrong ones are kept as examples."""
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
    """All that was counted of a day's answers."""

    features: dict[str, FeatureSkew]
    records: int = 0
    compared: int = 0
    """Answers whose window features were recomputed."""
    skipped: Counter[str] = field(default_factory=Counter)
    not_landed: int = 0
    """Answers whose transaction is not in the lake yet."""
    contradicted: int = 0
    """Answers to a request that the source delivered too, beside another one of the same id that the lake keeps."""
    events_lost: int = 0
    probabilities: int = 0
    probabilities_wrong: int = 0
    probabilities_unchecked: int = 0
    """Answers by the rule, or by a version that cannot be had any more."""
    probabilities_worst: float = 0.0

    def add_probabilities(self, differences: NDArray[np.float64], bound: float) -> None:
        """Count absolute differences, [n]; above `bound` is wrong."""
        self.probabilities += len(differences)
        self.probabilities_wrong += int((differences > bound).sum())
        self.probabilities_worst = max(self.probabilities_worst, float(differences.max(initial=0.0)))

    def report(self) -> dict[str, Any]:
        """As JSON keeps it."""
        wrong = sum(feature.wrong for feature in self.features.values())
        found = wrong or self.probabilities_wrong or self.events_lost
        compared = self.compared or self.probabilities or any(feature.equal for feature in self.features.values())
        return {
            "records": self.records,
            "compared": self.compared,
            "mismatches": wrong,
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
    """Equal to the bit; numbers are compared as float64, so 3 is 3.0 and 0.0 is not -0.0."""
    if served is None or recomputed is None or isinstance(served, str) or isinstance(recomputed, str):
        return served == recomputed
    return _FLOAT.pack(served) == _FLOAT.pack(recomputed)


class Values(NamedTuple):
    """What events were, by the hash of their transaction id: sorted, without repetition."""

    ids: NDArray[np.uint64]
    records: NDArray[np.void]
    """history.RECORD[n]."""


class Known(NamedTuple):
    """What should have been known of the user when a transaction was served."""

    newest_us: int
    events: NDArray[np.void]
    """history.RECORD[n], n <= MAX_EVENTS."""
    unexplained: int
    """Events of the store that could matter and that nobody delivered."""


def known_before(order: Order, sequence: int, transaction: int, event_us: int, values: Values) -> Known | None:
    """The user's known history for the transaction (id hash, event time) that was given this sequence.

    None when the store cannot tell any more: it was lost and filled again, or has let go of events that were in reach.
    """
    place = sequence - order.base
    if not 0 <= place <= len(order.ids):
        return None
    newest_us = int(order.event_us[:place].max()) if place else 0
    too_late = event_us < newest_us - RETENTION_US
    if not too_late and (place == len(order.ids) or int(order.ids[place]) != transaction):
        return None
    reach_us = max(event_us - LONGEST_WINDOW_US, newest_us - RETENTION_US)
    let_go_us = order.newest_us - RETENTION_US if len(order.ids) < 2 * MAX_EVENTS else order.newest_us
    if order.base > 0 and place < MAX_EVENTS and reach_us < min(let_go_us, event_us):
        return None
    first = max(0, place - MAX_EVENTS)
    ids, times = order.ids[first:place], order.event_us[first:place]
    found, at = locate(values, ids)
    in_reach = (times < event_us) & (times >= reach_us)
    return Known(newest_us, values.records[at[found]], int((in_reach & ~found).sum()))


def locate(values: Values, ids: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of `ids` are there, bool[n], and where, int64[n] (any place for those that are not)."""
    if not len(values.ids):
        return np.zeros(len(ids), dtype=np.bool_), np.zeros(len(ids), dtype=np.int64)
    at = np.minimum(np.searchsorted(values.ids, ids), len(values.ids) - 1)
    return values.ids[at] == ids, at


def lost(order: Order, ids: NDArray[np.uint64], event_us: NDArray[np.int64]) -> int:
    """How many of a user's events (of days that were loaded) the store should hold and does not.

    One that lies behind the retention need not be there, and of a user with very many events nothing can be said.
    """
    if len(order.ids) >= 2 * MAX_EVENTS:
        return 0
    due = event_us >= order.newest_us - RETENTION_US
    return int((due & ~np.isin(ids, order.ids)).sum())


def values_of(ids: NDArray[np.uint64], records: NDArray[np.void]) -> Values:
    """Sorted by id; of events delivered twice the first counts."""
    unique, first = np.unique(ids, return_index=True)
    return Values(unique, records[first] if len(first) else np.zeros(0, dtype=RECORD))
