"""The probabilities of the small test models, by hand: sigmoid(bias + weights x vector), weights as in backends.py."""

from math import exp, log

BIASES = (-1.0, -0.5, 0.0, 0.5, 1.0, -1.0, 0.0, -1.0)
"""By number of the model: 0 to 4 have three window features, 5 and 6 two entities, 7 the shipped declaration."""


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


def of_entities(
    number: int,
    amount: float,
    *,
    velocity: float = 0.0,
    average: float | None = None,
    merchants: int = 0,
    device_users: int = 0,
    fraud_rate: float = 0.0,
    merchant_count: float = 0.0,
    card_present: bool = False,
    france: bool = False,
    same_country: bool = True,
) -> float:
    """The probability of models 5 and 6 for a payment with a distance and a known category.

    Without an earlier payment `same_country_as_last` has its default, 1.
    """
    plain = probability(number, amount, velocity=velocity, average=average, merchants=merchants, distance_known=True)
    logit = log(plain / (1 - plain)) + 0.3 * device_users + 2.0 * fraud_rate + 0.01 * merchant_count
    logit += -0.2 * card_present + 0.4 * france - 0.1 * same_country
    return 1 / (1 + exp(-logit))
