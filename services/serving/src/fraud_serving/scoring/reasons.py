"""Reasons of a decision: the groups of inputs with the largest Shapley values."""

import asyncio

from fraud_serving.model import shapley
from fraud_serving.model.model import Model
from fraud_serving.schema import Reason
from fraud_serving.scoring.inputs import BaseValues, Inputs


async def reasons_of(model: Model, inputs: Inputs, payment: BaseValues) -> list[Reason]:
    """The `shapley.MAX_REASONS` groups with the largest contributions. A thread scores the rows that this needs."""
    groups = model.groups
    parts = await asyncio.to_thread(_contributions, model, payment)
    own, ordinary = inputs.readable(payment), inputs.readable(groups.reference)
    largest = sorted(zip(groups.names, parts, strict=True), key=lambda part: -abs(part[1]))[: shapley.MAX_REASONS]
    return [
        Reason(
            group, round(part, 6),
            {name: own[name] for name in groups.inputs[group]}, {name: ordinary[name] for name in groups.inputs[group]},
        )
        for group, part in largest
    ]  # fmt: skip


def _contributions(model: Model, payment: BaseValues) -> list[float]:
    groups = model.groups
    found: list[float] = groups.contributions(model.score(groups.vectors(payment))).tolist()
    return found
