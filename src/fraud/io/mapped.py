"""Apply a mapping to a source's rows. What cannot be read becomes null, and the row says why; no row is lost."""

from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.contract import US_PER_DAY
from fraud.core.geography import great_circle_miles
from fraud.errors import BadConfigError, BadInputError
from fraud.io.ids import both, described, ids_of
from fraud.io.landing import PARSE_ERROR, TIMESTAMP
from fraud.io.mapping import ISO, MILES, Distance, Label, Mapping, Number, Text, Time

LABEL_ERROR: Final = "label_error"
_NUMBER: Final = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_OFFSET: Final = r"([Zz]|[+-][0-9]{2}:?[0-9]{2})$"
_SHOWN: Final = 80


class Errors:
    """Why values of n rows could not be read: one text per row, null for the rows without any."""

    def __init__(self, rows: int) -> None:
        self._texts = pa.nulls(rows, pa.string())

    def add(self, where: NDArray[np.bool_], column: str, reason: str, values: pa.Array | None = None) -> None:
        """For the rows `where`: `column: reason: 'value'`."""
        if not where.any():
            return
        text = pa.scalar(f"{column}: {reason}")
        if values is not None:
            shown = pc.utf8_slice_codeunits(values.cast(pa.string()), 0, _SHOWN)
            text = pc.binary_join_element_wise(
                text, ": '", shown, "'", "", null_handling="replace", null_replacement=""
            )
        joined = pc.if_else(pc.is_null(self._texts), text, pc.binary_join_element_wise(self._texts, text, "; "))
        self._texts = pc.if_else(pa.array(where), joined, self._texts)

    @property
    def texts(self) -> pa.Array:
        return self._texts


def in_landing_form(mapping: Mapping, table: pa.Table) -> pa.Table:
    """Rows of a source, in its order, as the landing zone's columns and those of the label: is_fraud,
    label_timestamp, label_error. `table` has `mapping.reads`.

    Raises BadConfigError when times turn out to carry no zone, or one too many; BadInputError for an unusable type.
    """
    columns = {name: _plain(table[name]) for name in table.column_names}
    rows, errors, label_errors = table.num_rows, Errors(table.num_rows), Errors(table.num_rows)
    event = _time("event_timestamp", mapping.event_timestamp, columns, errors)
    transaction_id, transaction_errors = _id("transaction_id", mapping.transaction_id, columns, rows)
    user_id, user_errors = _id("user_id", mapping.user_id, columns, rows)
    merchant_id, merchant_errors = _id("merchant_id", mapping.merchant_id, columns, rows)
    id_errors = both(both(transaction_errors, user_errors), merchant_errors)
    created = mapping.created_timestamp
    made = {
        "transaction_id": transaction_id,
        "event_timestamp": event,
        "created_timestamp": _time("created_timestamp", created, columns, errors) if created else event,
        "user_id": user_id,
        "merchant_id": merchant_id,
        "merchant_category": _renamed(_text(mapping.merchant_category, columns, rows), mapping.merchant_category.map),
        "amount": _number("amount", mapping.amount, columns, errors),
        "distance_from_home": _distance(mapping.distance_from_home, columns, rows, errors),
    }
    labels = _label(mapping.label, columns, event, label_errors)
    return pa.table({**made, PARSE_ERROR: both(errors.texts, id_errors), **labels, LABEL_ERROR: label_errors.texts})


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.string()) if _is_text(array.type) else array


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(kind) for test in tests)


def _text(text: Text, columns: dict[str, pa.Array], rows: int) -> pa.Array:
    parts = [columns[name].cast(pa.string()) for name in text.reads]
    return _joined(text, parts, rows)


def _id(name: str, text: Text, columns: dict[str, pa.Array], rows: int) -> tuple[pa.Array, pa.Array]:
    """As `_text`, each column read by the rule of its type (`fraud.io.ids`); and the errors of the rows: string[n]."""
    parts, errors = [], pa.nulls(rows, pa.string())
    for column in text.reads:
        ids = ids_of(column, columns[column])
        parts.append(ids.texts)
        errors = both(errors, described(name, ids, columns[column]))
    return _joined(text, parts, rows), errors


def _joined(text: Text, parts: list[pa.Array], rows: int) -> pa.Array:
    if text.constant is not None:
        return pa.repeat(pa.scalar(text.prefix + text.constant), rows)
    joined = pc.binary_join_element_wise(*parts, text.separator) if len(parts) > 1 else parts[0]
    return pc.binary_join_element_wise(text.prefix, joined, "") if text.prefix else joined


def _renamed(texts: pa.Array, names: dict[str, str]) -> pa.Array:
    encoded = texts.dictionary_encode()
    values = pa.array([names.get(v, v) for v in encoded.dictionary.to_pylist()], pa.string())
    return values.take(encoded.indices)


def _number(name: str, number: Number, columns: dict[str, pa.Array], errors: Errors) -> pa.Array:
    values = _floats(name, number.column, columns, errors, number.remove)
    return values if number.scale == 1.0 else pc.multiply(values, pa.scalar(number.scale))


def _floats(name: str, column: str, columns: dict[str, pa.Array], errors: Errors, remove: str = "") -> pa.Array:
    values = columns[column]
    if _is_text(values.type):
        texts = pc.utf8_trim_whitespace(values)
        for character in remove:
            texts = pc.replace_substring(texts, character, "")
        readable = pc.fill_null(pc.match_substring_regex(texts, _NUMBER), False)
        errors.add(_true(pc.and_not(pc.is_valid(values), readable)), name, "not a number", values)
        return pc.cast(pc.if_else(readable, texts, None), pa.float64())
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_decimal(values.type)):
        raise BadInputError(f"column {column} has the wrong type", expected="numbers", came=str(values.type))
    return values.cast(pa.float64(), safe=False)


