"""Compare Feast's point-in-time values with rows of `features`, view by view.

Feast has no row for a transaction without the entity's id, where the lake has the values of an empty history or of no
snapshot, nor for an entity that is not in the night's snapshot, where the lake has the default row. Feast's value must
then be null, and the lake's value the stated one.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.core.contract import US_PER_DAY
from fraud.core.daily import Table
from fraud.core.declaration import Declaration
from fraud.errors import BadInputError
from fraud.features import feast_snapshot
from fraud.features.engines.arrow_records import microseconds
from fraud.features.feast_snapshot import View
from fraud.job import Context
from fraud.lake import catalog
from fraud.uris import sqlite_url

_EPOCH = date(1970, 1, 1)


def compare(context: Context, declaration: Declaration, rows: pa.Table) -> dict[str, int]:
    """Number of rows on which Feast differs in a bit, by feature. `rows`: of `features`, ingested before a cut-off.

    Feast reads a temporary registry and snapshots that end with `rows`. Its key is (id, event time). Rows with the same
    key get the values of the last one, and are compared with that row. Raises BadInputError when Feast loses a row.
    """
    from fraud.features import feast_store  # noqa: PLC0415 - Feast takes seconds to import

    settings, views = context.settings, feast_snapshot.views(declaration)
    days = _days(rows)
    with TemporaryDirectory(prefix="fraud-feast-") as folder:
        for view in views:
            path = Path(folder) / view.file
            if view.table is None:
                feast_snapshot.write_windows(path, view, [rows], compression="none")
            else:
                dataset = catalog.daily(view.table).at(settings.lake_uri).open()
                held = sorted({_held(view.table, day, offset) for day in days for offset in (0, 1)})
                published = [day for day in held if dataset.partition(day)]
                feast_snapshot.write_daily(path, view.table, dataset, published, compression="none")
        store = feast_store.open_store(
            settings.project, sqlite_url(Path(folder) / "registry.db"), settings.redis_url.get_secret_value()
        )
        feast_store.apply(store, settings.project, declaration, folder)
        ids = sorted({view.id_column for view in views})
        events = rows.select(["event_timestamp", *ids]).append_column("row", pa.array(np.arange(rows.num_rows)))
        joined = feast_store.point_in_time(store, declaration, events)
    if joined.num_rows != rows.num_rows:
        raise BadInputError(
            "Feast returned another number of rows", expected=f"{rows.num_rows} rows", got=f"{joined.num_rows} rows"
        )
    order = joined["row"].to_numpy()
    if np.any(np.diff(order) < 0):
        joined = joined.take(np.argsort(order, kind="stable"))
    return differences(settings.lake_uri, views, rows, joined)


def differences(lake_uri: str, views: Sequence[View], rows: pa.Table, joined: pa.Table) -> dict[str, int]:
    """Number of rows that differ, by feature. `joined`: Feast's values of `rows`, in the same order."""
    wrong = {}
    for view in views:
        without = pc.is_null(rows[view.id_column]).to_numpy()
        if view.table is None:
            last = feast_snapshot.last_of_key(rows, view.id_column)
            for feature in view.features:
                ours = _numbers(rows[feature.name])[last]
                empty = np.nan if feature.empty is None else feature.empty
                wrong[feature.name] = _wrong(ours, _numbers(joined[feature.name]), without, np.full(len(ours), empty))
            continue
        stated, has_row = _defaults(lake_uri, view.table, rows)
        for i, feature in enumerate(view.features):
            ours = _numbers(rows[feature.name])
            wrong[feature.name] = _wrong(ours, _numbers(joined[feature.name]), ~has_row, stated[i])
    return wrong


def _wrong(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], without: NDArray[np.bool_], stated: NDArray[np.float64]
) -> int:
    """Rows where Feast, or where it has no row the stated value, differs. Null is NaN."""
    right = np.where(without, _equal(ours, stated) & np.isnan(theirs), _equal(ours, theirs))
    return int(np.count_nonzero(~right))


def _equal(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    equal: NDArray[np.bool_] = (one == other) | (np.isnan(one) & np.isnan(other))
    return equal


def _defaults(lake_uri: str, table: Table, rows: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """For n transactions: the values without a row, float64[len(table.names), n], and whether there is a row."""
    dataset, ids = catalog.daily(table).at(lake_uri).open(), rows[table.id_column].combine_chunks()
    days = (microseconds(rows["event_timestamp"]) - table.available_us) // US_PER_DAY
    stated = np.empty((len(table.names), len(ids)))
    stated[:] = np.array([[np.nan if value is None else value] for value in table.empty])
    has_row = np.zeros(len(ids), dtype=bool)
    for day in np.unique(days).tolist():
        name = (_EPOCH + timedelta(day)).isoformat()
        if dataset.partition(name) is None:
            continue
        at = np.flatnonzero(days == day)
        snapshot = dataset.read(name, [table.id_column, *table.names])
        known = snapshot[table.id_column].combine_chunks()
        here = ids.take(pa.array(at))
        given = pc.is_valid(here).to_numpy(zero_copy_only=False)
        has_row[at] = pc.is_in(here, value_set=known.drop_null()).to_numpy(zero_copy_only=False) & given
        default = snapshot.filter(pc.is_null(known))
        for i, feature in enumerate(table.names if default.num_rows else ()):
            stated[i, at[given]] = _numbers(default[feature])[0]
    return stated, has_row


def _days(rows: pa.Table) -> list[int]:
    """The event days of rows, since 1970."""
    found: list[int] = np.unique(microseconds(rows["event_timestamp"]) // US_PER_DAY).tolist()
    return found


def _held(table: Table, day: int, offset: int) -> str:
    """A day whose snapshot holds at some time of an event day: the same one, or the one before."""
    return (_EPOCH + timedelta(day - offset if table.available_us else day)).isoformat()


def _numbers(values: pa.ChunkedArray | pa.Array) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = pc.fill_null(pc.cast(values, pa.float64()), float("nan")).to_numpy()
    return numbers
