"""Apply a mapping to the rows of a source. Unreadable values become null, with a reason in the row's errors."""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud.core.contract import US_PER_DAY, id_text
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import Column, NumberColumn
from fraud.core.geography import great_circle_miles
from fraud.ingest.flags import flags_of, plain, texts_of
from fraud.ingest.ids import both, described, ids_of
from fraud.ingest.landing import PARSE_ERROR
from fraud.ingest.mapping.mapping import Mapping
from fraud.ingest.mapping.number_columns import Numbers, is_text
from fraud.ingest.mapping.row_errors import RowErrors, true
from fraud.ingest.mapping.sections import (
    CategoryText,
    Declared,
    DeclaredNumber,
    Flag,
    GreatCircle,
    Label,
    Number,
    Text,
    length_factor,
)
from fraud.ingest.mapping.time_columns import Times
from fraud.lake import catalog
from fraud.lake.catalog import TIMESTAMP

LABEL_ERROR: Final = "_label_error"


def in_landing_form(mapping: Mapping, declaration: Declaration, table: pa.Table) -> pa.Table:
    """Rows of a source, in order, with the landing zone's columns and those of the label: is_fraud, label_timestamp,
    _label_error. `table` has the columns `mapping.reads`.

    Raises BadConfigError when the zone of times is missing or given twice, BadInputError for an unsupported type.
    """
    columns = {name: _plain(table[name]) for name in table.column_names}
    rows = _Rows(columns, table.num_rows, mapping)
    times = Times(columns, rows.numbers, rows.errors)
    event, created = times.moments("event_timestamp", mapping.event_timestamp), mapping.created_timestamp
    made = {
        "transaction_id": rows.ids("transaction_id", mapping.transaction_id),
        "event_timestamp": event,
        "created_timestamp": times.moments("created_timestamp", created) if created else event,
        "user_id": rows.ids("user_id", mapping.user_id),
        "merchant_id": rows.ids("merchant_id", mapping.merchant_id),
        "amount": rows.amounts(mapping.amount),
    }
    for name, kind in catalog.declared_columns(declaration):
        section = mapping.declared.get(name)
        made[name] = (
            pa.nulls(table.num_rows, kind) if section is None
            else rows.declared(name, section, declaration.columns[name])
        )  # fmt: skip
    label_errors = RowErrors(table.num_rows)
    label_times = Times(columns, Numbers(mapping.source, columns, label_errors), label_errors)
    labels = _label(mapping.label, columns, event, label_times, label_errors)
    return pa.table({**made, PARSE_ERROR: rows.texts_of_errors, **labels, LABEL_ERROR: label_errors.texts})


def _plain(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.string()) if is_text(array.type) else array


