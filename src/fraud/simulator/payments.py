"""Transactions of Parquet files as the bodies of requests and messages."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fraud.errors import BadInputError

_BUILT_IN: Final = ("transaction_id", "event_timestamp", "user_id", "merchant_id", "amount")


class Payment(NamedTuple):
    """One transaction. `body` is the JSON of POST /predict, without nulls."""

    transaction_id: str
    user_id: str
    """"" for a transaction without a user."""
    body: bytes


def payments(source: Path, declared: Iterable[str], limit: int | None) -> list[Payment]:
    """The transactions of a file, or of all files of a folder, in order of event time.

    A file may lack declared columns. Raises BadInputError when there is none or the source cannot be read.
    """
    if source.is_dir() and (source / "transactions").is_dir():
        source = source / "transactions"
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if not files or not files[0].is_file():
        raise BadInputError(f"{source} has no Parquet file", hint="fraud simulate --hold-back-days 1")
    try:
        table = pa.concat_tables([_read(file, declared) for file in files], promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowTypeError) as error:
        raise BadInputError(f"{source} cannot be read as transactions", got=str(error)) from error
    table = table.sort_by([("event_timestamp", "ascending"), ("transaction_id", "ascending")])
    rows = table.slice(0, limit).to_batches(max_chunksize=10_000)
    found = [payment for batch in rows for payment in _encoded(batch)]
    if not found:
        raise BadInputError(f"{source} has no transactions")
    return found


def _read(file: Path, declared: Iterable[str]) -> pa.Table:
    found = pq.read_schema(file).names
    columns = [*_BUILT_IN, *(name for name in sorted(declared) if name in found)]
    return pq.read_table(file, columns=columns, partitioning=None)


def _encoded(batch: pa.RecordBatch) -> Iterator[Payment]:
    for row in batch.to_pylist():
        at = row["event_timestamp"]
        if at is not None:
            row["event_timestamp"] = at.isoformat()
        given = {name: value for name, value in row.items() if value is not None}
        yield Payment(row["transaction_id"] or "", row["user_id"] or "", json.dumps(given).encode())
