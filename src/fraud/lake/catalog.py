"""Every dataset of the lake: name, partition key, schema, sort order and retention.

Jobs open a dataset with `catalog.TRANSACTIONS.at(lake_uri)`; no other module of the package contains a dataset name.
Tests compare docs/architecture.md with this module and reject dataset names elsewhere.
"""

from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa

from fraud.core.features import WINDOW_FEATURES
from fraud.lake.dataset import Dataset, listed

TIMESTAMP: Final = pa.timestamp("us", "UTC")
_WINDOW_TYPES: Final = {"float64": pa.float64(), "int64": pa.int64()}
_WHAT_IF: Final = "what_if"
LOOK_BACK_DAYS: Final = 90
"""Transactions are kept this much longer than features: the windows of the oldest features read them."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long a partition is kept: a setting, and a fixed number of days more."""

    setting: Literal["transaction_days", "prediction_retention_days", "landing_days", "version_days"]
    """Field of `Settings`, in days."""
    starts_at: Literal["newest day of transactions", "publication", "today"]
    """The age of a partition is counted back from this day, or from today to its publication."""
    more_days: int = 0
    condition: str = ""
    """A second condition for removal, for the documentation; the retention job implements it."""


@dataclass(frozen=True, slots=True)
class DatasetDefinition:
    """Name and layout of a dataset. `schema` has the columns in order; timestamps are UTC microseconds."""

    name: str
    key: str
    """Name of the partition key, as in `dt=2025-03-01`."""
    key_value: str
    """Description of the key's values."""
    schema: pa.Schema
    sorted_by: tuple[str, ...]
    """Order of the rows in a partition; empty: the order in which they were delivered."""
    retention: Retention

    @property
    def order(self) -> list[tuple[str, str]]:
        """`sorted_by`, as `pyarrow.Table.sort_by` takes it."""
        return [(column, "ascending") for column in self.sorted_by]

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
    Retention("transaction_days", "newest day of transactions", LOOK_BACK_DAYS),
)  # fmt: skip
# The schema is that of a transaction file. A partition of a label file has the columns of LABELS, as text, instead.
QUARANTINE: Final = DatasetDefinition(
    "quarantine", "batch", "sha256 of the landed file",
    pa.schema([
        *((name, pa.string()) for name, _ in _TRANSACTION),
        ("parse_error", pa.string()), ("position", pa.int64()), ("reason", pa.string()),
    ]),
    (), Retention("landing_days", "publication"),
)  # fmt: skip
LABELS: Final = DatasetDefinition(
    "labels", "dt", "day of label_timestamp",
    pa.schema([("transaction_id", pa.string()), ("is_fraud", pa.bool_()), ("label_timestamp", TIMESTAMP)]),
    ("label_timestamp", "transaction_id", "is_fraud"), Retention("transaction_days", "newest day of transactions"),
)  # fmt: skip
FEATURES: Final = DatasetDefinition(
    "features", "dt", "day of event_timestamp", pa.schema([*_TRANSACTION, *_WINDOWS]), _BY_EVENT_TIME,
    Retention("transaction_days", "newest day of transactions"),
)  # fmt: skip
TRAINING_SETS: Final = DatasetDefinition(
    "training_sets", "snapshot", "hash of the inputs it was made from",
    pa.schema([*_TRANSACTION, *_WINDOWS, ("is_fraud", pa.bool_()), ("label_timestamp", TIMESTAMP)]),
    ("event_timestamp", "transaction_id"),
    Retention("version_days", "publication", condition="no model version or run that is kept was trained on it"),
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
    _BY_EVENT_TIME, Retention("prediction_retention_days", "newest day of transactions"),
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
    ("served_us", "prediction_id"), Retention("prediction_retention_days", "today"),
)  # fmt: skip
ALL: Final = (TRANSACTIONS, QUARANTINE, LABELS, FEATURES, TRAINING_SETS, SCORES, PREDICTIONS)
DAILY: Final = tuple(definition for definition in ALL if definition.key == "dt")
"""The datasets that have a partition per day."""


def what_if(version: str) -> DatasetDefinition:
    """Scores by a model version that was named on the command line; not part of `SCORES`."""
    return DatasetDefinition(
        f"{_WHAT_IF}/version={version}", SCORES.key, SCORES.key_value, SCORES.schema, SCORES.sorted_by,
        SCORES.retention,
    )  # fmt: skip


def what_ifs(lake_uri: str) -> list[DatasetDefinition]:
    """The `what_if` datasets that the lake contains, sorted by name."""
    found = listed(f"{lake_uri.rstrip('/')}/{_WHAT_IF}", 3)
    versions = {name.split("/")[0].removeprefix("version=") for name in found if name.startswith("version=")}
    return [what_if(version) for version in sorted(versions)]
