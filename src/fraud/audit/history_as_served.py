"""Recompute window and daily features as of served answers: the order of events from the online store, the values from
the lake, and daily values from the snapshot that the answer names.

Only the store has the order in which it received an entity's events (`fraud.stats.served_skew`). The values of an event
that has not landed are read from the prediction log.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.audit import prediction_log
from fraud.audit.answering_versions import RULE, AnsweringVersions
from fraud.audit.daily_snapshots import DailySnapshots, Lookup
from fraud.core import history
from fraud.core.columns import StoredColumn, stored_column, to_stored
from fraud.core.contract import TRANSACTION_COLUMNS, US_PER_DAY, id_hash
from fraud.core.declaration import Declaration
from fraud.core.history import Layout
from fraud.core.plan import Plan
from fraud.core.short_request import VELOCITY_FEATURE
from fraud.core.windows import WindowSet
from fraud.errors import RefusedError
from fraud.features import online_store
from fraud.features.engines.arrow_records import as_declared, id_hashes, microseconds, stored_records
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import DatasetVersion
from fraud.stats import served_skew

Record = Mapping[str, Any]
"""One flat answer of the prediction log. docs/architecture.md lists its fields."""
DEGRADED: Final = "degraded: answered without the online store"
NO_USER: Final = "a request without a user"
HISTORY_DROPPED: Final = "the online store no longer has the history"
NOT_LANDED: Final = "the online store has events that have not landed"


class Recomputed(NamedTuple):
    """The features of an answer that could be recomputed, and why the others could not."""

    values: dict[str, float | None]
    reasons: tuple[str, ...]
    """Empty when all window and daily features of the version were recomputed."""


class Events(NamedTuple):
    """Transactions of one source and the columns that it has for all of them."""

    table: pa.Table
    event_us: NDArray[np.int64]
    columns: frozenset[str]
    """Names; in the log, for categories `_logged_as`."""


@dataclass(frozen=True, slots=True)
class LayoutHistory:
    """The histories of some entities in one layout."""

    layout: Layout
    orders: dict[str, history.Order]
    """By entity id."""
    materialized: dict[str, str]
    """Days that materialize loaded into the store, with their content hashes."""
    values: served_skew.Values


@dataclass(frozen=True, slots=True)
class ServedHistory:
    """Histories and snapshots of some answers. Create it with `load`."""

    landed: list[Events]
    """Transactions of the answers' entities in the lake, with their day in `dt`; one item per set of columns."""
    layouts: dict[str, LayoutHistory]
    """By id of the layout."""
    snapshots: DailySnapshots
    _versions: AnsweringVersions
    _longest: dict[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def load(
        cls, context: Context, records: Sequence[Record], versions: AnsweringVersions, *, unshipped: bool = False
    ) -> Self:
        """Load what the answers' features are recomputed from. Raises UnavailableError.

        `unshipped`: also read serving's log segments, for answers that are not in the lake yet.
        """
        settings = context.settings
        needed, layouts, first_us = _entities(records, versions)
        snapshots = DailySnapshots.load(settings.lake_uri, _lookups(records, versions))
        if not needed:
            return cls([], {}, snapshots, versions)
        ids: dict[str, set[str]] = defaultdict(set)
        for layout_id, entity_ids in needed.items():
            ids[layouts[layout_id][0].id_column] |= entity_ids
        ids["user_id"] |= {record["user_id"] for record in records if record["user_id"] is not None}
        first = str(dt.date(1970, 1, 1) + dt.timedelta(days=first_us // US_PER_DAY))
        columns = {name for layout, _ in layouts.values() for name in _needed(layout)}
        columns |= {name for record in records for name in _declared(versions, record)}
        landed = _by_columns(
            _of_entities(
                catalog.TRANSACTIONS.at(settings.lake_uri).open(), ids, first, frozenset(columns), "event_timestamp"
            )
        )
        # No event is served before its event time, so the first day is the same.
        answers = catalog.PREDICTIONS.at(settings.lake_uri).open()
        logged = [*_of_entities(answers, ids, first, frozenset(columns), "event_us")]
        if unshipped:
            logged += _of_segments(context, ids)
        by_version = _by_columns(part for events in logged for part in _of_versions(events, versions))
        found = {}
        with online_store.connect(settings.redis_url.get_secret_value()) as store:
            for layout_id, (layout, declaration) in layouts.items():
                orders = dict(store.orders(layout, sorted(needed[layout_id])))
                loaded = store.materialized(layout.materialized_key)
                found[layout_id] = LayoutHistory(
                    layout, orders, loaded, _values(layout, declaration, landed, by_version)
                )
        return cls(landed, found, snapshots, versions)

    def features(self, record: Record) -> Recomputed:
        """The window and daily features of an answer."""
        version = self._versions.of(record)
        if isinstance(version, str):
            return Recomputed({}, (version,))
        values, reasons = dict[str, float | None](), list[str]()
        for windows in version.plan.windows:
            again = self._windows(record, windows, version.plan)
            if isinstance(again, str):
                reasons.append(again)
            else:
                values |= dict(zip(windows.names, again, strict=True))
        for table in version.plan.tables:
            found = self.snapshots.values(table, record.get(f"snapshot_{table.entity}"), record.get(table.id_column))
            if isinstance(found, str):
                reasons.append(found)
            else:
                values |= dict(zip(table.names, found, strict=True))
        return Recomputed(values, tuple(dict.fromkeys(reasons)))

    def _windows(self, record: Record, windows: WindowSet, plan: Plan) -> list[float | None] | str:
        """The window features of an entity at the answer's sequence, or the reason why they cannot be recomputed."""
        layout = windows.layout
        entity_id, sequence = record.get(layout.id_column), record.get(f"sequence_{layout.entity}")
        if record["user_id"] is None and (layout.id_column == "user_id" or VELOCITY_FEATURE in windows.names):
            return NO_USER
        if entity_id is None or sequence is None:
            return DEGRADED if entity_id is not None and record["degraded"] else list(windows.empty)
        own = self.layouts[layout.id]
        before = served_skew.history_before(
            own.orders[entity_id], sequence, id_hash(record["transaction_id"]), record["event_us"], own.values, layout,
            self._longest_us(plan, layout.entity),
        )  # fmt: skip
        if before is None:
            return HISTORY_DROPPED
        if before.unexplained:
            return NOT_LANDED
        stored = [to_stored(column, record[column.name]) for column in layout.columns]
        return windows.evaluate(before.events, before.newest_us, record["event_us"], stored)

    def _longest_us(self, plan: Plan, entity: str) -> int:
        key = plan.hash, entity
        if key not in self._longest:
            self._longest[key] = max(feature.window_us for feature in plan.declaration.windows(entity))
        return self._longest[key]


def _entities(
    records: Iterable[Record], versions: AnsweringVersions
) -> tuple[dict[str, set[str]], dict[str, tuple[Layout, Declaration]], int]:
    """Entity ids by layout id, the layouts with a declaration of theirs, and the time from which events are needed."""
    needed, first_us = defaultdict[str, set[str]](set), 2**62
    layouts = dict[str, tuple[Layout, Declaration]]()
    for record in records:
        version = versions.of(record)
        if isinstance(version, str):
            continue
        for layout in (windows.layout for windows in version.plan.windows):
            entity_id = record.get(layout.id_column)
            if entity_id is not None and record.get(f"sequence_{layout.entity}") is not None:
                layouts[layout.id] = layout, version.plan.declaration
                needed[layout.id].add(entity_id)
                first_us = min(first_us, record["event_us"] - layout.keep_us)
    return needed, layouts, first_us


def _lookups(records: Iterable[Record], versions: AnsweringVersions) -> Iterator[Lookup]:
    for record in records:
        version = versions.of(record)
        if isinstance(version, str):
            continue
        for table in version.plan.tables:
            snapshot, entity_id = record.get(f"snapshot_{table.entity}"), record.get(table.id_column)
            if snapshot is not None and entity_id is not None:
                yield table, snapshot, entity_id


def _declared(versions: AnsweringVersions, record: Record) -> tuple[str, ...]:
    version = versions.of(record)
    return () if isinstance(version, str) else version.plan.columns


def _needed(layout: Layout) -> set[str]:
    return {layout.id_column, *(column.name for column in layout.columns)}


def _values(
    layout: Layout, declaration: Declaration, landed: Sequence[Events], logged: Iterable[Events]
) -> served_skew.Values:
    """The events with the layout's columns: those of the lake, then those of the log, then those of days of the lake
    that were written under a declaration without one of the columns, which is null in them."""
    needed, as_logged = _needed(layout), {layout.id_column, *map(_logged_as, layout.columns)}
    whole, lacking = list[Events](), list[Events]()
    for events in landed:
        (whole if needed <= events.columns else lacking).append(events)
    parts = [*whole, *(events for events in logged if as_logged <= events.columns), *lacking]
    ids = [id_hashes(events.table["transaction_id"].to_pylist()) for events in parts]
    records = [stored_records(as_declared(events.table, declaration), events.event_us, layout) for events in parts]
    return served_skew.values_of(
        np.concatenate([np.zeros(0, np.uint64), *ids]), np.concatenate([np.zeros(0, layout.record), *records])
    )


def _of_entities(
    dataset: DatasetVersion, ids: Mapping[str, set[str]], first: str, columns: frozenset[str], time: str
) -> Iterator[Events]:
    """The rows of these entities from the day `first` on, with their day in `dt`."""
    more = {"model_version", "feature_hash"} if time == "event_us" else set()
    for day in dataset.partitions():
        if day < first:
            continue
        used = columns | more | {*TRANSACTION_COLUMNS, time}
        names = [name for name in dataset.columns(day) if name in used]
        table = _filtered(dataset.read(day, names), ids)
        table = table.append_column("dt", pa.repeat(day, table.num_rows))
        at_us = microseconds(table["event_timestamp"]) if time == "event_timestamp" else table[time].to_numpy()
        yield Events(table, at_us, frozenset(names))


def _of_segments(context: Context, ids: Mapping[str, set[str]]) -> Iterator[Events]:
    for segment in prediction_log.segments(context.settings.prediction_log):
        for part in prediction_log.read(segment, 0, context.declaration):
            table = _filtered(part.table, ids)
            yield Events(table, table["event_us"].to_numpy(), frozenset(table.column_names))


def _filtered(table: pa.Table, ids: Mapping[str, set[str]]) -> pa.Table:
    """The rows with a transaction id and one of these entity ids, by id column."""
    mask = pa.repeat(False, table.num_rows)
    for column, some in ids.items():
        if column in table.column_names:
            mask = pc.or_(mask, pc.is_in(table[column].cast(pa.string()), pa.array(sorted(some), pa.string())))
    return table.filter(pc.and_(mask, pc.is_valid(table["transaction_id"])))


def _of_versions(events: Events, versions: AnsweringVersions) -> Iterator[Events]:
    """Logged events by the version that answered: it logs only columns that it declares, and a text that is not in its
    closed list of a category as unknown."""
    for number in pc.unique(events.table["model_version"]).to_pylist():
        rows = pc.equal(events.table["model_version"], number)
        declared = set[str]()
        if number != RULE:
            try:
                columns = versions.fetched(number).plan.declaration.columns
                declared = {_logged_as(stored_column(name, column)) for name, column in columns.items()}
            except RefusedError:
                declared = set()
        table = events.table.filter(rows)
        at_us = events.event_us[rows.to_numpy()]
        yield Events(table, at_us, frozenset(declared | {*TRANSACTION_COLUMNS}))


def _logged_as(column: StoredColumn) -> str:
    """The name, and what identifies the closed list of a category."""
    return f"{column.name} {column.values}".rstrip()


def _by_columns(parts: Iterable[Events]) -> list[Events]:
    """Concatenate the parts that have the same columns, of the same types."""
    found = defaultdict[tuple[frozenset[str], tuple[Any, ...]], list[Events]](list)
    for events in parts:
        types = tuple(zip(events.table.column_names, events.table.schema.types, strict=True))
        found[events.columns, types].append(events)
    return [
        Events(pa.concat_tables([e.table for e in some]), np.concatenate([e.event_us for e in some]), columns)
        for (columns, _), some in found.items()
    ]
