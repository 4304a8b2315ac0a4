"""`fraud score` on a real Spark and a real registry: what it writes and what it refuses."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pytest

from fraud.core.declaration import Declaration
from fraud.core.plan import Plan
from fraud.declaration_file import load_of
from fraud.errors import BadInputError, RefusedError
from fraud.features.engines.arrow_vector import vectors
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION
from fraud.scoring import score
from fraud.scoring.onnx_session import OnnxModel

DAY = dt.date(2026, 3, 9)
Make = Callable[..., Any]


def bytes_below(dataset: Dataset) -> dict[str, bytes]:
    root = Path(dataset.uri.removeprefix("file://"))
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def config(**flags: object) -> score.Config:
    return score.Config.model_validate(flags)


@pytest.mark.usefixtures("spark")
def test_a_day_is_scored_row_by_row_as_without_spark_and_a_rerun_changes_nothing(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    model = linear_model()
    version = register(model, 0.2)
    whole = features_of(DAY, 5_000)
    features.publish(str(DAY), (whole.slice(start, 1_500) for start in range(0, 5_000, 1_500)))
    result = score.run(config(date=str(DAY)), context)

    published = scores.read(str(DAY))
    expected = OnnxModel(model).probabilities(vectors(whole, Plan(context.declaration)))
    assert published["transaction_id"].to_pylist() == whole["transaction_id"].to_pylist()
    assert published["fraud_probability"].to_numpy().tobytes() == expected.tobytes()
    assert published["is_fraud"].to_pylist() == (expected.astype(np.float64) >= 0.2).tolist()
    assert set(published["model_version"].to_pylist()) == {version}
    assert (result.rows, result.rejected, result.flagged) == (5_000, 0, int((expected >= 0.2).sum()))
    scores.verify(str(DAY))

    before = bytes_below(scores)
    again = score.run(config(date=str(DAY)), context)
    assert [day.changed for day in again.days] == [False]
    assert "spark_start" not in again.seconds
    forced = score.run(config(date=str(DAY), force=True), context)
    assert forced.days == again.days
    assert bytes_below(scores) == before


@pytest.mark.usefixtures("spark")
def test_without_a_date_the_newest_day_and_the_week_before_catch_up(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    register(linear_model())
    for back in range(10):
        features.publish(str(DAY - dt.timedelta(days=back)), features_of(DAY - dt.timedelta(days=back), 50))
    first = score.run(config(), context)
    assert [day.day for day in first.days] == [str(DAY - dt.timedelta(days=back)) for back in reversed(range(7))]
    old = str(DAY - dt.timedelta(days=2))
    features.publish(old, features_of(DAY - dt.timedelta(days=2), 60))
    version = register(linear_model(bias=-3.0))
    second = score.run(config(), context)
    assert {day.day: day.changed for day in second.days} == {old: True, str(DAY): True}
    assert second.model_version == version
    kept = scores.partition(str(DAY - dt.timedelta(days=1)))
    assert kept is not None
    assert kept.made_from["model_version"] != version  # what was decided then stays as it was decided


@pytest.mark.usefixtures("spark")
def test_a_what_if_leaves_the_scores_alone(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    version = register(linear_model())
    register(linear_model(bias=-3.0))
    features.publish(str(DAY), features_of(DAY, 50))
    features.publish(str(DAY), features_of(DAY, 30))
    for older, rows in ({}, 30), ({"as_of_version": 0}, 50):
        result = score.run(config(date=str(DAY), model=int(version), **older), context)
        assert result.model_version == version
        assert scores.partitions() == []
        assert Dataset(context.settings.lake_uri, f"what_if/version-{version}").read(str(DAY)).num_rows == rows


@pytest.mark.usefixtures("spark")
def test_rows_that_cannot_be_scored_are_counted_and_empty_and_one_row_days_are_days(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    register(linear_model())
    days = [str(DAY - dt.timedelta(days=back)) for back in (2, 1, 0)]
    damaged = features_of(DAY, 10)
    amounts = pa.array([None, float("nan"), *damaged["amount"].to_pylist()[2:]])
    features.publish(days[0], features_of(DAY, 0))
    features.publish(days[1], features_of(DAY, 1))
    features.publish(days[2], damaged.set_column(damaged.column_names.index("amount"), "amount", amounts))
    result = score.run(config(**{"from": days[0], "to": days[2]}), context)
    assert [(day.rows, day.rejected) for day in result.days] == [
        (0, {}), (1, {}), (8, {"amount is null": 1, "amount is not finite": 1}),
    ]  # fmt: skip
    assert scores.read(days[0]).num_rows == 0


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("damage", ["truncated", "gone", "another column", "another type", "a flipped bit"])
def test_damaged_features_are_named_and_nothing_is_published(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make,
    damage: str,
) -> None:  # fmt: skip
    register(linear_model())
    table = features_of(DAY, 1_000)
    whole = features_of(DAY, 1_000, seed=1)
    if damage == "another column":
        table = table.rename_columns({"amount": "amount_usd"})
    if damage == "another type":
        dollars = pa.array([f"{amount} USD" for amount in table["amount"].to_pylist()])
        table = table.set_column(table.column_names.index("amount"), "amount", dollars)
    features.publish(str(DAY), iter([whole, table]))
    path = Path(features.object_uris(str(DAY))[1].removeprefix("file://"))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if damage == "a flipped bit":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    if damage == "gone":
        path.unlink()
    with pytest.raises(BadInputError, match=path.name):
        score.run(config(date=str(DAY)), context)
    assert scores.partitions() == []


@pytest.mark.usefixtures("spark")
def test_a_user_who_made_most_of_the_day_changes_nothing(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    register(linear_model())
    table = features_of(DAY, 2_000)
    users = pa.array(["u0" if i % 20 else f"u{i}" for i in range(table.num_rows)])
    table = table.set_column(table.column_names.index("user_id"), "user_id", users)
    features.publish(str(DAY), (table.slice(start, 500) for start in range(0, 2_000, 500)))
    score.run(config(), context)
    published = scores.read(str(DAY))
    assert published["user_id"].equals(table["user_id"].cast(pa.string()))
    expected = OnnxModel(linear_model()).probabilities(vectors(table, Plan(context.declaration)))
    assert published["fraud_probability"].to_numpy().tobytes() == expected.tobytes()


@pytest.mark.usefixtures("spark")
def test_a_transaction_twice_in_a_day_is_refused_across_objects(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    register(linear_model())
    table = features_of(DAY, 100)
    features.publish(str(DAY), iter([table, table.slice(7, 1)]))
    with pytest.raises(BadInputError, match="transaction_id twice"):
        score.run(config(date=str(DAY)), context)
    assert scores.partitions() == []


def test_without_a_production_model_it_is_refused_and_writes_nothing(
    context: Context, features: Dataset, scores: Dataset, features_of: Make
) -> None:
    features.publish(str(DAY), features_of(DAY, 10))
    with pytest.raises(RefusedError, match="no production version") as refused:
        score.run(config(), context)
    assert "fraud promote" in str(refused.value)
    assert scores.partitions() == []


def test_model_bytes_that_were_not_registered_are_refused(
    context: Context, register: Make, features: Dataset, features_of: Make, linear_model: Make
) -> None:
    register(linear_model(), tampered=True)
    features.publish(str(DAY), features_of(DAY, 10))
    with pytest.raises(RefusedError, match=r"model\.onnx .* is not what was registered"):
        score.run(config(), context)


def test_no_features_of_the_versions_declaration_is_an_error_that_names_the_command(
    context: Context, register: Make, features: Dataset, features_of: Make, linear_model: Make
) -> None:
    register(linear_model())
    with pytest.raises(BadInputError, match="no features") as caught:
        score.run(config(), context)
    assert caught.value.hint == "fraud build-features"
    features.publish(str(DAY), features_of(DAY, 10))
    shipped = load_of(context.settings.project).resolved({"country": ("FR", "other")})
    version = register(linear_model(plan=Plan(shipped)), declaration=shipped)
    with pytest.raises(BadInputError, match=f"no features to score with version {version}") as caught:
        score.run(config(), context)
    assert caught.value.hint.startswith("fraud build-features --live")
    assert shipped.stored_hash[:12] in caught.value.expected


def of_declaration(declaration: Declaration, rows: int) -> pa.Table:
    """A day of `features` of a declaration, with all nulls that it may have in every third row."""
    random, plan = np.random.default_rng(5), Plan(declaration)
    at = pa.array([dt.datetime.combine(DAY, dt.time(), dt.UTC) + dt.timedelta(seconds=n) for n in range(rows)])
    fixed: dict[str, Any] = {
        "transaction_id": [f"t{n}" for n in range(rows)], "event_timestamp": at, "created_timestamp": at,
        "user_id": ["u"] * rows, "merchant_id": ["m"] * rows, "amount": random.uniform(1, 500, rows).round(2),
    }  # fmt: skip
    empty = dict(zip(plan.features, plan.empty, strict=True))
    schema = catalog.features(plan.stored_hash).schema(declaration)
    columns = []
    for field in schema:
        values: Any = fixed.get(field.name)
        if values is None:
            texts = random.choice(["FR", "GB", "grocery", "never seen"], rows)
            numbers = random.integers(0, 2 if field.type == pa.bool_() else 30, rows)
            values = texts.tolist() if field.type == pa.string() else numbers.tolist()
            if empty.get(field.name) is None:
                values[::3] = [None] * len(values[::3])
        columns.append(pa.array(values).cast(field.type))
    return pa.table(columns, schema=schema)


@pytest.mark.usefixtures("spark")
def test_versions_of_two_declarations_are_scored_each_from_its_own_features(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    three = register(linear_model())
    features.publish(str(DAY), features_of(DAY, 40))
    shipped = load_of(context.settings.project).resolved({"country": ("FR", "other")})
    plan = Plan(shipped)
    model = linear_model(plan=plan, country_FR=1.0, card_present=-1.0, merchant_fraud_rate_7d=0.1, category_grocery=2.0)
    wide = register(model, declaration=shipped)
    table = of_declaration(shipped, 300)
    catalog.features(plan.stored_hash).at(context.settings.lake_uri).publish(str(DAY), table)
    result = score.run(config(date=str(DAY)), context)
    assert (result.model_version, result.rows, result.rejected) == (wide, 300, 0)
    published = scores.read(str(DAY))
    assert (
        published["fraud_probability"].to_numpy().tobytes()
        == OnnxModel(model).probabilities(vectors(table, plan)).tobytes()
    )
    assert set(published["feature_hash"].to_pylist()) == {shipped.hash}
    again = score.run(config(date=str(DAY), model=int(three)), context)
    assert (again.model_version, again.rows) == (three, 40)


@pytest.mark.usefixtures("spark")
def test_the_version_is_resolved_once_whatever_happens_to_the_alias(
    context: Context, register: Make, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first = register(linear_model())
    second = register(linear_model(bias=-3.0))
    client = mlflow.MlflowClient(context.settings.mlflow_url)
    client.set_registered_model_alias(MODEL_NAME, PRODUCTION, first)
    table = features_of(DAY, 400)
    features.publish(str(DAY), (table.slice(start, 100) for start in range(0, 400, 100)))
    put = Dataset.partitions

    def swap_then_list(self: Dataset) -> list[str]:
        client.set_registered_model_alias(MODEL_NAME, PRODUCTION, second)
        return put(self)

    monkeypatch.setattr(Dataset, "partitions", swap_then_list)
    score.run(config(), context)
    assert set(scores.read(str(DAY))["model_version"].to_pylist()) == {first}
