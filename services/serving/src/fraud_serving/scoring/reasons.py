"""Reasons of a decision: the inputs with the largest Shapley values."""

import asyncio
from math import isnan

from fraud.core.contract import CATEGORIES
from fraud_serving.model import shapley
from fraud_serving.model.model import Model
from fraud_serving.schema import Reason, ValidTransaction
from fraud_serving.scoring.history import UserHistory
from fraud_serving.scoring.inference import nan_if_none


async def reasons_of(model: Model, transaction: ValidTransaction, history: UserHistory) -> list[Reason]:
    """The `shapley.MAX_REASONS` inputs with the largest contributions. A thread scores the 256 rows this needs."""
    velocity, average, merchants = history.windows
    inputs = shapley.Inputs(
        transaction.amount, transaction.hour, transaction.weekday,
        nan_if_none(transaction.request.distance_from_home), transaction.category,
        velocity or 0.0, nan_if_none(average), merchants or 0,
    )  # fmt: skip
    probabilities = await asyncio.to_thread(model.score, shapley.subsets(inputs, model.reference))
    contributions = shapley.contributions(probabilities).tolist()
    reasons = [
        Reason(name, round(part, 6), _as_json(name, value), _as_json(name, reference))  # type: ignore[arg-type]
        for name, part, value, reference in zip(inputs._fields, contributions, inputs, model.reference, strict=True)
    ]
    return sorted(reasons, key=lambda reason: -abs(reason.contribution))[: shapley.MAX_REASONS]


def _as_json(name: str, value: float) -> float | str | None:
    if name == "merchant_category":
        return CATEGORIES[int(value)]
    return None if isnan(value) else value
