"""Feast definitions: a view of the window features with one row per transaction.

The view is for point-in-time training sets, discovery and other readers. Serving computes features from the event
histories of the online store instead (docs/adr/0003-online-history.md).
"""

from datetime import timedelta
from typing import NamedTuple

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64

from fraud.features.feast_snapshot import snapshot_path
from fraud.settings import Settings

SCHEMA = [
    Field(
        name="transaction_velocity_1h",
        dtype=Float64,
        description="Earlier transactions of the user within one hour.",
    ),
    Field(
        name="avg_amount_7d",
        dtype=Float64,
        description="Mean amount in USD of the user's earlier transactions within seven days; null without any.",
    ),
    Field(
        name="unique_merchants_30d",
        dtype=Int64,
        description="Distinct merchants of the user's earlier transactions within thirty days.",
    ),
]


class Definitions(NamedTuple):
    """The objects to register."""

    user: Entity
    source: FileSource
    view: FeatureView
    service: FeatureService


def define(path: str) -> Definitions:
    """The definitions for a snapshot file (`fraud.features.feast_snapshot`) at `path`."""
    entity = Entity(
        name="user_id", join_keys=["user_id"], value_type=ValueType.STRING, description="The customer who pays."
    )
    source = FileSource(
        name="user_transactions",
        path=path,
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description="One row per transaction, with the user's window features at its ingestion.",
    )
    view = FeatureView(
        name="user_transaction_features",
        entities=[entity],
        # Each transaction has its own row, so a training set needs no older ones. Without a ttl, Feast joins every
        # transaction with all earlier ones of the user before it selects the latest.
        ttl=timedelta(days=1),
        schema=SCHEMA,
        source=source,
        description="Window features at a transaction, without the transaction itself.",
        tags={"definition": "src/fraud/core/features.py"},
    )
    service = FeatureService(
        name="fraud_detector_v1",
        features=[view],
        description="Features of the model fraud-detector, in addition to the values of the request.",
    )
    return Definitions(entity, source, view, service)


user, transactions, user_transaction_features, fraud_detector_v1 = define(snapshot_path(Settings.load().lake_uri))
