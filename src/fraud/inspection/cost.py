"""What a declaration would cost, measured here and now: memory, time per request and backfill, and what to load."""

import os
import secrets
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from fraud import printing
from fraud.core.columns import StoredColumn
from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn
from fraud.core.history import ENTRY, EVENT_US, HEADER, LOAD_SCRIPT, Layout
from fraud.core.plan import Plan
from fraud.core.windows import WindowSet
from fraud.job import Context, JobResult
from fraud.lake import catalog
from fraud.streams.redis_client import STORE_ERRORS, open_client

EVENTS = 60
"""Events per history in the measurements."""
_NOW_US = 1_767_225_600_000_000
_ENTITIES = 20
_KERNEL_ROWS = 200_000
_KERNEL_ENTITIES = 2_000
_TOO_LONG_S = 2.0


class HistoryCost(BaseModel):
    """The history of an entity in the online store."""

    model_config = ConfigDict(frozen=True)

    entity: str
    layout: str
    record_bytes: int
    """8 for the event time and those of the stored columns: 8 for a number, an id or a category, 1 for a flag."""
    event_bytes: int
    """record_bytes + 16 for the entry that makes an append idempotent."""
    columns: dict[str, int]
    """Bytes that each stored column adds to an event."""
    typical_bytes: float
    """Of an entity with 60 events."""
    measured: bool
    """Whether typical_bytes was measured in the online store; computed otherwise."""
    largest_bytes: int
    """32 and 3 * max_events events, without the store's own overhead."""
    loaded: bool | None
    """Whether the online store has it; None when the store does not answer."""


class TableCost(BaseModel):
    """A daily table."""

    model_config = ConfigDict(frozen=True)

    entity: str
    table: str
    row_bytes: int
    """8 per feature; the key and the store's own overhead come to about 100 more."""
    days: int
    """Days of transactions that a snapshot reads."""
    published: bool | None
    """Whether the online store has a snapshot; None when the store does not answer."""


class Check(JobResult):
    """A valid declaration and its costs."""

    file: str
    features: int
    inputs: int
    """Columns of the model's vector."""
    feature_hash: str
    stored_hash: str
    histories: tuple[HistoryCost, ...]
    tables: tuple[TableCost, ...]
    windows_us: dict[str, float]
    """Microseconds per request to compute the window features of an entity with 60 events."""
    vector_us: float
    """Microseconds per request to build the vector."""
    kernel_rows_per_s: float
    """Rows per second of all window features, in batch on one machine."""
    cores: int
    rows: int
    """Rows to backfill."""
    backfill_s: float
    """Seconds for the window features of these rows; reading and writing come on top."""
    days_to_build: int
    """Days of the lake that have no features for this declaration."""

    def as_text(self) -> str:
        """Costs with their formulas, then what must be loaded."""
        lines = [
            f"{self.file} is valid: {self.features} features, {self.inputs} inputs of the model",
            f"feature_hash {self.feature_hash[:12]}, stored_hash {self.stored_hash[:12]}",
        ]
        for h in self.histories:
            how = "measured" if h.measured else "computed: the online store does not answer"
            columns = "".join(f" + {size} {name}" for name, size in h.columns.items())
            lines += [
                "",
                f"history of {h.entity} ({h.layout}){_state(h.loaded, 'loaded', 'to load: fraud materialize')}",
                f"  {h.event_bytes} bytes per event = 8 event time{columns} + 16 idempotency entry",
                f"  {h.typical_bytes:,.0f} bytes per {h.entity} with {EVENTS} events ({how})",
                f"  {h.largest_bytes:,} bytes per {h.entity} at most = 32 + 3 * max_events * {h.event_bytes}",
            ]
        for t in self.tables:
            state = _state(t.published, "published", "to build and load: fraud build-daily, fraud materialize")
            size = f"{t.row_bytes} bytes per row and day = 8 per feature"
            lines += ["", f"daily table of {t.entity} ({t.table}){state}", f"  {size}; {t.days} days of transactions"]
        parts = [f"{name} windows {us:.1f}" for name, us in self.windows_us.items()] + [f"vector {self.vector_us:.1f}"]
        per_request = sum(self.windows_us.values()) + self.vector_us
        rate, took = printing.figure(round(self.kernel_rows_per_s)), _duration(self.backfill_s)
        lines += [
            "",
            f"{per_request:.1f} us per request with histories of {EVENTS} events: {', '.join(parts)}",
            f"{rate} rows/s of all windows in batch on {self.cores} cores",
            f"{self.rows:,} rows to backfill: {took} of window features, without reading and writing",
            f"{self.days_to_build} days are not built for this declaration: fraud build-features",
        ]
        return "\n".join(lines)


def measured(named: str, declaration: Declaration, context: Context, rows: int | None) -> Check:
    """Measure a declaration. What needs the online store is computed when the store does not answer."""
    plan = Plan(declaration)
    transactions = catalog.TRANSACTIONS.at(context.settings.lake_uri).open()
    features = catalog.features(plan.stored_hash).at(context.settings.lake_uri)
    days = transactions.partitions()
    if rows is None:
        rows = sum(partition.rows for partition in transactions.contents.partitions.values())
    url = context.settings.redis_url.get_secret_value()
    rate, cores = kernel_rate(declaration), os.cpu_count() or 1
    return Check(
        file=named, features=len(declaration.features), inputs=len(plan.vector.names), feature_hash=plan.hash,
        stored_hash=plan.stored_hash, histories=tuple(_history(found.layout, url) for found in plan.windows),
        tables=tuple(
            TableCost(
                entity=t.entity, table=t.id, row_bytes=8 * len(t.names), days=t.days_before,
                published=_exists(url, t.pointer_key),
            )
            for t in plan.tables
        ),
        windows_us={found.layout.entity: windows_us(found) for found in plan.windows}, vector_us=vector_us(plan),
        kernel_rows_per_s=rate, cores=cores, rows=rows, backfill_s=rows / rate if rate else 0.0,
        days_to_build=len(set(days) - set(features.partitions())),
    )  # fmt: skip


