"""A snapshot as matrices: parts, labels' maturity, bit parity with the request path, and what cannot be trained on."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fraud.errors import BadInputError
from fraud.lake import catalog
from fraud.params import Params
from fraud.training import training_data

PARAMS = Params.load(Path(__file__).resolve().parents[3] / "params.yaml")
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def table(days: int, per_day: int = 20) -> pa.Table:
    random, n = np.random.default_rng(1), days * per_day
    at = [FIRST + timedelta(days=i // per_day, minutes=i % per_day) for i in range(n)]
    return pa.table(
        {
            "transaction_id": [f"t{i}" for i in range(n)], "event_timestamp": pa.array(at, pa.timestamp("us", "UTC")),
            "user_id": [f"u{i % 7}" for i in range(n)],
            "merchant_category": np.array(["travel", "unheard of"])[np.arange(n) % 2],
            "amount": np.round(random.lognormal(3, 1, n), 4),
            "distance_from_home": pa.array(random.exponential(9, n), mask=random.random(n) < 0.2),
            "transaction_velocity_1h": random.poisson(1, n).astype(float),
            "avg_amount_7d": pa.array(random.lognormal(3, 1, n), mask=random.random(n) < 0.2),
            "unique_merchants_30d": random.integers(0, 9, n), "is_fraud": np.arange(n) % 10 == 3,
        }
    )  # fmt: skip


def publish(lake: Path, rows: pa.Table, name: str = "s", cut_off: datetime = FIRST + timedelta(days=200)) -> str:
    made_from = {"cut_off": cut_off.isoformat(), "maturity_days": "7"}
    uri = f"file://{lake}"
    catalog.TRAINING_SETS.at(uri).publish(name, rows, made_from)
    return uri


def load(uri: str) -> training_data.TrainingData:
    return training_data.load(uri, training_data.manifest_of(uri, None), PARAMS)


def test_parts_follow_the_split_and_users_are_renumbered(tmp_path: Path) -> None:
    data = load(publish(tmp_path, table(120)))
    assert [len(part.is_fraud) for part in (data.train, data.validation, data.holdout)] == [60 * 20, 14 * 20, 14 * 20]
    assert data.holdout.is_fraud.sum() == 28
    assert set(data.holdout.users) == set(range(7))
    last = data.table["event_timestamp"].to_pylist()[-1]
    assert (
        data.split.holdout.end_us
        == (datetime.combine(last.date(), datetime.min.time(), UTC) + timedelta(days=1)).timestamp() * 1e6
    )
    assert data.feature_mismatches() == 0


def test_rows_younger_than_their_labels_are_counted(tmp_path: Path) -> None:
    young = publish(tmp_path, table(120), cut_off=FIRST + timedelta(days=120))
    assert load(young).immature_rows() == 7 * 20
    catalog.TRAINING_SETS.at(young).publish("s", table(120), {})
    assert load(young).immature_rows() is None


def test_the_newest_cut_off_is_taken_unless_one_is_named(tmp_path: Path) -> None:
    uri = publish(tmp_path, table(20), "older", FIRST)
    publish(tmp_path, table(20), "newer", FIRST + timedelta(days=1))
    assert training_data.manifest_of(uri, None).partition == "newer"
    assert training_data.manifest_of(uri, "older").partition == "older"
    with pytest.raises(BadInputError, match="no training set gone"):
        training_data.manifest_of(uri, "gone")


def test_without_a_training_set_the_error_has_a_hint(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no training set"):
        training_data.manifest_of(f"file://{tmp_path}", None)


def test_the_quarantine_rate_counts_everything_delivered(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}"
    assert training_data.quarantine_rate(uri) is None
    catalog.TRANSACTIONS.at(uri).publish("2026-01-01", table(2, 45))
    catalog.QUARANTINE.at(uri).publish("b", table(1, 10))
    assert training_data.quarantine_rate(uri) == pytest.approx(0.1)
