"""Compares the prediction log of rest_replay.py with a recomputation, bit for bit.

Window features are computed by the batch kernel, which shares no code with the request path, over the order in which
the store has received the events. Daily features are read from the snapshot that the answer names. Vector and
probability are computed in batches from these values by the version that the answer names.
"""

import json
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud.audit.daily_snapshots import DailySnapshots
from fraud.core.contract import US_PER_SECOND
from fraud.core.daily import Table, snapshot_at, snapshots
from fraud.core.declaration import Declaration
from fraud.core.history import Layout
from fraud.core.plan import Plan
from fraud.core.windows import WindowSet
from fraud.features.daily_values import daily_values
from fraud.features.engines.arrow_records import as_declared, id_hashes
from fraud.features.engines.arrow_vector import vectors
from fraud.features.engines.arrow_windows import microseconds, window_values
from fraud.features.online_store import OnlineHistory
from fraud.lake import catalog
from fraud.scoring.onnx_session import OnnxModel
from fraud.settings import Settings

SLACK_US = 2 * US_PER_SECOND
"""An answer may use a pointer that was replaced so long before it: serving reads pointers every half second."""
LAGS_US = tuple(int(s * US_PER_SECOND) for s in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0))
Record = dict[str, Any]
Files = tuple[Plan, tuple[bytes, bytes]]
"""A version: its plan, and its model.onnx and serving.json."""
Floats = NDArray[np.float64]
SHOWN = 5


class Pointers(NamedTuple):
    """The pointers of all daily tables from a time (us) on."""

    seen_us: int
    state: dict[str, dict[bytes, bytes]]
    """By table id."""


class Orders:
    """The sequences of all events in every layout, read repeatedly, because a history drops its oldest events."""

    def __init__(self, rows: pa.Table, plans: Sequence[Plan]) -> None:
        hashes = id_hashes(rows["transaction_id"].to_pylist())
        self._by_hash = np.argsort(hashes)
        self._hashes = hashes[self._by_hash]
        layouts = {of.layout.id: of.layout for plan in plans for of in plan.windows}
        self.sequences = {id_: np.full(rows.num_rows, -1, np.int64) for id_ in layouts}
        """By layout id: the sequence of each row; -1 unless the store had it at some time."""
        self._layouts = list(layouts.values())
        self._ids = {of.id: sorted(set(rows[of.id_column].drop_null().to_pylist())) for of in self._layouts}
        self.contradictions = 0
        """Events that were found at two sequences, or twice in a history."""

    def read(self, store: OnlineHistory) -> None:
        """Add what the store has now."""
        for layout in self._layouts:
            ids, places = [], []
            for _, order in store.orders(layout, self._ids[layout.id]):
                ids.append(order.ids)
                places.append(np.arange(order.base, order.base + len(order.ids)))
            found, place = np.concatenate(ids), np.concatenate(places)
            at = np.searchsorted(self._hashes, found)
            assert np.array_equal(self._hashes[at], found), "an event of the store was never sent"
            rows, known = self._by_hash[at], self.sequences[layout.id]
            self.contradictions += int(((known[rows] >= 0) & (known[rows] != place)).sum())
            self.contradictions += len(rows) - len(np.unique(rows))
            known[rows] = place


