"""Metrics of the servers of the online store, from Redis' INFO."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import redis
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fraud.settings import Settings
from fraud.streams.redis_client import STORE_ERRORS, open_client, server_infos

TIMEOUT_S: Final = 2.0
_GAUGES: Final[Mapping[str, tuple[str, str]]] = {
    "used_memory": ("fraud_online_store_memory_bytes", "Used memory of the online store"),
    "maxmemory": ("fraud_online_store_memory_limit_bytes", "Memory limit of the online store; 0: no limit"),
}
_COUNTERS: Final[Mapping[str, tuple[str, str]]] = {
    "total_commands_processed": ("fraud_online_store_commands", "Commands that the online store processed"),
    "evicted_keys": ("fraud_online_store_evicted_keys", "Keys that the online store removed to free memory"),
    "rejected_connections": ("fraud_online_store_refused_connections", "Connections refused over the client limit"),
}
"""Field of INFO -> name and help of the metric."""


def connected(settings: Settings) -> redis.Redis:
    """A client of the online store."""
    return open_client(settings.redis_url.get_secret_value(), reply_s=TIMEOUT_S)


def info(settings: Settings) -> dict[str, dict[str, Any]]:
    """INFO of each shard, by its address; nothing when one of them does not answer."""
    try:
        with connected(settings) as client:
            return server_infos(client)
    except STORE_ERRORS:
        return {}


def families(shards: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """Memory, keys and counters of each shard."""
    for source, (name, text) in _GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=["shard"])
        for shard, values in shards.items():
            gauge.add_metric([shard], values[source])
        yield gauge
    keys = GaugeMetricFamily("fraud_online_store_keys", "Keys in the online store", labels=["shard"])
    for shard, values in shards.items():
        spaces = [space["keys"] for name, space in values.items() if name.startswith("db")]
        keys.add_metric([shard], math.fsum(spaces))
    yield keys
    for source, (name, text) in _COUNTERS.items():
        counter = CounterMetricFamily(name, text, labels=["shard"])
        for shard, values in shards.items():
            counter.add_metric([shard], values[source])
        yield counter
