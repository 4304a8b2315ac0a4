"""?explain=true: exact Shapley values of a model whose probabilities are known by hand, over HTTP."""

from itertools import permutations
from math import exp

import numpy as np
import pytest
from servers import Serving

from fraud.core.features import VECTOR_NAMES
from fraud_serving.model import shapley

HANDBOOK = {
    "amount": 4999.99, "merchant_category": "electronics", "hour_of_day": 3, "day_of_week": 2,
    "transaction_velocity": 12.0, "distance_from_home": 850.5,
}  # fmt: skip
NAN = float("nan")


def test_the_values_are_the_mean_over_every_order_of_replacing_inputs_one_by_one() -> None:
    own = shapley.Inputs(5000.0, 3, 2, 850.0, 1, 12.0, 100.0, 7)
    other = shapley.Inputs(50.0, 14, 4, 2.0, 5, 0.0, 60.0, 3)
    index = {name: VECTOR_NAMES.index(name) for name in ("amount", "transaction_velocity_1h", "amount_to_avg_7d")}

    def probability(vectors: np.ndarray) -> np.ndarray:
        amount, velocity, ratio = (vectors[:, i].astype(np.float64) for i in index.values())
        return 1 / (1 + np.exp(-(amount / 1e4 + velocity * ratio / 20 - 3)))  # interactions on purpose

    def one(chosen: set[int]) -> float:
        mixed = [a if i in chosen else b for i, (a, b) in enumerate(zip(own, other, strict=True))]
        amount, velocity, average = mixed[0], mixed[5], mixed[6]
        return 1 / (1 + exp(-(amount / 1e4 + velocity * (amount / average) / 20 - 3)))

    by_order = np.zeros(8)
    active = (0, 5, 6)  # the others never move this model
    orders = list(permutations(active))
    for order in orders:
        chosen: set[int] = set()
        for i in order:
            before = one(chosen)
            chosen.add(i)
            by_order[i] += (one(chosen) - before) / len(orders)
    found = shapley.contributions(probability(shapley.subsets(own, other)))
    assert found == pytest.approx(by_order, abs=1e-6)
    assert found.sum() == pytest.approx(one(set(active)) - one(set()), abs=1e-6)


def test_an_ordinary_payment_is_the_middle_of_the_golden_rows() -> None:
    vectors = np.zeros((5, len(VECTOR_NAMES)), dtype=np.float32)
    vectors[:, VECTOR_NAMES.index("amount")] = [5, 1, 400, 30, 20]
    vectors[:, VECTOR_NAMES.index("distance_from_home")] = [0, 0, 8, 4, 0]
    vectors[:, VECTOR_NAMES.index("distance_missing")] = [1, 0, 0, 0, 1]
    vectors[:, VECTOR_NAMES.index("no_history_7d")] = [1, 1, 1, 0, 0]
    vectors[[0, 1, 2, 3, 4], VECTOR_NAMES.index("category_travel") - np.array([0, 1, 0, 1, 1])] = 1
    found = shapley.reference_payment(vectors)
    assert (found.amount, found.distance_from_home) == (20.0, 4.0)
    assert np.isnan(found.avg_amount_7d)
    assert VECTOR_NAMES[VECTOR_NAMES.index("category_electronics") + int(found.merchant_category)] == (
        "category_shopping_pos"
    )


def test_an_answer_gives_its_reasons_when_asked_and_the_same_decision(serving: Serving) -> None:
    plain = serving.predict(**HANDBOOK)
    answer = serving.client.post("/predict?explain=true", json=HANDBOOK).json()
    assert "reasons" not in plain
    assert answer["fraud_probability"] == plain["fraud_probability"]
    reasons = answer["reasons"]
    assert len(reasons) == 4
    sizes = [abs(reason["contribution"]) for reason in reasons]
    assert sizes == sorted(sizes, reverse=True)
    given = {reason["code"]: reason["value"] for reason in reasons}
    assert {"transaction_velocity_1h": 12.0, "amount": 4999.99}.items() >= {
        code: value for code, value in given.items() if code in ("transaction_velocity_1h", "amount")
    }.items()
    assert "hour_of_day" not in given  # this model never looks at it


@pytest.mark.parametrize(("query", "status"), [("explain=false", 200), ("x=1", 200), ("explain=yes", 422)])
def test_another_query_is_taken_or_refused_in_words(serving: Serving, query: str, status: int) -> None:
    answer = serving.client.post(f"/predict?{query}", json=HANDBOOK)
    assert answer.status_code == status
    assert "reasons" not in answer.json()
    if status == 422:
        assert answer.json()["field"] == "explain"


def test_a_retry_gets_the_reasons_that_were_given_first(serving: Serving) -> None:
    given = {
        "transaction_id": "t1", "user_id": "explained", "merchant_id": "m", "amount": 100.0,
        "merchant_category": "travel", "event_timestamp": "2026-03-04T03:00:00Z",
    }  # fmt: skip
    first = serving.client.post("/predict?explain=true", json=given).json()
    assert serving.predict(**given) == first | {"repeated": True}
