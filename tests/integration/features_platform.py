"""A lake of a few users, and the jobs that build, load and join its features."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import redis

from fraud.core.contract import US_PER_DAY
from fraud.features import build_features, feast_store, materialize
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.training import training_set

ROOT = Path(__file__).resolve().parents[2]
FIRST = date(2026, 1, 1)
FIRST_US = (FIRST - date(1970, 1, 1)).days * US_PER_DAY
USERS = [f"user {i}" for i in range(5)]


def day(number: int) -> str:
    return (FIRST + timedelta(number)).isoformat()


def transactions(rows: list[tuple[str, str, int, int]]) -> pa.Table:
    """(id, user, event time, created time), times in us after FIRST; amounts 1.00, 1.01, ... in the order given."""
    table = pa.table(
        {
            "transaction_id": [row[0] for row in rows],
            "event_timestamp": pa.array([FIRST_US + row[2] for row in rows], pa.timestamp("us", "UTC")),
            "created_timestamp": pa.array([FIRST_US + row[3] for row in rows], pa.timestamp("us", "UTC")),
            "user_id": [row[1] for row in rows],
            "merchant_id": [f"m{i % 3}" for i in range(len(rows))],
            "merchant_category": ["grocery"] * len(rows),
            "amount": [1 + i / 100 for i in range(len(rows))],
            "distance_from_home": pa.array([2.5] * len(rows), pa.float64()),
        }
    )
    return table.sort_by([(k, "ascending") for k in ("event_timestamp", "created_timestamp", "transaction_id")])


def many(days: int, seed: int) -> pa.Table:
    """About six rows a day, one in eight ingested up to six days late."""
    rng = np.random.default_rng(seed)
    n = 6 * days
    event = rng.integers(0, days * US_PER_DAY, n)
    ingested = event + np.where(rng.random(n) < 1 / 8, rng.integers(0, 6 * US_PER_DAY, n), 0)
    users = rng.integers(0, len(USERS), n)
    return transactions(
        [(f"t{i}", USERS[users[i]], int(event[i]), int(min(ingested[i], days * US_PER_DAY - 1))) for i in range(n)]
    )


def publish(context: Context, rows: pa.Table, name: str = "transactions") -> None:
    numbers = (np.asarray(rows["event_timestamp"].cast(pa.int64())) - FIRST_US) // US_PER_DAY
    for number in np.unique(numbers):
        Dataset(context.settings.lake_uri, name).publish(day(int(number)), rows.filter(pa.array(numbers == number)))


def publish_labels(context: Context, rows: list[tuple[str, bool, int]]) -> None:
    """(transaction, is_fraud, label time in us after FIRST)."""
    labels = catalog.LABELS.at(context.settings.lake_uri)
    for number in {at // US_PER_DAY for *_, at in rows}:
        own = sorted((row for row in rows if row[2] // US_PER_DAY == number), key=lambda row: row[2])
        table = pa.table(
            {
                "transaction_id": [row[0] for row in own],
                "is_fraud": [row[1] for row in own],
                "label_timestamp": pa.array([FIRST_US + row[2] for row in own], pa.timestamp("us", "UTC")),
            }
        )
        labels.publish(day(number), table)


def build(context: Context) -> None:
    build_features.run(build_features.Config(), context)


def load(context: Context, **flags: str) -> materialize.Result:
    return materialize.run(materialize.Config.model_validate(flags), context)


def state(client: redis.Redis) -> dict[bytes, bytes]:
    keys = sorted([*client.keys("h:*"), *client.keys("i:*")])
    return dict(zip(keys, client.mget(keys), strict=True))


def the_store(context: Context) -> feast_store.FeatureStore:
    settings = context.settings
    return feast_store.open_store(
        settings.project, settings.feast_registry.get_secret_value(), settings.redis_url.get_secret_value()
    )


def snapshot(context: Context, **flags: str) -> tuple[training_set.Result, dict[str, dict[str, object]]]:
    result = training_set.run(training_set.Config.model_validate(flags), context)
    rows = catalog.TRAINING_SETS.at(context.settings.lake_uri).read(result.snapshot).to_pylist()
    return result, {row["transaction_id"]: row for row in rows}
