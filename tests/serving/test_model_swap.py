"""Model swaps: a new version, a rollback, a refused version. No request fails, and each answer names its version."""

import json
import signal
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from expected import probability
from servers import Registry, Serving, Valkey, until

PAYMENT = {
    "amount": 100.0,
    "merchant_category": "travel",
    "hour_of_day": 3,
    "day_of_week": 2,
    "distance_from_home": 3.0,
}


def refused(serving: Serving, kind: str) -> float:
    return serving.metric(f'serving_artefacts_refused_total{{reason="{kind}"}}')


def test_every_answer_under_swaps_and_rollbacks_is_the_one_its_version_gives(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry)
    expected = {v: probability(i, 100.0, distance_known=True) for i, v in enumerate(versions[:5])}
    seen: set[str] = set()
    wrong: list[object] = []
    count, done = [0] * 4, threading.Event()

    def call(caller: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{serving.port}", timeout=30, trust_env=False) as client:
            while not done.is_set():
                answer = client.post("/predict", json=PAYMENT)
                body = answer.json()
                if answer.status_code != 200 or abs(body["fraud_probability"] - expected[body["model_version"]]) > 1e-6:
                    wrong.append(body)
                seen.add(body["model_version"])
                count[caller] += 1

    callers = [threading.Thread(target=call, args=(n,)) for n in range(4)]
    for caller in callers:
        caller.start()
    try:
        for version in [versions[i] for i in (1, 2, 3, 4, 3, 0, 4, 2)]:
            registry.promote(version)
            until(lambda version=version: serving.version() == version, f"version {version}")
            until(lambda version=version: version in seen, f"an answer of version {version}")
    finally:
        done.set()
        for caller in callers:
            caller.join()
    assert wrong == []
    assert seen == set(versions[:5])
    assert serving.metric("serving_model_swaps_total") == 9
    print(f"{sum(count)} answers, 8 swaps, 0 failed, 0 mixed")


def test_a_batch_under_a_swap_has_one_version(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry)
    for number in (1, 2, 3):
        registry.promote(versions[number])
        for _ in range(5):
            answer = serving.client.post("/predict/batch", json={"transactions": [PAYMENT] * 2_000}).json()
            assert {a["model_version"] for a in answer["predictions"]} == {answer["model_version"]}
            assert len({a["fraud_probability"] for a in answer["predictions"]}) == 1


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def with_facts(serving: bytes, **facts: object) -> bytes:
    return json.dumps(json.loads(serving) | facts).encode()


def test_a_bad_artefact_is_refused_and_the_old_version_stays(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry)
    model, facts = registry.files(1)
    good = sha256(model).hexdigest()
    golden = json.loads(facts)["golden"]
    bad = {
        "one flipped bit": ("sha256", flip(model, 300), facts, {"model_sha256": good}),
        "cut short": ("sha256", model[:-1], facts, {"model_sha256": good}),
        "no tag": ("sha256", model, facts, {"model_sha256": ""}),
        "other facts": (
            "sha256", model, with_facts(facts, threshold=0.0), {"serving_sha256": sha256(facts).hexdigest()},
        ),
        "not ONNX, though signed": ("format", b"pickled?" * 100, with_facts(facts, model_bytes=800), {}),
        "not JSON": ("format", model, b"{", {}),
        "a declaration of another hash": ("features", model, facts, {"feature_hash": "0" * 64}),
        "no tag of the declaration": ("features", model, facts, {"feature_hash": ""}),
        "a declaration that is not valid": (
            "features", model, with_facts(facts, declaration={"features": [{"name": "x", "kind": "window"}]}), {},
        ),
        "no declaration": ("features", model, with_facts(facts, declaration=None), {}),
        "golden rows of other features": (
            "format", model, with_facts(facts, golden={"vectors": [[0.0]] * 8, "probabilities": [0.5] * 8}), {},
        ),
        "a reference payment of other features": ("format", model, with_facts(facts, reference=[1.0]), {}),
        "not what was tested": (
            "golden", model, with_facts(facts, golden=golden | {"probabilities": [0.5] * 8}), {},
        ),
    }  # fmt: skip
    for what, (kind, onnx, serving_json, tags) in bad.items():
        before = refused(serving, kind)
        registry.promote(registry.register(onnx, serving_json, **tags))
        until(lambda kind=kind, before=before: refused(serving, kind) > before, what)
        assert serving.predict(**PAYMENT)["model_version"] == versions[0], what
    registry.promote(versions[1])
    until(lambda: serving.version() == versions[1], "the next good version")


def test_a_refused_artefact_is_not_downloaded_at_every_poll(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry, SERVING_POLL_SECONDS="0.05")
    model, facts = registry.files(2)
    registry.promote(registry.register(flip(model, 300), facts, model_sha256=sha256(model).hexdigest()))
    seen = serving.metric("serving_registry_seen_timestamp_seconds")
    until(
        lambda: serving.metric("serving_registry_seen_timestamp_seconds") > seen + 1.5, "a second and a half of polls"
    )
    # waits of 0.1, 0.2, 0.4, 0.8 s: at most five looks, where polls alone would make thirty
    assert 1 <= refused(serving, "sha256") <= 6


def test_a_restart_without_the_registry_serves_the_verified_local_copy(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[3])
    serving = start(shared_store.url, registry)
    serving.stop(signal.SIGKILL)
    again = start(shared_store.url, None, SERVING_MODEL_CACHE=str(serving.cache), folder="again")
    answer = again.predict(**PAYMENT)
    assert (answer["model_version"], answer["degraded"]) == (versions[3], False)
    assert again.client.get("/model").json() == serving_model(registry, versions[3], again)
    until(lambda: again.metric("serving_registry_errors_total") > 0, "an unanswered question")


def serving_model(registry: Registry, version: str, serving: Serving) -> dict[str, object]:
    """The expected response of /model, from the files."""
    model, facts = registry.files(3)
    stated = json.loads(facts)
    tags = {
        "model_sha256": sha256(model).hexdigest(), "serving_sha256": sha256(facts).hexdigest(), "git_commit": "c0ffee",
        "feature_hash": stated["feature_hash"],
    }  # fmt: skip
    return {
        "model_version": version, "model_sha256": stated["model_sha256"], "threshold": 0.5, "level": "tiny",
        "feature_hash": stated["feature_hash"], "tags": tags, "declaration": stated["declaration"],
        "groups": {
            "hour_of_day": ["hour_of_day"], "day_of_week": ["day_of_week"], "amount": ["amount"],
            "distance_from_home": ["distance_from_home"], "velocity": ["transaction_velocity_1h"],
            "average": ["avg_amount_7d"], "merchants": ["unique_merchants_30d"], "merchant_category": ["category"],
        },
        "run_id": serving.client.get("/model").json()["run_id"],
    }  # fmt: skip


def test_a_local_copy_that_was_changed_is_refused(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry)
    serving.stop()
    [file] = serving.cache.rglob("model.onnx")
    file.write_bytes(flip(file.read_bytes(), 300))
    again = start(shared_store.url, None, "/health", "again", SERVING_MODEL_CACHE=str(serving.cache))
    assert again.version() == "rule"
    assert refused(again, "sha256") == 1
    fixed = start(shared_store.url, registry, "/ready", "fixed", SERVING_MODEL_CACHE=str(serving.cache))
    assert fixed.version() == versions[0]


@pytest.mark.parametrize(("amount", "hour", "fraud"), [(5000.01, 3, True), (5000.0, 3, False), (9000.0, 5, False)])
def test_without_any_model_the_rule_decides_and_says_so(
    start: Callable[..., Serving], shared_store: Valkey, amount: float, hour: int, fraud: bool
) -> None:
    serving = start(shared_store.url, None, "/health")
    answer = serving.predict(**(PAYMENT | {"amount": amount, "hour_of_day": hour}))
    assert (answer["model_version"], answer["is_fraud"], answer["degraded"]) == ("rule", fraud, True)
    assert serving.client.get("/ready").status_code == 503
    assert serving.metric('serving_degraded_total{reason="model"}') == 1


def test_an_alias_that_is_taken_away_leaves_the_version_that_is_served(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry)
    registry.nothing_in_production()
    seen = serving.metric("serving_registry_seen_timestamp_seconds")
    until(lambda: serving.metric("serving_registry_seen_timestamp_seconds") > seen, "a poll")
    assert serving.version() == versions[0]


def test_only_a_few_local_copies_are_kept(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry)
    for version in versions[1:5]:
        registry.promote(version)
        until(lambda version=version: serving.version() == version, f"version {version}")
    assert len([p for p in Path(serving.cache).iterdir() if p.is_dir()]) == 3
