"""Load new transactions and daily snapshots of the lake into the online store, and Feast's views.

Histories are loaded per layout, beside the layouts that are in use. Transactions from POST /predict or the event stream
are in the store already and are recognized by id. After a load, the store records the loaded days with their content
hashes: a killed run can be run again, and a lost store is filled again. Layouts and daily tables that no live
declaration needs are removed at the end.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import Declaration
from fraud.core.history import Layout
from fraud.core.plan import tables, window_sets
from fraud.errors import BadInputError
from fraud.features import online_store
from fraud.features.engines.arrow_records import as_declared, id_hashes, microseconds, stored_records
from fraud.features.engines.daily_parts import read_columns
from fraud.features.online_store import Batch, Loaded, OnlineHistory
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import DatasetVersion
from fraud.streams.redis_errors import store_errors
from fraud.uris import sqlite_url

VIEW = "materialized:view:"
"""Beginning of the keys of the days that were loaded into Feast's views."""


class Config(JobConfig):
    """The last day to load, and the declarations: the project's, and with `live` those of versions with an alias."""

    last: date | None = Field(default=None, alias="to", description="last day; default: the last one of the lake")
    live: bool = Field(
        default=False,
        description="also load for versions with an alias, and remove what neither they nor the project need",
    )


class History(BaseModel):
    """What was loaded for one layout. rows = appended + repeated + too_late + full + without_entity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entity: str
    layout: str
    days: int
    rows: int
    appended: int
    repeated: int
    """In the store before: from POST /predict, the event stream or an earlier run."""
    too_late: int
    """Older than their entity's newest event by more than its `keep`, so in no window."""
    full: int
    """Not loaded, because the history of their entity is full and has newer events."""
    without_entity: int
    """Transactions whose id column is null."""


class Daily(BaseModel):
    """What was published for one daily table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    entity: str
    table: str
    snapshots: int
    rows: int
    newest_day: str


class Result(JobResult):
    """Counts over all histories and tables. rows = appended + repeated + too_late + full + without_entity."""

    days_loaded: int
    rows: int
    appended: int
    repeated: int
    too_late: int
    full: int
    without_entity: int
    last_day: str
    histories: list[History]
    tables: list[Daily]
    removed: list[str]
    """Layouts and daily tables that were removed."""
    feast_days: int
    """Days that were loaded into Feast's online views."""


def run(config: Config, context: Context) -> Result:
    """Load the changed days. Raises BadInputError without transactions, UnavailableError when the store is down."""
    lake = context.settings.lake_uri
    transactions = catalog.TRANSACTIONS.at(lake).open()
    days = [day for day in transactions.partitions() if config.last is None or day <= config.last.isoformat()]
    if not days:
        raise BadInputError("the lake has no transactions to materialize", hint="fraud ingest")
    declared = [context.declaration, *(context.live_declarations() if config.live else ())]
    with online_store.connect(context.settings.redis_url.get_secret_value()) as store:
        layouts = {s.layout.id: (s.layout, declaration) for declaration in declared for s in window_sets(declaration)}
        histories = [_load_history(store, transactions, *each, days, context) for each in layouts.values()]
        daily = {table.id: table for declaration in declared for table in tables(declaration)}
        published = []
        for table in daily.values():
            made = online_store.publish_daily(store, lake, table)
            context.log.info("daily table published", entity=table.entity, table=table.id, **made._asdict())
            published.append(Daily(entity=table.entity, table=table.id, **made._asdict()))
        feast_days = _load_views(context, store, days[-1])
        removed = _removed(store, context, {*layouts}, {*daily}) if config.live else []
    totals = Counter[str]()
    for history in histories:
        totals.update(history.model_dump(exclude={"entity", "layout"}))
    return Result(
        days_loaded=totals["days"], rows=totals["rows"], appended=totals["appended"], repeated=totals["repeated"],
        too_late=totals["too_late"], full=totals["full"], without_entity=totals["without_entity"], last_day=days[-1],
        histories=histories, tables=published, removed=removed, feast_days=feast_days,
    )  # fmt: skip


