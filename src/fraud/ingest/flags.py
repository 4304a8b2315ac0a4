"""Read columns of flags: booleans, or numbers and texts that stand for true and false.

By default these are the texts of `fraud.core.columns.FLAGS`; a mapping may give others. A null, NaN or empty text is
null. Any other value is a fault of its row.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fraud.core.columns import FLAGS, NOT_A_FLAG
from fraud.errors import BadInputError

TRUE: Final = tuple(text for text, value in FLAGS.items() if value)
FALSE: Final = tuple(text for text, value in FLAGS.items() if not value)


class Flags(NamedTuple):
    """A column of n flags. `values` bool[n] is null for a missing or invalid flag. `faults` string[n] is NOT_A_FLAG for
    an invalid one, otherwise null."""

    values: pa.Array
    faults: pa.Array


def plain(text: str) -> str:
    """The text as it is compared: lower case, without surrounding spaces, `true` and `1.0` as 1, `false` and `0.0` as
    0."""
    found = text.strip().lower()
    return {"true": "1", "1.0": "1", "false": "0", "0.0": "0"}.get(found, found)


def flags_of(
    name: str, column: pa.Array | pa.ChunkedArray, true: Collection[str] = TRUE, false: Collection[str] = FALSE
) -> Flags:
    """Read a column as flags. Raises BadInputError with the column's name for an unsupported type."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values, pa.ChunkedArray):  # of no chunks
        values = pa.array([], values.type)
    texts = texts_of(name, values)
    texts = pc.if_else(pc.equal(texts, ""), None, texts)
    is_true = pc.is_in(texts, value_set=pa.array([plain(text) for text in true], pa.string()))
    known = pc.or_(is_true, pc.is_in(texts, value_set=pa.array([plain(text) for text in false], pa.string())))
    unknown = pc.and_not(pc.is_valid(texts), known)
    return Flags(pc.if_else(known, is_true, None), pc.if_else(unknown, NOT_A_FLAG, pa.scalar(None, pa.string())))


def texts_of(name: str, values: pa.Array) -> pa.Array:
    """The values as `plain` texts, string[n]. NaN becomes null. Raises BadInputError for an unsupported type."""
    kind = values.type
    if not can_be_flag(kind):
        raise BadInputError(f"column {name} has the wrong type", expected="text, booleans or numbers", got=str(kind))
    if pa.types.is_dictionary(kind):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    encoded = values.cast(pa.string()).dictionary_encode()
    return pa.array([plain(text) for text in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)


def can_be_flag(kind: pa.DataType) -> bool:
    """Whether a column of this type holds flags."""
    if pa.types.is_dictionary(kind):
        return can_be_flag(kind.value_type)
    tests = (
        pa.types.is_boolean, pa.types.is_null, pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view,
        pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal,
    )  # fmt: skip
    return any(test(kind) for test in tests)
