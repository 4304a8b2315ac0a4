"""What was known of users when serving answered: the order from the online store, the values from the lake.

The store alone knows in which order it learned of a user's events; what they were came to the lake on another way
(`fraud.stats.served_skew`). An event that has not landed is taken from the log of the answer that was given for it.
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
"""One answer of the prediction log: docs/architecture.md names its fields."""
DEGRADED: Final = "degraded: answered without the online store"
NO_USER: Final = "a request without a user"
FORGOTTEN: Final = "the online store no longer knows what was known"
UNEXPLAINED: Final = "the online store knows events that have not landed"
_LANDED: Final = ["transaction_id", "user_id", "merchant_id", "merchant_category", "event_timestamp", "amount",
                  "distance_from_home"]  # fmt: skip
_TEXT: Final = pa.nulls(0, pa.string())  # pa.array([]) would import pandas
_EMPTY: Final = {
    "event_timestamp": pa.nulls(0, pa.timestamp("us", "UTC")), "event_us": pa.nulls(0, pa.int64()),
    "amount": pa.nulls(0, pa.float64()), "distance_from_home": pa.nulls(0, pa.float64()),
}  # fmt: skip
_LOGGED: Final = ["transaction_id", "user_id", "merchant_id", "event_us", "amount"]


def no_windows(record: Record) -> str | None:
    """Why an answer has no window features to recompute; None when it has."""
    if record["degraded"] and record["history"] == "none":
        return DEGRADED
    return None if record["history"] == "store" else NO_USER


@dataclass(frozen=True, slots=True)
class ServedHistory:
    """Histories of the users of some answers. Make it with `load`."""

    orders: dict[str, served_skew.Order]
    landed: pa.Table
    """The users' transactions in the lake; `dt` says which day each is of."""
    materialized: dict[str, str]
    """Days that the store says it loaded, with their content hashes."""
    _values: served_skew.Values

    @classmethod
    def load(cls, settings: Settings, records: Sequence[Record], *, unshipped: bool = False) -> Self:
        """For answers that `no_windows` lets pass, at least one. Raises UnavailableError.

        `unshipped`: look at serving's own segments too, for answers that have not come to the lake yet.
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
        """The window values of an answer as known at its sequence, or why nobody can tell any more."""
        known = served_skew.history_before(
            self.orders[record["user_id"]], record["sequence"], id_hash(record["transaction_id"]), record["event_us"],
            self._values,
        )  # fmt: skip
        if known is None:
            return FORGOTTEN
        if known.unexplained:
            return UNEXPLAINED
        return evaluate(known.events, known.newest_us, record["event_us"])


def event_us(landed: pa.Table) -> NDArray[np.int64]:
    """event_timestamp in us since 1970, int64[n]."""
    values: NDArray[np.int64] = landed["event_timestamp"].cast(pa.int64()).to_numpy()
    return values


def id_hashes(ids: Iterable[str]) -> NDArray[np.uint64]:
    """uint64[n]."""
    return np.fromiter((id_hash(text) for text in ids), dtype=np.uint64)


def _of_users(dataset: Dataset, columns: list[str], users: list[str], first: str) -> pa.Table:
    """The rows of these users in the days from `first` on; `dt` says which day each is of."""
    searched, tables = pa.array(users), []
    for day in dataset.partitions():
        if day >= first:
            table = dataset.read(day, columns)
            table = table.filter(pc.is_in(table["user_id"], searched))
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
    """Id hashes and history.RECORD of a table's events."""
    records = np.empty(table.num_rows, dtype=history.RECORD)
    records["event_us"] = at_us
    records["units"] = amounts_units(table["amount"].to_numpy())
    records["merchant"] = id_hashes(table["merchant_id"].to_pylist())
    return id_hashes(table["transaction_id"].to_pylist()), records
