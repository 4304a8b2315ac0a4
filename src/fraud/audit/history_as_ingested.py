"""Recompute window features from the lake's transactions in the order of their ingestion time, one event at a time.

The batch engines compute the same values for all rows at once. This module uses the point function of the request path
instead, so that replay compares both.
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
    """Transactions and their window features. Create it with `load`."""

    def __init__(self, windows: Mapping[str, WindowValues], rows: pa.Table) -> None:
        self.windows = windows
        """By transaction_id. A missing transaction is not in the lake."""
        self.rows = rows

    @classmethod
    def load(cls, lake_uri: str, users: Collection[str], transaction_ids: Collection[str]) -> Self:
        """Read all transactions of `users`; compute the window features of `transaction_ids`."""
        dataset, of_users = catalog.TRANSACTIONS.at(lake_uri), pa.array(sorted(users), pa.string())
        tables = [dataset.read(day, _COLUMNS) for day in dataset.partitions()]
        own = [table.filter(pc.is_in(table["user_id"], of_users)) for table in tables]
        rows = pa.concat_tables(own).sort_by([(key, "ascending") for key in _ORDER])
        selected = set(transaction_ids)
        is_selected = pc.is_in(rows["transaction_id"], pa.array(sorted(selected), pa.string()))
        return cls(_windows(rows, selected), rows.filter(is_selected))


def _windows(rows: pa.Table, selected: Collection[str]) -> dict[str, WindowValues]:
    """Window features of the selected rows. `rows` are sorted by user, then by ingestion time."""
    records = np.empty(rows.num_rows, dtype=history.RECORD)
    records["event_us"] = rows["event_timestamp"].cast(pa.int64()).to_numpy()
    records["units"] = amounts_units(rows["amount"].to_numpy())
    records["merchant"] = np.fromiter((id_hash(m) for m in rows["merchant_id"].to_pylist()), dtype=np.uint64)
    found: dict[str, WindowValues] = {}
    user: Any = None
    newest_us, events = 0, list[int]()
    for i, (name, transaction) in enumerate(
        zip(rows["user_id"].to_pylist(), rows["transaction_id"].to_pylist(), strict=True)
    ):
        if name != user:
            user, newest_us, events = name, 0, []
        at_us = int(records["event_us"][i])
        if transaction in selected:
            found[transaction] = evaluate(records[events[-MAX_EVENTS:]], newest_us, at_us)
        if at_us >= newest_us - RETENTION_US:
            events.append(i)
            newest_us = max(newest_us, at_us)
    return found
