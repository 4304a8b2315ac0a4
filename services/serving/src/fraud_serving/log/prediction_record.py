"""The prediction record: one line of the prediction log."""

from collections.abc import Sequence

from msgspec import Struct, defstruct


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
    columns: Struct
    """The declared columns; of a type that `named_values` returns."""
    features: Struct
    """The window and daily features; of a type that `named_values` returns."""
    sequences: dict[str, int]
    """Entity -> the transaction's place in the entity's stored history."""
    newest_us: dict[str, int]
    """Entity -> latest event time before this transaction."""
    snapshots: dict[str, str]
    """Entity -> id of the daily snapshot."""
    challenger_version: str | None = None
    challenger_probability: float | None = None


def named_values(names: Sequence[str]) -> type[Struct]:
    """A type whose instances are created from values in the order of `names`, and encoded as an object of them.

    A dictionary of 24 values takes ten times as long to create and has ten times the size.
    """
    fields = [(f"value_{i}", float | str | bool | None) for i in range(len(names))]
    return defstruct("NamedValues", fields, gc=False, rename={f"value_{i}": name for i, name in enumerate(names)})
