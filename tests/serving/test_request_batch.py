"""Messages that are checked as a batch have the values that each has alone."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud_serving import request_batch
from fraud_serving.request import RequestType
from fraud_serving.stream.messages import Rejection, read, read_all

DECLARED = {
    "columns": {
        "country": {"type": "category", "values": ["de", "fr", "other"]},
        "learnt": {"type": "category", "values": ["a", "other"]},
        "miles": {"type": "number", "unit": "miles", "min": -5, "max": 100, "decimals": 1},
        "height": {"type": "number", "unit": "m", "min": 0, "max": 3},
        "present": {"type": "flag"},
        "device_id": {"type": "id"},
    },
    "features": [{"name": "amount", "kind": "request", "op": "column", "column": "amount"}],
}
TYPES = RequestType(Plan(parse(DECLARED)), None)
LATEST_US = 1_767_268_800_000_000
GOOD = {
    "transaction_id": "payment-1", "user_id": "user-12345", "merchant_id": "merchant_7", "amount": 12.34565,
    "event_timestamp": "2025-12-31T23:59:59.999999Z",
}  # fmt: skip
IDS = st.sampled_from(["user-1", "12345", "1-2345", "nan", "none", " user-1 ", "u", "Zoë-12", "a b c d", "1.5e+10", ""])
CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "transaction_id": IDS, "user_id": IDS, "merchant_id": IDS,
    "amount": st.sampled_from([0.00005, 0.0001, 1e9, 1e9 + 1, 2.00005, -1]) | st.floats(0.01, 1e6),
    "event_timestamp": st.sampled_from([
        "1999-12-31T23:59:59Z", "2026-01-01T12:00:00Z", "2026-01-01T12:00:00.000001Z", "2025-06-01T02:00:00.1+05:30",
    ]),
    "hour_of_day": st.sampled_from([23, 22]),
    "country": st.sampled_from(["de", "xx", " fr", None, "", "#N/A", "#REF!"]),
    "learnt": st.sampled_from(["a", "b"]),
    "miles": st.sampled_from([0.25, 0.35, -0.04, 100, None, 101]),
    "height": st.sampled_from([1.23456, 0]),
    "present": st.sampled_from([True, False, None]),
    "device_id": st.sampled_from(["device-1", "", "nan", "a\tb"]),
    "unknown": st.just(1),
}  # fmt: skip


def message(body: dict[str, Any]) -> Message:
    return Message(topic="t", key=str(body.get("user_id")).strip().encode(), value=msgspec.json.encode(body))


def both(bodies: Sequence[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    messages = [message(body) for body in bodies]
    alone = [read(of, TYPES, 16_384, LATEST_US) for of in messages]
    return list(read_all(messages, TYPES, 16_384, LATEST_US)), alone


def plain(found: object) -> object:
    return found if isinstance(found, Rejection) else repr(msgspec.structs.astuple(found)[1:])  # type: ignore[arg-type]


@given(st.lists(st.fixed_dictionaries({}, optional=CHANGES), min_size=1, max_size=4))
def test_a_batch_is_read_as_each_of_its_messages(changes: list[dict[str, Any]]) -> None:
    together, alone = both([GOOD | change for change in changes])
    assert [plain(of) for of in together] == [plain(of) for of in alone]


@pytest.mark.parametrize("column", sorted(CHANGES))
@given(data=st.data())
def test_one_column_of_a_batch_is_read_as_alone(column: str, data: st.DataObject) -> None:
    """One changed column at a time, so that most batches are not left to the check of a single transaction."""
    together, alone = both([GOOD, GOOD | {column: data.draw(CHANGES[column])}])
    assert [plain(of) for of in together] == [plain(of) for of in alone]


def test_a_valid_batch_is_not_checked_one_by_one() -> None:
    body = GOOD | {"country": "xx", "learnt": None, "miles": 0.35, "present": True, "device_id": "d-1"}
    requests = [TYPES.parse(msgspec.json.encode(body))]
    (found,) = request_batch.all_valid(TYPES, requests, LATEST_US) or []
    assert found.values == ["user-12345", "merchant_7", 12.3456, "other", "d-1", None, "other", 0.4, True]
    assert (found.units, found.event_us, found.hour, found.weekday) == (123_456, LATEST_US - 43_200_000_001, 23, 2)
