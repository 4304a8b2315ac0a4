"""Metrics of what declarations declare: freshness of features and daily snapshots, and missing values in answers."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, cast

import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis
from prometheus_client.core import GaugeMetricFamily, Metric

from fraud.core.daily import Table
from fraud.core.daily import snapshots as published
from fraud.core.declaration import Declaration
from fraud.core.plan import tables
from fraud.lake import catalog
from fraud.lake.objects import opened

_EPOCH: Final = dt.date(1970, 1, 1)
Labelled = dict[tuple[str, ...], float]
"""Values by the values of the labels."""


def day_seconds(day: str) -> float:
    """Midnight UTC of a day, in seconds since 1970."""
    return (dt.date.fromisoformat(day) - _EPOCH) / dt.timedelta(seconds=1)


def family(name: str, text: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]) -> Iterator[Metric]:
    """One metric family with several labels; nothing without values."""
    found = GaugeMetricFamily(name, text, labels=list(labels))
    for key, value in values.items():
        found.add_metric(list(key), value)
    if found.samples:
        yield found


def declarations(live: Iterable[Declaration]) -> Iterator[Metric]:
    """The declarations of the versions with an alias."""
    values: Labelled = {(d.hash[:12], d.stored_hash[:12]): float(len(d.features)) for d in live}
    text = "Number of features of a declaration that a version with an alias was trained with"
    yield from family("fraud_declaration_features", text, ("declaration", "stored"), values)


def daily_tables(some: Iterable[Declaration]) -> list[Table]:
    """The daily tables of the declarations, each once."""
    return list({table.id: table for declaration in some for table in tables(declaration)}.values())


def snapshots(lake_uri: str, some: Iterable[Declaration]) -> Iterator[Metric]:
    """The newest daily snapshot of each table in the lake."""
    values: Labelled = {}
    for table in daily_tables(some):
        days = catalog.daily(table).at(lake_uri).partitions()
        if days:
            values[table.entity, table.id] = day_seconds(days[-1])
    text = "Midnight UTC of the newest daily snapshot in the lake"
    yield from family("fraud_daily_snapshot_newest_day_seconds", text, ("entity", "table"), values)


def feature_info(some: Iterable[Declaration]) -> Iterator[Metric]:
    """Each stored feature of the declarations, with what its freshness depends on.

    A window feature has the start of `stored_hash` as its declaration, a daily feature the id of its table.
    """
    values: Labelled = {}
    for declaration in some:
        daily = {name: table.id for table in tables(declaration) for name in table.names}
        for feature in declaration.stored_features:
            table = daily.get(feature.name, "")
            kind, stored = ("daily", "") if table else ("window", declaration.stored_hash[:12])
            values[feature.name, kind, stored, table] = 1.0
    text = "1 for each stored feature of a declaration in use"
    yield from family("fraud_feature_info", text, ("feature", "kind", "declaration", "table"), values)


def online_snapshots(client: redis.Redis, some: Iterable[Declaration]) -> Iterator[Metric]:
    """The newest daily snapshot of each table in the online store."""
    values: Labelled = {}
    for table in daily_tables(some):
        newest = published(cast("dict[bytes, bytes]", client.hgetall(table.pointer_key)))
        if newest:
            values[table.entity, table.id] = day_seconds(str(_EPOCH + dt.timedelta(days=newest[0].day)))
    text = "Midnight UTC of the newest daily snapshot that is published in the online store"
    yield from family("fraud_daily_snapshot_online_day_seconds", text, ("entity", "table"), values)


def missing(lake_uri: str, some: Iterable[Declaration]) -> Iterator[Metric]:
    """Missing values in the newest shipped answers: those of the newest day with the newest answer's declaration."""
    answers = catalog.PREDICTIONS.at(lake_uri).open()
    days = answers.partitions()
    partition = answers.partition(days[-1]) if days else None
    if partition is None or not partition.rows:
        return
    uris = tuple(answers.object_uris(days[-1]))
    of_hash = {declaration.hash: declaration for declaration in some}
    declaration = of_hash.get(_newest_hash(uris))
    if declaration is None:
        return
    names = (*sorted(declaration.columns), *(feature.name for feature in declaration.stored_features))
    rows, counts = _nulls(uris, declaration.hash, names)
    shares: Labelled = {(name,): counts[name] / rows for name in names}
    text = "Share of the newest shipped answers in which a declared column or a stored feature is null"
    yield from family("fraud_served_missing_share", text, ("feature",), shares)
    yield from family("fraud_served_missing_rows", "Answers that those shares are of", (), {(): float(rows)})


@lru_cache(maxsize=2)
def _newest_hash(uris: tuple[str, ...]) -> str:
    """feature_hash of the last answer. Objects are named by their content, so the result can be kept."""
    hashes = _read(uris[-1], ["feature_hash"])["feature_hash"]
    return str(hashes[len(hashes) - 1].as_py())


@lru_cache(maxsize=2)
def _nulls(uris: tuple[str, ...], feature_hash: str, names: tuple[str, ...]) -> tuple[int, dict[str, int]]:
    """Answers of a declaration, and the number of nulls by column."""
    rows, counts = 0, dict.fromkeys(names, 0)
    for uri in uris:
        table = _read(uri, ["feature_hash", *names])
        table = table.filter(pc.equal(table["feature_hash"], feature_hash))
        rows += table.num_rows
        for name in names:
            counts[name] += table[name].null_count if name in table.column_names else table.num_rows
    return rows, counts


def _read(uri: str, names: Sequence[str]) -> Any:  # noqa: ANN401 - a pyarrow table
    with opened(uri) as file:
        parquet = pq.ParquetFile(file)
        return parquet.read([name for name in names if name in parquet.schema_arrow.names])