class _Rows:
    """Reads the columns of one piece of a source and collects the errors of its rows."""

    def __init__(self, columns: dict[str, pa.Array], rows: int, mapping: Mapping) -> None:
        self._columns, self._rows = columns, rows
        self.errors = RowErrors(rows)
        self.numbers = Numbers(mapping.source, columns, self.errors)
        self._faults = pa.nulls(rows, pa.string())

    @property
    def texts_of_errors(self) -> pa.Array:
        """`parse_error` of each row: numbers and times first, then ids, categories and flags."""
        return both(self.errors.texts, self._faults)

    def ids(self, name: str, text: Text, *, optional: bool = False) -> pa.Array:
        """A text, with the rules of `fraud.ingest.ids` for each of its columns. `optional`: an empty one is null."""
        if text.constant is not None:
            return pa.repeat(pa.scalar(text.prefix + text.constant), self._rows)
        parts = []
        for column in text.reads:
            ids = ids_of(column, self._columns[column])
            parts.append(pc.if_else(pc.equal(ids.texts, ""), None, ids.texts) if optional else ids.texts)
            self._add(name, ids.faults, column)
        joined = pc.binary_join_element_wise(*parts, text.separator) if len(parts) > 1 else parts[0]
        return pc.binary_join_element_wise(text.prefix, joined, "") if text.prefix else joined

    def amounts(self, number: Number) -> pa.Array:
        values = self.numbers.floats("amount", number.column, number.remove)
        return values if number.scale == 1.0 else pc.multiply(values, pa.scalar(number.scale))

    def declared(self, name: str, section: Declared, column: Column) -> pa.Array:
        """A declared column, in the lake's type."""
        if isinstance(section, DeclaredNumber) and isinstance(column, NumberColumn):
            return self._numbers(name, section, column)
        if isinstance(section, Flag):
            return self._flags(name, section)
        if not isinstance(section, Text):
            raise TypeError(f"{name} is a {column.type}")
        texts = self.ids(name, section, optional=True)
        return _renamed(texts, section.map) if isinstance(section, CategoryText) else texts

    def _numbers(self, name: str, section: DeclaredNumber, column: NumberColumn) -> pa.Array:
        if section.constant is not None:
            return pa.repeat(pa.scalar(section.constant), self._rows)
        if section.great_circle is not None:
            return self._distances(name, section.great_circle, column)
        values = self.numbers.floats(name, str(section.column), section.remove)
        return pc.multiply(values, pa.scalar(section.scale * length_factor(section.unit, column)))

    def _distances(self, name: str, places: GreatCircle, column: NumberColumn) -> pa.Array:
        """Rounded to 1/10,000 (of a mile: 16 cm), so that differences of sine between processors do not change
        bytes."""
        degrees = []
        for read, most in zip((*places.home, *places.merchant), (90.0, 180.0, 90.0, 180.0), strict=True):
            values = self.numbers.floats(name, read)
            possible = pc.less_equal(pc.abs(values), most)
            self.errors.add(true(pc.invert(pc.fill_null(possible, True))), name, f"{read} is not a coordinate", values)
            degrees.append(pc.if_else(possible, values, None).to_numpy(False).astype(np.float64))
        distances = (great_circle_miles(*degrees) * length_factor("miles", column)).round(4)
        return pa.array(distances, mask=np.isnan(distances))

    def _flags(self, name: str, section: Flag) -> pa.Array:
        if section.column is None:
            return pa.repeat(pa.scalar(section.constant), self._rows)
        found = flags_of(section.column, self._columns[section.column], section.true_values, section.false_values)
        self._add(name, found.faults, section.column)
        return found.values

    def _add(self, name: str, faults: pa.Array, column: str) -> None:
        self._faults = both(self._faults, described(name, faults, self._columns[column]))


def _renamed(texts: pa.Array, names: dict[str, str]) -> pa.Array:
    """The texts with `names` applied. Names are read by the rules of ids, as the texts were."""
    read = {id_text(name): id_text(target) for name, target in names.items()}
    encoded = texts.dictionary_encode()
    values = pa.array([read.get(v, v) for v in encoded.dictionary.to_pylist()], pa.string())
    return values.take(encoded.indices)


def _label(
    label: Label | None, columns: dict[str, pa.Array], event: pa.Array, times: Times, errors: RowErrors
) -> dict[str, pa.Array]:
    rows = len(event)
    if label is None:
        return {"is_fraud": pa.nulls(rows, pa.bool_()), "label_timestamp": pa.nulls(rows, TIMESTAMP)}
    values = columns[label.column]
    verdicts = texts_of(label.column, values)
    fraud = pc.is_in(verdicts, value_set=pa.array([plain(text) for text in label.fraud]))
    legitimate = pc.is_in(verdicts, value_set=pa.array([plain(text) for text in label.legitimate]))
    unreadable = pc.and_(pc.is_valid(verdicts), pc.invert(pc.or_(fraud, legitimate)))
    errors.add(true(unreadable), "is_fraud", "neither fraud nor legitimate", values)
    if label.known_at is not None:
        known_at = times.moments("label.known_at", label.known_at)
    else:
        known_at = pc.add(event.cast(pa.int64()), round(label.delay_days * US_PER_DAY)).cast(TIMESTAMP)
    return {"is_fraud": pc.if_else(pc.or_(fraud, legitimate), fraud, None), "label_timestamp": known_at}
