"""Validation of many transactions at once: the values of `RequestType.validated`, for a batch that is valid.

A batch is checked column by column. What this cannot decide for a whole column, such as an id with other characters, is
left to `RequestType.validated`, which checks one transaction and has the reasons.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import repeat
from operator import attrgetter
from typing import Any, Final

import numpy as np

from fraud.core import contract
from fraud_serving.request import AMOUNT, RequestType, ValidTransaction, VersionColumns
from fraud_serving.schema import ContractError

_LATEST_US: Final = 2**32 * contract.US_PER_SECOND
_of_request: Final = attrgetter(
    "transaction_id", "user_id", "merchant_id", "event_timestamp", "amount", "hour_of_day", "day_of_week"
)


def all_valid(types: RequestType, requests: Sequence[Any], latest_us: int) -> list[ValidTransaction] | None:
    """The transactions of `requests`, each with a user; None if any has to be checked alone.

    `requests` and `latest_us`: as for `RequestType.validated`.
    """
    ids, users, merchants, moments, amounts, *given = zip(*map(_of_request, requests), strict=True)
    if not all(map(_are_plain_ids, (ids, users, merchants))) or None in moments or set().union(*given) != {None}:
        return None
    # Exact: until 2106 the nearest float is less than half a microsecond away.
    event_us = np.rint(np.array(list(map(datetime.timestamp, moments))) * contract.US_PER_SECOND).astype(np.int64)
    of_amounts = np.array(amounts, dtype=np.float64)
    units = contract.amounts_units(of_amounts)
    if (
        event_us.min() < contract.MIN_EVENT_US or event_us.max() > min(latest_us, _LATEST_US)
        or units.min() <= 0 or of_amounts.max() > contract.MAX_AMOUNT
    ):  # fmt: skip
        return None
    amount = (units / contract.UNITS_PER_USD).tolist()
    try:
        values = _values(types.production, requests, amount)
        others = repeat(None) if types.challenger is None else _values(types.challenger, requests, amount)
    except ContractError:
        return None
    hours = event_us // contract.US_PER_HOUR % 24
    weekdays = (event_us // contract.US_PER_DAY + 3) % 7
    return list(
        map(
            ValidTransaction, requests, ids, units.tolist(), event_us.tolist(), hours.tolist(), weekdays.tolist(),
            values, others,
        )
    )  # fmt: skip


def _are_plain_ids(texts: Sequence[str | None]) -> bool:
    """Whether `contract.id_text` returns every text as it is: the rule of its first lines, for all at once."""
    if None in texts:
        return False
    joined = "".join(texts)  # type: ignore[arg-type] # none is None
    if not joined.isascii() or min(map(len, texts)) <= contract.LONGEST_PLAIN:  # type: ignore[arg-type]
        return False
    return joined.isalnum() or (
        joined.replace("-", "").replace("_", "").isalnum() and "".join([text[0] for text in texts]).isalpha()  # type: ignore[index]
    )


def _values(version: VersionColumns, requests: Sequence[Any], amounts: Sequence[float]) -> list[list[Any]]:
    """`VersionColumns.read` of requests whose own ids are plain. Raises ContractError."""
    columns: list[Sequence[Any]] = list(zip(*map(version.get, requests), strict=True))
    columns[AMOUNT] = amounts
    for at, known, check, null, is_id in version.column_checks:
        column = columns[at]
        if known and known.keys() >= set(column):
            continue
        if is_id and ((texts := [value for value in column if value is not None]) == [] or _are_plain_ids(texts)):
            continue
        columns[at] = [
            null if v is None else f if (f := known.get(v)) is not None else check(v) for v in column
        ]  # fmt: skip
    return list(map(list, zip(*columns, strict=True)))
