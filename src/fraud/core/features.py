"""The table of features. The batch engines, the request path and Feast read it.

Definition of a window feature for transaction *e* of user *u* at event time *t* (see docs/features.md):

* u's **history** at e: the `MAX_EVENTS` events with the highest sequence below e's. Online, the store assigns
  sequences. Offline, events are ordered by ingestion time (`created_timestamp`), then event time, then transaction_id.
* An event that is more than `RETENTION_US` older than *newest* at its ingestion is not added to the history. It has no
  sequence and is in no window.
* A window of length *w* contains the events of the history with `max(t - w, newest - RETENTION_US) <= event time < t`.
  *newest* is the latest event time of all u's events with a lower sequence than e. An event at the same microsecond is
  excluded. The second bound has no effect on events at most seven days late; it limits how long the store keeps events.
* Sums are over integers (1/10,000 USD) and distinct counts over 64-bit hashes, so the order of evaluation does not
  change the result. A mean divides once: `float(sum) / float(count * 10_000)`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Final, Literal

from fraud.core.contract import CATEGORIES, US_PER_DAY, US_PER_HOUR

Aggregation = Literal["count", "sum", "mean", "distinct", "seconds_since_last"]


@dataclass(frozen=True, slots=True)
class WindowFeature:
    """One aggregate over a user's earlier transactions. `empty` is its value for an empty window; None is null."""

    name: str
    aggregation: Aggregation
    column: Literal["transaction_id", "amount", "merchant_id", "event_timestamp"]
    window_us: int
    dtype: Literal["float64", "int64"]
    empty: float | None


WINDOW_FEATURES: Final = (
    WindowFeature("transaction_velocity_1h", "count", "transaction_id", US_PER_HOUR, "float64", 0.0),
    WindowFeature("avg_amount_7d", "mean", "amount", 7 * US_PER_DAY, "float64", None),
    WindowFeature("unique_merchants_30d", "distinct", "merchant_id", 30 * US_PER_DAY, "int64", 0),
)
WINDOW_NAMES: Final = tuple(f.name for f in WINDOW_FEATURES)

MAX_EVENTS: Final = 1_024
"""Maximum number of events in a history: 34 a day over the longest window. Part of the definition."""
LATENESS_US: Final = 7 * US_PER_DAY
RETENTION_US: Final = max(f.window_us for f in WINDOW_FEATURES) + LATENESS_US

VECTOR_NAMES: Final[tuple[str, ...]] = (
    "amount",
    "hour_of_day",
    "day_of_week",
    "distance_from_home",
    "distance_missing",
    "transaction_velocity_1h",
    "avg_amount_7d",
    "unique_merchants_30d",
    "amount_to_avg_7d",
    "no_history_7d",
    *(f"category_{name}" for name in CATEGORIES),
)
"""The input of a model: float32[len(VECTOR_NAMES)] in this order, computed by `fraud.core.vector`."""
CATEGORY_OFFSET: Final = VECTOR_NAMES.index(f"category_{CATEGORIES[0]}")

IMPUTATION: Final[Mapping[str, str]] = {
    "distance_from_home": "null -> 0.0, and distance_missing = 1.0",
    "avg_amount_7d": "null -> the transaction's own amount (ratio 1.0), and no_history_7d = 1.0",
    "amount_to_avg_7d": "amount / avg_amount_7d, after imputation",
}


def definition_hash() -> str:
    """sha256 of the feature definition.

    It changes with a window, an aggregation, the bound, the retention, the order of the vector or an imputation. A
    model stores the hash it was trained with; serving and scoring refuse a model with a different one.
    """
    definition = {
        "windows": [asdict(feature) for feature in WINDOW_FEATURES],
        "max_events": MAX_EVENTS,
        "retention_us": RETENTION_US,
        "vector": VECTOR_NAMES,
        "imputation": dict(IMPUTATION),
    }
    return sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()
