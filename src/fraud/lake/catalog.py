"""Every dataset of the lake, once: name, partition key, schema, sort order and retention.

Jobs open a dataset with `catalog.TRANSACTIONS.at(lake_uri)`; no other module names one. The table in
docs/architecture.md is compared with this module by a test.
"""

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from fraud.core.features import WINDOW_FEATURES
from fraud.lake.dataset import Dataset

TIMESTAMP: Final = pa.timestamp("us", "UTC")
_WINDOW_TYPES: Final = {"float64": pa.float64(), "int64": pa.int64()}
_WHAT_IF: Final = "what_if"


@dataclass(frozen=True, slots=True)
class DatasetDefinition:
    """What a dataset is. `schema` has the columns in order; every timestamp is in UTC microseconds."""

    name: str
    key: str
    """Column, or kind of id, that names a partition."""
    key_meaning: str
    schema: pa.Schema
    sorted_by: tuple[str, ...]
    """Order of the rows in a partition; empty: the order in which they were delivered."""
    retention: str
    """The setting, or the rule, that says how long a partition is kept."""

    def at(self, lake_uri: str) -> Dataset:
        """The dataset in the lake at a `file://` or `s3://` URI."""
        return Dataset(lake_uri, self.name, self.key)


_TRANSACTION: Final = (
    ("transaction_id", pa.string()),
    ("event_timestamp", TIMESTAMP),
    ("created_timestamp", TIMESTAMP),
    ("user_id", pa.string()),
    ("merchant_id", pa.string()),
    ("merchant_category", pa.string()),
    ("amount", pa.float64()),
    ("distance_from_home", pa.float64()),
)
_WINDOWS: Final = tuple((feature.name, _WINDOW_TYPES[feature.dtype]) for feature in WINDOW_FEATURES)
_BY_EVENT_TIME: Final = ("event_timestamp", "created_timestamp", "transaction_id")

TRANSACTIONS: Final = DatasetDefinition(
    "transactions", "dt", "day of event_timestamp", pa.schema(_TRANSACTION), _BY_EVENT_TIME,
    "FRAUD_TRANSACTION_DAYS and 90 days more, which the oldest features need",
)  # fmt: skip
QUARANTINE: Final = DatasetDefinition(
    "quarantine", "batch", "sha256 of the landed file",
    pa.schema([
        *((name, pa.string()) for name, _ in _TRANSACTION),
        ("parse_error", pa.string()), ("position", pa.int64()), ("reason", pa.string()),
    ]),
    (), "FRAUD_LANDING_DAYS",
)  # fmt: skip
LABELS: Final = DatasetDefinition(
    "labels", "dt", "day of label_timestamp",
    pa.schema([("transaction_id", pa.string()), ("is_fraud", pa.bool_()), ("label_timestamp", TIMESTAMP)]),
    ("label_timestamp", "transaction_id"), "FRAUD_TRANSACTION_DAYS",
)  # fmt: skip
FEATURES: Final = DatasetDefinition(
    "features", "dt", "day of event_timestamp", pa.schema([*_TRANSACTION, *_WINDOWS]), _BY_EVENT_TIME,
    "FRAUD_TRANSACTION_DAYS",
)  # fmt: skip
TRAINING_SETS: Final = DatasetDefinition(
    "training_sets", "snapshot", "content hash of what it was made from",
    pa.schema([*_TRANSACTION, *_WINDOWS, ("is_fraud", pa.bool_()), ("label_timestamp", TIMESTAMP)]),
    ("event_timestamp", "transaction_id"), "as long as a version that is kept was trained on it",
)  # fmt: skip
SCORES: Final = DatasetDefinition(
    "scores", "dt", "day of event_timestamp",
    pa.schema([
        pa.field("transaction_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("fraud_probability", pa.float32(), nullable=False),
        pa.field("is_fraud", pa.bool_(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("feature_hash", pa.string(), nullable=False),
    ]),
    _BY_EVENT_TIME, "FRAUD_PREDICTION_RETENTION_DAYS",
)  # fmt: skip
PREDICTIONS: Final = DatasetDefinition(
    "predictions", "dt", "day of served_us",
    pa.schema([
        pa.field("prediction_id", pa.string(), nullable=False),
        ("transaction_id", pa.string()),
        ("user_id", pa.string()),
        ("merchant_id", pa.string()),
        pa.field("merchant_category", pa.string(), nullable=False),
        pa.field("amount", pa.float64(), nullable=False),
        ("distance_from_home", pa.float64()),
        ("event_us", pa.int64()),
        pa.field("hour_of_day", pa.int64(), nullable=False),
        pa.field("day_of_week", pa.int64(), nullable=False),
        pa.field("served_us", pa.int64(), nullable=False),
        ("sequence", pa.int64()),
        ("newest_us", pa.int64()),
        pa.field("history", pa.string(), nullable=False),
        pa.field("degraded", pa.bool_(), nullable=False),
        pa.field("transaction_velocity_1h", pa.float64(), nullable=False),
        ("avg_amount_7d", pa.float64()),
        pa.field("unique_merchants_30d", pa.int64(), nullable=False),
        pa.field("fraud_probability", pa.float64(), nullable=False),
        pa.field("is_fraud", pa.bool_(), nullable=False),
        pa.field("threshold", pa.float64(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("model_sha256", pa.string(), nullable=False),
        pa.field("feature_hash", pa.string(), nullable=False),
        pa.field("latency_us", pa.int64(), nullable=False),
        ("challenger_version", pa.string()),
        ("challenger_probability", pa.float64()),
    ]),
    ("served_us", "prediction_id"), "FRAUD_PREDICTION_RETENTION_DAYS",
)  # fmt: skip
ALL: Final = (TRANSACTIONS, QUARANTINE, LABELS, FEATURES, TRAINING_SETS, SCORES, PREDICTIONS)


def what_if(version: str) -> DatasetDefinition:
    """Scores by a version that is not in production, kept apart from `SCORES`."""
    return DatasetDefinition(
        f"{_WHAT_IF}/version={version}", SCORES.key, SCORES.key_meaning, SCORES.schema, SCORES.sorted_by,
        SCORES.retention,
    )  # fmt: skip
