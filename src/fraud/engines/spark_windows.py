"""The same windows on a cluster: the compiled kernel inside grouped Arrow batches, one group per shard of users.

No SQL window: rows are shuffled by user, and each group goes through the kernel of the one-machine build. A row is
known by its *position*, an int64 that orders rows as `arrow_windows.window_values` wants them; what leaves a group
are positions and values, so the other columns of a transaction are never shuffled.
"""

from typing import TYPE_CHECKING, Final
from zlib import crc32

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud.core.contract import amounts_units
from fraud.core.features import WINDOW_NAMES
from fraud.engines import kernel
from fraud.engines.arrow_windows import check_order, merchant_hashes, microseconds

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

EVENTS: Final = (
    "shard int, user_id string, position long, event_us long, learned_us long, units long, merchant long, "
    "wanted boolean"
)
"""What the kernel needs of a transaction, and whether its own values are asked for."""
VALUES: Final = "position long, " + ", ".join(f"{name} double" for name in WINDOW_NAMES)
"""Null as NaN."""


def events(table: pa.Table, positions: NDArray[np.int64], shards: int, *, wanted: bool) -> pa.RecordBatch:
    """Rows of `EVENTS` for a day's transactions (`arrow_windows.COLUMNS`, no nulls). A user is in one shard.

    Raises BadInputError when the rows are not in order.
    """
    event_us, learned_us = microseconds(table["event_timestamp"]), microseconds(table["created_timestamp"])
    check_order(event_us, learned_us)
    users = table["user_id"].combine_chunks().dictionary_encode()
    shard_of = np.array([crc32(user.encode()) % shards for user in users.dictionary.to_pylist()], dtype=np.int32)
    return pa.record_batch(
        {
            "shard": shard_of[users.indices.to_numpy()],
            "user_id": users.cast(pa.string()),
            "position": positions,
            "event_us": event_us,
            "learned_us": learned_us,
            "units": amounts_units(table["amount"].to_numpy()),
            "merchant": merchant_hashes(table["merchant_id"]).view(np.int64),
            "wanted": pa.repeat(pa.scalar(wanted), table.num_rows),
        }
    )


def window_values(rows: "DataFrame") -> "DataFrame":
    """`VALUES` of the rows of `EVENTS` that are wanted, in any order.

    `rows` must hold everything that was known of its users and can still lie in a window. A task holds one shard, some
    50 bytes a row.
    """
    return rows.groupBy("shard").applyInArrow(_values_of_shard, VALUES)


def _values_of_shard(shard: pa.Table) -> pa.Table:
    order = np.argsort(shard["position"].to_numpy(), kind="stable")
    users = shard["user_id"].combine_chunks().dictionary_encode()
    starts, grouped = kernel.group(users.indices.to_numpy()[order], len(users.dictionary))
    order = order[grouped]
    merchants = shard["merchant"].combine_chunks().dictionary_encode()
    event_us, learned_us, units, position, wanted = (
        shard[name].to_numpy()[order] for name in ("event_us", "learned_us", "units", "position", "wanted")
    )
    merchant = merchants.indices.to_numpy()[order]
    values = kernel.compute(starts, event_us, learned_us, units, merchant, len(merchants.dictionary))
    columns = {name: column[wanted] for name, column in zip(WINDOW_NAMES, values, strict=True)}
    return pa.table({"position": position[wanted], **columns})
