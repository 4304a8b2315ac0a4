"""`fraud consistency`: served answers against batch scores of the same model, each difference in its count."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from fraud.audit import prediction_log
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.features import definition_hash
from fraud.errors import BadInputError
from fraud.features.engines.arrow_vector import vectors
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.monitoring import consistency
from fraud.scoring import score
from fraud.scoring.onnx_session import OnnxModel

DAY = dt.date(2026, 3, 9)
MIDNIGHT = (DAY - dt.date(1970, 1, 1)).days * US_PER_DAY
Make = Callable[..., Any]


@pytest.fixture
def day(
    context: Context, spark: None, register: Make, features: Dataset, features_of: Make, linear_model: Make
) -> list[dict[str, Any]]:
    """A scored day, and the answers serving would have given to its first 300 transactions, one at a time."""
    register(linear_model())
    table = features_of(DAY, 1_000)
    features.publish(str(DAY), table)
    result = score.run(score.Config(), context)
    model = OnnxModel(linear_model())
    answers = []
    for i, row in enumerate(table.slice(0, 300).to_pylist()):
        probability = float(model.probabilities(vectors(table.slice(i, 1)))[0])
        event_us = MIDNIGHT + i
        answers.append({
            **{name: row.get(name) for name in prediction_log.SCHEMA.names}, "prediction_id": f"p{i}",
            "event_us": event_us, "served_us": MIDNIGHT + 2 * US_PER_HOUR + i, "hour_of_day": 0, "day_of_week": 0,
            "sequence": i, "newest_us": 0, "history": "store", "degraded": False, "fraud_probability": probability,
            "is_fraud": probability >= 0.2, "threshold": 0.2, "model_version": result.model_version,
            "model_sha256": result.model_sha256, "feature_hash": definition_hash(), "latency_us": 900,
        })  # fmt: skip
    return answers


def compare(context: Context, answers: list[dict[str, Any]], **flags: object) -> consistency.Result:
    table = pa.Table.from_pylist(answers, schema=prediction_log.SCHEMA)
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
        "equal window features", "different window features", "equal window features",
    ]  # fmt: skip


def test_without_answers_there_is_nothing_to_compare(context: Context) -> None:
    assert consistency.run(consistency.Config(), context).verdict == "nothing"
    with pytest.raises(BadInputError, match="no answers of 2026-03-09"):
        consistency.run(consistency.Config(date=DAY), context)
