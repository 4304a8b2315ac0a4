"""Load new transactions of the lake into the online store: event histories and Feast's view.

Transactions from POST /predict or the event stream are in the store already and are recognized by id. After a load, the
store records the loaded days with their content hashes. A killed run can therefore be run again, and a lost store is
filled again.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from pydantic import Field

from fraud.core import history
from fraud.core.contract import US_PER_DAY, amounts_units, id_hash
from fraud.core.features import RETENTION_US
from fraud.errors import BadInputError
from fraud.features import online_store
from fraud.features.feast_snapshot import local_snapshot, publish_snapshot, snapshot_path
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.uris import sqlite_url

RETENTION_DAYS = -(-RETENTION_US // US_PER_DAY)
_COLUMNS = ["transaction_id", "user_id", "merchant_id", "event_timestamp", "created_timestamp", "amount"]


class Config(JobConfig):
    """The last day to load."""

    last: date | None = Field(default=None, alias="to", description="last day; default: the last one of the lake")


class Result(JobResult):
    """Counts. rows = appended + repeated + too_late + full."""

    days_loaded: int
    rows: int
    appended: int
    repeated: int
    """In the store before: from POST /predict, the event stream or an earlier run."""
    too_late: int
    """Older than their user's newest event by more than the retention, so in no window."""
    full: int
    """Not loaded, because the history of their user is full and has newer events."""
    last_day: str
    feast_days: int
    """Days that were loaded into Feast's online view."""


def run(config: Config, context: Context) -> Result:
    """Load the changed days. Raises BadInputError without transactions, UnavailableError when the store is down."""
    lake = context.settings.lake_uri
    transactions, features = catalog.TRANSACTIONS.at(lake), catalog.FEATURES.at(lake)
    days = [day for day in transactions.partitions() if config.last is None or day <= config.last.isoformat()]
    if not days:
        raise BadInputError("the lake has no transactions to materialize", hint="fraud ingest")
    last = days[-1]
    first_kept = (date.fromisoformat(last) - timedelta(days=RETENTION_DAYS)).isoformat()
    with online_store.connect(context.settings.redis_url.get_secret_value()) as store:
        changed = _changed(
            transactions, [day for day in days if day >= first_kept], store.materialized(online_store.EVENTS)
        )
        rows, loaded = 0, online_store.Loaded(0, 0, 0, 0)
        if changed:
            context.log.info("loading histories", first=min(changed), last=max(changed), days=len(changed))
            table = pa.concat_tables([transactions.read(day, _COLUMNS) for day in changed])
            rows, loaded = table.num_rows, store.load(_batches(table))
            store.set_materialized(online_store.EVENTS, changed, first_kept)
        feature_days = [day for day in features.partitions() if day <= last]
        changed_features = _changed(features, feature_days, store.materialized(online_store.VIEW))
        if changed_features:
            publish_snapshot(lake, feature_days)
            context.log.info("materializing Feast's view", first=min(changed_features), last=max(changed_features))
            _materialize_view(context, min(changed_features), max(feature_days))
            store.set_materialized(online_store.VIEW, changed_features, min(feature_days))
    return Result(
        days_loaded=len(changed), rows=rows, last_day=last, feast_days=len(changed_features), **loaded._asdict()
    )  # fmt: skip


def _changed(dataset: Dataset, days: list[str], loaded: dict[str, str]) -> dict[str, str]:
    """The days whose content differs from the loaded one, with their content hashes."""
    content = {day: manifest.content_sha256 for day in days if (manifest := dataset.manifest(day))}
    return {day: digest for day, digest in content.items() if loaded.get(day) != digest}


def _batches(table: pa.Table) -> Iterator[online_store.Batch]:
    """One batch per user, ordered by ingestion time. `table` is sorted by event time, ingestion time and id."""
    users = table["user_id"].combine_chunks().dictionary_encode()
    merchants = table["merchant_id"].combine_chunks().dictionary_encode()
    merchant_hashes = np.array([id_hash(text) for text in merchants.dictionary.to_pylist()], dtype=np.uint64)
    created_us = table["created_timestamp"].cast(pa.int64()).to_numpy()
    codes = users.indices.to_numpy()
    order = np.lexsort((created_us, codes))
    records = np.empty(table.num_rows, dtype=history.RECORD)
    records["event_us"] = table["event_timestamp"].cast(pa.int64()).to_numpy()
    records["units"] = amounts_units(table["amount"].to_numpy())
    records["merchant"] = merchant_hashes[merchants.indices.to_numpy()]
    ids = np.array([id_hash(text) for text in table["transaction_id"].to_pylist()], dtype=np.uint64)
    starts = np.searchsorted(codes[order], np.arange(len(users.dictionary) + 1))
    for code, user in enumerate(users.dictionary.to_pylist()):
        own = order[starts[code] : starts[code + 1]]
        yield online_store.Batch(user, records[own], ids[own])


def _materialize_view(context: Context, first: str, last: str) -> None:
    """Materialize the view. A snapshot that is not a local file is read from a copy, with a temporary registry."""
    from fraud.features import feast_store  # noqa: PLC0415 - Feast takes seconds to import

    project, redis_url = context.settings.project, context.settings.redis_url.get_secret_value()
    published = snapshot_path(context.settings.lake_uri)
    store = feast_store.open_store(project, context.settings.feast_registry.get_secret_value(), redis_url)
    feast_store.apply(store, project, published)
    first_us, after_last = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (first, last))
    with local_snapshot(context.settings.lake_uri) as snapshot, TemporaryDirectory() as folder:
        if str(snapshot) != published:
            store = feast_store.open_store(project, sqlite_url(Path(folder) / "registry.db"), redis_url)
            feast_store.apply(store, project, str(snapshot))
        feast_store.materialize_view(store, first_us, after_last + timedelta(days=1, microseconds=-1))