class _Version:
    """One version and the values of all rows under it."""

    def __init__(self, plan: Plan, model: bytes, serving: bytes, rows: pa.Table, orders: Orders) -> None:
        self.plan, self.runtime = plan, OnnxModel(model)
        self.model_sha256 = json.loads(serving)["model_sha256"]
        self.rows = as_declared(rows, plan.declaration)
        self.windows = {of.layout.entity: _windows(of, plan.declaration, rows, orders) for of in plan.windows}
        """By entity: float64[features, n], NaN for null and for rows that the store never had."""
        self.sequences = {of.layout.entity: orders.sequences[of.layout.id] for of in plan.windows}
        self.newest_us = {of.layout.entity: _newest(of.layout, rows, orders) for of in plan.windows}
        self.columns = {name: self.rows[name].to_pylist() for name in plan.columns}

    def probabilities(self, at: NDArray[np.int64], daily: Mapping[str, Floats]) -> NDArray[np.float32]:
        """Of some rows; `daily`: values of each daily table by entity, float64[features, len(at)]."""
        table = self.rows.take(pa.array(at))
        for of in self.plan.windows:
            for name, values in zip(of.names, self.windows[of.layout.entity], strict=True):
                table = table.append_column(name, pa.array(values[at]))
        for of_day in self.plan.tables:
            for name, values in zip(of_day.names, daily[of_day.entity], strict=True):
                table = table.append_column(name, pa.array(values))
        return self.runtime.probabilities(vectors(table, self.plan))


def _windows(of: WindowSet, declaration: Declaration, rows: pa.Table, orders: Orders) -> Floats:
    """The kernel's values of one entity's features, with the sequence as ingestion time: float64[features, n]."""
    sequence, at = orders.sequences[of.layout.id], microseconds(rows["event_timestamp"])
    values = np.full((len(of.names), rows.num_rows), np.nan)
    stored = np.flatnonzero(sequence >= 0)
    order = stored[np.lexsort((sequence[stored], at[stored]))]
    table = rows.take(pa.array(order)).set_column(
        rows.column_names.index("created_timestamp"), "created_timestamp",
        pa.array(sequence[order], pa.timestamp("us", "UTC")),
    )  # fmt: skip
    found = window_values(table, declaration)
    values[:, order] = np.stack([found[name] for name in of.names])
    without = ~rows[of.layout.id_column].is_valid().to_numpy()
    values[:, without] = np.array([[np.nan if value is None else value] for value in of.empty])
    return values


def _newest(layout: Layout, rows: pa.Table, orders: Orders) -> NDArray[np.int64]:
    """The latest event time (us) of the events with a lower sequence; 0 without one."""
    sequence, at = orders.sequences[layout.id], microseconds(rows["event_timestamp"])
    found = np.zeros(rows.num_rows, np.int64)
    codes = rows[layout.id_column].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
    stored = np.flatnonzero(sequence >= 0)
    order = stored[np.lexsort((sequence[stored], codes[stored]))]
    starts = np.flatnonzero(np.diff(codes[order], prepend=-2))
    for own in np.split(order, starts[1:]):
        found[own[1:]] = np.maximum.accumulate(at[own[:-1]])
    return found


