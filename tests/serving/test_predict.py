"""POST /predict and /predict/batch against a real process, a real store and a registered model."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from expected import probability
from servers import Serving

HANDBOOK = {
    "amount": 4999.99, "merchant_category": "electronics", "hour_of_day": 3, "day_of_week": 2,
    "transaction_velocity": 12.0, "distance_from_home": 850.5,
}  # fmt: skip
FIRST = datetime(2026, 3, 4, 3, 0, tzinfo=UTC)


def payment(user: str, number: int, after: timedelta, **more: object) -> dict[str, object]:
    return {
        "transaction_id": f"{user}-{number}", "user_id": user, "merchant_id": f"m{number}", "amount": 100.0,
        "merchant_category": "travel", "event_timestamp": (FIRST + after).isoformat(), "distance_from_home": 3.0,
    } | more  # fmt: skip


def test_the_handbooks_request_is_answered_by_the_version_in_production(serving: Serving, versions: list[str]) -> None:
    answer = serving.predict(**HANDBOOK)
    assert answer["model_version"] == versions[0]
    assert answer["fraud_probability"] == pytest.approx(
        probability(0, 4999.99, velocity=12, distance_known=True), abs=1e-6
    )
    assert answer["is_fraud"] is (answer["fraud_probability"] >= 0.5)
    assert (answer["history"], answer["degraded"], answer["transaction_id"]) == ("request", False, None)


def test_windows_hold_the_users_earlier_payments_of_each_length(serving: Serving) -> None:
    days = timedelta(days=1)
    serving.predict(**payment("w", 1, timedelta(0), amount=10.0))
    serving.predict(**payment("w", 2, 24 * days, amount=40.0))
    serving.predict(**payment("w", 3, 29 * days - timedelta(minutes=59), amount=60.0))
    answer = serving.predict(**payment("w", 4, 29 * days, amount=500.0))
    # within the hour: 3; within 7 days: 2 and 3; within 30 days: 1, 2, 3
    by_hand = probability(0, 500.0, velocity=1, average=50.0, merchants=3, distance_known=True)
    assert answer["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)
    assert answer["history"] == "store"


def test_what_happened_at_the_same_microsecond_is_not_before(serving: Serving) -> None:
    serving.predict(**payment("tie", 1, timedelta(0)))
    answer = serving.predict(**payment("tie", 2, timedelta(0)))
    assert answer["fraud_probability"] == pytest.approx(probability(0, 100.0, distance_known=True), abs=1e-6)


def test_stored_history_wins_over_the_callers_own_velocity(serving: Serving) -> None:
    answer = serving.predict(**payment("spoof", 1, timedelta(0), transaction_velocity=50.0))
    assert answer["fraud_probability"] == pytest.approx(probability(0, 100.0, distance_known=True), abs=1e-6)
    assert answer["history"] == "store"


def test_a_retry_gets_the_remembered_answer_and_sees_the_same_history(serving: Serving) -> None:
    serving.predict(**payment("r", 1, timedelta(0)))
    first = serving.predict(**payment("r", 2, timedelta(minutes=1)))
    serving.predict(**payment("r", 3, timedelta(minutes=2)))
    again = serving.predict(**payment("r", 2, timedelta(minutes=1)))
    assert again == first | {"repeated": True}
    third = serving.predict(**payment("r", 4, timedelta(minutes=3)))
    by_hand = probability(0, 100.0, velocity=3, average=100.0, merchants=3, distance_known=True)
    assert third["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)  # the retry counts once


def test_an_unknown_category_is_taken_as_other_and_counted(serving: Serving) -> None:
    before = serving.metric("serving_unknown_category_total")
    answer = serving.predict(**(HANDBOOK | {"merchant_category": "zeppelins", "transaction_velocity": 0.0}))
    by_hand = probability(0, 4999.99, distance_known=True, other=True)
    assert answer["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)
    assert answer["categories"] == {"merchant_category": "other"}
    assert serving.metric("serving_unknown_category_total") == before + 1


def test_amounts_are_rounded_half_to_even_to_a_ten_thousandth(serving: Serving) -> None:
    serving.predict(**payment("round", 1, timedelta(0), amount=0.00025))  # 2.5 units -> 2
    answer = serving.predict(**payment("round", 2, timedelta(minutes=1), amount=1.0))
    by_hand = probability(0, 1.0, velocity=1, average=0.0002, merchants=1, distance_known=True)
    assert answer["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)


def test_a_zone_is_honoured(serving: Serving) -> None:
    given = payment("zone", 1, timedelta(0), event_timestamp="2026-03-05T01:30:00+02:00", hour_of_day=23, day_of_week=2)
    assert serving.predict(**given)["history"] == "store"


def test_a_batch_answers_as_its_rows_would_alone(serving: Serving) -> None:
    rows = [payment("b", n, timedelta(minutes=n)) for n in range(1, 251)]
    rows += [HANDBOOK, HANDBOOK | {"distance_from_home": None}]
    alone = [serving.predict(**(row | {"user_id": "alone"} if "user_id" in row else row)) for row in rows]
    answer = serving.client.post("/predict/batch", json={"transactions": rows}).json()
    together = [a["fraud_probability"] for a in answer["predictions"]]
    assert together == pytest.approx([a["fraud_probability"] for a in alone], abs=1e-6)
    assert [a["transaction_id"] for a in answer["predictions"]] == [row.get("transaction_id") for row in rows]


def test_a_batch_that_is_sent_again_gets_its_answers_back(serving: Serving) -> None:
    rows = {"transactions": [payment("again", n, timedelta(minutes=n)) for n in (1, 2, 1)]}
    first, second = (serving.client.post("/predict/batch", json=rows).json()["predictions"] for _ in range(2))
    assert [a["repeated"] for a in first] == [False, False, True]
    assert [a["repeated"] for a in second] == [True, True, True]
    assert [a["prediction_id"] for a in first] == [a["prediction_id"] for a in second]


FULL = payment("bad", 1, timedelta(0))
BAD = [
    ({"amount": "12"}, "amount", "Expected `float`"),
    ({"amount": -5}, "amount", "Expected `float` > "),
    ({"amount": 0}, "amount", "Expected `float` > "),
    ({"amount": 0.00001}, "amount", "Expected `float` > "),
    ({"amount": 1.1e9}, "amount", "<= 1000000000.0"),
    ({"amount": None}, "amount", "got `null`"),
    ({"merchant_category": 7}, "merchant_category", "Expected `str | null`"),
    ({"distance_from_home": -0.1}, "distance_from_home", ">= 0.0"),
    ({"distance_from_home": 12_501}, "distance_from_home", "<= 12500.0"),
    ({"user_id": ""}, "user_id", "length >= 1"),
    ({"user_id": "x" * 129}, "user_id", "length <= 128"),
    ({"user_id": ["u"]}, "user_id", "got `array`"),
    ({"transaction_id": None}, "transaction_id", "is required with user_id"),
    ({"merchant_id": None}, "merchant_id", "is required with user_id"),
    ({"event_timestamp": "2026-03-04T03:00:00"}, "event_timestamp", "timezone"),
    ({"event_timestamp": "yesterday"}, "event_timestamp", "Invalid RFC3339"),
    ({"event_timestamp": 1772593200}, "event_timestamp", "got `int`"),
    ({"event_timestamp": "1999-12-31T23:59:59Z"}, "event_timestamp", "must not be before 2000-01-01"),
    ({"event_timestamp": "0001-01-01T00:00:00+23:59"}, "event_timestamp", "must not be before 2000-01-01"),
    ({"event_timestamp": "9999-12-31T23:59:59-23:59"}, "event_timestamp", "must not be ahead of the server's clock"),
    ({"event_timestamp": None, "hour_of_day": 3, "day_of_week": 2}, "event_timestamp", "is required with user_id"),
    ({"hour_of_day": 4}, "hour_of_day", "event_timestamp has hour 3"),
    ({"day_of_week": 0}, "day_of_week", "event_timestamp has day 2"),
    ({"hour_of_day": 24}, "hour_of_day", "<= 23"),
    ({"hour_of_day": 3.5}, "hour_of_day", "got `float`"),
    ({"transaction_velocity": -1}, "transaction_velocity", ">= 0.0"),
    ({"transactionVelocity": 3}, "transactionVelocity", "unknown field"),
]


@pytest.mark.parametrize(("change", "field", "reason"), BAD)
def test_a_broken_contract_is_a_422_that_names_field_and_reason(
    serving: Serving, change: dict[str, object], field: str, reason: str
) -> None:
    answer = serving.client.post("/predict", json=FULL | change)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert reason in answer.json()["reason"]


@pytest.mark.parametrize("missing", ["amount", "hour_of_day", "day_of_week"])
def test_a_missing_field_is_a_422_that_names_it(serving: Serving, missing: str) -> None:
    answer = serving.client.post("/predict", json={k: v for k, v in HANDBOOK.items() if k != missing})
    assert (answer.status_code, answer.json()["field"]) == (422, missing)


GARBAGE = [
    b"", b"{", b"null", b"[]", b"5", b'"text"', b"\x00", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"[" * 10_000,
    b'{"amount":NaN}', b'{"amount":Infinity}', b'{"amount":1e999}', b'{"amount":' + b"9" * 400 + b"}",
    b'{"amount":1,"merchant_category":"\xff"}', b'{"amount":1,"merchant_category":"\\ud800"}',
    b'{"amount":1}{"amount":1}', b'{"a":' * 2_000, json.dumps(HANDBOOK).encode("utf-16"),
]  # fmt: skip


@pytest.mark.parametrize("body", GARBAGE)
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_bytes_that_are_no_request_are_a_422(serving: Serving, path: str, body: bytes) -> None:
    answer = serving.client.post(path, content=body)
    assert answer.status_code == 422
    assert answer.json()["reason"]


def test_a_bad_row_of_a_batch_is_named_and_nothing_of_the_batch_is_done(serving: Serving) -> None:
    rows = [payment("half", 1, timedelta(0)), payment("half", 2, timedelta(0), merchant_id=None)]
    answer = serving.client.post("/predict/batch", json={"transactions": rows})
    assert (answer.status_code, answer.json()["field"]) == (422, "transactions[1].merchant_id")
    rows[1]["amount"] = "ten"
    answer = serving.client.post("/predict/batch", json={"transactions": rows})
    assert (answer.status_code, answer.json()["field"]) == (422, "transactions[1].amount")
    after = serving.predict(**payment("half", 3, timedelta(minutes=1)))
    assert after["fraud_probability"] == pytest.approx(probability(0, 100.0, distance_known=True), abs=1e-6)


@pytest.mark.parametrize("rows", [0, 10_001])
def test_a_batch_has_between_1_and_10000_rows(serving: Serving, rows: int) -> None:
    answer = serving.client.post("/predict/batch", json={"transactions": [HANDBOOK] * rows})
    assert (answer.status_code, answer.json()["field"]) == (422, "transactions")


def test_10000_rows_are_one_batch(serving: Serving, versions: list[str]) -> None:
    answer = serving.client.post("/predict/batch", json={"transactions": [HANDBOOK] * 10_000}).json()
    assert (len(answer["predictions"]), answer["model_version"]) == (10_000, versions[0])


def test_ids_of_any_text_keep_users_apart(serving: Serving) -> None:
    for user in ("a}b", "a", "\u200b", "ünïcödé 🂡", "*1 $4 PING"):
        answer = serving.predict(**payment("x", 1, timedelta(0), user_id=user))
        assert answer["fraud_probability"] == pytest.approx(probability(0, 100.0, distance_known=True), abs=1e-6)
