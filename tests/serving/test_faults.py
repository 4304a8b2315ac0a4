"""The behaviour of docs/serving.md, "Failures", with real processes that are killed and started again."""

import json
import random
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from expected import probability
from open_loop import Load, p99_ms
from servers import Registry, Serving, Valkey, until

PAYMENT = {
    "amount": 100.0, "merchant_category": "travel", "hour_of_day": 3, "day_of_week": 2, "distance_from_home": 3.0,
}  # fmt: skip
RATE = 300.0


def wrong(load: Load, expected: dict[str, float]) -> list[object]:
    """Answers that are not a 200, or differ from the expected probability of their version."""
    return [
        one
        for one in load.got
        if one.status != 200 or abs(one.body["fraud_probability"] - expected[one.body["model_version"]]) > 1e-6
    ]


def corrupt(registry: Registry, number: int) -> str:
    """Register version `number`'s files, damaged in one of five ways. Returns the version."""
    model, facts = registry.files(number % 5)
    tag = sha256(model).hexdigest()
    stated = json.loads(facts) | {"level": f"corrupt {number}"}  # differs from every local copy: it is downloaded
    facts = json.dumps(stated).encode()
    damage: list[tuple[bytes, bytes, dict[str, str]]] = [
        (model[:300] + bytes([model[300] ^ 1]) + model[301:], facts, {"model_sha256": tag}),
        (model[: len(model) // 2], facts, {"model_sha256": tag}),
        (b"\x00", facts, {"model_sha256": tag}),
        (model, json.dumps(stated | {"golden": stated["golden"] | {"probabilities": [0.5] * 8}}).encode(), {}),
        (b"\x80\x04pickle", json.dumps(stated | {"model_bytes": 8}).encode(), {}),
    ]
    onnx, serving_json, tags = damage[number % len(damage)]
    return registry.register(onnx, serving_json, **tags)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_swaps_and_twenty_bad_artefacts_under_load_lose_and_mix_nothing(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry)
    expected = {v: probability(i, 100.0, distance_known=True) for i, v in enumerate(versions[:5])}
    rng = random.Random(7)  # noqa: S311 - an order of versions, no secret
    load = Load(serving.port, RATE, PAYMENT)
    load.start()
    try:
        until(lambda: len(load.got) > 10 * RATE, "a steady start", 60)
        steady = len(load.got)
        served = 0
        for number in range(120):
            if number % 6 == 5:
                before = refusals(serving)
                registry.promote(corrupt(registry, number // 6))
                until(lambda before=before: refusals(serving) > before, "a refusal")
                assert serving.version() == versions[served]
            else:
                served = rng.choice([n for n in range(5) if n != served])
                registry.promote(versions[served])
                until(lambda version=versions[served]: serving.version() == version, f"version {versions[served]}")
    finally:
        load.stop()
    before_ms, during_ms = p99_ms(load.got[:steady]), p99_ms(load.got[steady:])
    mixed = wrong(load, expected)
    print(
        f"\n{len(load.got)} answers under {RATE:.0f}/s, {serving.metric('serving_model_swaps_total') - 1:.0f} swaps, "
        f"{refusals(serving):.0f} refusals: {len(load.failed)} failed, {len(mixed)} mixed or wrong; "
        f"p99 {before_ms:.1f} ms steady, {during_ms:.1f} ms while swapping"
    )
    assert (load.failed, mixed) == ([], [])
    assert serving.metric("serving_model_swaps_total") == 101
    assert refusals(serving) >= 20


def refusals(serving: Serving) -> float:
    kinds = ("sha256", "format", "features", "golden", "missing")
    return sum(serving.metric(f'serving_artefacts_refused_total{{reason="{kind}"}}') for kind in kinds)


@pytest.mark.slow
def test_registry_and_store_killed_and_restarted_under_load_fail_no_request(
    start: Callable[..., Serving],
    store: Valkey,
    registry: Registry,
    versions: list[str],
    backends: dict[str, Any],
) -> None:
    registry.promote(versions[0])
    serving = start(store.url, registry)
    expected = {v: probability(i, 100.0, distance_known=True) for i, v in enumerate(versions[:5])}
    load = Load(serving.port, RATE, PAYMENT)
    load.start()
    try:
        until(lambda: len(load.got) > RATE, "traffic")
        backends["registry"]("kill")
        until(lambda: serving.metric("serving_registry_errors_total") > 2, "unanswered questions")
        store.stop()
        until(lambda: serving.metric("serving_store_up") == 0, "the store's loss")
        assert serving.version() == versions[0]
        again = start(store.url, registry, "/ready", "again", SERVING_MODEL_CACHE=str(serving.cache))
        assert again.predict(**PAYMENT)["model_version"] == versions[0]  # a restart meanwhile
        store.start()
        until(lambda: serving.metric("serving_store_up") == 1, "the store's return")
        backends["registry"]("start")
        registry.promote(versions[1])
        for server in (serving, again):
            until(lambda server=server: server.version() == versions[1], "the version promoted since")
    finally:
        load.stop()
    mixed = wrong(load, expected)
    print(f"\n{len(load.got)} answers, registry and store killed: {len(load.failed)} failed, {len(mixed)} wrong")
    assert (load.failed, mixed) == ([], [])


def test_a_clock_that_steps_back_changes_no_window_and_loses_no_record(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str], tmp_path: Path
) -> None:
    registry.promote(versions[0])
    step = tmp_path / "step"
    step.write_text("0")
    serving = Serving(tmp_path / "stepped", shared_store.url, registry, STEP=str(step))
    serving.program = (str(Path(__file__).with_name("stepped_clock.py")),)
    serving.start()
    try:
        now = datetime.now(UTC)

        def pay(number: int) -> dict[str, Any]:
            return serving.predict(
                transaction_id=f"c{number}", user_id="clock", merchant_id="m", amount=100.0, distance_from_home=3.0,
                merchant_category="travel", event_timestamp=(now + timedelta(seconds=number)).isoformat(),
            )  # fmt: skip

        first = [pay(0), pay(1)]
        step.write_text("7200")  # two hours back, in the middle of traffic
        second = [pay(2), pay(1)]
        serving.stop(signal.SIGTERM)
        serving.start()  # its segment bears an earlier time than the first one's
        third = pay(3)
    finally:
        serving.close()
    assert second[1] == first[1] | {"repeated": True}
    by_hand = probability(0, 100.0, velocity=3, average=100.0, merchants=1, distance_known=True)
    assert third["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)
    decided = [first[0], first[1], second[0], third]
    assert {r["prediction_id"] for r in serving.records()} == {a["prediction_id"] for a in decided}
    assert not any(a["degraded"] for a in decided)
    print(f"\nclock two hours back: {len(decided)} decided, 1 retry, {len(serving.records())} records, 0 lost")