class _Found:
    """Counts, and the first differences of each kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[Any]] = defaultdict(list)

    def add(self, kind: str, example: object) -> None:
        self.counts[kind] += 1
        if len(self.examples[kind]) < SHOWN:
            self.examples[kind].append(example)


def log_of(settings: Settings) -> list[Record]:
    """The records of the prediction log, in order."""
    paths = sorted(settings.prediction_log.glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def falsified(records: Sequence[Record]) -> list[Record]:
    """Copies of the records, six of them changed: a window value, a daily value, the last bit of a probability, a
    sequence, the snapshot, and the version. `compare` must find each."""
    copies: list[Record] = json.loads(json.dumps(records))
    usable = iter(r for r in reversed(copies) if r["sequences"] and r["snapshots"])
    window, daily, bit, place, snapshot, version = (next(usable) for _ in range(6))
    name = next(name for name, value in window["features"].items() if value is not None)
    window["features"][name] += 1.0
    name = next(name for name, value in reversed(daily["features"].items()) if value is not None)
    daily["features"][name] += 0.25
    bit["fraud_probability"] = float(np.nextafter(np.float32(bit["fraud_probability"]), np.float32(1)))
    place["sequences"] = {entity: n + 1 for entity, n in place["sequences"].items()}
    own = [r["snapshots"] for r in records if r["model_version"] == snapshot["model_version"]]
    snapshot["snapshots"] = {e: min(of[e] for of in own if e in of) for e in snapshot["snapshots"]}
    version["model_version"] = next(
        r["model_version"] for r in records if r["model_version"] != version["model_version"]
    )
    return copies


def compare(
    settings: Settings, records: Sequence[Record], sent: Sequence[Any], versions: Mapping[str, Files], orders: Orders,
    pointers: Sequence[Pointers], rows: pa.Table,
) -> dict[str, Any]:  # fmt: skip
    """Compare all answers. `sent`: (row, status, body) of each request; `rows`: the transactions that were sent."""
    found = _Found()
    row_of = {name: i for i, name in enumerate(rows["transaction_id"].to_pylist())}
    _responses(sent, {record["prediction_id"]: record for record in records}, rows, found)
    lake = _of_lake(settings, rows)
    loaded = {number: _Version(plan, *files, rows=lake, orders=orders) for number, (plan, files) in versions.items()}
    for number, version in loaded.items():
        own = [record for record in records if record["model_version"] == number]
        _of_version(settings, version, own, row_of, pointers, found)
        shadow = [record for record in records if record.get("challenger_version") == number]
        _of_challenger(settings, version, shadow, row_of, pointers, found)
    unknown = [record for record in records if record["model_version"] not in loaded]
    for record in unknown:
        found.add("mixed", record)
    answered = Counter(record["transaction_id"] for record in records)
    by_version = Counter((record["transaction_id"], record["model_version"]) for record in records)
    names = ("failed", "degraded", "mismatches", "mixed", "unlogged", "wrong_snapshot")
    return {
        "requests": len(sent), "answers": len(records), "compared": found.counts["compared"],
        **{name: found.counts[name] for name in names},
        "events_doubled": orders.contradictions, **_missing(orders, versions, lake),
        "retries_with_the_first_answer": found.counts["first_answer"],
        "answered_again_by_the_same_version": sum(n - 1 for n in by_version.values()),
        "answered_again_by_the_other_version": len(by_version) - len(answered),
        "by_version": dict(Counter(record["model_version"] for record in records)),
        "daily_values_current": found.counts["current"], "daily_values_stale": found.counts["stale"],
        "daily_values_missing": found.counts["missing"],
        "challenger_compared": found.counts["challenger"],
        "challenger_mismatches": found.counts["challenger_mismatches"],
        "examples": {kind: some for kind, some in found.examples.items() if kind in {*names, "challenger_mismatches"}},
    }  # fmt: skip


def _of_lake(settings: Settings, rows: pa.Table) -> pa.Table:
    """The transactions as the lake has them, in the order of `rows`."""
    stored = catalog.TRANSACTIONS.at(settings.lake_uri).read_range("2000", "2100")
    assert stored is not None
    assert stored.num_rows == rows.num_rows
    place = {name: i for i, name in enumerate(stored["transaction_id"].to_pylist())}
    return stored.take(pa.array([place[name] for name in rows["transaction_id"].to_pylist()])).combine_chunks()


def _missing(orders: Orders, versions: Mapping[str, Files], lake: pa.Table) -> dict[str, int]:
    """Events that a history never had, over all layouts.

    `materialize` leaves out an event of a full history (2 * max_events) that is not newer than its newest one; any
    other one is lost.
    """
    lost = left_out = 0
    for of in {of.layout.id: of for plan, _ in versions.values() for of in plan.windows}.values():
        sequence = orders.sequences[of.layout.id]
        codes = lake[of.layout.id_column].combine_chunks().dictionary_encode().indices.fill_null(-1).to_numpy()
        stored = np.bincount(codes[(codes >= 0) & (sequence >= 0)], minlength=codes.max() + 1)
        missing = codes[(codes >= 0) & (sequence < 0)]
        full = stored[missing] >= 2 * of.layout.max_events
        lost, left_out = lost + int((~full).sum()), left_out + int(full.sum())
    return {"events_lost": lost, "events_left_out_of_full_histories": left_out}


def _responses(sent: Sequence[Any], by_id: Mapping[str, Record], rows: pa.Table, found: _Found) -> None:
    """Every response must be 200 and agree with its record in the log."""
    names, seen = rows["transaction_id"].to_pylist(), set[str]()
    for row, status, body in sent:
        answer = json.loads(body)
        if status != 200:
            found.add("failed", (status, answer))
            continue
        if answer["degraded"]:
            found.add("degraded", answer)
        record = by_id.get(answer["prediction_id"])
        if record is None:
            found.add("unlogged", answer)
            continue
        same = ("transaction_id", "fraud_probability", "is_fraud", "threshold", "model_version")
        if answer["transaction_id"] != names[row] or any(answer[name] != record[name] for name in same):
            found.add("mixed", (answer, record))
        found.counts["first_answer"] += answer["prediction_id"] in seen
        seen.add(answer["prediction_id"])
    for id_ in by_id.keys() - seen:
        found.add("unlogged", by_id[id_])


def _of_version(
    settings: Settings, version: _Version, records: Sequence[Record], row_of: Mapping[str, int],
    pointers: Sequence[Pointers], found: _Found,
) -> None:  # fmt: skip
    """The answers of one version: its features and no others, and their values."""
    plan, rows = version.plan, version.rows
    at = np.array([row_of[record["transaction_id"]] for record in records], np.int64)
    event_us = microseconds(rows["event_timestamp"])
    fixed = {name: rows[name].to_pylist() for name in ("user_id", "merchant_id", "amount")}
    daily = {table.entity: _logged_daily(settings, table, records, rows, at) for table in plan.tables}
    expected = version.probabilities(at, daily).astype(np.float64).tolist()
    times = [pointer.seen_us for pointer in pointers]
    for table in plan.tables:
        _check_snapshots(settings, table, records, at, rows, daily[table.entity], (times, pointers), found)
    for k, record in enumerate(records):
        i = int(at[k])
        entities = {of.layout.entity for of in plan.windows if fixed_id(rows, of.layout.id_column, i)}
        if (
            (record["feature_hash"], record["model_sha256"]) != (plan.hash, version.model_sha256)
            or {*record["features"]} != {*plan.features}
            or not {*record["columns"]} >= {*plan.columns}
            or {*record["sequences"]} != entities
            or not {*record["snapshots"]} <= {table.entity for table in plan.tables}
        ):
            found.add("mixed", record)
            continue
        values: dict[str, Any] = {name: column[i] for name, column in fixed.items()}
        values |= {"event_us": int(event_us[i]), "fraud_probability": expected[k], "is_fraud": expected[k] >= 0.5}
        different = [name for name, value in values.items() if record[name] != value]
        different += [name for name in plan.columns if record["columns"][name] != version.columns[name][i]]
        for of in plan.windows:
            entity = of.layout.entity
            if entity in entities:
                known = record["sequences"][entity], record["newest_us"][entity]
                if known != (version.sequences[entity][i], version.newest_us[entity][i]):
                    different.append(f"sequence or newest_us of {entity}")
            different += _different(record, of.names, version.windows[entity][:, i])
        for table in plan.tables:
            different += _different(record, table.names, daily[table.entity][:, k])
        found.counts["compared"] += 1
        if different:
            found.add("mismatches", (different, record))


def fixed_id(rows: pa.Table, column: str, i: int) -> bool:
    """Whether a row has an id."""
    return bool(rows[column][i].is_valid)


def _different(record: Record, names: Sequence[str], values: Floats) -> list[str]:
    again = [None if np.isnan(value) else float(value) for value in values]
    return [name for name, value in zip(names, again, strict=True) if record["features"][name] != value]


def _logged_daily(
    settings: Settings, table: Table, records: Sequence[Record], rows: pa.Table, at: NDArray[np.int64]
) -> Floats:
    """The values of a daily table in the snapshots that the answers name: float64[features, n].

    Infinite, so that the answer differs, for a snapshot that the lake does not have.
    """
    ids = rows[table.id_column].take(pa.array(at)).to_pylist()
    named = [record["snapshots"].get(table.entity) for record in records]
    lookups = [(table, name, id_) for name, id_ in zip(named, ids, strict=True) if name is not None and id_ is not None]
    lake = DailySnapshots.load(settings.lake_uri, lookups)
    values = np.full((len(table.names), len(at)), np.nan)
    for k, (name, id_) in enumerate(zip(named, ids, strict=True)):
        found = lake.values(table, name, id_)
        values[:, k] = np.inf if isinstance(found, str) else [np.nan if value is None else value for value in found]
    return values


def _check_snapshots(
    settings: Settings, table: Table, records: Sequence[Record], at: NDArray[np.int64], rows: pa.Table,
    values: Floats, watched: tuple[list[int], Sequence[Pointers]], found: _Found,
) -> None:  # fmt: skip
    """Each answer must name the snapshot of a pointer that serving could see; a current one has the values of batch."""
    times, pointers = watched
    event_us = microseconds(rows["event_timestamp"])[at]
    ids = rows[table.id_column].take(pa.array(at))
    batch = daily_values(catalog.daily(table).at(settings.lake_uri).open(), table, ids, event_us)
    given = ids.is_valid().to_numpy()
    choices = _Choices(table, pointers)
    for k, record in enumerate(records):
        if not given[k]:
            continue
        name, time_us = record["snapshots"].get(table.entity), int(event_us[k])
        last = bisect_right(times, record["served_us"])
        first = max(bisect_right(times, record["served_us"] - record["latency_us"] - SLACK_US) - 1, 0)
        allowed = {choices.at(state, time_us) for state in range(first, last)}
        if name not in {None if choice is None else choice[1] for choice in allowed}:
            found.add("wrong_snapshot", (name, [*allowed], record))
        if name is None:
            found.counts["missing"] += 1
        elif name in {choice[1] for choice in allowed if choice and choice[0] == table.day_of(time_us)}:
            found.counts["current"] += 1
            if not np.array_equal(batch[:, k], values[:, k], equal_nan=True):
                found.add("mismatches", ("the value of batch", name, record))
        else:
            found.counts["stale"] += 1


class _Choices:
    """The snapshot (day, id) that a table's pointer gives, by number of its state."""

    def __init__(self, table: Table, pointers: Sequence[Pointers]) -> None:
        self._table = table
        self._published = [snapshots(pointer.state[table.id]) for pointer in pointers]

    def at(self, state: int, event_us: int) -> tuple[int, str] | None:
        chosen = snapshot_at(self._table, self._published[state], event_us)
        return None if chosen is None else (chosen.day, chosen.id)