def _history(layout: Layout, url: str) -> HistoryCost:
    record, entry = layout.record.itemsize, ENTRY.itemsize
    stored = _stored_bytes(layout, url)
    return HistoryCost(
        entity=layout.entity, layout=layout.id, record_bytes=record, event_bytes=record + entry,
        columns={column.name: layout.record[column.name].itemsize for column in layout.columns},
        typical_bytes=stored or float(HEADER.size + EVENTS * (record + entry)), measured=stored is not None,
        largest_bytes=2 * HEADER.size + 3 * layout.max_events * (record + entry),
        loaded=_exists(url, layout.materialized_key),
    )  # fmt: skip


def _stored_bytes(layout: Layout, url: str) -> float | None:
    """Mean bytes of an entity with 60 events in the online store, keys and overhead included; None without a store.

    The histories are written under keys of their own, which are removed, and expire if the process is killed.
    """
    mark = f"check:{secrets.token_hex(6)}"
    try:
        with open_client(url, connect_s=2) as client:
            load = client.register_script(LOAD_SCRIPT)
            keys, total = list[str](), 0
            try:
                for i in range(_ENTITIES):
                    own = [f"{mark}:{key}" for key in (layout.history_key(f"e{i:08d}"), layout.ids_key(f"e{i:08d}"))]
                    keys += own
                    ids = np.arange(EVENTS, dtype=np.uint64) + np.uint64(1)
                    load(keys=own, args=list(layout.load_arguments(events(layout, EVENTS, i), ids)))
                    for key in own:
                        client.expire(key, 60)
                        # The mark is not part of the keys that the platform writes.
                        total += int(client.memory_usage(key, samples=0) or 0) - len(mark) - 1
            finally:
                if keys:
                    client.delete(*keys)
    except (*STORE_ERRORS, OSError, ValueError):
        return None
    return total / _ENTITIES


def _exists(url: str, key: str) -> bool | None:
    try:
        with open_client(url, connect_s=2) as client:
            return bool(client.exists(key))
    except (*STORE_ERRORS, OSError, ValueError):
        return None


def events(layout: Layout, count: int, seed: int) -> NDArray[np.void]:
    """A synthetic history: Layout.record[count], within `keep` before _NOW_US, in order of event time."""
    rng = np.random.default_rng(seed)
    found = np.zeros(count, dtype=layout.record)
    found[EVENT_US] = np.sort(_NOW_US - rng.integers(1, min(layout.keep_us, 30 * US_PER_DAY), count))
    for column in layout.columns:
        found[column.name] = _values(column, rng, count)
    return found


def windows_us(found: WindowSet) -> float:
    """Microseconds to compute the window features of one transaction, with histories of 60 events."""
    histories = [events(found.layout, EVENTS, seed).tobytes() for seed in range(20)]
    own = [int(_values(column, np.random.default_rng(0), 1)[0]) for column in found.layout.columns]

    def once() -> None:
        for history in histories:
            found.evaluate_records(history, _NOW_US, _NOW_US, own)

    return _seconds(once) / len(histories) * 1e6


def vector_us(plan: Plan) -> float:
    """Microseconds to build the vector of one transaction without nulls."""
    columns = dict.fromkeys(("amount", *plan.columns), 1.0)
    texts = {name: c.unknown for name, c in plan.declaration.columns.items() if isinstance(c, CategoryColumn)}
    values, out = [1.0] * len(plan.features), np.empty(len(plan.vector.names), dtype=np.float32)

    def once() -> None:
        for _ in range(20):
            plan.vector.row(out, plan.base_values(12, 3, columns | texts, values))

    return _seconds(once) / 20 * 1e6


def kernel_rate(declaration: Declaration) -> float:
    """Rows per second of all window features of a declaration, on synthetic rows; 0 without any."""
    from fraud.features.engines import arrow_windows  # noqa: PLC0415 - numba is slow to import

    rng = np.random.default_rng(0)
    event_us = np.sort(_NOW_US - rng.integers(0, 60 * US_PER_DAY, _KERNEL_ROWS))
    codes = rng.integers(0, _KERNEL_ENTITIES, _KERNEL_ROWS).astype(np.int32)
    found = arrow_windows.entities(declaration)
    stored = [[_values(column, rng, _KERNEL_ROWS).astype(np.int64) for column in e.columns] for e in found]

    def once() -> None:
        for entity, columns in zip(found, stored, strict=True):
            arrow_windows.entity_values(entity, codes, event_us, event_us, columns, threads=os.cpu_count() or 1)

    if not found:
        return 0.0
    return _KERNEL_ROWS / _seconds(once, runs=3)


def _values(column: StoredColumn, rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    if column.type == "flag":
        return rng.integers(0, 2, count)
    return rng.integers(1, 50 if column.type != "number" else 500 * column.divisor, count)


def _seconds(once: Callable[[], None], runs: int = 30) -> float:
    """Median seconds of a call, after one that is not counted (it compiles); fewer runs when they take long."""
    once()
    taken = list[float]()
    while len(taken) < runs and (len(taken) < 3 or sum(taken) < _TOO_LONG_S):
        began = time.perf_counter()
        once()
        taken.append(time.perf_counter() - began)
    return median(taken)


def _state(there: bool | None, yes: str, no: str) -> str:
    return "" if there is None else f", {yes}" if there else f", {no}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 86_400:.2f} days"
