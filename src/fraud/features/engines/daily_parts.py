"""Parts of daily snapshots: what one event day contributes, by entity and by the day on which it became known.

A row is known from the day of its created_timestamp, a report of fraud from the day of its label_timestamp. The
snapshot of day D uses what was known before D, so one part per event day serves every snapshot, and a late row or label
changes only the parts of the days it belongs to. `Known` has a hash of what was known by each day: it decides which
snapshots change.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraud.core.contract import LABEL_COLUMNS, US_PER_DAY
from fraud.core.daily import Table
from fraud.errors import UnavailableError
from fraud.lake import catalog
from fraud.lake.dataset import DatasetVersion
from fraud.lake.objects import opened

EARLY_LABEL_DAYS: Final = 31
"""A label dated longer before its transaction's day than this is not used."""
_DIGITS: Final = 16
Ints = NDArray[np.int64]


class Days(NamedTuple):
    """Hashes of what a part knew at the end of each day on which something became known."""

    rows: dict[int, str]
    labels: dict[int, str]

    def to_json(self) -> str:
        return json.dumps([list(self.rows.items()), list(self.labels.items())])

    @classmethod
    def from_json(cls, text: str) -> "Days":
        rows, labels = json.loads(text)
        return cls(dict(rows), dict(labels))


def known_before(hashes: Mapping[int, str], day: int) -> str:
    """The hash of what was known before a day; "" for nothing."""
    return next((digest for known, digest in sorted(hashes.items(), reverse=True) if known < day), "")


def uses_labels(table: Table) -> bool:
    return any(feature.aggregate == "fraud_rate" for feature in table.features)


def transaction_columns(tables: Iterable[Table]) -> list[str]:
    """The columns of transactions that parts of these tables are made from."""
    names = {"created_timestamp"}
    for table in tables:
        names |= {table.id_column, *(name for name, _ in table.columns)}
        names |= {"transaction_id"} if uses_labels(table) else set()
    return sorted(names)


def read_columns(uris: Iterable[str], names: Sequence[str]) -> pa.Table:
    """Columns of data objects. A column that an object does not have is left out if no object has it, else null.

    Raises UnavailableError when an object was removed.
    """
    tables = []
    for uri in uris:
        try:
            with opened(uri) as file:
                tables.append(pq.ParquetFile(file).read(columns=list(names), use_threads=False))
        except FileNotFoundError as error:
            raise UnavailableError("an object was removed while being read", got=uri, hint="run again") from error
    return pa.concat_tables(tables, promote_options="default")


def fraud_reports(labels: DatasetVersion, days: Sequence[str], threads: ThreadPoolExecutor) -> pa.Table:
    """The reports (LABEL_COLUMNS) of fraud, and those that may correct one, of label days in order.

    A report of a legitimate transaction matters only after a report of fraud.
    """
    found: list[pa.Table] = [pa.Table.from_batches([], catalog.LABEL_SCHEMA)]
    frauds = pa.array([], pa.string())

    def read(day: str) -> pa.Table:
        return read_columns(labels.object_uris(day), LABEL_COLUMNS).select(LABEL_COLUMNS).cast(catalog.LABEL_SCHEMA)

    for reports in threads.map(read, days):
        of_fraud = reports.filter(reports["is_fraud"])
        if of_fraud.num_rows:
            frauds = pa.concat_arrays([frauds, of_fraud["transaction_id"].combine_chunks()])
        found += [of_fraud] if len(frauds) == 0 else [
            reports.filter(pc.is_in(reports["transaction_id"], value_set=frauds))
        ]  # fmt: skip
    return pa.concat_tables(found).combine_chunks()


