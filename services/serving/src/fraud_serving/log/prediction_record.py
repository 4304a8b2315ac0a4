"""The prediction record: one line of the prediction log."""

from msgspec import Struct


class PredictionRecord(Struct, gc=False, omit_defaults=True):
    """One answer and everything it was computed from. Times are us, UTC; docs/architecture.md lists the fields."""

    prediction_id: str
    transaction_id: str | None
    user_id: str | None
    merchant_id: str | None
    amount: float
    event_us: int | None
    hour_of_day: int
    day_of_week: int
    served_us: int
    history: str
    degraded: bool
    fraud_probability: float
    is_fraud: bool
    threshold: float
    model_version: str
    model_sha256: str
    feature_hash: str
    latency_us: int
    columns: dict[str, float | str | bool | None]
    """The declared columns."""
    features: dict[str, float | None]
    """The window and daily features."""
    sequences: dict[str, int]
    """Entity -> the transaction's place in the entity's stored history."""
    newest_us: dict[str, int]
    """Entity -> latest event time before this transaction."""
    snapshots: dict[str, str]
    """Entity -> id of the daily snapshot."""
    challenger_version: str | None = None
    challenger_probability: float | None = None
