"""Each version has its own features: two of them in one process, swaps between them, and the request that follows."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from expected import of_entities, probability
from open_loop import Load
from plans import plan
from servers import Registry, Serving, Valkey, until

from fraud.core.declaration import parse
from fraud.core.plan import Plan
from fraud_serving.request import RequestType
from fraud_serving.schema import ContractError

SHORT = {"amount": 100.0, "merchant_category": "travel", "hour_of_day": 3, "day_of_week": 2, "distance_from_home": 3.0}
HANDBOOK = {
    "amount": 4999.99, "merchant_category": "electronics", "hour_of_day": 3, "day_of_week": 2,
    "transaction_velocity": 12.0, "distance_from_home": 850.5,
}  # fmt: skip
FIRST = datetime(2026, 3, 4, 3, 0, tzinfo=UTC)
RATE = 200.0


def payment(user: str, number: int, **more: object) -> dict[str, object]:
    """A user's payment, one minute after the one before."""
    return {
        "transaction_id": f"{user}-{number}", "user_id": user, "merchant_id": "m", "amount": 100.0,
        "merchant_category": "travel", "distance_from_home": 3.0,
        "event_timestamp": (FIRST + timedelta(minutes=number)).isoformat(),
    } | more  # fmt: skip


def serve(start: Callable[..., Serving], store: Valkey, registry: Registry, version: str, **more: str) -> Serving:
    registry.promote(version)
    serving = start(store.url, registry, **more)
    until(lambda: serving.version() == version, f"version {version}")
    return serving


