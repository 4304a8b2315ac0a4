"""`fraud drift` through Evidently and a real registry: verdicts, missing verdicts, and reruns."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests.served_answers import THREE, TWO_ENTITIES

from fraud.core.declaration import Declaration
from fraud.core.plan import Plan
from fraud.errors import BadInputError, RefusedError
from fraud.features.engines.arrow_vector import vectors
from fraud.job import Context
from fraud.lake import catalog
from fraud.lake.dataset import Dataset
from fraud.monitoring import drift
from fraud.scoring.onnx_session import OnnxModel

LAST = dt.date(2026, 3, 9)
WEEK = [LAST - dt.timedelta(days=back) for back in reversed(range(7))]
Make = Callable[..., Any]


@pytest.fixture
def production(register: Make, linear_model: Make, reference: pa.Table) -> str:
    """A production version with its training reference."""
    version: str = register(linear_model(), reference=reference)
    return version


@pytest.fixture
def reference(features_of: Make, linear_model: Make) -> pa.Table:
    """20,000 rows of January, with the model's probability."""
    days = [features_of(dt.date(2026, 1, 11) + dt.timedelta(days=n), 1_000, seed=1) for n in range(20)]
    return with_probability(pa.concat_tables(days), linear_model())


def with_probability(table: pa.Table, model: bytes, declaration: Declaration = THREE) -> pa.Table:
    probabilities = OnnxModel(model).probabilities(vectors(table, Plan(declaration)))
    return table.append_column("fraud_probability", pa.array(probabilities))


def publish_scores(scores: Dataset, table: pa.Table, version: str, model: bytes) -> None:
    columns = ["transaction_id", "user_id", "event_timestamp", "fraud_probability"]
    scored = with_probability(table, model).select(columns)
    day = str(table["event_timestamp"][0].as_py().date())
    scores.publish(day, scored.append_column("model_version", pa.repeat(version, table.num_rows)))


