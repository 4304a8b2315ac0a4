"""What Feast knows: the scalar view of our window features, as of each transaction.

Serving does not read it (its truth is the event history, docs/adr/0003-online-history.md). It is for point-in-time
training sets, for discovery and for other readers.
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
    """Everything that is registered."""

    user: Entity
    source: FileSource
    view: FeatureView
    service: FeatureService


def define(path: str) -> Definitions:
    """The definitions over a snapshot file (`fraud.features.feast_snapshot`) at `path`."""
    entity = Entity(
        name="user_id", join_keys=["user_id"], value_type=ValueType.STRING, description="The customer who pays."
    )
    source = FileSource(
        name="user_transactions",
        path=path,
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
        description="One row per transaction: the user's windows as they were known when it came.",
    )
    view = FeatureView(
        name="user_transaction_features",
        entities=[entity],
        # Each transaction has a row of its own, so a training set never needs an older one. Without a bound Feast
        # pairs a user's every transaction with all earlier ones before it picks the latest.
        ttl=timedelta(days=1),
        schema=SCHEMA,
        source=source,
        description="Window features as of a transaction, which itself is not counted.",
        tags={"meaning": "src/fraud/core/features.py"},
    )
    service = FeatureService(
        name="fraud_detector_v1",
        features=[view],
        description="What the model fraud-detector is trained on, besides the request's own values.",
    )
    return Definitions(entity, source, view, service)


user, transactions, user_transaction_features, fraud_detector_v1 = define(snapshot_path(Settings.load().lake_uri))