def part(table: Table, day: int, rows: pa.Table, reports: pa.Table) -> tuple[pa.Table, Days]:
    """The part of a day (`catalog.part_schema`), sorted by `known` and id, and its hashes.

    `rows`: `transaction_columns` of the day's transactions. `reports`: `fraud_reports`, any superset of those from
    EARLY_LABEL_DAYS before the day until the last day that a snapshot can use.
    """
    schema = catalog.part_schema(table)
    if table.id_column in rows.column_names:
        rows = rows.filter(pc.is_valid(rows[table.id_column]))
    if table.id_column not in rows.column_names or not rows.num_rows:
        return pa.table([pa.array([], field.type) for field in schema], schema=schema), Days({}, {})
    entities = rows[table.id_column].cast(pa.string()).combine_chunks().dictionary_encode()
    created = rows["created_timestamp"].cast(pa.int64()).to_numpy()
    known = np.maximum(created // US_PER_DAY, day)
    group, codes, known_of = _groups(known, entities)
    columns: dict[str, Ints] = {"rows": np.bincount(group, minlength=len(codes)).astype(np.int64)}
    decimals = dict(table.columns)
    for name in _names(schema, "sum:"):
        units, given = _units(rows, name, decimals[name])
        columns[f"count:{name}"] = _summed(group, given.astype(np.int64), len(codes))
        columns[f"sum:{name}"] = _summed(group, units, len(codes))
    deltas = _deltas(table, day, rows, reports, known, entities.indices.to_numpy())
    known_of, codes, columns = _with_frauds(known_of, codes, columns, deltas)
    order = np.lexsort((_ranks(entities.dictionary)[codes], known_of))
    known_of, codes = known_of[order], codes[order]
    made: dict[str, pa.Array] = {
        "known": pa.array(known_of.astype(np.int32), pa.date32()),
        table.id_column: entities.dictionary.take(pa.array(codes)),
        **{name: pa.array(values[order]) for name, values in columns.items()},
    }
    for name in _names(schema, "values:"):
        made[f"values:{name}"] = _new_values(rows, name, known, entities.indices.to_numpy(), known_of, codes)
    found = pa.table([made[name] for name in schema.names], schema=schema)
    return found, _hashes(found, known_of)


def _names(schema: pa.Schema, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in schema.names if name.startswith(prefix)]


def _groups(known: Ints, entities: pa.DictionaryArray) -> tuple[Ints, Ints, Ints]:
    """Number of the (known, entity) group of each row, and entity code and known day of each group."""
    codes, size = entities.indices.to_numpy().astype(np.int64), max(len(entities.dictionary), 1)
    first = int(known.min(initial=0)) if len(known) else 0
    keys, group = np.unique((known - first) * size + codes, return_inverse=True)
    return group, keys % size, keys // size + first


def _units(rows: pa.Table, name: str, decimals: int) -> tuple[Ints, NDArray[np.bool_]]:
    """A number column as integers, 0 for null, and where it is not null."""
    if name not in rows.column_names:
        return np.zeros(rows.num_rows, np.int64), np.zeros(rows.num_rows, bool)
    values = rows[name].cast(pa.float64()).to_numpy()
    given = ~np.isnan(values)
    return np.rint(np.where(given, values, 0.0) * 10**decimals).astype(np.int64), given


def _summed(group: Ints, values: Ints, groups: int) -> Ints:
    total = np.zeros(groups, np.int64)
    np.add.at(total, group, values)
    return total


def _ranks(texts: pa.Array) -> Ints:
    """Position of each text in the sorted order."""
    ranks = np.empty(len(texts), np.int64)
    ranks[pc.sort_indices(texts).to_numpy()] = np.arange(len(texts))
    return ranks


class _Deltas(NamedTuple):
    known: Ints
    entity: Ints
    delta: Ints


def _deltas(table: Table, day: int, rows: pa.Table, reports: pa.Table, known: Ints, entity: Ints) -> _Deltas:
    """Changes of the number of frauds: +1 when a transaction is known to be one, -1 when it is corrected."""
    nothing = np.zeros(0, np.int64)
    if not uses_labels(table) or not reports.num_rows:
        return _Deltas(nothing, nothing, nothing)
    at = reports["label_timestamp"].cast(pa.int64()).to_numpy()
    label_day = at // US_PER_DAY
    hit = np.flatnonzero(pc.is_in(rows["transaction_id"], value_set=reports["transaction_id"]).to_numpy())
    ids = rows["transaction_id"].take(pa.array(hit)).combine_chunks()
    found = pc.index_in(reports["transaction_id"], value_set=ids).fill_null(-1).to_numpy()
    near = (found >= 0) & (label_day >= day - EARLY_LABEL_DAYS) & (label_day < day + table.days_before)
    place, fraud, at, label_day = found[near], reports["is_fraud"].to_numpy()[near], at[near], label_day[near]
    # The latest report decides; of two at the same microsecond the report of fraud.
    order = np.lexsort((fraud, at, place))
    place, fraud = place[order], fraud[order].astype(np.int64)
    since = np.maximum(label_day[order], known[hit[place]])
    last = np.ones(len(place), bool)
    last[:-1] = (place[1:] != place[:-1]) | (since[1:] != since[:-1])
    place, fraud, since = place[last], fraud[last], since[last]
    before = np.zeros(len(place), np.int64)
    before[1:] = np.where(place[1:] == place[:-1], fraud[:-1], 0)
    changed = fraud != before
    return _Deltas(since[changed], entity[hit[place]][changed].astype(np.int64), (fraud - before)[changed])


def _with_frauds(
    known: Ints, codes: Ints, columns: dict[str, Ints], deltas: _Deltas
) -> tuple[Ints, Ints, dict[str, Ints]]:
    """The groups with a column `frauds`; a change on another day than the rows' has a group of its own."""
    if not len(deltas.known):
        return known, codes, {**columns, "frauds": np.zeros(len(codes), np.int64)}
    size, first = int(codes.max()) + 1, int(min(known.min(), deltas.known.min()))
    keys = (np.concatenate([known, deltas.known]) - first) * size + np.concatenate([codes, deltas.entity])
    groups, place = np.unique(keys, return_inverse=True)
    own, others = place[: len(known)], place[len(known) :]
    wider = {name: np.zeros(len(groups), np.int64) for name in (*columns, "frauds")}
    for name, values in columns.items():
        wider[name][own] = values
    np.add.at(wider["frauds"], others, deltas.delta)
    kept = (wider["rows"] != 0) | (wider["frauds"] != 0)
    found = groups[kept]
    return found // size + first, found % size, {name: values[kept] for name, values in wider.items()}


def _new_values(
    rows: pa.Table, name: str, known: Ints, entity: NDArray[np.int32], known_of: Ints, codes: Ints
) -> pa.Array:
    """Per group, the sorted values of a column that the entity did not have before the group's day."""
    if name not in rows.column_names:
        return pa.array([[]] * len(codes), pa.list_(pa.string()))
    values = rows[name].cast(pa.string()).combine_chunks().dictionary_encode()
    given = np.flatnonzero(pc.is_valid(values).to_numpy(zero_copy_only=False))
    value = values.indices.take(pa.array(given)).to_numpy().astype(np.int64)
    of, since = entity[given].astype(np.int64), known[given]
    ranks = _ranks(values.dictionary)
    order = np.lexsort((since, ranks[value], of))
    of, value, since = of[order], value[order], since[order]
    first = np.ones(len(of), bool)
    first[1:] = (of[1:] != of[:-1]) | (value[1:] != value[:-1])
    of, value, since = of[first], value[first], since[first]
    size = int(codes.max(initial=0)) + 1
    group_keys = known_of * size + codes
    by_key = np.argsort(group_keys)
    group = by_key[np.searchsorted(group_keys[by_key], since * size + of)]
    order = np.argsort(group, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(group, minlength=len(codes)))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.dictionary.take(pa.array(value[order])))