def record_of(result: drift.Result) -> dict[str, Any]:
    path = Path(result.report_uri.removeprefix("file://")).with_suffix(".json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_week_like_the_reference_is_ok_and_a_rerun_touches_nothing(
    context: Context, production: str, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    for day in WEEK:
        table = features_of(day, 400)
        features.publish(str(day), table)
        publish_scores(scores, table, production, linear_model())
    result = drift.run(drift.Config(), context)
    assert (result.day, result.verdict, result.retrain, result.drifted_features) == (str(LAST), "ok", False, [])
    assert (result.rows, result.reference_rows, result.model_version) == (2_800, 20_000, production)
    assert result.prediction_psi is not None
    assert result.prediction_psi < 0.05

    page = Path(result.report_uri.removeprefix("file://"))
    assert "2026-03-03 to 2026-03-09" in page.read_text()
    assert "Dataset Drift is" not in page.read_text()  # the verdict is ours alone
    before = page.read_bytes(), page.with_suffix(".json").read_bytes()
    again = drift.run(drift.Config(), context)
    assert again == result.model_copy(update={"changed": False})
    assert (page.read_bytes(), page.with_suffix(".json").read_bytes()) == before
    page.with_suffix(".json").unlink()  # as after a kill between the two files
    drift.run(drift.Config(), context)
    assert page.with_suffix(".json").read_bytes() == before[1]


def test_what_drifted_is_named_and_three_of_seven_ask_for_retraining(
    context: Context, production: str, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    for day in WEEK:
        table = features_of(day, 400, amounts=3.0, missing=0.6)
        busy = pa.array(table["transaction_velocity_1h"].to_numpy() + 1.0)
        table = table.set_column(table.column_names.index("transaction_velocity_1h"), "transaction_velocity_1h", busy)
        features.publish(str(day), table)
        publish_scores(scores, table, production, linear_model())
    result = drift.run(drift.Config(), context)
    assert result.drifted_features == ["amount", "distance_from_home", "transaction_velocity_1h"]
    assert result.drifted_share == pytest.approx(3 / 7, abs=1e-6)
    assert (result.verdict, result.retrain) == ("drift", True)
    record = record_of(result)
    assert record["prediction"]["drifted"] is True
    distance = record["features"]["distance_from_home"]
    assert distance["psi"] < 0.05 < distance["missing"]["psi"]  # the values are the old ones, there are fewer of them
    assert distance["missing"]["current"] == pytest.approx(0.6, abs=0.05)


def test_one_day_that_moves_a_feature_by_a_lot_gives_the_verdict_drift_the_night_after(
    context: Context, production: str, features: Dataset, features_of: Make
) -> None:
    """Six usual days hide it from the week's figure; asking for retraining takes more than one feature."""
    for day in WEEK:
        table = features_of(day, 1_200)
        if day == LAST:
            kinds = np.array(table["merchant_category"].to_pylist(), dtype=object)
            kinds[::2] = "grocery"
            at = table.column_names.index("merchant_category")
            table = table.set_column(at, "merchant_category", pa.array(kinds, pa.string()))
        features.publish(str(day), table)
    result = drift.run(drift.Config(), context)
    assert (result.verdict, result.retrain, result.jumped_features) == ("drift", False, ["category"])
    found = record_of(result)["features"]["category"]
    assert found["psi"] < 0.2 < found["newest_day_psi"]


def test_an_unknown_category_is_counted_and_drifts(
    context: Context, production: str, features: Dataset, features_of: Make
) -> None:
    for day in WEEK:
        table = features_of(day, 400)
        kinds = np.array(table["merchant_category"].to_pylist(), dtype=object)
        kinds[::2] = "other"
        at = table.column_names.index("merchant_category")
        features.publish(str(day), table.set_column(at, "merchant_category", pa.array(kinds, pa.string())))
    result = drift.run(drift.Config(), context)
    assert result.drifted_features == ["category"]
    assert (result.verdict, result.retrain) == ("ok", False)  # one of seven is within what params.yaml allows
    unknown = record_of(result)["features"]["category"]["unknown"]
    assert (unknown["reference"], unknown["current"]) == (0.0, 0.5)


def test_scores_of_another_version_are_ignored(
    context: Context, production: str, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    for day in WEEK:
        table = features_of(day, 200)
        features.publish(str(day), table)
        publish_scores(scores, table, production + "0", linear_model(bias=3.0))
    result = drift.run(drift.Config(), context)
    assert result.prediction_psi is None
    assert record_of(result)["rows_scored"] == 0
    assert result.verdict == "ok"


def test_a_day_with_few_rows_has_no_verdict(
    context: Context, production: str, features: Dataset, features_of: Make
) -> None:
    features.publish(str(LAST), features_of(LAST, 200, amounts=10.0))
    result = drift.run(drift.Config(), context)
    assert (result.verdict, result.retrain, result.drifted_features) == ("unknown", False, [])


def test_many_rows_are_sampled_by_id_the_same_ones_every_time(
    context: Context, production: str, features: Dataset, scores: Dataset, features_of: Make, linear_model: Make
) -> None:
    bounds = context.params.drift.model_copy(update={"reference_rows": 1_000})
    small = Context(context.settings, context.params.model_copy(update={"drift": bounds}), THREE, context.log)
    for day in WEEK:
        table = features_of(day, 2_000)
        features.publish(str(day), (table.slice(start, 500) for start in range(0, 2_000, 500)))
        publish_scores(scores, table, production, linear_model())
    result = drift.run(drift.Config(), small)
    assert 850 < result.rows < 1_150
    record = record_of(result)
    assert record["rows_scored"] == result.rows
    Path(result.report_uri.removeprefix("file://")).with_suffix(".json").unlink()
    assert drift.run(drift.Config(), small) == result


def test_the_first_month_of_history_is_no_reference(
    context: Context, register: Make, linear_model: Make, reference: pa.Table, features: Dataset, features_of: Make
) -> None:
    """In the platform's first month windows fill up; compared with it, every later week would seem to drift."""
    first_day = dt.date(2025, 12, 1)
    cold = pa.concat_tables([features_of(first_day + dt.timedelta(days=n), 500) for n in range(20)])
    filling = pa.array(np.zeros(cold.num_rows, np.int64))
    at = cold.column_names.index("unique_merchants_30d")
    cold = with_probability(cold.set_column(at, "unique_merchants_30d", filling), linear_model())
    register(linear_model(), reference=pa.concat_tables([cold, reference]))
    for day in (first_day, *WEEK):
        features.publish(str(day), features_of(day, 400))
    result = drift.run(drift.Config(), context)
    assert result.reference_rows == 20_000
    assert (result.verdict, result.drifted_features) == ("ok", [])


def two_entities(day: dt.date, rows: int, *, seed: int = 0, terminals: float = 0.4, foreign: float = 0.0) -> pa.Table:
    """A day of features of the declaration with two entities. `terminals`: share without a terminal, whose features
    are missing then; `foreign`: share of a country that training did not see."""
    random, plan = np.random.default_rng([seed, day.toordinal()]), Plan(TWO_ENTITIES)
    midnight = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()) * 1_000_000
    at = pa.array(midnight + np.sort(random.integers(0, 86_400_000_000, rows)), pa.timestamp("us", "UTC"))
    apart = random.random(rows) < terminals
    values: dict[str, Any] = {name: random.poisson(3.0, rows) * 1.0 for name in plan.features}
    values |= {
        "transaction_id": [f"{day}-{i}" for i in range(rows)], "event_timestamp": at, "created_timestamp": at,
        "user_id": ["u"] * rows, "merchant_id": ["m"] * rows, "amount": random.lognormal(3, 1, rows),
        "channel": random.choice(["web", "app"], rows),
        "country": np.where(random.random(rows) < foreign, "xx", random.choice(["de", "fr"], rows)),
        "distance": random.exponential(9, rows), "terminal_id": pa.array(["t1"] * rows, mask=apart),
        "in_person": pa.array(random.random(rows) < 0.7, mask=apart),
        "terminal_mean_7d": pa.array(random.lognormal(3, 1, rows), mask=apart),
    }  # fmt: skip
    return pa.table({name: values[name] for name in catalog.features("").schema(TWO_ENTITIES).names})


def test_the_inputs_of_any_declaration_are_compared_by_kind_and_shown_by_entity(
    context: Context, register: Make, linear_model: Make
) -> None:
    """A flag, a learnt category, windows of two entities and a daily table; nothing is named in the code."""
    plan = Plan(TWO_ENTITIES)
    model = linear_model(plan=plan, card_count_1h=0.1)
    january = pa.concat_tables([two_entities(dt.date(2026, 1, 11) + dt.timedelta(n), 1_000, seed=1) for n in range(4)])
    register(model, reference=with_probability(january, model, TWO_ENTITIES), declaration=TWO_ENTITIES)
    lake = catalog.features(TWO_ENTITIES.stored_hash).at(context.settings.lake_uri)
    for day in WEEK:
        lake.publish(str(day), two_entities(day, 400, terminals=0.8, foreign=0.3))
    result = drift.run(drift.Config(), context)
    assert result.drifted_features == ["in_person", "country", "terminal_mean_7d"]
    record = record_of(result)
    inputs = [feature.name for feature in TWO_ENTITIES.features if feature.name != "amount_to_mean"]
    assert sorted(record["features"]) == sorted(inputs)
    kinds = {name: (values["kind"], values["entity"]) for name, values in record["features"].items()}
    assert {name: kinds[name] for name in ("amount", "in_person", "country", "hour_of_day", "terminal_mean_7d",
                                          "shop_fraud_rate_7d")} == {
        "amount": ("number", "transaction"), "in_person": ("flag", "transaction"),
        "country": ("category", "transaction"), "hour_of_day": ("time", "transaction"),
        "terminal_mean_7d": ("window", "terminal"), "shop_fraud_rate_7d": ("daily", "shop"),
    }  # fmt: skip
    country = record["features"]["country"]
    assert (country["unknown"]["reference"], round(country["unknown"]["current"], 1)) == (0.0, 0.3)
    assert "not in the reference: other" in country["notes"]
    for name in ("terminal_mean_7d", "in_person"):
        missing = record["features"][name]["missing"]
        assert (round(missing["reference"], 1), round(missing["current"], 1)) == (0.4, 0.8)
    page = Path(result.report_uri.removeprefix("file://")).read_text()
    rows = [page.index(text) for text in ("transaction:\n 2 of 6 drifted", "<td>country", "<td>amount<td>number",
                                          "card:\n 0 of 5", "shop:\n 0 of 3", "terminal:\n 1 of 2",
                                          "<td>terminal_mean_7d", "<td>terminal_cards_1d")]  # fmt: skip
    assert rows == sorted(rows)


def test_a_daily_feature_is_not_compared_on_the_newest_day_alone(
    context: Context, register: Make, linear_model: Make
) -> None:
    """All its values of a day come from one or two snapshots, so they move together from day to day."""
    model = linear_model(plan=Plan(TWO_ENTITIES), card_count_1h=0.1)
    january = pa.concat_tables([two_entities(dt.date(2026, 1, 11) + dt.timedelta(n), 1_200, seed=1) for n in range(4)])
    register(model, reference=with_probability(january, model, TWO_ENTITIES), declaration=TWO_ENTITIES)
    lake = catalog.features(TWO_ENTITIES.stored_hash).at(context.settings.lake_uri)
    name = "shop_fraud_rate_7d"
    for day in WEEK:
        table = two_entities(day, 1_200)
        if day == LAST:
            moved = pa.array(table[name].to_numpy() + 50.0)
            table = table.set_column(table.column_names.index(name), name, moved)
        lake.publish(str(day), table)
    result = drift.run(drift.Config(), context)
    assert (result.verdict, result.jumped_features, result.drifted_features) == ("ok", [], [name])
    newest = {one: values["newest_day_psi"] for one, values in record_of(result)["features"].items()}
    assert newest[name] is None
    assert newest["terminal_mean_7d"] is not None


def test_a_missing_input_is_named(
    context: Context, register: Make, linear_model: Make, features: Dataset, features_of: Make
) -> None:
    with pytest.raises(RefusedError, match="no production version"):
        drift.run(drift.Config(), context)
    register(linear_model())
    with pytest.raises(BadInputError, match="no features"):
        drift.run(drift.Config(), context)
    features.publish(str(LAST), features_of(LAST, 10))
    with pytest.raises(BadInputError, match="no day in"):
        drift.run(drift.Config(date=dt.date(2027, 1, 1)), context)
    with pytest.raises(RefusedError, match=r"reference\.parquet"):
        drift.run(drift.Config(), context)
