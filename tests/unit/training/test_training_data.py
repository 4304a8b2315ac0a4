"""A snapshot as matrices: parts, labels' maturity, bit parity with the request path, and what cannot be trained on."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from fraud import declaration_file
from fraud.core.declaration import Declaration, parse
from fraud.core.plan import Plan
from fraud.errors import BadInputError
from fraud.lake import catalog
from fraud.params import Params
from fraud.training import training_data

ROOT = Path(__file__).resolve().parents[3]
PARAMS = Params.load(ROOT / "params.yaml")
THREE = declaration_file.load(ROOT / "tests/declarations/three.yaml")
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


def publish(lake: Path, rows: pa.Table, name: str = "s", cut_off: datetime = FIRST + timedelta(days=200),
            declaration: Declaration = THREE) -> str:  # fmt: skip
    made_from = {"cut_off": cut_off.isoformat(), "maturity_days": "7", "declaration": declaration.stored_hash}
    uri = f"file://{lake}"
    catalog.TRAINING_SETS.at(uri).publish(name, rows, made_from)
    return uri


def load(uri: str, declaration: Declaration = THREE) -> training_data.TrainingData:
    return training_data.load(uri, training_data.partition_of(uri, None, declaration), PARAMS, declaration)


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


def test_slices_are_those_of_the_declaration_and_cover_every_row_once(tmp_path: Path) -> None:
    holdout = load(publish(tmp_path, table(120))).holdout
    for kind in ("category ", "amount "):
        masks = [mask for name, mask in holdout.slices.items() if name.startswith(kind)]
        assert np.sum(masks, axis=0).tolist() == [1] * len(holdout.is_fraud)
    quiet = holdout.slices["user without transactions in 7d"]
    assert quiet.tolist() == (holdout.vectors[:, Plan(THREE).vector.names.index("no_history_7d")] == 1).tolist()
    assert {"user without transactions in 30d", "category travel", "category other"} <= holdout.slices.keys()


LEARNING = parse(
    {
        "columns": {"country": {"type": "category", "learn": 2, "unknown": "other"}, "present": {"type": "flag"}},
        "features": [
            {"name": "amount", "kind": "request", "op": "column", "column": "amount"},
            {"name": "place", "kind": "request", "op": "column", "column": "country"},
            {"name": "present", "kind": "request", "op": "column", "column": "present", "default": 0.5},
        ],
    }
)


def with_countries(days: int) -> pa.Table:
    """First the countries a (most), b and c, from the training part's end on only d."""
    rows = table(days).drop_columns(["merchant_category", "distance_from_home"])
    country = [("d" if i >= 85 * 20 else "aaabbcx"[i % 7]) for i in range(days * 20)]
    rows = rows.append_column("country", pa.array([None if c == "x" else c for c in country]))
    return rows.append_column("present", pa.array([[True, False, None][i % 3] for i in range(days * 20)]))


def test_categories_are_learnt_on_the_training_part_alone_and_decide_the_vector(tmp_path: Path) -> None:
    data = load(publish(tmp_path, with_countries(120), declaration=LEARNING), LEARNING)
    assert data.plan.vector.names == ("amount", "place_a", "place_b", "place_other", "present")
    assert data.plan.hash == LEARNING.hash
    assert data.holdout.vectors[:, 1:4].sum(axis=0).tolist() == [0.0, 0.0, len(data.holdout.is_fraud)]
    assert set(data.train.vectors[:, 4].tolist()) == {0.0, 0.5, 1.0}
    assert data.feature_mismatches() == 0
    assert {"place a", "place b", "place other", "present true", "present missing"} <= data.train.slices.keys()
    missing = training_data.missing_rates(data, data.split.train)
    assert missing["place"] == pytest.approx(1 / 7, abs=0.01)
    assert missing["present"] == pytest.approx(1 / 3, abs=0.01)


def test_a_version_is_measured_with_the_lists_that_it_has(tmp_path: Path) -> None:
    uri = publish(tmp_path, with_countries(120), declaration=LEARNING)
    version = LEARNING.resolved({"country": ("c", "d", "other")})
    data = training_data.load(uri, training_data.partition_of(uri, None, version), PARAMS, version)
    assert data.plan.vector.names == ("amount", "place_c", "place_d", "place_other", "present")
    assert data.holdout.vectors[:, 2].tolist() == [1.0] * len(data.holdout.is_fraud)


def test_a_training_set_of_another_declaration_is_not_used(tmp_path: Path) -> None:
    uri = publish(tmp_path, table(20))
    with pytest.raises(BadInputError, match="no training set with the declared columns and features"):
        training_data.partition_of(uri, None, LEARNING)
    with pytest.raises(BadInputError, match="another declaration"):
        training_data.partition_of(uri, "s", LEARNING)


def test_an_opponent_is_measured_on_the_features_of_its_own_declaration(tmp_path: Path) -> None:
    data = load(publish(tmp_path, table(120)))
    other = Plan(LEARNING.resolved({"country": ("a", "other")}))
    with pytest.raises(BadInputError, match="has no features of declaration"):
        training_data.holdout_vectors(data, other, f"file://{tmp_path}")
    rows = with_countries(120)
    dataset = catalog.features(LEARNING.stored_hash).at(f"file://{tmp_path}")
    order = np.random.default_rng(3).permutation(rows.num_rows)
    days = rows["event_timestamp"].cast(pa.date32()).take(order)
    for day in sorted(set(days.to_pylist())):
        dataset.publish(str(day), rows.take(order).filter(pa.compute.equal(days, day)))
    vectors = training_data.holdout_vectors(data, other, f"file://{tmp_path}")
    assert vectors[:, 0].tolist() == data.holdout.vectors[:, 0].tolist()
    assert vectors[:, 2].tolist() == [1.0] * len(vectors)
    assert (training_data.holdout_vectors(data, data.plan, f"file://{tmp_path}") == data.holdout.vectors).all()


def test_rows_younger_than_their_labels_are_counted(tmp_path: Path) -> None:
    young = publish(tmp_path, table(120), cut_off=FIRST + timedelta(days=120))
    assert load(young).immature_rows() == 7 * 20
    catalog.TRAINING_SETS.at(young).publish("s", table(120), {"declaration": THREE.stored_hash})
    assert load(young).immature_rows() is None


def test_the_newest_cut_off_is_taken_unless_one_is_named(tmp_path: Path) -> None:
    uri = publish(tmp_path, table(20), "older", FIRST)
    publish(tmp_path, table(20), "newer", FIRST + timedelta(days=1))
    assert training_data.partition_of(uri, None, THREE).name == "newer"
    assert training_data.partition_of(uri, "older", THREE).name == "older"
    with pytest.raises(BadInputError, match="no training set gone"):
        training_data.partition_of(uri, "gone", THREE)


def test_without_a_training_set_the_error_has_a_hint(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no training set"):
        training_data.partition_of(f"file://{tmp_path}", None, THREE)


def test_the_quarantine_rate_counts_everything_delivered(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}"
    assert training_data.quarantine_rate(uri) is None
    catalog.TRANSACTIONS.at(uri).publish("2026-01-01", table(2, 45))
    catalog.QUARANTINE.at(uri).publish("b", table(1, 10))
    assert training_data.quarantine_rate(uri) == pytest.approx(0.1)
