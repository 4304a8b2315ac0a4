"""Loss of a model on a part of the transactions."""

from dataclasses import dataclass

from fraud.stats.metrics import Interval


@dataclass(frozen=True, slots=True)
class SliceLoss:
    """A slice's recall at capacity: the opponent's minus the candidate's, with its interval."""

    name: str
    frauds: int
    candidate: float
    opponent: float
    loss: Interval
