"""Level 0: `fraud.core.rule`, tuned on the training part.

The rule uses the amount and the hour, as far as both are inputs. Without the hour it holds at any time, without the
amount for any amount. Without both, the level is the fraud rate of the training part.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud.core.rule import Rule
from fraud.params import Training
from fraud.training.ladder.levels import Inputs, Progress, Sample, SplitPoint
from fraud.training.ladder.onnx_graph import INPUT, Graph
from fraud.training.ladder.rule_tuning import tuned_rule

_ANY_AMOUNT = 0.0
_ANY_HOUR = (0, 24)


@dataclass(frozen=True, slots=True)
class FittedRule:
    """A rule over at most two columns of the vector."""

    rule: Rule
    inputs: Inputs

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The rule's two probabilities."""
        return self.rule.probabilities(*_columns(vectors, self.inputs)).astype(np.float64)

    def to_onnx(self) -> bytes:
        """Comparisons, a logical combination and a Where node."""
        graph, conditions = Graph(len(self.inputs.names)), list[str]()
        if self.inputs.hour is not None:
            hour = _gathered(graph, self.inputs.hour)
            late = graph.node("GreaterOrEqual", hour, graph.constant(_float(self.rule.first)))
            early = graph.node("Less", hour, graph.constant(_float(self.rule.until)))
            conditions.append(graph.node("Or" if self.rule.first > self.rule.until else "And", late, early))
        if self.inputs.amount is not None:
            amount = _gathered(graph, self.inputs.amount)
            conditions.append(graph.node("Greater", amount, graph.constant(_float(self.rule.above))))
        if not conditions:  # true in every row, so that the output has their number
            first = _gathered(graph, 0)
            conditions.append(graph.node("Equal", first, first))
        holds = conditions[0] if len(conditions) == 1 else graph.node("And", *conditions)
        inside, outside = (graph.constant(_float(p)) for p in (self.rule.inside, self.rule.outside))
        return graph.to_bytes(graph.node("Where", holds, inside, outside))

    def split_points(self) -> list[SplitPoint]:
        """The bound of the amount."""
        if self.inputs.amount is None:
            return []
        return [SplitPoint(self.inputs.amount, np.float32(self.rule.above))]

    def facts(self) -> dict[str, float]:
        """The chosen bounds, and whether the amount and the hour are inputs."""
        return {
            "above": self.rule.above, "first_hour": self.rule.first, "until_hour": self.rule.until,
            "uses_amount": float(self.inputs.amount is not None), "uses_hour": float(self.inputs.hour is not None),
        }  # fmt: skip


def fit(train: Sample, _validation: Sample, params: Training, progress: Progress) -> FittedRule:
    """Choose the bounds of params.rule with the best average precision on the training part."""
    amount, hour = _columns(train.vectors, train.inputs)
    rule = tuned_rule(
        amount, hour, train.is_fraud,
        params.rule.amounts if train.inputs.amount is not None else (_ANY_AMOUNT,),
        params.rule.hours if train.inputs.hour is not None else (_ANY_HOUR,),
    )  # fmt: skip
    fitted = FittedRule(rule, train.inputs)
    progress("rule tuned", **fitted.facts())
    return fitted


def refit(rows: Sample, _first: FittedRule, params: Training, progress: Progress) -> FittedRule:
    """Tune the bounds on all rows."""
    return fit(rows, rows, params, progress)


def _columns(vectors: NDArray[np.float32], inputs: Inputs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Amount (USD) and hour of each row; values that every rule accepts in place of one that is no input."""
    some, midnight = np.ones(len(vectors), dtype=np.float32), np.zeros(len(vectors), dtype=np.float32)
    return (
        some if inputs.amount is None else vectors[:, inputs.amount],
        midnight if inputs.hour is None else vectors[:, inputs.hour],
    )


def _gathered(graph: Graph, position: int) -> str:
    return graph.node("Gather", INPUT, graph.constant(np.array(position, dtype=np.int64)), axis=1)


def _float(value: float) -> NDArray[np.float32]:
    return np.array(value, dtype=np.float32)
