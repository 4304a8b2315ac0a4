"""Apply a mapping to the rows of a source. Unreadable values become null, with a reason in the row's errors."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud.core.contract import US_PER_DAY
from fraud.core.geography import great_circle_miles
from fraud.errors import BadInputError
from fraud.ingest.ids import both, described, ids_of
from fraud.ingest.landing import PARSE_ERROR
from fraud.ingest.mapping.mapping import MILES, Distance, Label, Mapping, Number, Text, verdict
from fraud.ingest.mapping.number_columns import Numbers, is_number, is_text
from fraud.ingest.mapping.row_errors import RowErrors, true
from fraud.ingest.mapping.time_columns import Times
from fraud.lake.catalog import TIMESTAMP

LABEL_ERROR: Final = "label_error"


def in_landing_form(mapping: Mapping, table: pa.Table) -> pa.Table:
    """Rows of a source, in order, with the landing zone's columns and those of the label: is_fraud, label_timestamp,
    label_error. `table` has the columns `mapping.reads`.

    Raises BadConfigError when the zone of times is missing or given twice, BadInputError for an unsupported type.
    """
    columns = {name: _plain(table[name]) for name in table.column_names}
    rows, errors, label_errors = table.num_rows, RowErrors(table.num_rows), RowErrors(table.num_rows)
    numbers = Numbers(mapping.source, columns, errors)
    times = Times(columns, numbers, errors)
    event = times.moments("event_timestamp", mapping.event_timestamp)
    transaction_id, transaction_errors = _id("transaction_id", mapping.transaction_id, columns, rows)
    user_id, user_errors = _id("user_id", mapping.user_id, columns, rows)
    merchant_id, merchant_errors = _id("merchant_id", mapping.merchant_id, columns, rows)
    id_errors = both(both(transaction_errors, user_errors), merchant_errors)
    created, category = mapping.created_timestamp, mapping.merchant_category
    made = {
        "transaction_id": transaction_id,
        "event_timestamp": event,
        "created_timestamp": times.moments("created_timestamp", created) if created else event,
        "user_id": user_id,
        "merchant_id": merchant_id,
        "merchant_category": (
            _renamed(_text(category, columns, rows), category.map) if category else pa.nulls(rows, pa.string())
        ),
        "amount": _amount(mapping.amount, numbers),
        "distance_from_home": _distance(mapping.distance_from_home, rows, numbers, errors),
    }
    label_times = Times(columns, Numbers(mapping.source, columns, label_errors), label_errors)
    labels = _label(mapping.label, columns, event, label_times, label_errors)
    return pa.table({**made, PARSE_ERROR: both(errors.texts, id_errors), **labels, LABEL_ERROR: label_errors.texts})


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.string()) if is_text(array.type) else array


def _text(text: Text, columns: dict[str, pa.Array], rows: int) -> pa.Array:
    parts = [columns[name].cast(pa.string()) for name in text.reads]
    return _joined(text, parts, rows)


def _id(name: str, text: Text, columns: dict[str, pa.Array], rows: int) -> tuple[pa.Array, pa.Array]:
    """`_text` with the id rules of `fraud.ingest.ids` for each column, and the errors of the rows, string[n]."""
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


def _amount(number: Number, numbers: Numbers) -> pa.Array:
    values = numbers.floats("amount", number.column, number.remove)
    return values if number.scale == 1.0 else pc.multiply(values, pa.scalar(number.scale))


def _distance(distance: Distance | None, rows: int, numbers: Numbers, errors: RowErrors) -> pa.Array:
    """Miles, rounded to 1/10,000 (16 cm), so that differences of sine between processors do not change bytes."""
    name = "distance_from_home"
    if distance is None:
        return pa.nulls(rows, pa.float64())
    if distance.great_circle is None:
        values = numbers.floats(name, str(distance.column))
        return pc.multiply(values, pa.scalar(MILES[str(distance.unit)]))
    degrees = []
    for column, most in zip(distance.reads, (90.0, 180.0, 90.0, 180.0), strict=True):
        values = numbers.floats(name, column)
        possible = pc.less_equal(pc.abs(values), most)
        errors.add(true(pc.invert(pc.fill_null(possible, True))), name, f"{column} is not a coordinate", values)
        degrees.append(pc.if_else(possible, values, None).to_numpy(False).astype(np.float64))
    miles = great_circle_miles(*degrees).round(4)
    return pa.array(miles, mask=np.isnan(miles))


def _label(
    label: Label | None, columns: dict[str, pa.Array], event: pa.Array, times: Times, errors: RowErrors
) -> dict[str, pa.Array]:
    rows = len(event)
    if label is None:
        return {"is_fraud": pa.nulls(rows, pa.bool_()), "label_timestamp": pa.nulls(rows, TIMESTAMP)}
    values = columns[label.column]
    verdicts = _verdicts(label, values)
    fraud = pc.is_in(verdicts, value_set=pa.array([verdict(text) for text in label.fraud]))
    legitimate = pc.is_in(verdicts, value_set=pa.array([verdict(text) for text in label.legitimate]))
    unreadable = pc.and_(pc.is_valid(verdicts), pc.invert(pc.or_(fraud, legitimate)))
    errors.add(true(unreadable), "is_fraud", "neither fraud nor legitimate", values)
    if label.known_at is not None:
        known_at = times.moments("label.known_at", label.known_at)
    else:
        known_at = pc.add(event.cast(pa.int64()), round(label.delay_days * US_PER_DAY)).cast(TIMESTAMP)
    return {"is_fraud": pc.if_else(pc.or_(fraud, legitimate), fraud, None), "label_timestamp": known_at}


def _verdicts(label: Label, values: pa.Array) -> pa.Array:
    """The label column as texts that `verdict` normalized. NaN becomes null."""
    kind = values.type
    if not (is_text(kind) or is_number(kind) or pa.types.is_boolean(kind)):
        raise BadInputError(
            f"column {label.column} has the wrong type", expected="text, booleans or numbers", got=str(kind)
        )
    if pa.types.is_floating(kind):
        values = pc.if_else(pc.is_nan(values), None, values)
    encoded = values.cast(pa.string()).dictionary_encode()
    return pa.array([verdict(text) for text in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)
