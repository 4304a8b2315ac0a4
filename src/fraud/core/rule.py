"""Level 0 of the ladder: a large amount in the dead of night. Serving falls back on it when it has no model at all."""

from typing import Final

AMOUNT: Final = 5000.0
"""USD."""
FIRST_HOUR: Final = 2
LAST_HOUR: Final = 5
"""UTC, not included."""


def is_fraud(amount: float, hour: int) -> bool:
    """The handbook's rule, untuned: more than 5,000 USD between 2 and 5 in the morning."""
    return amount > AMOUNT and FIRST_HOUR <= hour < LAST_HOUR
