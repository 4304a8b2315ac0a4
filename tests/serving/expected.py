"""The probabilities of the small test models, by hand: sigmoid(bias + weights x vector), weights as in backends.py."""

from math import exp

BIASES = (-1.0, -0.5, 0.0, 0.5, 1.0)


def probability(
    number: int,
    amount: float,
    *,
    velocity: float = 0.0,
    average: float | None = None,
    merchants: int = 0,
    distance_known: bool = False,
    other: bool = False,
) -> float:
    logit = BIASES[number] + 0.0001 * amount + 0.125 * velocity + 0.5 * merchants
    logit -= 0.0002 * (amount if average is None else average)
    logit += 0.75 * other + 0.25 * (not distance_known)
    return 1 / (1 + exp(-logit))
