"""Metrics of a real server of the online store."""

import redis
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from fraud.monitoring import online_store_metrics
from fraud.settings import Settings


def test_metrics_of_a_shard_are_those_of_its_server(valkey_url: str) -> None:
    settings = Settings(redis_url=valkey_url)
    with redis.Redis.from_url(valkey_url) as client:
        client.flushall()
        client.mset({"a": 1, "b": 2, "c": 3})
        client.config_set("maxmemory", 123_456_789)
        before = online_store_metrics.info(settings)
        for _ in range(10):
            client.ping()
        after = online_store_metrics.info(settings)
        client.config_set("maxmemory", 0)
    [shard] = after
    assert shard in valkey_url

    def value(name: str, info: dict[str, dict[str, object]]) -> float | None:
        class Collector:
            def collect(self) -> list[Metric]:
                return list(online_store_metrics.families(info))

        registry = CollectorRegistry()
        registry.register(Collector())  # type: ignore[arg-type] # any class with collect
        return registry.get_sample_value(name, {"shard": shard})

    assert value("fraud_online_store_keys", after) == 3
    assert value("fraud_online_store_memory_limit_bytes", after) == 123_456_789
    assert value("fraud_online_store_evicted_keys_total", after) == 0
    assert value("fraud_online_store_refused_connections_total", after) == 0
    commands = [value("fraud_online_store_commands_total", info) for info in (before, after)]
    assert commands[0] is not None
    assert commands[1] is not None
    assert commands[1] - commands[0] >= 10


def test_a_store_that_does_not_answer_has_no_metrics() -> None:
    assert online_store_metrics.info(Settings(redis_url="redis://127.0.0.1:1/0")) == {}
