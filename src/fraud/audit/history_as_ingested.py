"""What the lake knew of users at each of their transactions: the meaning in `core.features`, one event after the other.

The batch engines compute the same for all rows at once; this is the slow way, over the point function that answers
requests, so that the one can be held against the other.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud.core import history
from fraud.core.contract import amounts_units, id_hash
from fraud.core.features import MAX_EVENTS, RETENTION_US
from fraud.core.windows import WindowValues, evaluate
from fraud.lake import catalog

_COLUMNS: Final = ["transaction_id", "user_id", "merchant_id", "merchant_category", "event_timestamp",
                   "created_timestamp", "amount", "distance_from_home"]  # fmt: skip
_ORDER: Final = ("user_id", "created_timestamp", "event_timestamp", "transaction_id")


class LakeHistory:
    """The window values of some transactions, and the transactions. Make it with `load`."""

    def __init__(self, windows: Mapping[str, WindowValues], rows: pa.Table) -> None:
        self.windows = windows
        """By transaction_id; one that is not there is not in the lake."""
        self.rows = rows

    @classmethod
    def load(cls, lake_uri: str, users: Collection[str], transaction_ids: Collection[str]) -> Self:
        """Read all that the lake has of `users`; the values are those of the transactions asked for."""
        dataset, of_users = catalog.TRANSACTIONS.at(lake_uri), pa.array(sorted(users), pa.string())
        tables = [dataset.read(day, _COLUMNS) for day in dataset.partitions()]
        own = [table.filter(pc.is_in(table["user_id"], of_users)) for table in tables]
        rows = pa.concat_tables(own).sort_by([(key, "ascending") for key in _ORDER])
        expected = set(transaction_ids)
        is_wanted = pc.is_in(rows["transaction_id"], pa.array(sorted(expected), pa.string()))
        return cls(_windows(rows, expected), rows.filter(is_wanted))


def _windows(rows: pa.Table, expected: Collection[str]) -> dict[str, WindowValues]:
    """Take the rows (by user, then as they were learned of) in, one by one; the values of those wanted."""
    records = np.empty(rows.num_rows, dtype=history.RECORD)
    records["event_us"] = rows["event_timestamp"].cast(pa.int64()).to_numpy()
    records["units"] = amounts_units(rows["amount"].to_numpy())
    records["merchant"] = np.fromiter((id_hash(m) for m in rows["merchant_id"].to_pylist()), dtype=np.uint64)
    found: dict[str, WindowValues] = {}
    user: Any = None
    newest_us, taken = 0, list[int]()
    for i, (name, transaction) in enumerate(
        zip(rows["user_id"].to_pylist(), rows["transaction_id"].to_pylist(), strict=True)
    ):
        if name != user:
            user, newest_us, taken = name, 0, []
        at_us = int(records["event_us"][i])
        if transaction in expected:
            found[transaction] = evaluate(records[taken[-MAX_EVENTS:]], newest_us, at_us)
        if at_us >= newest_us - RETENTION_US:
            taken.append(i)
            newest_us = max(newest_us, at_us)
    return found
