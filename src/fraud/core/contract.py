"""The transaction contract: names, units and bounds that every entry point enforces.

Times are int64 microseconds since 1970-01-01 UTC. Amounts are USD. Computations use integers of 1/10,000 USD ("units"):
their sums are exact in any order, so engines can be compared bit by bit.
"""

import re
from hashlib import blake2b
from typing import Final

import numpy as np
from numpy.typing import NDArray

US_PER_SECOND: Final = 1_000_000
US_PER_HOUR: Final = 3_600 * US_PER_SECOND
US_PER_DAY: Final = 24 * US_PER_HOUR

UNITS_PER_USD: Final = 10_000
MAX_AMOUNT: Final = 1e9
MAX_ID_LENGTH: Final = 128
MISSING_IDS: Final = frozenset({"nan", "null", "none", "<na>", "(null)", "\\n", "#n/a"})
"""Texts, in any case, that programs write for a missing id. An empty text is a separate error."""
LONGEST_PLAIN: Final = max(len(text) for text in MISSING_IDS if text.isalnum())
"""A longer text of letters and digits only is not among them."""
ID_CONTROL: Final = "has a control character or a line break"
ID_ROUNDED: Final = "is a long number in scientific notation, as a spreadsheet writes it (its last digits are lost)"
ID_ERROR_CELL: Final = "is an error value of a spreadsheet"
ID_FAULTS: Final = (ID_CONTROL, ID_ROUNDED, ID_ERROR_CELL)
_SPACES: Final = " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ROUNDED: Final = re.compile(r"[+-]?[0-9](?:[.,][0-9]+)?[eE][+-][0-9]+|[+-]?[0-9][.,][0-9]+[eE][0-9]+", re.ASCII)
_ERROR_CELL: Final = re.compile(r"#{3,}|#(?:NAME\?|VALUE!|REF!|DIV/0!|NUM!|NULL!)", re.ASCII)
ZONED_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:?\d\d)", re.ASCII)
"""A time in JSON and on the command line: RFC 3339 with a zone. Numbers are not accepted."""
MAX_FUTURE_SKEW_US: Final = US_PER_DAY
"""An event time may be this far in the future. A later one would move the user's real history out of the windows."""
MIN_EVENT_US: Final = 946_684_800 * US_PER_SECOND
"""2000-01-01. An earlier event time is treated as a parsing error."""

TRANSACTION_COLUMNS: Final = (
    "transaction_id",
    "event_timestamp",
    "created_timestamp",
    "user_id",
    "merchant_id",
    "amount",
)
"""The built-in columns of a transaction. A declaration adds its own (`fraud.core.declaration`)."""
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
    """`amount_units` of an array whose values were validated: float64[n] USD -> int64[n] units."""
    return np.rint(amounts * UNITS_PER_USD).astype(np.int64)


def id_text(text: str) -> str | None:
    """The id in a text, without surrounding spaces; None for a text in MISSING_IDS. Every entry point uses this rule.

    A text is never read as a number: leading zeros and a `.0` are kept. Raises ValueError with one of ID_FAULTS.
    """
    if text.isascii() and (text.isalnum() or (text[:1].isalpha() and _is_plain(text))):
        # Most ids: nothing below applies to them.
        return text if len(text) > LONGEST_PLAIN or text.lower() not in MISSING_IDS else None
    found = text.strip(_SPACES)
    if _CONTROL.search(found):
        raise ValueError(ID_CONTROL)
    if _ROUNDED.fullmatch(found):
        raise ValueError(ID_ROUNDED)
    if _ERROR_CELL.fullmatch(found):
        raise ValueError(ID_ERROR_CELL)
    return None if found.lower() in MISSING_IDS else found


def _is_plain(text: str) -> bool:
    """Whether an ASCII text has only letters, digits, - and _."""
    return text.replace("-", "").replace("_", "").isalnum()


def id_hash(text: str) -> int:
    """A 64-bit hash of an id (BLAKE2b, 8 bytes, little endian), the same in every process and engine."""
    return int.from_bytes(id_digest(text), "little")


def id_digest(text: str) -> bytes:
    """The 8 bytes of `id_hash`."""
    return blake2b(text.encode(), digest_size=8).digest()


def hour_of_day(event_us: int) -> int:
    """0..23, UTC."""
    return event_us // US_PER_HOUR % 24


def day_of_week(event_us: int) -> int:
    """Monday = 0, UTC. 1970-01-01 was a Thursday."""
    return (event_us // US_PER_DAY + 3) % 7
