"""Transactions for the feature engines: a very active user, ties, late rows, missing ids."""

from datetime import date, timedelta
from typing import Final

import numpy as np
import pyarrow as pa

from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.lake import catalog

FIRST: Final = date(2026, 1, 1)
FIRST_US: Final = (FIRST - date(1970, 1, 1)).days * US_PER_DAY


def day(number: int) -> str:
    return (FIRST + timedelta(number)).isoformat()


def transactions(rows: int, days: int, seed: int) -> pa.Table:
    """Half of them one user's, who has more than the bound; ties to the microsecond, an eighth ingested late."""
    rng = np.random.default_rng(seed)
    event = FIRST_US + np.sort(rng.integers(0, days * 24 * 12, rows)) * (US_PER_HOUR // 12)
    learned = event + np.where(rng.random(rows) < 1 / 8, rng.integers(0, 20 * 24, rows) * US_PER_HOUR, 0)
    user = np.where(rng.random(rows) < 0.5, 0, rng.integers(1, 40, rows))
    timestamp = pa.timestamp("us", "UTC")
    table = pa.table(
        {
            "transaction_id": [f"t{i:06}" for i in range(rows)],
            "event_timestamp": pa.array(event, timestamp),
            "created_timestamp": pa.array(learned, timestamp),
            "user_id": [f"user {i}" for i in user],
            "merchant_id": [f"m{i}" for i in rng.integers(0, 300, rows)],
            "amount": np.rint(rng.lognormal(3, 1, rows) * 100 + 1) / 100,
            "card_present": pa.array([(True, False, None)[i] for i in rng.integers(0, 3, rows)], pa.bool_()),
            "country": [("de", "fr", "jp")[i] for i in rng.integers(0, 3, rows)],
            "device_id": pa.array([None if i == 0 else f"d{i}" for i in rng.integers(0, 30, rows)], pa.string()),
            "distance_from_home": pa.array(np.where(rng.random(rows) < 0.2, np.nan, 3.5), from_pandas=True),
            "merchant_category": [("grocery", "travel")[i] for i in rng.integers(0, 2, rows)],
        }
    )
    return table.sort_by([(k, "ascending") for k in ("event_timestamp", "created_timestamp", "transaction_id")])


def publish(lake_uri: str, rows: pa.Table) -> None:
    """Every day, one without rows included, in two objects each."""
    dataset = catalog.TRANSACTIONS.at(lake_uri)
    numbers = (np.asarray(rows["event_timestamp"].cast(pa.int64())) - FIRST_US) // US_PER_DAY
    for number in range(numbers.max() + 1):
        own = rows.filter(pa.array(numbers == number))
        half = own.num_rows // 2
        dataset.publish(day(number), [own.slice(0, half), own.slice(half)])


def publish_labels(lake_uri: str, rows: pa.Table) -> None:
    """A report of fraud for every hundredth row, a week later."""
    reported = rows.take(list(range(0, rows.num_rows, 100)))
    label_us = reported["event_timestamp"].cast(pa.int64()).to_numpy() + 7 * US_PER_DAY
    labels = pa.table(
        [reported["transaction_id"], [True] * reported.num_rows, pa.array(label_us, catalog.TIMESTAMP)],
        schema=catalog.LABEL_SCHEMA,
    )
    numbers = (label_us - FIRST_US) // US_PER_DAY
    for number in np.unique(numbers):
        catalog.LABELS.at(lake_uri).publish(day(int(number)), labels.filter(pa.array(numbers == number)))
