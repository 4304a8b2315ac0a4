"""Build the point-in-time training set: features at each transaction, labels received before a cut-off.

Feast joins the features (feature service fraud_detector_v1) over the rows with an ingestion time before the cut-off.
The result is compared with the features of the lake, row by row. The job fails if any value differs.
"""

import importlib
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from fraud.core.declaration import Declaration
from fraud.errors import BadInputError, UnavailableError
from fraud.features import build_daily, build_features
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import DatasetVersion, conformed
from fraud.lake.labels import labels_as_of
from fraud.lake.records import Partition


class Config(JobConfig):
    """Cut-off of the training set."""

    as_of: date | None = Field(default=None, description="cut-off: the end of this day; default the lake's last day")


class Result(JobResult):
    """The snapshot and its content."""

    snapshot: str
    rows: int
    frauds: int
    first_day: str
    last_day: str
    cut_off: datetime
    """Rows and labels with an ingestion time from here on are not included."""
    content_sha256: str
    feature_rows_compared: int
    """Rows on which Feast and the lake agree; 0 when the snapshot existed already."""


def run(config: Config, context: Context) -> Result:
    """Build the snapshot, or find it.

    Raises UnavailableError when features are older than the transactions or labels of the lake, BadInputError when they
    differ from Feast's.
    """
    lake, declaration = context.settings.lake_uri, context.declaration
    transactions, labels = catalog.TRANSACTIONS.at(lake).open(), catalog.LABELS.at(lake).open()
    features = catalog.features(declaration.stored_hash).at(lake).open()
    published = transactions.partitions()
    if not published:
        raise BadInputError("the lake has no transactions to train on", hint="fraud ingest")
    as_of = config.as_of or date.fromisoformat(published[-1])
    cut_off = datetime(as_of.year, as_of.month, as_of.day, tzinfo=UTC) + timedelta(days=1)
    last_mature = (as_of - timedelta(days=context.params.labels.maturity_days)).isoformat()
    days = [day for day in published if features.retention_watermark() <= day <= last_mature]
    if not days:
        raise BadInputError(
            f"no transaction is mature at {cut_off:%Y-%m-%d}",
            expected=f"transactions up to {last_mature}", got=f"{published[0]} .. {published[-1]}",
        )  # fmt: skip
    built = _built(declaration, lake, transactions, features, days)
    label_days = [day for day in labels.partitions() if day <= as_of.isoformat()]
    made_from = {
        "cut_off": cut_off.isoformat(),
        "declaration": declaration.stored_hash,
        "features": _digest({day: partition.content_sha256 for day, partition in built.items()}),
        "labels": _digest({day: labels.content_sha256(day) for day in label_days}),
        "maturity_days": str(context.params.labels.maturity_days),
    }
    snapshot = _digest(made_from)[:16]
    snapshots = catalog.TRAINING_SETS.at(lake)
    compared = 0
    if snapshots.partition(snapshot) is None:
        schema = catalog.features(declaration.stored_hash).schema(declaration)
        with ThreadPoolExecutor(2) as pool:
            # Python imports Feast while Arrow reads the lake, which takes about as long.
            feast = pool.submit(importlib.import_module, "fraud.features.feast_store")
            read = pool.map(lambda day: _ingested_before(conformed(features.read(day), schema), cut_off), days)
            table = pa.concat_tables(read)
            feast.result()
        context.log.info("comparison with Feast started", rows=table.num_rows)
        compared = _compare_with_feast(context, table)
        mature_labels = labels_as_of(labels, cut_off - timedelta(microseconds=1))
        versions = {f"{each.name} version": str(each.number) for each in (transactions, features, labels)}
        snapshots.publish(snapshot, _labelled(table, mature_labels), made_from | versions)
    partition = snapshots.partition(snapshot)
    if partition is None:
        raise BadInputError(f"training set {snapshot} was removed while it was written", hint="run again")
    is_fraud = snapshots.read(snapshot, ["is_fraud"])["is_fraud"]
    return Result(
        snapshot=snapshot, rows=partition.rows, frauds=pc.sum(is_fraud).as_py() or 0, first_day=days[0],
        last_day=days[-1], cut_off=cut_off, content_sha256=partition.content_sha256, feature_rows_compared=compared,
    )  # fmt: skip


def _digest(named: dict[str, str]) -> str:
    return sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def _built(
    declaration: Declaration, lake: str, transactions: DatasetVersion, features: DatasetVersion, days: list[str]
) -> dict[str, Partition]:
    """The partitions of features of `days`.

    They have to agree with the lake's transactions and labels. Otherwise the training set, and so the model, would
    depend on whether features were built before or after the labels of the same delivery.
    """
    stale = build_daily.stale_days(declaration, lake) or build_features.stale_days(
        declaration, lake, transactions, features, days
    )
    if stale:
        raise UnavailableError(
            "features are older than the transactions or labels of the lake",
            got=f"{len(stale)} days to be built, {stale[0]} .. {stale[-1]}",
            hint="fraud build-daily, then fraud build-features; in Airflow, wait for the DAG build_features",
        )  # fmt: skip
    return {day: partition for day in days if (partition := features.partition(day))}


def _ingested_before(table: pa.Table, cut_off: datetime) -> pa.Table:
    return table.filter(pc.less(table["created_timestamp"], pa.scalar(cut_off)))


def _labelled(table: pa.Table, labels: pa.Table) -> pa.Table:
    """Add is_fraud and label_timestamp, and sort by event time and id. Rows without a label are legitimate."""
    at = pc.index_in(table["transaction_id"], value_set=labels["transaction_id"])
    is_fraud = pc.fill_null(pc.take(labels["is_fraud"], at), False)
    table = table.append_column("is_fraud", is_fraud)
    table = table.append_column("label_timestamp", pc.take(labels["label_timestamp"], at))
    return table.sort_by([("event_timestamp", "ascending"), ("transaction_id", "ascending")]).combine_chunks()


def _compare_with_feast(context: Context, table: pa.Table) -> int:
    """Number of rows compared. Raises BadInputError with the number of rows on which Feast's values differ."""
    from fraud.features import feast_comparison  # noqa: PLC0415 - Feast takes seconds to import

    wrong = feast_comparison.compare(context, context.declaration, table)
    if any(wrong.values()):
        raise BadInputError(
            "Feast's point-in-time values differ from the lake's", expected=f"{table.num_rows} equal rows",
            got=", ".join(f"{count} differ in {name}" for name, count in wrong.items() if count),
            hint="run fraud build-features --full; if the values still differ, compare the feature definitions",
        )  # fmt: skip
    return int(table.num_rows)