def test_fifty_swaps_between_versions_with_different_features_fail_and_mix_nothing(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    serving = serve(start, shared_store, registry, versions[0])
    expected = {
        versions[0]: probability(0, 100.0, distance_known=True), versions[6]: of_entities(6, 100.0),
        versions[7]: probability(7, 100.0, distance_known=True),
    }  # fmt: skip
    load = Load(serving.port, RATE, SHORT)
    load.start()
    try:
        for number in range(50):
            version = versions[(6, 7, 0)[number % 3]]
            registry.promote(version)
            until(lambda version=version: serving.version() == version, f"version {version}")
    finally:
        load.stop()
    wrong = [
        one.body
        for one in load.got
        if one.status != 200 or abs(one.body["fraud_probability"] - expected[one.body["model_version"]]) > 1e-6
    ]
    print(f"\n{len(load.got)} answers, 50 swaps across feature sets: {len(load.failed)} failed, {len(wrong)} mixed")
    assert (load.failed, wrong) == ([], [])
    assert {one.body["model_version"] for one in load.got} == set(expected)
    assert serving.metric("serving_model_swaps_total") == 51


def test_a_challenger_with_other_features_is_scored_from_the_same_replies_and_finds_its_histories_when_promoted(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[5], "staging")
    serving = serve(start, shared_store, registry, versions[0], SERVING_CHALLENGER_ALIAS="staging")
    until(lambda: f'version="{versions[5]}"' in serving.client.get("/metrics").text, "the challenger")
    for number in range(3):
        answer = serving.predict(**payment("shadow", number, device_id="shadow-d", country="fr", card_present=True))
        assert answer["model_version"] == versions[0]
        history = {"velocity": number, "average": 100.0, "merchants": min(number, 1)}
        by_hand = probability(0, 100.0, distance_known=True, **history)
        assert answer["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)
    until(lambda: serving.metric("serving_log_records_total") == 3, "the log")
    record = serving.records()[2]
    challenger = of_entities(
        5, 100.0, velocity=2, average=100.0, merchants=1, device_users=1, card_present=True, france=True
    )
    assert record["challenger_probability"] == pytest.approx(challenger, abs=1e-6)
    assert set(record["columns"]) == {
        "merchant_category", "distance_from_home", "device_id", "country", "card_present",
    }  # fmt: skip
    assert set(record["features"]) == set(plan(registry, 0).features)
    registry.promote(versions[5])
    until(lambda: serving.version() == versions[5], "the promotion")
    answer = serving.predict(**payment("shadow", 3, device_id="shadow-d", country="us"))
    by_hand = of_entities(5, 100.0, velocity=3, average=100.0, merchants=1, device_users=1, same_country=False)
    assert answer["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)


def test_a_field_is_accepted_by_the_version_that_declares_it_alone(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    serving = serve(start, shared_store, registry, versions[0])
    refused = serving.client.post("/predict", json=SHORT | {"card_present": True})
    assert (refused.status_code, refused.json()["field"]) == (422, "card_present")
    registry.promote(versions[5])
    until(lambda: serving.version() == versions[5], "the swap")
    answer = serving.predict(**SHORT, card_present=True)
    assert answer["fraud_probability"] == pytest.approx(of_entities(5, 100.0, card_present=True), abs=1e-6)
    document = serving.client.get("/openapi.json").json()
    fields = document["components"]["schemas"]["Transaction"]["properties"]
    assert {"device_id", "country", "card_present"} <= set(fields)
    assert "| `card_present` | flag |" in document["info"]["description"]
    lineage = serving.client.get("/model").json()
    assert lineage["declaration"]["columns"]["country"]["values"] == ["fr", "other", "us"]
    assert lineage["groups"]["place"] == ["distance_from_home", "country"]


@pytest.fixture(scope="module")
def entities(
    registry: Registry, versions: list[str], shared_store: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    """A server of versions[5] for the tests that do not change it."""
    registry.promote(versions[5])
    server = Serving(tmp_path_factory.mktemp("entities"), shared_store.url, registry).start()
    yield server
    server.close()


BAD = [
    ({"card_present": "yes"}, "card_present", "Expected `bool | null`"),
    ({"device_id": 7}, "device_id", "Expected `str | null`"),
    ({"device_id": "x" * 10_000}, "device_id", "length <= 128"),
    ({"device_id": "a\u2028b"}, "device_id", "control character"),
    ({"device_id": "4.1E+15"}, "device_id", "scientific notation"),
    ({"user_id": "x" * 10_000}, "user_id", "length <= 128"),
    ({"country": ["fr"]}, "country", "got `array`"),
    ({"country": "f\tr"}, "country", "control character"),
    ({"country": "x" * 10_000}, "country", "length <= 128"),
    ({"distance_from_home": 12_500.1}, "distance_from_home", "<= 12500.0"),
    ({"devise_id": "d"}, "devise_id", "unknown field"),
]


@pytest.mark.parametrize(("change", "field", "reason"), BAD)
def test_a_declared_field_with_a_wrong_value_is_a_422_that_names_it(
    entities: Serving, change: dict[str, object], field: str, reason: str
) -> None:
    answer = entities.client.post("/predict", json=payment("bad", 1) | change)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert reason in answer.json()["reason"]


@pytest.mark.parametrize(
    ("given", "unknown", "used"),
    [
        ({"country": "fr"}, 0, {"country": "fr", "merchant_category": "travel"}),
        ({"country": "atlantis"}, 1, {"country": "other", "merchant_category": "travel"}),
        ({"country": None}, 0, {"country": "other", "merchant_category": "travel"}),
        ({"country": "other"}, 0, {"country": "other", "merchant_category": "travel"}),
        ({"country": "x", "merchant_category": "zeppelins"}, 2, {"country": "other", "merchant_category": "other"}),
    ],
)
def test_a_category_that_was_never_seen_is_replaced_counted_and_shown(
    entities: Serving, given: dict[str, object], unknown: int, used: dict[str, str]
) -> None:
    before = entities.metric("serving_unknown_category_total")
    assert entities.predict(**(SHORT | given))["categories"] == used
    assert entities.metric("serving_unknown_category_total") == before + unknown


@pytest.mark.parametrize("text", ["NULL", "nan", " None ", "", " "])
def test_a_text_for_a_missing_id_is_null(entities: Serving, text: str) -> None:
    answer = entities.predict(**payment(f"null-{text.encode().hex()}", 1, device_id=text))
    assert (answer["history"], answer["degraded"]) == ("store", False)

    def record() -> dict[str, Any] | None:
        return next((r for r in entities.records() if r["prediction_id"] == answer["prediction_id"]), None)

    found = until(record, "the record")
    assert found["columns"]["device_id"] is None
    assert found["sequences"] == {"user": 0}


@pytest.mark.parametrize("number", [0, 5, 7])
def test_the_short_request_is_answered_whatever_is_declared(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str], number: int
) -> None:
    serving = serve(start, shared_store, registry, versions[number])
    answer = serving.predict(**HANDBOOK)
    if number == 5:  # its list of categories does not have electronics
        by_hand = of_entities(5, 4999.99, velocity=12.0)
        assert answer["categories"]["merchant_category"] == "other"
        assert answer["fraud_probability"] > by_hand
    else:
        by_hand = probability(number, 4999.99, velocity=12.0, distance_known=True)
        assert answer["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)
    assert (answer["model_version"], answer["history"]) == (versions[number], "request")


LEAST = {"features": [{"name": "amount", "kind": "request", "op": "column", "column": "amount"}]}


def test_fields_of_the_short_request_that_are_not_declared_are_checked_and_not_used() -> None:
    requests = RequestType(Plan(parse(LEAST)), None)
    found = requests.validated(requests.parse(json.dumps(HANDBOOK).encode()), 2**62)
    assert found.values == [None, None, 4999.99]
    for change, field in (({"distance_from_home": 12_501}, "distance_from_home"), ({"device_id": "d"}, "device_id")):
        with pytest.raises(ContractError) as refused:
            requests.parse(json.dumps(HANDBOOK | change).encode())
        assert refused.value.field == field


def test_of_two_versions_the_one_in_production_decides_on_a_column_that_both_declare() -> None:
    def declared(column: dict[str, object]) -> Plan:
        feature = {"name": "x", "kind": "request", "op": "column", "column": "x"}
        return Plan(parse({"columns": {"x": column}, "features": [feature]}))

    production = declared({"type": "number", "unit": "km", "min": 0, "max": 10, "decimals": 1})
    requests = RequestType(production, declared({"type": "flag"}))
    found = requests.validated(requests.parse(json.dumps(SHORT | {"x": 2.25}).encode()), 2**62)
    assert found.values[3] == 2.2  # half to even
    assert found.challenger is not None
    assert found.challenger[3] is None  # another type
    with pytest.raises(ContractError, match="<= 10"):
        requests.parse(json.dumps(SHORT | {"x": 11}).encode())


def test_without_any_model_a_payment_is_not_refused_for_fields_that_a_declaration_would_check(
    start: Callable[..., Serving], shared_store: Valkey
) -> None:
    serving = start(shared_store.url, None, "/health")
    for more in ({"device_id": "d", "country": ["x"]}, {"distance_from_home": 1e9, "merchant_category": 7}, {}):
        answer = serving.predict(**(SHORT | more))
        assert (answer["model_version"], answer["degraded"]) == ("rule", True)
    assert serving.predict(**payment("no-model", 1, device_id="d"))["model_version"] == "rule"
    refused = serving.client.post("/predict", json=SHORT | {"amount": -1})
    assert (refused.status_code, refused.json()["field"]) == (422, "amount")
    batch = serving.client.post("/predict/batch", json={"transactions": [SHORT | {"x": 1}], "y": 2}).json()
    assert batch["predictions"][0]["model_version"] == "rule"
