"""The snapshots of a daily table from the parts of its days, for one machine and Spark.

Sums are over integers, so the order of evaluation does not change a value. One walk over the days before a snapshot
serves all features with the same label delay: it adds the days one by one, newest first, and reads off the values of a
feature when all of its days are added.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.daily import Table
from fraud.core.declaration_types import DailyFeature

Ints = NDArray[np.int64]


class Pairs(NamedTuple):
    """Values of a column that entities had: `entity * distinct values + value`, and the day from which it is known."""

    key: Ints
    known: Ints


class Part(NamedTuple):
    """A part of one event day (`catalog.part_schema`), sorted by `known`."""

    known: Ints
    """Days since 1970."""
    entity: Ints
    """Index into `Parts.ids`."""
    numbers: dict[str, Ints]
    """The columns of counts and sums, by name."""
    pairs: dict[str, Pairs]


class Parts(NamedTuple):
    """Parts of several days."""

    ids: pa.Array
    """All ids, sorted."""
    days: dict[int, Part]
    """By event day, in days since 1970."""
    values: dict[str, int]
    """Number of distinct values of each column that is counted."""


def parts_of(table: Table, tables: Mapping[int, pa.Table]) -> Parts:
    """Parts as they are stored, by event day, with ids and values replaced by numbers."""
    if not tables:
        return Parts(pa.array([], pa.string()), {}, {})
    ids, codes = _coded(pa.chunked_array([t[table.id_column].combine_chunks() for t in tables.values()], pa.string()))
    names = next(iter(tables.values())).column_names
    numbers = [name for name in names if name in ("rows", "frauds") or name.startswith(("count:", "sum:"))]
    values: dict[str, int] = {}
    flat: dict[str, Ints] = {}
    for name in [name for name in names if name.startswith("values:")]:
        texts = [t[name].combine_chunks().flatten() for t in tables.values()]
        distinct, flat[name] = _coded(pa.chunked_array(texts, pa.string()))
        values[name] = len(distinct)
    days: dict[int, Part] = {}
    first, start_of = 0, dict.fromkeys(flat, 0)
    for day, stored in tables.items():
        entity = codes[first : first + stored.num_rows]
        known = stored["known"].cast(pa.int32()).to_numpy().astype(np.int64)
        pairs = {}
        for name in flat:
            lengths = pc.list_value_length(stored[name]).to_numpy()
            own = flat[name][start_of[name] : start_of[name] + int(lengths.sum())]
            pairs[name] = Pairs(np.repeat(entity, lengths) * values[name] + own, np.repeat(known, lengths))
            start_of[name] += len(own)
        days[day] = Part(known, entity, {name: stored[name].to_numpy() for name in numbers}, pairs)
        first += stored.num_rows
    return Parts(ids, days, values)


def snapshot(table: Table, parts: Parts, day: int, schema: pa.Schema) -> pa.Table:
    """The snapshot of a day (days since 1970) with the columns of `schema`; its last row is the default row."""
    present = np.zeros(len(parts.ids), bool)
    columns: dict[str, tuple[NDArray[np.float64], float]] = {}
    by_delay: dict[int, list[DailyFeature]] = defaultdict(list)
    for feature in table.features:
        by_delay[feature.first_day_before - feature.span_days].append(feature)
    for delay, features in by_delay.items():
        columns |= _walked(table, parts, day - delay, day, features, present)
    for name in {f.column for f in table.features if f.aggregate == "distinct" and f.column is not None}:
        columns |= _distinct(
            parts, day, name, [f for f in table.features if f.aggregate == "distinct" and f.column == name]
        )
    made = [pa.concat_arrays([parts.ids.filter(pa.array(present)), pa.nulls(1, pa.string())])]
    for feature in table.features:
        values, default = columns[feature.name]
        column = pa.array(np.append(values[present], default), from_pandas=True)
        made.append(column.cast(schema.field(feature.name).type))
    return pa.table(made, schema=schema)


def _coded(texts: pa.ChunkedArray) -> tuple[pa.Array, Ints]:
    """The distinct texts, sorted, and the index of each text among them."""
    encoded = texts.combine_chunks().dictionary_encode()
    order = pc.sort_indices(encoded.dictionary)
    ranks = np.empty(len(order), np.int64)
    ranks[order.to_numpy()] = np.arange(len(order))
    return encoded.dictionary.take(order), ranks[encoded.indices.to_numpy()]


def _walked(
    table: Table, parts: Parts, end: int, day: int, features: list[DailyFeature], present: NDArray[np.bool_]
) -> dict[str, tuple[NDArray[np.float64], float]]:
    """Values per entity and of the default row, of features of the days before `end` known before `day`.

    Entities with a row in one of these days are marked in `present`. Null is NaN.
    """
    names = {"rows", *(name for feature in features for name in _inputs(feature))}
    totals = {name: np.zeros(len(parts.ids), np.int64) for name in names}
    decimals = dict(table.columns)
    found = {}
    for span in range(1, max(feature.span_days for feature in features) + 1):
        part = parts.days.get(end - span)
        if part is not None:
            _add(totals, part, day)
        for feature in features:
            if feature.span_days == span and feature.aggregate != "distinct":
                found[feature.name] = _values(feature, totals, float(10 ** decimals.get(feature.column or "", 0)))
    present |= totals["rows"] > 0
    return found


def _inputs(feature: DailyFeature) -> list[str]:
    return {
        "sum": [f"sum:{feature.column}"],
        "mean": [f"sum:{feature.column}", f"count:{feature.column}"],
        "fraud_rate": ["frauds"],
    }.get(feature.aggregate, [])


def _add(totals: dict[str, Ints], part: Part, day: int) -> None:
    """Add what a part knew before a day."""
    known = int(np.searchsorted(part.known, day))
    if not known:
        return
    # An entity occurs once per known day, and most rows are of the first one.
    first = min(int(np.searchsorted(part.known, part.known[0], side="right")), known)
    for name, total in totals.items():
        values = part.numbers[name]
        total[part.entity[:first]] += values[:first]
        if first < known:
            np.add.at(total, part.entity[first:known], values[first:known])


def _values(feature: DailyFeature, totals: dict[str, Ints], divisor: float) -> tuple[NDArray[np.float64], float]:
    if feature.aggregate == "count":
        return totals["rows"].astype(np.float64), 0.0
    if feature.aggregate == "sum":
        return totals[f"sum:{feature.column}"].astype(np.float64) / divisor, 0.0
    if feature.aggregate == "mean":
        counts = totals[f"count:{feature.column}"]
        weights = (np.maximum(counts, 1) * int(divisor)).astype(np.float64)
        means = totals[f"sum:{feature.column}"].astype(np.float64) / weights
        return np.where(counts > 0, means, np.nan), float("nan")
    rows, frauds = totals["rows"], totals["frauds"]
    all_rows = int(rows.sum())
    base = float(frauds.sum()) / float(all_rows) if all_rows else 0.0
    weights = rows.astype(np.float64) + feature.strength
    smoothed = (frauds.astype(np.float64) + feature.strength * base) / np.where(weights > 0, weights, 1.0)
    return np.where(weights > 0, smoothed, base), base


def _distinct(
    parts: Parts, day: int, column: str, features: list[DailyFeature]
) -> dict[str, tuple[NDArray[np.float64], float]]:
    name, longest = f"values:{column}", max(feature.span_days for feature in features)
    keys, ages = [], []
    for span in range(1, longest + 1):
        part = parts.days.get(day - span)
        if part is not None:
            pairs = part.pairs[name]
            own = pairs.key[pairs.known < day]
            keys.append(own)
            ages.append(np.full(len(own), span))
    key, age = (np.concatenate(some) if some else np.zeros(0, np.int64) for some in (keys, ages))
    # The first of equal keys is the youngest: they were collected in order of age.
    unique, first = np.unique(key, return_index=True)
    entity, age = unique // max(parts.values.get(name, 1), 1), age[first]
    return {
        feature.name: (
            np.bincount(entity[age <= feature.span_days], minlength=len(parts.ids)).astype(np.float64), 0.0
        )
        for feature in features
    }  # fmt: skip