def _time(name: str, time: Time, columns: dict[str, pa.Array], errors: Errors) -> pa.Array:
    """timestamp[us, UTC]. A local time that happened twice is the earlier one, one that never was moves forward."""
    values = columns[time.column]
    kind = values.type
    if time.unit is not None:
        return _since_1970(name, time, columns, errors)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        if time.zone is not None:
            raise BadConfigError(
                f"{name}.zone: column {time.column} carries its own zone, {kind.tz}", do="leave it out"
            )
        return values.cast(TIMESTAMP, safe=False)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _in_zone(name, time, values.cast(pa.timestamp("us"), safe=False))
    if not _is_text(kind):
        raise BadInputError(f"column {time.column} has the wrong type", expected="timestamps or text", came=str(kind))
    if time.format is None:
        raise BadConfigError(
            f"{name}.format is missing", expected="a strptime format or ISO8601", came=f"column {time.column} is text"
        )
    return _parsed(name, time, values, errors)


def _since_1970(name: str, time: Time, columns: dict[str, pa.Array], errors: Errors) -> pa.Array:
    factor = {"s": 1_000_000, "ms": 1_000, "us": 1}[str(time.unit)]
    number = _floats(name, time.column, columns, errors)
    us = pc.round(pc.multiply(number, pa.scalar(float(factor))))
    sane = pc.fill_null(pc.less(pc.abs(us), 2.0**62), False)
    errors.add(_true(pc.and_not(pc.is_valid(number), sane)), name, "not a moment", number)
    return pc.cast(pc.if_else(sane, us, None), pa.int64()).cast(TIMESTAMP)


def _parsed(name: str, time: Time, texts: pa.Array, errors: Errors) -> pa.Array:
    has_offset = _true(pc.fill_null(pc.match_substring_regex(texts, _OFFSET), False))
    given = _true(pc.is_valid(texts))
    if time.format == ISO and time.zone is None:
        if given.any() and not has_offset.any():
            raise BadConfigError(
                f"{name}.zone is missing", expected="the zone of the clock, like UTC",
                came=f"times without any, like {texts.drop_null()[0].as_py()!r}",
            )  # fmt: skip
        errors.add(given & ~has_offset, name, "no time zone", texts)
        texts = pc.if_else(pa.array(has_offset), texts, None)
    elif time.format == ISO:
        errors.add(has_offset, name, f"a time zone in the text, and {time.zone} in the mapping", texts)
        texts = pc.if_else(pa.array(has_offset), None, texts)
    aware = time.zone is None
    parsed = pd.to_datetime(texts.to_pandas(), format=time.format, errors="coerce", utc=aware)
    wanted = pa.array(parsed.astype("datetime64[us, UTC]" if aware else "datetime64[us]"))
    errors.add(_true(pc.and_(pc.is_valid(texts), pc.is_null(wanted))), name, f"not a time like {time.format}", texts)
    return wanted.cast(TIMESTAMP) if aware else _in_zone(name, time, wanted)


def _in_zone(name: str, time: Time, naive: pa.Array) -> pa.Array:
    if time.zone is None:
        raise BadConfigError(
            f"{name}.zone is missing", expected="the zone of the clock, like UTC", came=f"{time.column} carries none"
        )
    return pc.assume_timezone(naive, time.zone, ambiguous="earliest", nonexistent="latest").cast(TIMESTAMP)


def _distance(distance: Distance | None, columns: dict[str, pa.Array], rows: int, errors: Errors) -> pa.Array:
    """Miles, rounded to 1/10,000: 16 cm, so that another processor's sine changes no byte."""
    name = "distance_from_home"
    if distance is None:
        return pa.nulls(rows, pa.float64())
    if distance.great_circle is None:
        values = _floats(name, str(distance.column), columns, errors)
        return pc.multiply(values, pa.scalar(MILES[str(distance.unit)]))
    degrees = []
    for column, most in zip(distance.reads, (90.0, 180.0, 90.0, 180.0), strict=True):
        values = _floats(name, column, columns, errors)
        possible = pc.less_equal(pc.abs(values), most)
        errors.add(_true(pc.invert(pc.fill_null(possible, True))), name, f"{column} is no coordinate", values)
        degrees.append(pc.if_else(possible, values, None).to_numpy(False).astype(np.float64))
    miles = great_circle_miles(*degrees).round(4)
    return pa.array(miles, mask=np.isnan(miles))


def _label(label: Label | None, columns: dict[str, pa.Array], event: pa.Array, errors: Errors) -> dict[str, pa.Array]:
    rows = len(event)
    if label is None:
        return {"is_fraud": pa.nulls(rows, pa.bool_()), "label_timestamp": pa.nulls(rows, TIMESTAMP)}
    verdict = columns[label.column].cast(pa.string())
    fraud = pc.is_in(verdict, value_set=pa.array(label.fraud))
    legitimate = pc.is_in(verdict, value_set=pa.array(label.legitimate))
    unreadable = pc.and_(pc.is_valid(verdict), pc.invert(pc.or_(fraud, legitimate)))
    errors.add(_true(unreadable), "is_fraud", "neither fraud nor legitimate", verdict)
    if label.known_at is not None:
        known_at = _time("label.known_at", label.known_at, columns, errors)
    else:
        known_at = pc.add(event.cast(pa.int64()), round(label.delay_days * US_PER_DAY)).cast(TIMESTAMP)
    return {"is_fraud": pc.if_else(pc.or_(fraud, legitimate), fraud, None), "label_timestamp": known_at}


def _true(mask: pa.Array) -> NDArray[np.bool_]:
    values: NDArray[np.bool_] = mask.to_numpy(zero_copy_only=False)
    return values
