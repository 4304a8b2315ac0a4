"""The order in which the store appended payments, from prediction records, and their features by definition.

For payments of tests/serving_client.py and records of versions with tests/declarations/three.yaml.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import permutations
from typing import Any, Final

from tests.oracle_windows import Event, Feature, window_values

from fraud.core.contract import US_PER_DAY

Payment = dict[str, Any]
Record = dict[str, Any]
_FEATURES: Final = {
    "transaction_velocity_1h": Feature("count", 0, 3_600_000_000),
    "avg_amount_7d": Feature("mean", 0, 7 * US_PER_DAY, 10_000),
    "unique_merchants_30d": Feature("distinct", 1, 30 * US_PER_DAY),
}
_MAX_EVENTS: Final = 1_024
_KEEP_US: Final = 37 * US_PER_DAY


def order_of(payments: Sequence[Payment], records: Sequence[Record]) -> list[Payment]:
    """The payments, each after all earlier ones of its user.

    Asserts that the sequences of each user are 0, 1, 2, ... without a gap, one for each payment, whatever replica
    answered and however often, and that the features of every record are those of the payments before it, bit for bit.
    A payment without a record has a sequence that no other payment has.
    """
    of_user, logged = defaultdict(list), defaultdict(list)
    for payment in payments:
        of_user[payment["user_id"]].append(payment)
    for record in records:
        logged[record["user_id"]].append(record)
    order: list[tuple[int, Payment]] = []
    for user, own in of_user.items():
        possible = _orders(own, logged[user])
        found = next((found for found in possible if _features_agree(found, logged[user])), None)
        assert found is not None, f"the features of {user} are not those of the payments before"
        order += enumerate(found)
    return [payment for _, payment in sorted(order, key=lambda placed: placed[0])]


def _orders(payments: Sequence[Payment], records: Sequence[Record]) -> Iterator[list[Payment]]:
    """The orders of one user's payments that agree with the sequences of the records; one if each has a record."""
    places: dict[str, set[int]] = defaultdict(set)
    for record in records:
        places[record["transaction_id"]].add(record["sequences"]["user"])
    assert {id_: several for id_, several in places.items() if len(several) > 1} == {}
    placed = {min(places[of["transaction_id"]]): of for of in payments if of["transaction_id"] in places}
    others = [of for of in payments if of["transaction_id"] not in places]
    free = sorted(set(range(len(payments))) - placed.keys())
    assert len(placed) + len(free) == len(payments), "two payments have one sequence, or a sequence is left out"
    for some in permutations(others):
        whole = {**placed, **dict(zip(free, some, strict=True))}
        yield [whole[place] for place in range(len(payments))]


def _features_agree(order: Sequence[Payment], records: Sequence[Record]) -> bool:
    """Whether the features of the records are those of the payments before theirs in the order."""
    events = [_event(payment, place) for place, payment in enumerate(order)]
    at = sorted(range(len(events)), key=lambda place: events[place][:2])
    values = window_values([events[place] for place in at], [*_FEATURES.values()], _MAX_EVENTS, _KEEP_US)
    expected: Mapping[str, dict[str, float | None]] = {
        order[place]["transaction_id"]: dict(zip(_FEATURES, values[i], strict=True)) for i, place in enumerate(at)
    }
    return all(record["features"] == expected[record["transaction_id"]] for record in records)


def _event(payment: Payment, sequence: int) -> Event:
    at = round(datetime.fromisoformat(payment["event_timestamp"]).timestamp()) * 1_000_000
    return Event(at, sequence, (round(payment["amount"] * 10_000), payment["merchant_id"]))
