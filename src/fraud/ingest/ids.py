"""Read columns of ids and of categories as text: one rule per type, used by import, the landing zone and file scoring.

| type of the column | id |
| --- | --- |
| text, and binary that is UTF-8 | `fraud.core.contract.id_text` |
| integer | its digits |
| float | the digits of a whole number that the type holds exactly (below 2^53, float32 below 2^24); NaN is null |
| decimal | the digits of a whole number |
| UUID, fixed binary of 16 bytes | the canonical form, `8-4-4-4-12` lower-case hexadecimal digits |
| fixed binary of another length | lower-case hexadecimal digits |
| dictionary, run-end encoded | as its values |
| boolean, date, time, nested | the column is refused |

A value that a rule does not convert exactly is a fault of its row. Ids are never rounded.
"""

from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fraud.core.contract import ID_FAULTS, MISSING_IDS, id_text
from fraud.errors import BadInputError

ID_COLUMNS: Final = ("transaction_id", "user_id", "merchant_id")
NOT_EXACT: Final = "is a number too large to be exact in its type"
NOT_WHOLE: Final = "is not a whole number"
NOT_UTF8: Final = "is binary that is not UTF-8"
FAULTS: Final = (*ID_FAULTS, NOT_EXACT, NOT_WHOLE, NOT_UTF8)
_EXACT_BELOW: Final = {16: 2.0**11, 32: 2.0**24, 64: 2.0**53}
_UUID_BYTES: Final = 16
_PLAIN: Final = r"^[!-~]([ -~]*[!-~])?$"
_SPECIAL: Final = r"^#|^[+-]?[0-9]([.,][0-9]+)?[eE][+-]?[0-9]+$"
_SHOWN: Final = 80


class Ids(NamedTuple):
    """A column of n ids. `texts` string[n] is null for a missing or invalid id. `faults` string[n] is one of FAULTS for
    an invalid id, otherwise null."""

    texts: pa.Array
    faults: pa.Array


def ids_of(name: str, column: pa.Array | pa.ChunkedArray) -> Ids:
    """Read a column as ids. Raises BadInputError with the column's name for an unsupported type."""
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(values, pa.ChunkedArray):  # of no chunks
        values = pa.array([], values.type)
    if not can_be_id(values.type):
        raise BadInputError(
            f"column {name} has the wrong type for an id", expected="text, whole numbers, UUID or binary",
            got=str(values.type), hint="write it as text at the source",
        )  # fmt: skip
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_run_end_encoded(values.type):
        values = pc.run_end_decode(values)
    if pa.types.is_dictionary(values.type):
        found = _by_type(values.dictionary)
        return Ids(found.texts.take(values.indices), found.faults.take(values.indices))
    return _by_type(values)


def _by_type(values: pa.Array) -> Ids:
    kind = values.type
    if pa.types.is_floating(kind):
        return _floats(values)
    if pa.types.is_decimal(kind):
        return _whole(values)
    if pa.types.is_fixed_size_binary(kind):
        return _faultless(pa.array([_hexadecimal(value) for value in values.to_pylist()], pa.string()))
    if _is_binary(kind):
        return _decoded(values)
    return _texts(values.cast(pa.string()))


