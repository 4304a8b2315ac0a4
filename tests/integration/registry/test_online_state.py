"""The gate `online_state`: a version is promoted when the online store has what its declaration reads."""

from pathlib import Path

import pytest
import redis
from tests.integration.registry_platform import STATELESS, Platform

from fraud.core.declaration import Declaration, parse
from fraud.core.plan import Plan
from fraud.registry.live_declarations import live_declarations
from fraud.registry.model_versions import PRODUCTION
from fraud.registry.online_state import online_state

WAIVER = ["--waiver-reason", "scores files only, no store", "--waiver-expires", "2999-01-01"]


def declaration(window: str, learn: int | None = None) -> Declaration:
    """Window features of a user and a daily table of a merchant. Each window has a layout of its own."""
    count = {"name": "count", "kind": "window", "entity": "user", "aggregate": "count", "window": window}
    rate = {"name": "rate", "kind": "daily", "entity": "merchant", "aggregate": "fraud_rate", "days": int(window[:-1])}
    columns = {"kind": {"type": "category", "learn": learn}} if learn else {}
    return parse(
        {
            "columns": columns, "features": [count, rate],
            "entities": {"user": {"id": "user_id", "keep": window}, "merchant": {"id": "merchant_id"}},
        }
    )  # fmt: skip


@pytest.fixture
def store(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> redis.Redis:
    monkeypatch.setenv("FRAUD_REDIS_URL", valkey_url)
    return redis.Redis.from_url(valkey_url)


def test_a_version_waits_for_its_histories_and_daily_tables(platform: Platform, store: redis.Redis) -> None:
    declared = declaration("31d")
    [windows], [table] = Plan(declared).windows, Plan(declared).tables
    version = platform.register(declaration=declared)
    code, result = platform.fraud("promote")
    assert code == 3
    for part in (
        f"history of user ({windows.layout.id})",
        f"daily table of merchant ({table.id})",
        "fraud materialize",
    ):
        assert part in result["got"]
    assert platform.alias(PRODUCTION) is None

    store.hset(windows.layout.materialized_key, "2026-01-01", "digest")
    assert "history of user" not in platform.fraud("promote")[1]["got"]
    store.hset(table.pointer_key, "2026-01-01", "{}")
    assert platform.fraud("promote")[1]["version"] == version
    assert platform.alias(PRODUCTION) == version


def test_a_failed_one_is_waived_by_name_and_one_that_passes_is_not(platform: Platform, store: redis.Redis) -> None:
    version = platform.register(declaration=declaration("32d"))
    assert platform.fraud("promote", "--waive", "skew", *WAIVER)[0] == 3
    assert platform.fraud("promote", "--waive", "online_state", *WAIVER)[1]["version"] == version
    platform.register(champion=version, declaration=STATELESS)
    code, result = platform.fraud("promote", "--waive", "online_state", *WAIVER)
    assert (code, "there is nothing to waive" in result["message"]) == (3, True)
    assert platform.fraud("promote")[0] == 0


def test_a_store_that_does_not_answer_is_not_measured_and_a_version_that_reads_nothing_passes(
    platform: Platform, tmp_path: Path
) -> None:
    away = platform.settings.model_copy(
        update={"redis_url": type(platform.settings.redis_url)("redis://127.0.0.1:9/0")}
    )
    gate = online_state(away, Plan(declaration("33d")))
    assert (gate.value, gate.passed) == (None, False)
    assert "the online store does not answer" in gate.detail
    assert online_state(away, Plan(STATELESS)).passed


def test_an_installation_without_an_online_store_needs_nothing_in_it(platform: Platform) -> None:
    without = platform.settings.model_copy(update={"redis_url": type(platform.settings.redis_url)("none")})
    gate = online_state(without, Plan(declaration("33d")))
    assert gate.passed
    assert gate.detail == "there is no online store (FRAUD_REDIS_URL=none)"


def test_live_are_the_declarations_of_versions_with_an_alias_each_once(platform: Platform) -> None:
    first, second = declaration("34d"), declaration("34d", learn=2)
    assert live_declarations(platform.settings) == []
    for declared in (first, second, second.resolved({"kind": ("a", "other")}), STATELESS):
        version = platform.register(declaration=declared, staging=False)
        platform.client.set_registered_model_alias("fraud-detector", f"alias{version}", version)
    platform.register(declaration=declaration("35d"), staging=False)
    assert [d.hash for d in live_declarations(platform.settings)] == [first.hash, second.hash, STATELESS.hash]
    platform.client.delete_registered_model_alias("fraud-detector", "alias1")
    assert [d.hash for d in live_declarations(platform.settings)] == [second.hash, STATELESS.hash]
