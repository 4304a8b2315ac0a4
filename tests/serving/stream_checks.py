"""Payments for the tests of the stream, and what must hold of their decisions whatever was killed."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from kafka import Client, Published
from servers import until

USERS = 40
SENT = 2_000


def payment(user: str, number: int, **more: object) -> dict[str, Any]:
    return {
        "user_id": user, "transaction_id": f"{user}-{number}", "merchant_id": f"m{number % 3}", "amount": 10.0 + number,
        "event_timestamp": f"2026-04-01T12:00:{number % 60:02d}Z", "merchant_category": "travel",
        "distance_from_home": 1.0, **more,
    }  # fmt: skip


def transactions(count: int = SENT) -> list[dict[str, Any]]:
    """Of 40 users, in an order in which each user's payments are some apart."""
    return [
        payment(
            f"user{n % USERS}",
            n // USERS,
            event_timestamp=f"2026-04-01T{n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d}Z",
        )
        for n in range(count)
    ]


def by_transaction(decisions: Sequence[Published]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for decision in decisions:
        found[decision.json["transaction_id"]].append(decision.json)
    return found


def tally(sent: Sequence[dict[str, Any]], decisions: Sequence[Published]) -> Counter[str]:
    """Transactions without decision (lost), with decisions that differ in more than `repeated` (different), with more
    than one decision that is not marked as repeated (unmarked); further counts for the table."""
    found = by_transaction(decisions)
    counts = Counter(sent=len(sent), decisions=len(decisions), different=0, unmarked=0)
    counts["lost"] = len({of["transaction_id"] for of in sent} - found.keys())
    for answers in found.values():
        first, *others = [answer | {"repeated": False} for answer in answers]
        counts["different"] += any(other != first for other in others)
        counts["unmarked"] += sum(not answer["repeated"] for answer in answers) > 1
        counts["repeated"] += sum(answer["repeated"] for answer in answers)
        counts["degraded"] += first["degraded"]
    return counts


def check(sent: Sequence[dict[str, Any]], decisions: Sequence[Published]) -> Counter[str]:
    """`tally`, after asserting that nothing is lost, different or unmarked."""
    counts = tally(sent, decisions)
    assert counts["lost"] == counts["different"] == counts["unmarked"] == 0, counts
    return counts


def all_decided(client: Client, sent: Sequence[dict[str, Any]], seconds: float = 120.0) -> list[Published]:
    """Read until every transaction has a decision."""
    expected = {of["transaction_id"] for of in sent}

    def look() -> bool:
        client.read()
        return expected <= by_transaction(client.of("decisions")).keys()

    client.flush()
    until(look, "a decision for every transaction", seconds)
    return client.of("decisions")
