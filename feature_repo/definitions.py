"""What Feast knows: the scalar view of our window features, as of each transaction.

Serving does not read it (its truth is the event history, docs/adr/0003-online-history.md). It is for point-in-time
training sets, for discovery and for other readers.
"""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64

from fraud.io.feature_snapshot import snapshot_path
from fraud.settings import Settings

user = Entity(
    name="user_id", join_keys=["user_id"], value_type=ValueType.STRING, description="The customer whose card pays."
)

transactions = FileSource(
    name="user_transactions",
    path=snapshot_path(Settings.load().lake_uri),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
    created_timestamp_column="created_timestamp",
    description="One row per transaction: the user's windows as they were known when it came.",
)

user_transaction_features = FeatureView(
    name="user_transaction_features",
    entities=[user],
    # Every transaction has its own row, so a join never needs an older one; a bound keeps the join linear.
    ttl=timedelta(days=1),
    schema=[
        Field(
            name="transaction_velocity_1h",
            dtype=Float64,
            description="Earlier transactions of the user within one hour.",
        ),
        Field(
            name="avg_amount_7d",
            dtype=Float64,
            description="Mean amount in USD of the user's transactions within seven days; null without any.",
        ),
        Field(
            name="unique_merchants_30d",
            dtype=Int64,
            description="Distinct merchants of the user within thirty days.",
        ),
    ],
    source=transactions,
    description="Window features as of a transaction, which itself is not counted.",
    tags={"owner": "fraud-platform", "source_of_meaning": "src/fraud/core/features.py"},
)

fraud_detector_v1 = FeatureService(
    name="fraud_detector_v1",
    features=[user_transaction_features],
    description="What the model fraud-detector is trained on, besides the request's own values.",
)
