"""The prediction record: one line of the prediction log."""

from msgspec import Struct


class PredictionRecord(Struct, gc=False, omit_defaults=True):
    """One answer and everything it was computed from. Times are us, UTC; docs/architecture.md lists the fields."""

    prediction_id: str
    transaction_id: str | None
    user_id: str | None
    merchant_id: str | None
    merchant_category: str
    amount: float
    distance_from_home: float | None
    event_us: int | None
    hour_of_day: int
    day_of_week: int
    served_us: int
    sequence: int | None
    newest_us: int | None
    history: str
    degraded: bool
    transaction_velocity_1h: float
    avg_amount_7d: float | None
    unique_merchants_30d: int
    fraud_probability: float
    is_fraud: bool
    threshold: float
    model_version: str
    model_sha256: str
    feature_hash: str
    latency_us: int
    challenger_version: str | None = None
    challenger_probability: float | None = None
