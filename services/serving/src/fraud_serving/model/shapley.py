"""Exact Shapley values of groups of inputs against a reference payment.

A declaration puts each base input into one of at most twelve groups. For every subset of the groups the model scores
the payment with the inputs of the other groups replaced by those of the reference: at most 2^12 = 4,096 rows in one
inference call. The values are computed without sampling. Their sum is the payment's probability minus that of the
reference. Inputs are replaced before imputation and derived features, so that a ratio or a flag of a missing value
always belongs to its inputs.

Source: Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", 2017, equation 4, with groups as
players and a single reference instead of an average over many. The values are not causes.
"""

from collections.abc import Sequence
from math import factorial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fraud.core.vector import Input, Vector

MAX_REASONS: Final = 4
"""Reasons in an answer."""
BaseValue = float | int | None


class Groups:
    """The groups of a version's inputs, and its reference payment.

    `reference`: the base values of a typical payment in the order of `vector.inputs`; None is null. Training computes
    it: the median, or the most frequent value of a category or a flag. Raises ValueError if it is not valid.
    """

    def __init__(self, vector: Vector, reference: Sequence[BaseValue]) -> None:
        if len(reference) != len(vector.inputs):
            raise ValueError(f"expected a reference payment of {len(vector.inputs)} base values, got {len(reference)}")
        self.reference: Final = tuple(map(_checked, reference, vector.inputs))
        self.inputs: Final[dict[str, list[str]]] = {}
        """Group -> names of its inputs."""
        for of in vector.inputs:
            self.inputs.setdefault(of.group, []).append(of.name)
        self.names: Final = tuple(self.inputs)
        self._vector, count = vector, len(self.names)
        subsets = (np.arange(2**count)[:, None] >> np.arange(count)) & 1 == 1
        self._of_input = [subsets[:, self.names.index(of.group)] for of in vector.inputs]
        self._weights = _weights(subsets)

    def vectors(self, payment: Sequence[BaseValue]) -> NDArray[np.float32]:
        """The vectors to score, float32[2^groups, len(vector.names)]. `payment`: base values as of the reference."""
        columns = [
            np.where(chosen, _or_nan(own), _or_nan(other))
            for chosen, own, other in zip(self._of_input, payment, self.reference, strict=True)
        ]
        return self._vector.table(columns)

    def contributions(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """Shapley values in the order of `names`. `probabilities`: of the rows of `vectors`."""
        values: NDArray[np.float64] = self._weights @ probabilities.astype(np.float64)
        return values


def _checked(value: object, of: Input) -> BaseValue:
    if of.categories:
        if isinstance(value, (float, int)) and value in range(len(of.categories)):
            return int(value)
        raise ValueError(f"reference payment: {of.name}: expected an index into its values, got {value!r}")
    if value is None or isinstance(value, (float, int)):
        return value
    raise ValueError(f"reference payment: {of.name}: expected a number or null, got {value!r}")


def _or_nan(value: BaseValue) -> float:
    return float("nan") if value is None else float(value)


def _weights(subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64[groups, rows]: the product with the probabilities of the rows is the Shapley values.

    `subsets`: bool[rows, groups], whether a row has the payment's inputs of a group.
    """
    count, sizes = subsets.shape[1], subsets.sum(axis=1)
    joining = np.array([factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)])
    added, left_out = joining[np.maximum(sizes - 1, 0)], joining[np.minimum(sizes, count - 1)]
    weights: NDArray[np.float64] = np.where(subsets.T, added, -left_out)
    return weights