def _hashes(found: pa.Table, known: Ints) -> Days:
    """Chained hashes per known day, of the rows and of the frauds apart."""
    days, starts = np.unique(known, return_index=True)
    ends = [*starts[1:], len(known)]
    what = {"rows": [c for c in found.column_names if c not in ("known", "frauds")],
            "frauds": [found.column_names[1], "frauds"]}  # fmt: skip
    hashes: dict[str, dict[int, str]] = {"rows": {}, "frauds": {}}
    for counted, names in what.items():
        digest = ""
        for day, start, end in zip(days.tolist(), starts.tolist(), ends, strict=True):
            of_day = found.slice(start, end - start)
            own = of_day.filter(pc.not_equal(of_day[counted], 0)).select(names)
            if own.num_rows:
                chain = sha256(f"{digest} {day}".encode())
                for piece in _bytes(own):
                    chain.update(piece)
                digest = hashes[counted][day] = chain.hexdigest()[:_DIGITS]
    return Days(hashes["rows"], hashes["frauds"])


def _bytes(found: pa.Table) -> Iterator[bytes | memoryview]:
    for column in found.combine_chunks().columns:
        values = column.combine_chunks()
        if isinstance(values, pa.ListArray):
            yield pc.list_value_length(values).to_numpy().tobytes()
            values = values.flatten()
        if pa.types.is_string(values.type):
            joined = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values), "\n")
            yield joined[0].as_buffer()
        else:
            yield values.to_numpy().tobytes()
