"""Histories of two entities and daily tables: one round trip, each entity on its own."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from expected import of_entities
from plans import client, plan, publish
from servers import Registry, Serving, Valkey, until

FIRST = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
DAY = 20_516
"""FIRST's day since 1970, by hand: 56 years of 365 days, 14 leap days, and 62 days of 2026."""


def payment(user: str, device: str | None, number: int, **more: object) -> dict[str, object]:
    return {
        "transaction_id": f"{user}-{number}", "user_id": user, "merchant_id": "m", "amount": 100.0,
        "merchant_category": "travel", "distance_from_home": 3.0, "device_id": device, "country": "us",
        "event_timestamp": (FIRST + timedelta(minutes=number)).isoformat(),
    } | more  # fmt: skip


@pytest.fixture(scope="module")
def serving(
    registry: Registry, versions: list[str], shared_store: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    registry.promote(versions[5])
    server = Serving(tmp_path_factory.mktemp("entities"), shared_store.url, registry).start()
    yield server
    server.close()


def record_of(serving: Serving, answer: dict[str, Any]) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        return next((r for r in serving.records() if r["prediction_id"] == answer["prediction_id"]), None)

    return until(found, "the record")


def test_windows_of_each_entity_come_from_its_own_history(serving: Serving) -> None:
    for number, user in enumerate(("e1", "e2", "e3", "e1")):
        answer = serving.predict(**payment(user, "shared", number))
    by_hand = of_entities(5, 100.0, velocity=1, average=100.0, merchants=1, device_users=3)
    assert answer["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)
    record = record_of(serving, answer)
    assert record["sequences"] == {"user": 1, "device": 3}
    assert record["newest_us"] == {
        "user": int(FIRST.timestamp() * 1e6), "device": int((FIRST + timedelta(minutes=2)).timestamp() * 1e6),
    }  # fmt: skip
    assert record["features"]["device_users_1d"] == 3.0


def test_a_null_id_appends_nothing_and_has_empty_windows(serving: Serving) -> None:
    serving.predict(**payment("n1", None, 1))
    answer = serving.predict(**payment("n1", None, 2))
    by_hand = of_entities(5, 100.0, velocity=1, average=100.0, merchants=1)
    assert answer["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)
    assert record_of(serving, answer)["sequences"] == {"user": 1}


def test_a_device_without_a_user_has_its_history(serving: Serving) -> None:
    serving.predict(**payment("d1", "lonely", 1))
    given = payment("without", "lonely", 2) | {"user_id": None}
    answer = serving.predict(**given)
    assert answer["fraud_probability"] == pytest.approx(of_entities(5, 100.0, device_users=1), abs=1e-6)
    assert (answer["history"], record_of(serving, answer)["sequences"]) == ("store", {"device": 1})
    # The velocity of the request stands for the user's, of whom nothing is stored.
    given = payment("without", "lonely", 3) | {"user_id": None, "transaction_velocity": 4.0}
    answer = serving.predict(**given)
    by_hand = of_entities(5, 100.0, velocity=4.0, device_users=1)
    assert answer["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)


def test_the_bound_of_events_is_the_declared_one(serving: Serving) -> None:
    rows = [payment(f"bound{n}", "crowd", n) for n in range(12)]
    answers = serving.client.post("/predict/batch", json={"transactions": rows}).json()["predictions"]
    by_hand = [of_entities(5, 100.0, device_users=min(n, 8)) for n in range(12)]  # max_events of a device: 8
    assert [a["fraud_probability"] for a in answers] == pytest.approx(by_hand, abs=1e-6)


def break_history(store: Valkey, registry: Registry, entity: str, entity_id: str) -> str:
    """Make the key of an entity's history one that the script cannot read. Returns the key."""
    [layout] = [of.layout for of in plan(registry, 5).windows if of.layout.entity == entity]
    key = layout.history_key(entity_id)
    with client(store) as connection:
        connection.delete(key)
        connection.rpush(key, "x")
    return key


def test_an_entity_whose_reply_is_missing_has_empty_windows_and_the_answer_is_degraded(
    serving: Serving, shared_store: Valkey, registry: Registry
) -> None:
    serving.predict(**payment("p1", "part", 1))
    break_history(shared_store, registry, "device", "part")
    answer = serving.predict(**payment("p1", "part", 2))
    by_hand = of_entities(5, 100.0, velocity=1, average=100.0, merchants=1)
    assert answer["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)
    assert (answer["history"], answer["degraded"]) == ("store", True)
    assert record_of(serving, answer)["sequences"] == {"user": 1}


@pytest.mark.parametrize("entity", ["user", "device"])
def test_a_retry_completes_an_event_that_reached_one_history_alone(
    serving: Serving, shared_store: Valkey, registry: Registry, entity: str
) -> None:
    user, device = f"half-{entity}", f"half-{entity}-d"
    key = break_history(shared_store, registry, entity, user if entity == "user" else device)
    given = payment(user, device, 1)
    first = serving.predict(**given)
    assert first["degraded"]
    with client(shared_store) as connection:
        connection.delete(key)
    again = serving.predict(**given)
    assert (again["degraded"], again["repeated"]) == (False, entity == "device")
    assert again["prediction_id"] != first["prediction_id"]  # a degraded answer is not kept
    assert record_of(serving, again)["sequences"] == {"user": 0, "device": 0}
    assert serving.predict(**given) == again | {"repeated": True}
    after = serving.predict(**payment(user, device, 2))
    by_hand = of_entities(5, 100.0, velocity=1, average=100.0, merchants=1, device_users=1)
    assert after["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)  # each history has the event once


def test_a_store_with_histories_of_another_layout_is_used_beside_them(
    serving: Serving, start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    serving.predict(**payment("layout", None, 1))
    registry.promote(versions[0])
    other = start(shared_store.url, registry)
    for number in (2, 3):
        answer = other.predict(**{k: v for k, v in payment("layout", None, number).items() if k in BUILT_IN})
    assert record_of(other, answer)["sequences"] == {"user": 1}
    registry.promote(versions[5])
    until(lambda: serving.version() == versions[5], "the version with the first layout")
    answer = serving.predict(**payment("layout", None, 4))
    assert record_of(serving, answer)["sequences"] == {"user": 1}
    assert not answer["degraded"]


BUILT_IN = {"transaction_id", "user_id", "merchant_id", "amount", "event_timestamp"}


class TestDaily:
    """Daily tables of a store of their own."""

    @pytest.fixture
    def serving(self, start: Callable[..., Serving], store: Valkey, registry: Registry, versions: list[str]) -> Serving:
        registry.promote(versions[5])
        return start(store.url, registry)

    def states(self, serving: Serving) -> dict[str, float]:
        return {
            state: serving.metric(f'serving_daily_snapshot_total{{entity="merchant",state="{state}"}}')
            for state in ("current", "stale", "missing")
        }

    def test_the_row_of_the_newest_snapshot_that_holds_is_used_and_a_switch_is_seen(
        self, serving: Serving, store: Valkey, registry: Registry
    ) -> None:
        [table] = plan(registry, 5).tables
        asked = iter(range(10_000))

        def pay(**more: object) -> dict[str, Any]:
            return serving.predict(**payment(f"daily{next(asked)}", None, 0, **more))

        missing = pay()
        assert missing["fraud_probability"] == pytest.approx(of_entities(5, 100.0), abs=1e-6)
        assert (missing["degraded"], self.states(serving)) == (False, {"current": 0, "stale": 0, "missing": 1})

        old = publish(store, table, DAY - 1, {"m": [5.0, 0.25]}, [0.0, 0.125])
        stale = of_entities(5, 100.0, merchant_count=5, fraud_rate=0.25)
        until(lambda: pay()["fraud_probability"] == pytest.approx(stale, abs=1e-6), "the first publication")
        assert self.states(serving)["stale"] >= 1

        new = publish(store, table, DAY, {"m": [7.0, 0.5]}, [0.0, 0.0625], "b")
        current = of_entities(5, 100.0, merchant_count=7, fraud_rate=0.5)
        until(lambda: pay()["fraud_probability"] == pytest.approx(current, abs=1e-6), "the switch")
        assert self.states(serving)["current"] >= 1
        assert record_of(serving, pay())["snapshots"] == {"merchant": new}

        before = pay(event_timestamp="2026-03-04T02:59:59.999999Z")  # the day's snapshot holds from 03:00
        assert before["fraud_probability"] == pytest.approx(stale, abs=1e-6)
        assert record_of(serving, before)["snapshots"] == {"merchant": old}
        without_row = pay(merchant_id="unheard-of")
        assert without_row["fraud_probability"] == pytest.approx(of_entities(5, 100.0, fraud_rate=0.0625), abs=1e-6)
        short = {"amount": 100.0, "merchant_category": "travel", "hour_of_day": 3, "day_of_week": 2}
        newest = serving.predict(**short, distance_from_home=3.0, merchant_id="m")
        assert newest["fraud_probability"] == pytest.approx(current, abs=1e-6)
        age_s = serving.metric('serving_daily_snapshot_age_seconds{entity="merchant"}')
        expected = datetime.now(UTC) - datetime(2026, 3, 4, 3, tzinfo=UTC)
        assert age_s == pytest.approx(expected.total_seconds(), abs=60)

    def test_a_row_of_another_length_counts_as_missing(
        self, serving: Serving, store: Valkey, registry: Registry
    ) -> None:
        [table] = plan(registry, 5).tables
        id_ = publish(store, table, DAY, {"good": [7.0, 0.5]}, [0.0, 0.0])
        with client(store) as connection:
            connection.set(table.row_key(id_, "short"), b"x" * 8)
        asked = iter(range(10_000))
        until(
            lambda: record_of(serving, serving.predict(**payment(f"w{next(asked)}", None, 0)))["snapshots"] != {},
            "the publication",
        )
        before = self.states(serving)["missing"]
        answer = serving.predict(**payment("short", None, 0, merchant_id="short"))
        assert answer["fraud_probability"] == pytest.approx(of_entities(5, 100.0), abs=1e-6)
        assert (record_of(serving, answer)["snapshots"], self.states(serving)["missing"]) == ({}, before + 1)

    @pytest.mark.parametrize("text", ["", "{", '{"day": 1}', '{"day": 20516, "id": "x", "default": [1.0]}', "[]"])
    def test_a_pointer_that_cannot_be_read_is_counted_and_left_out(
        self, serving: Serving, store: Valkey, registry: Registry, text: str
    ) -> None:
        [table] = plan(registry, 5).tables
        with client(store) as connection:
            connection.hset(table.pointer_key, "1", text)
        until(lambda: serving.metric('serving_store_errors_total{kind="daily"}') == 1, "the error")
        answer = serving.predict(**payment("pointer", None, 0))
        assert (answer["degraded"], answer["fraud_probability"]) == (
            False, pytest.approx(of_entities(5, 100.0), abs=1e-6),
        )  # fmt: skip

    def test_a_server_that_starts_after_the_publication_uses_it_at_once(
        self, start: Callable[..., Serving], store: Valkey, registry: Registry, versions: list[str]
    ) -> None:
        [table] = plan(registry, 5).tables
        publish(store, table, DAY, {"m": [7.0, 0.5]}, [0.0, 0.0])
        registry.promote(versions[0])
        serving = start(store.url, registry)
        registry.promote(versions[5])
        until(lambda: serving.version() == versions[5], "the swap")
        answer = serving.predict(**payment("first", None, 0))
        current = of_entities(5, 100.0, merchant_count=7, fraud_rate=0.5)
        assert answer["fraud_probability"] == pytest.approx(current, abs=1e-6)
