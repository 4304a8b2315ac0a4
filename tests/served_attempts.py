"""What clients of serving got (tests/serving_client.py), compared with the prediction logs and with one replica."""

from collections import Counter
from typing import Any, Protocol

import httpx
from tests.served_order import order_of
from tests.serving_hosts import Replica
from tests.valkey_cluster import until

Attempt = dict[str, Any]


class Replicas(Protocol):
    """Replicas that behave as one, and a replica with a store of its own."""

    replicas: list[Replica]
    single: Replica

    def records(self, prefix: str) -> list[dict[str, Any]]:
        """The records of all `replicas` whose transaction id has the prefix."""


def answered(attempts: list[Attempt]) -> list[Attempt]:
    return [attempt for attempt in attempts if attempt["answer"] is not None]


def failed(attempts: list[Attempt]) -> list[Attempt]:
    return [attempt for attempt in attempts if attempt["answer"] is None]


def prediction_ids(attempts: list[Attempt]) -> set[str]:
    return {attempt["answer"]["prediction_id"] for attempt in answered(attempts)}


def logged(platform: Replicas, prefix: str) -> list[dict[str, Any]]:
    """The records of all replicas. Asserts that no answer has two."""
    for replica in platform.replicas:
        last = replica.predict(transaction_id=f"last of {prefix}")["prediction_id"]
        # Records are written in the order of the answers.
        until(
            lambda replica=replica, last=last: last in {of["prediction_id"] for of in replica.records("last")},  # type: ignore[misc]
            f"the log of {replica.host.name}",
        )
    records = platform.records(f"{prefix}-")
    assert [id_ for id_, n in Counter(record["prediction_id"] for record in records).items() if n > 1] == []
    return records


def checked(platform: Replicas, prefix: str, attempts: list[Attempt]) -> set[str]:
    """Assert that the replicas behaved as one. Returns the ids of answers without a record.

    Sequences and features as `order_of` says, and the answers are those of a single replica that gets the payments in
    the order of their sequences.
    """
    records = logged(platform, prefix)
    payments = {attempt["sent"]["transaction_id"]: attempt["sent"] for attempt in attempts}
    first: dict[str, dict[str, Any]] = {}
    for attempt in answered(attempts):
        answer = first.setdefault(attempt["sent"]["transaction_id"], attempt["answer"])
        assert not attempt["answer"]["degraded"]
        assert content(attempt["answer"]) == content(answer), "a repeated payment got another answer"
    # A replica that had lost the store logged degraded answers, which no client got.
    order = order_of([*payments.values()], [record for record in records if not record["degraded"]])
    assert [content(first[of["transaction_id"]]) for of in order] == [
        content(answer) for answer in on_one_replica(platform, order)
    ]
    return prediction_ids(attempts) - {record["prediction_id"] for record in records}


def content(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what says which attempt it was."""
    return {name: value for name, value in answer.items() if name not in ("prediction_id", "repeated")}


def on_one_replica(platform: Replicas, payments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers of a replica with a store of its own to the payments in this order."""
    found: list[dict[str, Any]] = []
    for start in range(0, len(payments), 500):
        body = {"transactions": payments[start : start + 500]}
        done = httpx.post(f"{platform.single.url}/predict/batch", json=body, timeout=60, trust_env=False)
        assert done.status_code == httpx.codes.OK, done.text
        found += done.json()["predictions"]
    return found
