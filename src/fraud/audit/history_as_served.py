"""Recompute window features as of served answers: the order of events from the online store, the values from the lake.

Only the store has the order in which it received a user's events (`fraud.stats.served_skew`). The values of an event
that has not landed are read from the prediction log.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fraud.audit import prediction_log
from fraud.core import history
from fraud.core.contract import US_PER_DAY, amounts_units, id_hash
from fraud.core.features import RETENTION_US
from fraud.core.windows import WindowValues, evaluate
from fraud.features import online_store
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.settings import Settings
from fraud.stats import served_skew

Record = Mapping[str, Any]
"""One answer of the prediction log. docs/architecture.md lists its fields."""
DEGRADED: Final = "degraded: answered without the online store"
NO_USER: Final = "a request without a user"
HISTORY_DROPPED: Final = "the online store no longer has the history"
NOT_LANDED: Final = "the online store has events that have not landed"
_LANDED: Final = ["transaction_id", "user_id", "merchant_id", "merchant_category", "event_timestamp", "amount",
                  "distance_from_home"]  # fmt: skip
_TEXT: Final = pa.nulls(0, pa.string())  # pa.array([]) would import pandas
_EMPTY: Final = {
    "event_timestamp": pa.nulls(0, pa.timestamp("us", "UTC")), "event_us": pa.nulls(0, pa.int64()),
    "amount": pa.nulls(0, pa.float64()), "distance_from_home": pa.nulls(0, pa.float64()),
}  # fmt: skip
_LOGGED: Final = ["transaction_id", "user_id", "merchant_id", "event_us", "amount"]


def no_windows(record: Record) -> str | None:
    """Reason why the window features of an answer cannot be recomputed; None if they can."""
    if record["degraded"] and record["history"] == "none":
        return DEGRADED
    return None if record["history"] == "store" else NO_USER


@dataclass(frozen=True, slots=True)
class ServedHistory:
    """Histories of the users of some answers. Create it with `load`."""

    orders: dict[str, history.Order]
    landed: pa.Table
    """The users' transactions in the lake, with their day in `dt`."""
    materialized: dict[str, str]
    """Days that materialize loaded into the store, with their content hashes."""
    _values: served_skew.Values

    @classmethod
    def load(cls, settings: Settings, records: Sequence[Record], *, unshipped: bool = False) -> Self:
        """Load the histories for answers whose `no_windows` is None, at least one. Raises UnavailableError.

        `unshipped`: also read serving's log segments, for answers that are not in the lake yet.
        """
        users = sorted({record["user_id"] for record in records})
        first_us = min(record["event_us"] for record in records) - RETENTION_US
        first = str(dt.date(1970, 1, 1) + dt.timedelta(days=first_us // US_PER_DAY))
        landed = _of_users(catalog.TRANSACTIONS.at(settings.lake_uri), _LANDED, users, first)
        # No event is served before its event time, so the first day is the same.
        logged = _of_users(catalog.PREDICTIONS.at(settings.lake_uri), _LOGGED, users, first)
        with online_store.connect(settings.redis_url.get_secret_value()) as store:
            orders = dict(store.orders(users))
            materialized = store.materialized(online_store.EVENTS)
        parts = [_events(landed, event_us(landed)), _events(logged, logged["event_us"].to_numpy())]
        if unshipped:
            parts += [_events(table, table["event_us"].to_numpy()) for table in _of_segments(settings, users)]
        ids, events = (np.concatenate(both) for both in zip(*parts, strict=True))
        return cls(orders, landed, materialized, served_skew.values_of(ids, events))

    def windows(self, record: Record) -> WindowValues | str:
        """The window features at the sequence of an answer, or the reason why they cannot be recomputed."""
        before = served_skew.history_before(
            self.orders[record["user_id"]], record["sequence"], id_hash(record["transaction_id"]), record["event_us"],
            self._values,
        )  # fmt: skip
        if before is None:
            return HISTORY_DROPPED
        if before.unexplained:
            return NOT_LANDED
        return evaluate(before.events, before.newest_us, record["event_us"])


def event_us(landed: pa.Table) -> NDArray[np.int64]:
    """event_timestamp in us since 1970, int64[n]."""
    values: NDArray[np.int64] = landed["event_timestamp"].cast(pa.int64()).to_numpy()
    return values


def id_hashes(ids: Iterable[str]) -> NDArray[np.uint64]:
    """Hashes of ids, uint64[n]."""
    return np.fromiter((id_hash(text) for text in ids), dtype=np.uint64)


def _of_users(dataset: Dataset, columns: list[str], users: list[str], first: str) -> pa.Table:
    """The rows of these users from the day `first` on, with their day in `dt`."""
    of_users, tables = pa.array(users), []
    for day in dataset.partitions():
        if day >= first:
            table = dataset.read(day, columns)
            table = table.filter(pc.is_in(table["user_id"], of_users))
            tables.append(table.append_column("dt", pa.repeat(day, table.num_rows)))
    return (
        pa.concat_tables(tables) if tables else pa.table({name: _EMPTY.get(name, _TEXT) for name in (*columns, "dt")})
    )


def _of_segments(settings: Settings, users: list[str]) -> Iterator[pa.Table]:
    for segment in prediction_log.segments(settings.prediction_log):
        for part in prediction_log.read(segment, 0):
            table = part.table.select(_LOGGED)
            yield table.filter(pc.is_in(table["user_id"], pa.array(users)))


def _events(table: pa.Table, at_us: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.void]]:
    """Id hashes, uint64[n], and history.RECORD[n] of a table's events."""
    records = np.empty(table.num_rows, dtype=history.RECORD)
    records["event_us"] = at_us
    records["units"] = amounts_units(table["amount"].to_numpy())
    records["merchant"] = id_hashes(table["merchant_id"].to_pylist())
    return id_hashes(table["transaction_id"].to_pylist()), records
