"""The history of one transaction: its window features, and the store's reply they are computed from."""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from fraud.core import history as stored_history
from fraud.core import windows
from fraud.core.features import WINDOW_FEATURES
from fraud_serving.schema import HistorySource, Transaction, ValidTransaction
from fraud_serving.store.connection import Reply
from fraud_serving.store.store import Store

ROWS_PER_ITERATION: Final = 200
"""Rows of a batch that are processed in one event-loop iteration, so that single requests are answered meanwhile."""
_EMPTY: Final[windows.WindowValues] = tuple(feature.empty for feature in WINDOW_FEATURES)


class UserHistory(NamedTuple):
    """Window features of one transaction, their source, and the event's place in the user's stored history."""

    windows: windows.WindowValues
    source: HistorySource
    sequence: int | None = None
    newest_us: int | None = None
    repeated: bool = False
    store_failed: bool = False


_NONE: Final = UserHistory(_EMPTY, "none")
_STORE_FAILED: Final = UserHistory(_EMPTY, "none", store_failed=True)


def history_from_request(request: Transaction) -> UserHistory:
    """The history of a request without `user_id`."""
    if request.transaction_velocity is None:
        return _NONE
    return UserHistory((request.transaction_velocity, *_EMPTY[1:]), "request")


def append_event(store: Store, transaction: ValidTransaction) -> "asyncio.Future[Reply] | None":
    """Append a transaction with `user_id` to its history; the result is the argument of `history_from_reply`."""
    request = transaction.request
    # `schema.validated` has checked that a request with user_id has the other fields.
    return store.append(
        request.user_id, request.transaction_id, transaction.event_us, transaction.units, request.merchant_id  # type: ignore[arg-type]
    )  # fmt: skip


def history_from_reply(transaction: ValidTransaction, reply: Reply) -> UserHistory:
    """The stored history before the transaction. `reply` is None if the store did not answer in time."""
    if reply is None:
        return _STORE_FAILED
    stored = stored_history.prior_history(reply)
    values = windows.evaluate(stored.events, stored.newest_us, transaction.event_us or 0)
    return UserHistory(values, "store", stored.sequence, stored.newest_us, stored.repeated)


async def histories_of(store: Store, rows: Sequence[ValidTransaction]) -> list[UserHistory]:
    """The history of every row. Earlier rows of the same user are in the history of later ones."""
    histories: list[UserHistory] = []
    for start in range(0, len(rows), ROWS_PER_ITERATION):
        part = rows[start : start + ROWS_PER_ITERATION]
        futures = [None if row.request.user_id is None else append_event(store, row) for row in part]
        for row, future in zip(part, futures, strict=True):
            if row.request.user_id is None:
                histories.append(history_from_request(row.request))
            else:
                histories.append(history_from_reply(row, None if future is None else await future))
        await asyncio.sleep(0)
    return histories