def _of_challenger(
    settings: Settings, version: _Version, records: Sequence[Record], row_of: Mapping[str, int],
    pointers: Sequence[Pointers], found: _Found,
) -> None:  # fmt: skip
    """The challenger's probabilities. Its snapshots are not logged: one that serving could see must give the answer."""
    times, tables = [pointer.seen_us for pointer in pointers], version.plan.tables
    choices = {table.entity: _Choices(table, pointers) for table in tables}
    event_us = microseconds(version.rows["event_timestamp"])
    found.counts["challenger"] += len(records)
    left = list(records)
    for lag in LAGS_US:
        if not left:
            return
        at = np.array([row_of[record["transaction_id"]] for record in left], np.int64)
        states = [max(bisect_right(times, record["served_us"] - lag) - 1, 0) for record in left]
        daily = {}
        for table in tables:
            chosen = [choices[table.entity].at(s, int(event_us[i])) for s, i in zip(states, at, strict=True)]
            named = [{"snapshots": {} if c is None else {table.entity: c[1]}} for c in chosen]
            daily[table.entity] = _logged_daily(settings, table, named, version.rows, at)
        again = version.probabilities(at, daily).astype(np.float64).tolist()
        left = [record for record, p in zip(left, again, strict=True) if record["challenger_probability"] != p]
    for record in left:
        found.add("challenger_mismatches", record)
