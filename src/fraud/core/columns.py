"""Values of declared columns: checks, rounding, and the integers that histories store.

Stored integers: the units of a number (value * 10**decimals, rounded half to even), the 64-bit hash of an id or a
category, 0 or 1 for a flag. Null is NO_NUMBER, NO_HASH or NO_FLAG.
"""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fraud.core.contract import MAX_ID_LENGTH, id_hash, id_text
from fraud.core.declaration_types import CategoryColumn, Column, NumberColumn

NO_NUMBER: Final = -(2**63)
NO_HASH: Final = 0
NO_FLAG: Final = 2
FLAGS: Final = {
    "1": True, "1.0": True, "true": True, "t": True, "yes": True, "y": True,
    "0": False, "0.0": False, "false": False, "f": False, "no": False, "n": False,
}  # fmt: skip
"""Texts of a flag in a file, in lower case."""
NOT_A_FLAG: Final = "is neither true nor false"
TOO_LONG: Final = f"is longer than {MAX_ID_LENGTH} characters"


class StoredColumn(NamedTuple):
    """A column as histories store it."""

    name: str
    type: str
    decimals: int
    """Of a number; 0 for other types."""
    values: str = ""
    """Of a category with a closed list: 8 hex digits of the list and its unknown value. With another list, the same
    text can be stored as another integer."""

    @property
    def divisor(self) -> int:
        """Units per 1."""
        return int(10**self.decimals)

    @property
    def null(self) -> int:
        """The stored integer of a null."""
        return {"number": NO_NUMBER, "flag": NO_FLAG}.get(self.type, NO_HASH)

    @property
    def format(self) -> str:
        """Format of the stored integer for `struct`, which is also its numpy type without the byte order."""
        return {"number": "q", "flag": "B"}.get(self.type, "Q")


def stored_column(name: str, column: Column) -> StoredColumn:
    """The stored form of a column that an aggregate uses."""
    decimals = column.decimals or 0 if isinstance(column, NumberColumn) else 0
    values = ""
    if isinstance(column, CategoryColumn) and column.learn is None:
        meaning = json.dumps([sorted(column.values or ()), column.unknown])
        values = sha256(meaning.encode()).hexdigest()[:8]
    return StoredColumn(name, column.type, decimals, values)


def text_hash(text: str) -> int:
    """The 64-bit hash of an id or a category; never NO_HASH."""
    return id_hash(text) or 1


def number(column: NumberColumn, value: float) -> float:
    """The value, rounded to the column's decimals. Raises ValueError outside the bounds and for NaN."""
    if not column.min <= value <= column.max:
        raise ValueError(f"must be from {column.min:g} to {column.max:g} {column.unit}, got {value!r}")
    if column.decimals is None:
        return float(value)
    scale = float(10**column.decimals)
    return round(value * scale) / scale


def numbers(column: NumberColumn, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`number` of an array whose values were checked; NaN stays NaN. Same bits."""
    if column.decimals is None:
        return values
    scale = float(10**column.decimals)
    rounded: NDArray[np.float64] = np.rint(values * scale) / scale + 0.0  # no -0.0, as `round` gives none
    return rounded


def flag(text: str | None) -> bool | None:
    """The value of a flag that a file has as text; null for an empty text. Raises ValueError unless it is in FLAGS.

    Case and surrounding spaces do not matter. JSON has booleans of its own.
    """
    found = None if text is None else text.strip().lower()
    if not found:
        return None
    if found not in FLAGS:
        raise ValueError(NOT_A_FLAG)
    return FLAGS[found]


def identifier(value: str | None) -> str | None:
    """An optional id: null for None, an empty text and a text in MISSING_IDS.

    Raises ValueError for a text that is no valid id (`contract.id_text`) or is too long.
    """
    text = None if value is None else id_text(value)
    if text and len(text) > MAX_ID_LENGTH:
        raise ValueError(TOO_LONG)
    return text or None


def category(column: CategoryColumn, value: str | None) -> str:
    """The text that the platform uses: `unknown` for null and, with a closed list, for another text.

    Raises ValueError for a text that is no valid id (`contract.id_text`) or is too long.
    """
    text = identifier(value)
    if text is None:
        return column.unknown
    if column.learn is None and column.values is not None and text not in column.values:
        return column.unknown
    return text


def codes(column: CategoryColumn) -> Callable[[str], int]:
    """A function from a category to its index in `values`; the index of `unknown` for another text."""
    values = column.values or (column.unknown,)
    index = {text: i for i, text in enumerate(values)}
    unknown = index[column.unknown]
    return lambda text: index.get(text, unknown)


def learnt_values(column: CategoryColumn, counts: dict[str, int]) -> tuple[str, ...]:
    """The list of a column with `learn`: its most frequent texts, ties by text, and `unknown`; sorted."""
    usable = {t: n for t, n in counts.items() if t and t != column.unknown and len(t) <= MAX_ID_LENGTH}
    most = sorted(usable, key=lambda text: (-usable[text], text))[: column.learn]
    return tuple(sorted({*most, column.unknown}))


def to_stored(column: StoredColumn, value: float | str | bool | None) -> int:
    """The stored integer of a checked value: number, text, flag or None."""
    if value is None:
        return column.null
    if isinstance(value, str):
        return text_hash(value)
    if column.type == "flag":
        return int(value)
    return round(value * column.divisor)


def numbers_to_stored(column: StoredColumn, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """`to_stored` of checked numbers, float64[n] with NaN for null."""
    missing = np.isnan(values)
    units: NDArray[np.int64] = np.rint(np.where(missing, 0.0, values) * column.divisor).astype(np.int64)
    return np.where(missing, NO_NUMBER, units)


def kind_of(column: Column) -> str:
    """Text for people: `number in miles`, `category of 17 values`."""
    if isinstance(column, NumberColumn):
        return f"number in {column.unit}"
    if isinstance(column, CategoryColumn) and column.learn is not None:
        return f"category, the {column.learn} most frequent values"
    if isinstance(column, CategoryColumn):
        return f"category of {len(column.values or ())} values"
    return column.type
