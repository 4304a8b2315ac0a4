"""The transaction contract: names, units and bounds that every entrance to the platform enforces alike.

Times are int64 microseconds since 1970-01-01 UTC. Amounts are USD; inside, they are integers of 1/10,000 USD
("units"), so that sums are exact in any order and equality between engines is equality of bits.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

US_PER_SECOND: Final = 1_000_000
US_PER_HOUR: Final = 3_600 * US_PER_SECOND
US_PER_DAY: Final = 24 * US_PER_HOUR

UNITS_PER_USD: Final = 10_000
MAX_AMOUNT: Final = 1e9
MAX_DISTANCE: Final = 12_500.0
"""Miles. Half of the Earth's circumference is 12,451 miles: nothing is farther from home."""
MAX_ID_LENGTH: Final = 128
MAX_FUTURE_SKEW_US: Final = US_PER_DAY
"""A clock may run ahead of ours this far. A later event would hide a user's real history behind it."""
MIN_EVENT_US: Final = 946_684_800 * US_PER_SECOND
"""2000-01-01: an earlier event time is a parsing error, not a payment."""

OTHER: Final = "other"
CATEGORIES: Final[tuple[str, ...]] = (
    "electronics",
    "entertainment",
    "food_dining",
    "gas_transport",
    "grocery",
    "grocery_net",
    "grocery_pos",
    "health_fitness",
    "home",
    "kids_pets",
    "misc_net",
    "misc_pos",
    "personal_care",
    "shopping_net",
    "shopping_pos",
    "travel",
    OTHER,
)
"""The closed list of merchant categories. One that is not here becomes `other`, and is counted where it entered."""

CATEGORY_INDEX: Final[Mapping[str, int]] = {name: index for index, name in enumerate(CATEGORIES)}
OTHER_INDEX: Final = CATEGORY_INDEX[OTHER]

TRANSACTION_COLUMNS: Final = (
    "transaction_id",
    "event_timestamp",
    "created_timestamp",
    "user_id",
    "merchant_id",
    "merchant_category",
    "amount",
    "distance_from_home",
)
LABEL_COLUMNS: Final = ("transaction_id", "is_fraud", "label_timestamp")


def amount_units(amount: float) -> int:
    """USD -> 1/10,000 USD, half to even. Raises ValueError outside (0, MAX_AMOUNT] and for NaN."""
    if not 0 < amount <= MAX_AMOUNT:
        raise ValueError(f"amount must be above 0 and at most {MAX_AMOUNT:.0f} USD, got {amount!r}")
    units = round(amount * UNITS_PER_USD)
    if units == 0:
        raise ValueError(f"amount must be at least {1 / UNITS_PER_USD} USD once rounded, got {amount!r}")
    return units


def amounts_units(amounts: NDArray[np.float64]) -> NDArray[np.int64]:
    """The same for an array whose values were checked before: float64[n] USD -> int64[n] units."""
    return np.rint(amounts * UNITS_PER_USD).astype(np.int64)


def id_hash(text: str) -> int:
    """A 64-bit hash of an id (BLAKE2b, 8 bytes, little endian), the same in every process and engine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def hour_of_day(event_us: int) -> int:
    """0..23, UTC."""
    return event_us // US_PER_HOUR % 24


def day_of_week(event_us: int) -> int:
    """Monday = 0, UTC. 1970-01-01 was a Thursday."""
    return (event_us // US_PER_DAY + 3) % 7
