"""`fraud consistency`: served answers against batch scores of the same model, each difference in its count."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.served_answers import THREE, TWO_ENTITIES

from fraud.audit import prediction_log
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.declaration import Declaration
from fraud.core.plan import Plan
from fraud.errors import BadInputError
from fraud.features.engines.arrow_vector import vectors
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.monitoring import consistency
from fraud.registry import model_versions
from fraud.scoring.onnx_session import OnnxModel

DAY = dt.date(2026, 3, 9)
MIDNIGHT = (DAY - dt.date(1970, 1, 1)).days * US_PER_DAY
Make = Callable[..., Any]


def scored_and_served(
    context: Context, table: pa.Table, model: bytes, declaration: Declaration, first: int = 0
) -> list[dict[str, Any]]:
    """Publish the scores of a day, and return the answers serving would have given to its first 300 transactions."""
    artifact, plan, runtime = model_versions.fetch(context.settings), Plan(declaration), OnnxModel(model)
    batch = runtime.probabilities(vectors(table, plan))
    n = table.num_rows
    scores = table.select(["transaction_id", "user_id", "event_timestamp"])
    for name, column in (
        ("fraud_probability", pa.array(batch)), ("is_fraud", pa.array(batch.astype(np.float64) >= 0.2)),
        ("model_version", pa.repeat(artifact.version, n)), ("feature_hash", pa.repeat(declaration.hash, n)),
    ):  # fmt: skip
        scores = scores.append_column(name, column)
    made_from = {"model_sha256": artifact.model_sha256, "model_version": artifact.version}
    catalog.SCORES.at(context.settings.lake_uri).publish(str(DAY), scores, made_from)
    answers = []
    for i, row in enumerate(table.slice(0, 300).to_pylist()):
        probability = float(runtime.probabilities(vectors(table.slice(i, 1), plan))[0])
        at = first + i
        answers.append({
            **{name: row.get(name) for name in (*plan.columns, *plan.features, "amount", "user_id", "merchant_id")},
            "transaction_id": row["transaction_id"], "prediction_id": f"p{at}", "event_us": MIDNIGHT + at,
            "served_us": MIDNIGHT + 2 * US_PER_HOUR + at, "hour_of_day": 0, "day_of_week": 0, "history": "store",
            "degraded": False, "fraud_probability": probability, "is_fraud": probability >= 0.2, "threshold": 0.2,
            "model_version": artifact.version, "model_sha256": artifact.model_sha256,
            "feature_hash": declaration.hash, "latency_us": 900,
        })  # fmt: skip
    return answers


@pytest.fixture
def day(
    context: Context, register: Make, features: Dataset, features_of: Make, linear_model: Make
) -> list[dict[str, Any]]:
    """A scored day, and the answers to its first 300 transactions, one at a time."""
    register(linear_model())
    table = features_of(DAY, 1_000)
    features.publish(str(DAY), table)
    return scored_and_served(context, table, linear_model(), THREE)


def compare(context: Context, answers: list[dict[str, Any]], **flags: object) -> consistency.Result:
    table = prediction_log.table_of(answers, THREE)
    catalog.PREDICTIONS.at(context.settings.lake_uri).publish(str(DAY), table)
    return consistency.run(consistency.Config.model_validate(flags), context)


def test_what_was_served_equals_the_batch_score_bit_for_bit(context: Context, day: list[dict[str, Any]]) -> None:
    result = compare(context, day)
    assert (result.verdict, result.compared, result.equal, result.mismatches) == ("ok", 300, 300, 0)
    assert (result.worst, result.skipped, result.examples) == (0.0, {}, [])
    few = compare(context, day, sample=50, date=str(DAY))
    assert few.compared == 50
    assert compare(context, day, sample=50) == few


def test_each_difference_is_counted_in_its_field(context: Context, day: list[dict[str, Any]]) -> None:
    day[0]["fraud_probability"] += 2e-6
    day[1].update(fraud_probability=0.9, transaction_velocity_1h=day[1]["transaction_velocity_1h"] + 1)
    day[2]["is_fraud"] = not day[2]["is_fraud"]
    day[3]["fraud_probability"] = float(np.nextafter(np.float32(day[3]["fraud_probability"]), np.float32(1)))
    day[4].update(model_sha256="", model_version="rule")
    day[5].update(history="none", degraded=True)
    day[6]["transaction_id"] = "not landed yet"
    day[7]["event_us"] -= US_PER_DAY
    result = compare(context, day)
    assert result.skipped == {
        "2026-03-08 has no scores": 1, "answered without the online store's history": 1,
        "not among the day's scores": 1, "scored by another model": 1,
    }  # fmt: skip
    assert (result.verdict, result.compared, result.mismatches, result.features_differ) == ("mismatch", 296, 3, 1)
    assert result.equal == 296 - 4
    assert result.worst > 0.1
    assert [line.rpartition(", ")[2] for line in result.examples] == [
        "equal features", "different transaction_velocity_1h", "equal features",
    ]  # fmt: skip


def of_two_entities(rows: int) -> pa.Table:
    """A day of features of the declaration with two entities."""
    random, plan = np.random.default_rng(7), Plan(TWO_ENTITIES)
    at = pa.array([MIDNIGHT + 1_000 * i for i in range(rows)], pa.timestamp("us", "UTC"))
    values: dict[str, Any] = {name: pa.array(random.integers(0, 9, rows) * 1.0) for name in plan.features}
    values |= {
        "transaction_id": [f"two-{i}" for i in range(rows)], "event_timestamp": at, "created_timestamp": at,
        "user_id": ["u"] * rows, "merchant_id": ["m"] * rows, "amount": random.integers(1, 900, rows) * 1.0,
        "channel": random.choice(["web", "app"], rows), "country": random.choice(["de", "pl", "fr"], rows),
        "distance": pa.array(random.integers(0, 90, rows) * 1.0, mask=random.random(rows) < 0.5),
        "terminal_id": pa.array(["t1"] * rows, mask=random.random(rows) < 0.5),
        "in_person": pa.array(random.random(rows) < 0.5, mask=random.random(rows) < 0.3),
    }  # fmt: skip
    values["terminal_mean_7d"] = pa.array([None] * rows, pa.float64())
    definition = catalog.features(TWO_ENTITIES.stored_hash)
    return pa.table(values).select(definition.schema(TWO_ENTITIES).names)


def test_answers_of_two_versions_with_different_declarations_in_one_log(
    context: Context, day: list[dict[str, Any]], register: Make, linear_model: Make
) -> None:
    """Each answer is compared with the scores of its own version, and its features with those of its declaration."""
    plan = Plan(TWO_ENTITIES)
    model = linear_model(plan=plan, card_count_1h=0.4, shop_fraud_rate_7d=-0.2)
    register(model, declaration=TWO_ENTITIES)
    table = of_two_entities(400)
    catalog.features(TWO_ENTITIES.stored_hash).at(context.settings.lake_uri).publish(str(DAY), table)
    answers = scored_and_served(context, table, model, TWO_ENTITIES, first=300)
    answers[5].update(fraud_probability=0.99, shop_count_7d=-1.0, in_person=None)
    answers[6].update(fraud_probability=0.98)
    result = compare(context, [*day, *answers])
    assert (result.compared, result.equal, result.mismatches, result.features_differ) == (300, 298, 2, 1)
    assert result.skipped["scored by another model"] == 300
    assert [line.rpartition(", ")[2] for line in result.examples] == ["different shop_count_7d", "equal features"]


def test_without_answers_there_is_nothing_to_compare(context: Context) -> None:
    assert consistency.run(consistency.Config(), context).verdict == "nothing"
    with pytest.raises(BadInputError, match="no answers of 2026-03-09"):
        consistency.run(consistency.Config(date=DAY), context)
