"""The metrics of the stream process besides those of scoring; docs/serving.md lists them."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fraud_serving.metrics import Histogram

BATCH_BUCKETS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10_000.0)
DECISION_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0,
)  # fmt: skip
REASONS: Final = (
    "internal", "invalid", "key_mismatch", "no_key", "no_user", "no_value", "not_json", "too_large",
)  # fmt: skip
"""Of a rejected message; docs/serving.md describes them."""
ERRORS: Final = ("authentication", "other", "topic", "transport")


class StreamMetrics(Collector):  # type: ignore[misc] # the library's types are not followed
    """The metrics as plain attributes: callers add to them. Each is written by one thread."""

    def __init__(self) -> None:
        self.decided = self.repeated = 0
        self.rejected: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.batch = Histogram(BATCH_BUCKETS)
        self.decision = Histogram(DECISION_BUCKETS)
        self.lag: dict[int, int] = {}
        self.unacknowledged = self.assigned = self.paused = self.broker_up = 0
        self.rebalances: Counter[str] = Counter(assigned=0, lost=0, revoked=0)
        self.commits: Counter[str] = Counter(done=0, failed=0)
        self.errors: Counter[str] = Counter(dict.fromkeys(ERRORS, 0))

    def collect(self) -> Iterator[Metric]:
        """The families, for the registry."""
        outcomes = {"decided": self.decided, "repeated": self.repeated, "rejected": sum(self.rejected.values())}
        for name, text, label, counts in (
            ("stream_messages", "Messages by outcome, acknowledged by the broker", "outcome", outcomes),
            ("stream_rejected", "Messages that were not scored", "reason", self.rejected),
            ("stream_rebalances", "Changes of the assigned partitions", "kind", self.rebalances),
            ("stream_commits", "Commits of offsets", "outcome", self.commits),
            ("stream_kafka_errors", "Errors of the client of Kafka", "kind", self.errors),
        ):
            family = CounterMetricFamily(name, text, labels=[label])
            for value, count in sorted(counts.items()):
                family.add_metric([value], count)
            yield family
        yield CounterMetricFamily(
            "stream_redelivered", "Messages whose transaction was in the history already", value=self.repeated
        )
        yield self.batch.family("stream_batch_messages", "Messages per batch")
        yield self.decision.family(
            "stream_decision_seconds", "Seconds from the timestamp of a message to the acknowledgement of its decision"
        )
        lag = GaugeMetricFamily(
            "stream_lag_messages", "Messages behind the end of the partition, by offset to commit", labels=["partition"]
        )
        for partition, messages in sorted(self.lag.copy().items()):
            lag.add_metric([str(partition)], messages)
        yield lag
        for name, text, level in (
            ("stream_unacknowledged_messages", "Polled messages without acknowledged decision", self.unacknowledged),
            ("stream_assigned_partitions", "Partitions assigned to this consumer", self.assigned),
            ("stream_paused", "1 while consumption is paused", self.paused),
            ("stream_broker_up", "1 while a broker is connected", self.broker_up),
        ):
            yield GaugeMetricFamily(name, text, value=level)
