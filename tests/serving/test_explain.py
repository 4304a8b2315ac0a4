"""?explain=true: exact Shapley values over groups of inputs, of models whose probabilities are known by hand."""

from itertools import permutations
from math import exp

import numpy as np
import pytest
from plans import model, plan
from servers import Registry, Serving

from fraud_serving.model.shapley import Groups

HANDBOOK = {
    "amount": 4999.99, "merchant_category": "electronics", "hour_of_day": 3, "day_of_week": 2,
    "transaction_velocity": 12.0, "distance_from_home": 850.5,
}  # fmt: skip
# hour, weekday, amount, distance, velocity, average, merchants, category
OWN, OTHER = (3, 2, 5000.0, 850.0, 12.0, 100.0, 7.0, 1), (14, 4, 50.0, 2.0, 0.0, 60.0, 3.0, 5)


def test_the_values_are_the_mean_over_every_order_of_replacing_groups_one_by_one(registry: Registry) -> None:
    vector = plan(registry, 0).vector
    groups = Groups(vector, OTHER)
    index = [vector.names.index(name) for name in ("amount", "transaction_velocity_1h", "amount_to_avg_7d")]

    def probability(vectors: np.ndarray) -> np.ndarray:
        amount, velocity, ratio = (vectors[:, i].astype(np.float64) for i in index)
        return 1 / (1 + np.exp(-(amount / 1e4 + velocity * ratio / 20 - 3)))  # interactions on purpose

    def one(chosen: set[str]) -> float:
        amount, velocity, average = (
            (OWN if group in chosen else OTHER)[at] for group, at in (("amount", 2), ("velocity", 4), ("average", 5))
        )
        return 1 / (1 + exp(-(amount / 1e4 + velocity * (amount / average) / 20 - 3)))

    by_order = dict.fromkeys(groups.names, 0.0)
    orders = list(permutations(("amount", "velocity", "average")))  # the others never move this model
    for order in orders:
        chosen: set[str] = set()
        for group in order:
            before = one(chosen)
            chosen.add(group)
            by_order[group] += (one(chosen) - before) / len(orders)
    found = groups.contributions(probability(groups.vectors(OWN)))
    assert dict(zip(groups.names, found, strict=True)) == pytest.approx(by_order, abs=1e-6)


@pytest.mark.parametrize("number", [0, 5, 7])
def test_the_contributions_of_all_groups_add_up_to_the_difference_from_the_reference(
    registry: Registry, number: int
) -> None:
    served = model(registry, number)
    vector, groups, rng = served.plan.vector, served.groups, np.random.default_rng(number)
    assert len(groups.names) <= 10
    payment = [
        int(rng.integers(len(of.categories))) if of.categories else float(rng.integers(1, 5)) for of in vector.inputs
    ]
    two = np.zeros((2, len(vector.names)), dtype=np.float32)
    for row, base in zip(two, (payment, groups.reference), strict=True):
        vector.row(row, base)
    own, ordinary = served.score(two).astype(np.float64)
    rows = groups.vectors(payment)
    assert rows.shape == (2 ** len(groups.names), len(vector.names))
    assert groups.contributions(served.score(rows)).sum() == pytest.approx(own - ordinary, abs=1e-6)


@pytest.mark.parametrize("wrong", [OTHER[:-1], (*OTHER[:-1], 17), (*OTHER[:-1], None), ("3", *OTHER[1:])])
def test_a_reference_payment_of_other_inputs_is_refused(registry: Registry, wrong: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="reference payment"):
        Groups(plan(registry, 0).vector, wrong)  # type: ignore[arg-type]


def test_an_answer_gives_its_reasons_when_asked_and_the_same_decision(serving: Serving) -> None:
    plain = serving.predict(**HANDBOOK)
    answer = serving.client.post("/predict?explain=true", json=HANDBOOK).json()
    assert "reasons" not in plain
    assert answer["fraud_probability"] == plain["fraud_probability"]
    reasons = answer["reasons"]
    assert len(reasons) == 4
    sizes = [abs(reason["contribution"]) for reason in reasons]
    assert sizes == sorted(sizes, reverse=True)
    given = {reason["code"]: (reason["values"], reason["ordinary"]) for reason in reasons}
    assert given["velocity"] == ({"transaction_velocity_1h": 12.0}, {"transaction_velocity_1h": 0.0})
    assert given["amount"] == ({"amount": 4999.99}, {"amount": 50.0})
    assert "hour_of_day" not in given  # this model never uses it


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
