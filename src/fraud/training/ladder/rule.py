"""Level 0: `fraud.core.rule`, tuned on the training part."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraud.core.features import VECTOR_NAMES
from fraud.core.rule import Rule
from fraud.params import Training
from fraud.training.ladder.levels import Progress, Sample, SplitPoint
from fraud.training.ladder.onnx_graph import INPUT, Graph
from fraud.training.ladder.rule_tuning import tuned_rule

_AMOUNT = VECTOR_NAMES.index("amount")
_HOUR = VECTOR_NAMES.index("hour_of_day")


@dataclass(frozen=True, slots=True)
class FittedRule:
    """A rule over two columns of the vector."""

    rule: Rule

    def predict(self, vectors: NDArray[np.float32]) -> NDArray[np.float64]:
        """The rule's two probabilities."""
        return self.rule.probabilities(vectors[:, _AMOUNT], vectors[:, _HOUR]).astype(np.float64)

    def to_onnx(self) -> bytes:
        """Comparisons, a logical combination and a Where node."""
        graph = Graph(len(VECTOR_NAMES))
        amount, hour = (
            graph.node("Gather", INPUT, graph.constant(np.array(i, dtype=np.int64)), axis=1) for i in (_AMOUNT, _HOUR)
        )
        late = graph.node("GreaterOrEqual", hour, graph.constant(_float(self.rule.first)))
        early = graph.node("Less", hour, graph.constant(_float(self.rule.until)))
        during = graph.node("Or" if self.rule.first > self.rule.until else "And", late, early)
        large = graph.node("Greater", amount, graph.constant(_float(self.rule.above)))
        inside, outside = (graph.constant(_float(p)) for p in (self.rule.inside, self.rule.outside))
        return graph.to_bytes(graph.node("Where", graph.node("And", during, large), inside, outside))

    def split_points(self) -> list[SplitPoint]:
        """The bound of the amount."""
        return [SplitPoint(_AMOUNT, np.float32(self.rule.above))]

    def facts(self) -> dict[str, float]:
        """The chosen bounds."""
        return {"above": self.rule.above, "first_hour": self.rule.first, "until_hour": self.rule.until}


def fit(train: Sample, _validation: Sample, params: Training, progress: Progress) -> FittedRule:
    """Choose the bounds of params.rule with the best average precision on the training part."""
    rule = tuned_rule(
        train.vectors[:, _AMOUNT], train.vectors[:, _HOUR], train.is_fraud, params.rule.amounts, params.rule.hours
    )
    progress("rule tuned", above=rule.above, first_hour=rule.first, until_hour=rule.until)
    return FittedRule(rule)


def refit(rows: Sample, _first: FittedRule, params: Training, progress: Progress) -> FittedRule:
    """Tune the bounds on all rows."""
    return fit(rows, rows, params, progress)


def _float(value: float) -> NDArray[np.float32]:
    return np.array(value, dtype=np.float32)
