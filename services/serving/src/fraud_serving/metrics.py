"""The metrics of one process. Only the event loop writes those of a request, so they need no locks.

prometheus-client's own objects take a lock and iterate over their buckets on every observation: 6 us for the four
metrics of a request, against 1 us here (docs/adr/0007). The rendered text is the same.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fraud.core.confidence import confidence, confidences

DURATION_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.004,
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0,
)  # fmt: skip
"""Seconds: the handbook's from 5 ms on and the objective's 200 ms, finer below."""
AMOUNT_BUCKETS: Final = (1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 100_000.0)
CONFIDENCE_BUCKETS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0)
DIFFERENCE_BUCKETS: Final = (0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5)

PREDICT_ENDPOINTS: Final = ("/predict", "/predict/batch")
STATUSES: Final = (200, 401, 405, 408, 413, 415, 422, 429, 499, 500, 503)
"""Every status of these endpoints, so that the series are bounded. 499: the client closed the connection."""
DAILY_STATES: Final = ("current", "stale", "missing")
MALFORMED: Final = "malformed"
"""The `endpoint` of bytes that are not a request."""
MALFORMED_STATUSES: Final = (400, 405, 414, 431)


class Histogram:
    """Counts per bucket, including the one above the last bound, and the sum of the values."""

    __slots__ = ("_edges", "bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0
        self._edges = np.array(bounds)

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def observe_all(self, values: NDArray[np.float64]) -> None:
        """Observe every value."""
        counts = np.bincount(self._edges.searchsorted(values), minlength=len(self.counts))
        self.counts = [before + more for before, more in zip(self.counts, counts.tolist(), strict=True)]
        self.total += float(values.sum())

    def buckets(self) -> list[tuple[str, int]]:
        """(upper bound, number of values at or below it) of every bucket, for the text format."""
        running, buckets = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            running += count
            buckets.append((bound, running))
        return buckets

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        return HistogramMetricFamily(name, text, buckets=self.buckets(), sum_value=self.total)


class Metrics:
    """The metrics as plain attributes: callers add to them."""

    def __init__(self) -> None:
        self.fraud = self.legitimate = 0
        self.duration = Histogram(DURATION_BUCKETS)
        self.amount = Histogram(AMOUNT_BUCKETS)
        self.fraud_confidence = Histogram(CONFIDENCE_BUCKETS)
        self.legitimate_confidence = Histogram(CONFIDENCE_BUCKETS)
        # Every label starts at zero: a rate over a series that starts with its first event misses that event.
        self.requests: Counter[tuple[str, int]] = Counter(
            {(endpoint, status): 0 for endpoint in PREDICT_ENDPOINTS for status in STATUSES}
            | {(MALFORMED, status): 0 for status in MALFORMED_STATUSES}
        )
        self.history: Counter[str] = Counter(store=0, request=0, none=0)
        self.degraded: Counter[str] = Counter(store=0, model=0)
        self.daily: Counter[tuple[str, str]] = Counter()
        self.daily_ages: Callable[[], dict[str, float]] = dict
        self.unknown_category = self.repeated = self.in_flight = self.store_up = 0
        self.store_errors: Counter[str] = Counter(connect=0, daily=0, down=0, hung=0, timeout=0)
        self.store_redirects: Counter[str] = Counter(moved=0, ask=0, tryagain=0)
        self.refused: Counter[str] = Counter(sha256=0, format=0, features=0, golden=0, missing=0, size=0, source=0)
        self.challenger: Counter[str] = Counter(agree=0, champion_only=0, challenger_only=0)
        self.challenger_difference = Histogram(DIFFERENCE_BUCKETS)
        self.challenger_info: dict[str, str] = {}
        self.registry_errors = self.swaps = 0
        self.registry_seen_s = self.model_loaded_s = 0.0
        self.model_info: dict[str, str] = {}
        self.log_written = self.log_dropped = self.log_errors = self.log_queued = 0
        self._registry = CollectorRegistry()
        self._registry.register(_Families(self))
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def add(self, collector: Collector) -> None:
        """Render the families of another collector, too."""
        self._registry.register(collector)

    def count_daily_tables(self, entities: Iterable[str]) -> None:
        """Start the counters of the daily tables of these entities at zero."""
        for entity in entities:
            for state in DAILY_STATES:
                self.daily[entity, state] += 0

    def store_error(self, kind: str) -> None:
        self.store_errors[kind] += 1

    def observe(self, amount: float, probability: float, threshold: float, seconds: float) -> None:
        """Count one answer."""
        if probability >= threshold:
            self.fraud += 1
            self.fraud_confidence.observe(confidence(probability, threshold))
        else:
            self.legitimate += 1
            self.legitimate_confidence.observe(confidence(probability, threshold))
        self.amount.observe(amount)
        self.duration.observe(seconds)

    def observe_all(
        self, amounts: Sequence[float], probabilities: Sequence[float], threshold: float, seconds: float
    ) -> None:
        """Count the answers of a batch, which took `seconds` together."""
        values = np.array(probabilities)
        fraud, confidence_values = values >= threshold, confidences(values, threshold)
        number = int(fraud.sum())
        self.fraud += number
        self.legitimate += len(values) - number
        self.fraud_confidence.observe_all(confidence_values[fraud])
        self.legitimate_confidence.observe_all(confidence_values[~fraud])
        self.amount.observe_all(np.array(amounts))
        self.duration.observe(seconds, len(values))

    def render(self) -> bytes:
        """The metrics in the Prometheus text format 0.0.4."""
        text: bytes = generate_latest(self._registry)
        return text


def _counter(name: str, text: str, label: str, counts: dict[str, int] | Counter[str]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in sorted(counts.items()):
        family.add_metric([value], count)
    return family


def _info(name: str, text: str, info: dict[str, str]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["version", "sha256", "level"])
    if info:
        family.add_metric([info["version"], info["sha256"], info["level"]], 1)
    return family


class _Families(Collector):  # type: ignore[misc] # the library's types are not followed
    """The metric families; docs/serving.md lists them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        m = self._metrics
        outcomes = {"fraud": m.fraud, "legitimate": m.legitimate}
        yield _counter("model_predictions", "Answers by decision", "outcome", outcomes)
        confidences = HistogramMetricFamily(
            "model_prediction_confidence", "0.5 on the threshold, 1 farthest from it", labels=["outcome"]
        )
        for outcome, histogram in (("fraud", m.fraud_confidence), ("legitimate", m.legitimate_confidence)):
            confidences.add_metric([outcome], histogram.buckets(), histogram.total)
        yield confidences
        yield m.amount.family("model_input_amount", "Amount of the scored transactions, USD")
        yield m.duration.family(
            "model_inference_duration_seconds", "Seconds from the body of a request to the bytes of its answer"
        )
        requests = CounterMetricFamily("serving_requests", "Requests by status", labels=["endpoint", "status"])
        for (endpoint, status), count in sorted(m.requests.items()):
            requests.add_metric([endpoint, str(status)], count)
        yield requests
        yield _counter("serving_history", "Answers by source of the window features", "source", m.history)
        yield _counter(
            "serving_degraded", "Answers computed without the online store or without a model", "reason", m.degraded
        )
        daily = CounterMetricFamily(
            "serving_daily_snapshot", "Daily tables read, by state of the snapshot", labels=["entity", "state"]
        )
        for (entity, state), count in sorted(m.daily.items()):
            daily.add_metric([entity, state], count)
        yield daily
        ages = GaugeMetricFamily(
            "serving_daily_snapshot_age_seconds", "Since the newest published snapshot began to hold", labels=["entity"]
        )
        for entity, age_s in sorted(m.daily_ages().items()):
            ages.add_metric([entity], age_s)
        yield ages
        yield _counter("serving_store_errors", "Online store errors", "kind", m.store_errors)
        yield _counter(
            "serving_store_redirects",
            "Commands that a node of the store's cluster redirected",
            "kind",
            m.store_redirects,
        )
        yield _counter("serving_artefacts_refused", "Model versions refused", "reason", m.refused)
        for name, text, count in (
            ("serving_unknown_category", "Unknown categories, replaced by the declared value", m.unknown_category),
            ("serving_repeated", "Retries answered with the stored first answer", m.repeated),
            ("serving_registry_errors", "Failed requests to the registry", m.registry_errors),
            ("serving_model_swaps", "Model versions swapped in", m.swaps),
            ("serving_log_records", "Prediction log: records on disk", m.log_written),
            ("serving_log_dropped", "Prediction log: records dropped because the queue was full", m.log_dropped),
            ("serving_log_errors", "Prediction log: failed writes", m.log_errors),
        ):
            yield CounterMetricFamily(name, text, value=count)
        for name, text, value in (
            ("serving_in_flight", "Requests in progress", m.in_flight),
            ("serving_store_up", "1 while the online store is connected", m.store_up),
            ("serving_registry_seen_timestamp_seconds", "When the registry last answered", m.registry_seen_s),
            ("serving_model_loaded_timestamp_seconds", "When the served model was swapped in", m.model_loaded_s),
            ("serving_log_queued", "Prediction log: records waiting for the disk", m.log_queued),
        ):
            yield GaugeMetricFamily(name, text, value=value)
        yield _counter("serving_challenger", "Answers by agreement of champion and challenger", "outcome", m.challenger)
        yield m.challenger_difference.family(
            "serving_challenger_difference", "Absolute difference between the challenger's probability and the answer's"
        )
        yield _info("serving_model_info", "The served version", m.model_info)
        yield _info("serving_challenger_info", "The version that is scored in shadow", m.challenger_info)