def can_be_id(kind: pa.DataType) -> bool:
    """Whether a column of this type holds ids."""
    if isinstance(kind, pa.BaseExtensionType):
        return can_be_id(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return can_be_id(kind.value_type)
    tests = (
        pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null, pa.types.is_integer,
        pa.types.is_floating, pa.types.is_decimal, pa.types.is_fixed_size_binary,
    )  # fmt: skip
    return any(test(kind) for test in tests) or _is_binary(kind)


def described(column: str, faults: pa.Array, values: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Texts `column: fault: 'value'` for `parse_error`, string[n]; null for rows without a fault."""
    texts: list[str | None] = [None] * len(faults)
    for row in pc.indices_nonzero(pc.is_valid(faults)).to_pylist():
        texts[row] = f"{column}: {faults[row]}: {str(values[row].as_py())[:_SHOWN]!r}"
    return pa.array(texts, pa.string())


def both(first: pa.Array, second: pa.Array) -> pa.Array:
    """Join the errors of each row in two arrays by "; ": string[n], null where both are null."""
    joined = pc.binary_join_element_wise(first, second, "; ")
    return pc.if_else(pc.is_null(first), second, pc.if_else(pc.is_null(second), first, joined))


def _is_binary(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _faultless(texts: pa.Array) -> Ids:
    return Ids(texts, pa.nulls(len(texts), pa.string()))


def _faulty(texts: pa.Array, fault: str, where: pa.Array) -> Ids:
    return Ids(texts, pc.if_else(pc.fill_null(where, False), fault, pa.scalar(None, pa.string())))


def _floats(values: pa.Array) -> Ids:
    limit = _EXACT_BELOW[values.type.bit_width]
    numbers = values.cast(pa.float64())
    numbers = pc.if_else(pc.is_nan(numbers), None, numbers)
    whole = pc.and_(pc.is_finite(numbers), pc.equal(pc.floor(numbers), numbers))
    exact = pc.and_(whole, pc.less(pc.abs(numbers), limit))
    texts = pc.if_else(exact, numbers, None).cast(pa.int64()).cast(pa.string())
    fault = pc.if_else(whole, NOT_EXACT, NOT_WHOLE)
    return Ids(texts, pc.if_else(pc.and_(pc.is_valid(numbers), pc.invert(exact)), fault, None))


def _whole(values: pa.Array) -> Ids:
    wide = pa.types.is_decimal256(values.type)
    digits = pa.decimal256(76, 0) if wide else pa.decimal128(38, 0)
    if not wide:
        values = values.cast(pa.decimal128(38, values.type.scale))
    whole = pc.equal(pc.floor(values), values)
    texts = pc.if_else(whole, values, None).cast(digits).cast(pa.string())
    return _faulty(texts, NOT_WHOLE, pc.invert(whole))


def _hexadecimal(value: bytes | None) -> str | None:
    if value is None:
        return None
    text = value.hex()
    if len(value) != _UUID_BYTES:
        return text
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _decoded(values: pa.Array) -> Ids:
    texts, bad = [], []
    for value in values.to_pylist():
        try:
            texts.append(None if value is None else value.decode())
            bad.append(False)
        except UnicodeDecodeError:
            texts.append(None)
            bad.append(True)
    ids = _texts(pa.array(texts, pa.string()))
    return Ids(ids.texts, pc.if_else(pa.array(bad, pa.bool_()), NOT_UTF8, ids.faults))


def _texts(texts: pa.Array) -> Ids:
    """`id_text` of each text. Plain texts, which are nearly all, are recognized by two patterns and kept."""
    plain = pc.match_substring_regex(texts, _PLAIN)
    special = pc.or_(
        pc.match_substring_regex(texts, _SPECIAL),
        pc.is_in(pc.utf8_lower(texts), value_set=pa.array(sorted(MISSING_IDS))),
    )
    examined = pc.fill_null(pc.or_(pc.invert(plain), special), False)
    ids = _faultless(texts)
    if not pc.any(examined).as_py():
        return ids
    encoded = texts.filter(examined).dictionary_encode()
    made = [_one(text) for text in encoded.dictionary.to_pylist()]
    found, faults = (pa.array([one[part] for one in made], pa.string()).take(encoded.indices) for part in (0, 1))
    return Ids(
        pc.replace_with_mask(ids.texts, examined, found), pc.replace_with_mask(ids.faults, examined, faults)
    )  # fmt: skip


def _one(text: str) -> tuple[str | None, str | None]:
    try:
        return id_text(text), None
    except ValueError as error:
        return None, str(error)
