"""Which inputs of a declaration are compared, and their values."""

import pyarrow as pa
import pytest
from tests.served_answers import THREE, TWO_ENTITIES

from fraud.core.contract import US_PER_DAY
from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud.monitoring.drift_inputs import Compared, compared, missing, values, warm_up_us


def test_derived_features_and_the_weekday_are_not_compared() -> None:
    names = [one.name for one in compared(Plan(THREE))]
    assert names == ["hour_of_day", "amount", "distance_from_home", "transaction_velocity_1h", "avg_amount_7d",
                     "unique_merchants_30d", "category"]  # fmt: skip


def test_the_hour_is_compared_only_if_the_model_has_it() -> None:
    amount = {"name": "amount", "kind": "request", "op": "column", "column": "amount"}
    night = {"name": "night", "kind": "request", "op": "hour_between", "first": 22, "until": 6}
    assert [one.name for one in compared(Plan(parse({"features": [amount]})))] == ["amount"]
    assert [one.name for one in compared(Plan(parse({"features": [amount, night]})))] == ["hour_of_day", "amount"]


@pytest.mark.parametrize(("declaration", "days"), [(THREE, 30), (TWO_ENTITIES, 31)])
def test_the_warm_up_is_the_longest_span_of_a_feature(declaration: object, days: int) -> None:
    """A mean of 30 days in a daily snapshot holds until the day after."""
    assert warm_up_us(Plan(declaration)) == days * US_PER_DAY  # type: ignore[arg-type]


def test_a_flag_and_a_category_are_texts_and_a_number_has_nan() -> None:
    table = pa.table({"f": pa.array([True, None, False]), "c": ["de", "pl", None], "n": pa.array([1, None, 2])})
    assert values(table, Compared("f", "flag", "transaction", "f")).tolist() == ["true", None, "false"]
    learnt = Compared("c", "category", "transaction", "c", "other", ("de", "other"))
    assert values(table, learnt).tolist() == ["de", "other", None]
    closed = Compared("c", "category", "transaction", "c", "other")
    assert values(table, closed).tolist() == ["de", "pl", None]
    numbers = values(table, Compared("n", "window", "card", "n"))
    assert missing(numbers).tolist() == [False, True, False]
    assert numbers[[0, 2]].tolist() == [1.0, 2.0]