def _load_history(
    store: OnlineHistory, transactions: DatasetVersion, layout: Layout, declaration: Declaration, days: Sequence[str],
    context: Context,
) -> History:  # fmt: skip
    """Load the days of a layout's retention that changed."""
    keep_days = -(-layout.keep_us // US_PER_DAY)
    first_kept = (date.fromisoformat(days[-1]) - timedelta(days=keep_days)).isoformat()
    changed = _changed(transactions, [d for d in days if d >= first_kept], store.materialized(layout.materialized_key))
    rows, loaded, without = 0, Loaded(0, 0, 0, 0), 0
    if changed:
        context.log.info("loading a history", entity=layout.entity, layout=layout.id, first=min(changed),
                         last=max(changed), days=len(changed))  # fmt: skip
        columns = ["transaction_id", "event_timestamp", "created_timestamp", layout.id_column]
        columns += [column.name for column in layout.columns]
        uris = [uri for day in changed for uri in transactions.object_uris(day)]
        table = read_columns(uris, list(dict.fromkeys(columns)))
        rows = table.num_rows
        if layout.id_column in table.column_names:
            table = table.filter(pc.is_valid(table[layout.id_column]))
            store.mark_written(f"layout:{layout.id}")
            loaded = store.load(layout, _batches(as_declared(table, declaration), layout))
            without = rows - table.num_rows
        else:
            without = rows
        # Written last: a layout with this key is complete, and the gate `online_state` reads it.
        store.set_materialized(layout.materialized_key, changed, first_kept)
    return History(
        entity=layout.entity, layout=layout.id, days=len(changed), rows=rows, without_entity=without,
        **loaded._asdict(),
    )  # fmt: skip


def _changed(dataset: DatasetVersion, days: list[str], loaded: dict[str, str]) -> dict[str, str]:
    """The days whose content differs from the loaded one, with their content hashes."""
    content = {day: partition.content_sha256 for day in days if (partition := dataset.partition(day))}
    return {day: digest for day, digest in content.items() if loaded.get(day) != digest}


def _batches(table: pa.Table, layout: Layout) -> Iterator[Batch]:
    """One batch per entity, ordered by ingestion time. `table` is sorted by event time, ingestion time and id."""
    if not table.num_rows:
        return
    entities = table[layout.id_column].cast(pa.string()).combine_chunks().dictionary_encode()
    codes = entities.indices.to_numpy()
    created_us = microseconds(table["created_timestamp"])
    order = np.lexsort((created_us, codes))
    records = stored_records(table, microseconds(table["event_timestamp"]), layout)
    ids = id_hashes(table["transaction_id"].to_pylist())
    starts = np.searchsorted(codes[order], np.arange(len(entities.dictionary) + 1))
    for code, entity in enumerate(entities.dictionary.to_pylist()):
        own = order[starts[code] : starts[code + 1]]
        yield Batch(entity, records[own], ids[own])


def _removed(store: OnlineHistory, context: Context, layouts: set[str], daily: set[str]) -> list[str]:
    """Remove layouts and tables that are not needed. Returns the members of `online_store.WRITTEN`.

    The record of loaded days is removed first, so that the gate `online_state` fails for a version that needs it. The
    declarations are then read again: an alias that was set meanwhile keeps its layout, and the next run checks it.
    """
    needed = {f"layout:{id_}" for id_ in layouts} | {f"table:{id_}" for id_ in daily}
    dead = sorted(m for m in store.written() - needed if m.startswith(("layout:", "table:")))
    if not dead:
        return []
    with store_errors("the online store"):
        for member in dead:
            if member.startswith("layout:"):
                store.client.delete(f"materialized:{member.removeprefix('layout:')}")
    now_live = context.live_declarations()
    kept = {f"layout:{s.layout.id}" for declaration in now_live for s in window_sets(declaration)}
    kept |= {f"table:{table.id}" for declaration in now_live for table in tables(declaration)}
    gone = [member for member in dead if member not in kept]
    for member in gone:
        kind, _, id_ = member.partition(":")
        if kind == "layout":
            count = store.remove(member, [f"h:{id_}:", f"i:{id_}:"])
        else:
            count = online_store.remove_daily(store, id_)
        context.log.info("removed from the online store", what=member, keys=count)
    return gone


def _load_views(context: Context, store: OnlineHistory, last: str) -> int:
    """Publish the snapshot files of the project's views, and load the changed ones. Returns the number of days."""
    from fraud.features.feast_snapshot import publish_snapshots  # noqa: PLC0415

    features = catalog.features(context.declaration.stored_hash).at(context.settings.lake_uri)
    days = [day for day in features.partitions() if day <= last]
    if not days:
        return 0
    found = publish_snapshots(context.settings.lake_uri, context.declaration, days)
    changed: dict[str, dict[str, str]] = {}
    for view, named in found.items():
        loaded = store.materialized(VIEW + view)
        new = {day: digest for day, digest in named.items() if loaded.get(day) != digest}
        changed |= {view: new} if new else {}
    if changed:
        first = min(min(new) for new in changed.values())
        context.log.info("loading Feast's views", views=sorted(changed), first=first, last=last)
        _materialize_views(context, sorted(changed), first, last)
        for view, new in changed.items():
            store.set_materialized(VIEW + view, new, min(days))
    return len({day for new in changed.values() for day in new})


def _materialize_views(context: Context, names: list[str], first: str, last: str) -> None:
    """Load views by name. Snapshots that are not local files are read from copies, with a temporary registry."""
    from fraud.features import feast_store  # noqa: PLC0415 - Feast takes seconds to import
    from fraud.features.feast_snapshot import local_snapshots, snapshot_folder, views  # noqa: PLC0415

    project, redis_url = context.settings.project, context.settings.redis_url.get_secret_value()
    declaration, published = context.declaration, snapshot_folder(context.settings.lake_uri)
    store = feast_store.open_store(project, context.settings.feast_registry.get_secret_value(), redis_url)
    feast_store.apply(store, project, declaration, published)
    first_us, after_last = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (first, last))
    with (
        local_snapshots(context.settings.lake_uri, views(declaration)) as folder,
        TemporaryDirectory() as temporary,
    ):
        if folder != published:
            store = feast_store.open_store(project, sqlite_url(Path(temporary) / "registry.db"), redis_url)
            feast_store.apply(store, project, declaration, folder)
        feast_store.materialize(store, names, first_us, after_last + timedelta(days=1, microseconds=-1))
