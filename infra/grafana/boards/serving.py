"""Dashboard *Serving*: answers, latency, replicas, online store, daily snapshots, the stream."""

from typing import Final

from panels import YES_OR_NO, Board, Lines, Row, Stat

PREDICT: Final = 'endpoint=~"/predict.*"'
# Without requests, histogram_quantile is NaN, and Grafana draws no line of a series with NaN: `>= 0` removes it.

PANELS: Final = (
    Stat(
        title="Firing alerts", description="Alerts of the area serving. The annotations of the graphs name them.",
        queries={"alerts": 'count(ALERTS{alertstate="firing",area="serving"}) or vector(0)'}, unit="short", bad=1,
        runbooks=("README",),
    ),
    Stat(
        title="Replicas that answer", description="Targets of the job serving that Prometheus reaches.",
        queries={"replicas": 'count(up{job="serving"} == 1) or vector(0)'}, unit="short", low=1,
        runbooks=("ServingDown",),
    ),
    Stat(
        title="Availability, 6 hours", unit="percentunit", low=0.999, decimals=2, none="no requests",
        description="Answers to /predict and /predict/batch that are neither 5xx nor 429. The objective is 99.9 %.",
        queries={"availability": "1 - max(serving:failures:ratio_rate6h)"},
        runbooks=("AvailabilityBudgetBurns",),
    ),
    Stat(
        title="p99 latency, 5 minutes", unit="s", bad=0.2, none="no requests",
        description="From the request's body to the bytes of its answer. The objective is 99 % within 200 ms.",
        queries={"p99": "max(serving:latency:p99_5m) >= 0"}, runbooks=("LatencyP99High",),
    ),
    Stat(
        title="Online store connected", unit="none", low=1, texts=YES_OR_NO,
        description="Yes when every replica is connected. Without it, answers are degraded.",
        queries={"connected": "min(serving_store_up)"}, runbooks=("OnlineStoreDown",),
    ),
    Stat(
        title="Registry answered", unit="s", bad=120, decimals=0,
        description="Time since the registry last answered the replica that it has not answered for the longest. "
        "Serving keeps its version meanwhile.",
        queries={"ago": "time() - min(serving_registry_seen_timestamp_seconds)"}, runbooks=("RegistryUnreachable",),
    ),
    Row("Answers"),
    Lines(
        title="Requests", unit="reqps",
        description="Requests by endpoint. Statuses other than 200 have a line of their own while there are any.",
        queries={
            "{{endpoint}}": f"sum by (endpoint) (rate(serving_requests_total{{{PREDICT}}}[$__rate_interval]))",
            "{{endpoint}} {{status}}": "sum by (endpoint, status) "
            '(rate(serving_requests_total{status!="200"}[$__rate_interval])) > 0',
        },
        runbooks=("ServingDown", "AvailabilityBudgetBurnsFast"),
    ),
    Lines(
        title="Failed answers", unit="percentunit", warn=0.001, bad=0.0144, top=0.018,
        description="Share of answers with a 5xx or a 429. Orange: the objective of 0.1 %. Red: an hour uses 2 % of "
        "the month's error budget.",
        queries={
            "5 minutes": "max(serving:failures:ratio_rate5m)", "1 hour": "max(serving:failures:ratio_rate1h)",
            "6 hours": "max(serving:failures:ratio_rate6h)", "3 days": "max(serving:failures:ratio_rate3d)",
        },
        runbooks=("AvailabilityBudgetBurnsFast", "AvailabilityBudgetBurns", "AvailabilityBudgetBurnsSlow"),
    ),
    Lines(
        title="Latency", unit="s", bad=0.2,
        description="From the request's body to the bytes of its answer; a batch counts once for each of its rows.",
        queries={
            f"p{percent}": f"histogram_quantile({percent / 100:g}, "
            "sum by (le) (rate(model_inference_duration_seconds_bucket[$__rate_interval]))) >= 0"
            for percent in (50, 95, 99)
        },
        runbooks=("LatencyP99High", "LatencyBudgetBurnsFast"),
    ),
    Lines(
        title="Answers slower than 200 ms", unit="percentunit", warn=0.01, bad=0.144, top=0.18,
        description="Share of the answers. Orange: the objective of 1 %. Red: an hour uses 2 % of the month's budget.",
        queries={
            "5 minutes": "max(serving:slow:ratio_rate5m)", "1 hour": "max(serving:slow:ratio_rate1h)",
            "6 hours": "max(serving:slow:ratio_rate6h)", "3 days": "max(serving:slow:ratio_rate3d)",
        },
        runbooks=("LatencyBudgetBurnsFast", "LatencyBudgetBurns", "LatencyBudgetBurnsSlow"),
    ),
    Lines(
        title="Degraded answers", unit="percentunit", bad=0.01, top=0.012,
        description="Share of the answers that were scored without the online store (store) or a model (model).",
        queries={
            "{{reason}}": "sum by (reason) (rate(serving_degraded_total[$__rate_interval])) "
            "/ on () group_left () (sum(rate(model_predictions_total[$__rate_interval])) > 0)",
        },
        runbooks=("DegradedAnswers", "OnlineStoreDown"),
    ),
    Lines(
        title="Source of the window features", unit="reqps",
        description="store: from the user's stored events. request: a request without a user, which has its own "
        "velocity. none: neither.",
        queries={"{{source}}": "sum by (source) (rate(serving_history_total[$__rate_interval]))"},
        runbooks=("DegradedAnswers",),
    ),
    Row("Replicas, prediction log and errors of the store"),
    Lines(
        title="CPU of the replicas", unit="percentunit", bad=0.9, top=1,
        description="Share of one CPU. One worker uses at most one.",
        queries={
            "{{instance}}": 'sum by (instance) (rate(process_cpu_seconds_total{job="serving"}[$__rate_interval]))',
        },
        runbooks=("LatencyP99High",),
    ),
    Lines(
        title="Requests in flight", unit="short", warn=48, bad=96,
        description="Requests that a replica has not answered yet. The default limit is 96; more requests get a 429.",
        queries={"{{instance}}": 'sum by (instance) (serving_in_flight{job="serving"})'},
        runbooks=("LatencyP99High", "AvailabilityBudgetBurnsFast"),
    ),
    Lines(
        title="Records of the prediction log", unit="ops",
        description="Dropped records and failed writes are lost: their answers have no receipt, replay or skew check.",
        queries={
            "written": "sum(rate(serving_log_records_total[$__rate_interval]))",
            "dropped": "sum(rate(serving_log_dropped_total[$__rate_interval]))",
            "failed writes": "sum(rate(serving_log_errors_total[$__rate_interval]))",
        },
        runbooks=("PredictionLogLost",),
    ),
    Lines(
        title="Errors of the online store", unit="ops",
        description="Failed reads and writes of the replicas. A kind has a line while it occurs.",
        queries={
            "all": "sum(rate(serving_store_errors_total[$__rate_interval]))",
            "{{kind}}": "sum by (kind) (rate(serving_store_errors_total[$__rate_interval])) > 0",
        },
        runbooks=("OnlineStoreDown", "DegradedAnswers"),
    ),
    Row("Daily snapshots"),
    Lines(
        title="Lookups by state of the snapshot", unit="reqps",
        description="current: the snapshot of the transaction's day. stale: an older one. missing: default values.",
        queries={
            "{{entity}}, {{state}}": "sum by (entity, state) (rate(serving_daily_snapshot_total[$__rate_interval]))",
        },
        runbooks=("DailySnapshotLate",),
    ),
    Lines(
        title="Lookups without a current snapshot", unit="percentunit", bad=0.05, top=0.06,
        description="Share of the lookups of 15 minutes that found an older snapshot or none.",
        queries={"{{entity}}": "max by (entity) (serving:daily_late:ratio_rate15m)"},
        runbooks=("DailySnapshotLate",),
    ),
    Lines(
        title="Age of the newest snapshot in the replicas", unit="s", signed=True, bottom=0,
        description="Since the newest published snapshot began to hold. Up to a day is normal. Imported data has the "
        "age of its last day. Before a snapshot holds, its age is negative.",
        queries={"{{entity}}": "max by (entity) (serving_daily_snapshot_age_seconds)"},
        runbooks=("DailySnapshotLate",),
    ),
    Lines(
        title="Age of the newest snapshot in the lake and in the online store", unit="s", signed=True, bottom=0,
        description="Since midnight UTC of its day. The lake is ahead of the store while a snapshot is published.",
        queries={
            "{{entity}}, lake": "max by (entity) (time() - fraud_daily_snapshot_newest_day_seconds)",
            "{{entity}}, online store": "max by (entity) (time() - fraud_daily_snapshot_online_day_seconds)",
        },
        runbooks=("DailySnapshotLate",),
    ),
    Row("Transactions from Kafka"),
    Stat(
        title="Consumers that answer", description="Targets of the job stream that Prometheus reaches.",
        queries={"consumers": 'count(up{job="stream"} == 1) or vector(0)'}, unit="short", low=1,
        runbooks=("StreamConsumerDown",),
    ),
    Stat(
        title="Assigned partitions", description="Partitions of the topic transactions that have a consumer.",
        queries={"partitions": "sum(stream_assigned_partitions) or vector(0)"}, unit="short", low=1,
        runbooks=("StreamConsumerDown",),
    ),
    Stat(
        title="Messages without a decision", unit="short", bad=10_000, none="unknown",
        description="Over all partitions, as the consumers report them. The limit is 10,000 for 5 minutes.",
        queries={"messages": "sum(stream_lag_messages)"},
        runbooks=("StreamLagHigh",),
    ),
    Stat(
        title="Rejected in 24 hours", description="Messages that violate the contract; topic transactions.rejected.",
        queries={"messages": "sum(increase(stream_rejected_total[1d])) or vector(0)"}, unit="short", decimals=0, warn=1,
        runbooks=("StreamRejectedHigh",),
    ),
    Lines(
        title="Messages", unit="cps",
        description="By outcome. repeated: the transaction was decided before; the answer is the same.",
        queries={"{{outcome}}": "sum by (outcome) (rate(stream_messages_total[$__rate_interval]))"},
        runbooks=("StreamConsumerDown", "StreamRejectedHigh"),
    ),
    Lines(
        title="Lag by partition", unit="short", warn=1_000, bad=10_000,
        description="Messages behind the end of each partition.",
        queries={"partition {{partition}}": "sum by (partition) (stream_lag_messages)"}, runbooks=("StreamLagHigh",),
    ),
    Lines(
        title="Time from message to decision", unit="s", bad=1,
        description="From the timestamp of a message to the broker's acknowledgement of its decision.",
        queries={
            f"p{percent}": f"histogram_quantile({percent / 100:g}, "
            "sum by (le) (rate(stream_decision_seconds_bucket[$__rate_interval]))) >= 0"
            for percent in (50, 99)
        },
        runbooks=("StreamLagHigh",),
    ),
    Lines(
        title="Batches", unit="short",
        description="Mean number of messages of a batch, and polled messages without an acknowledged decision. "
        "paused: 1 while nothing is polled because the broker does not acknowledge.",
        queries={
            "mean size": "sum(rate(stream_batch_messages_sum[$__rate_interval])) "
            "/ (sum(rate(stream_batch_messages_count[$__rate_interval])) > 0)",
            "not acknowledged": "sum(stream_unacknowledged_messages)",
            "paused": "max(stream_paused)",
        },
        runbooks=("StreamLagHigh",),
    ),
    Lines(
        title="Rejected messages by reason", unit="cps",
        description="Messages that were not scored. A reason has a line while it occurs; docs/serving.md lists them.",
        queries={
            "all": "sum(rate(stream_rejected_total[$__rate_interval]))",
            "{{reason}}": "sum by (reason) (rate(stream_rejected_total[$__rate_interval])) > 0",
        },
        runbooks=("StreamRejectedHigh",),
    ),
    Lines(
        title="Rebalances, failed commits and errors of Kafka", unit="ops",
        description="A rebalance at the start of a consumer is normal. Errors are those of the client of Kafka. A kind "
        "has a line while it occurs.",
        queries={
            "rebalances": "sum(rate(stream_rebalances_total[$__rate_interval]))",
            "{{kind}}": "sum by (kind) (rate(stream_rebalances_total[$__rate_interval])) > 0",
            "failed commits": 'sum(rate(stream_commits_total{outcome="failed"}[$__rate_interval]))',
            "errors": "sum(rate(stream_kafka_errors_total[$__rate_interval]))",
            "error: {{kind}}": "sum by (kind) (rate(stream_kafka_errors_total[$__rate_interval])) > 0",
        },
        runbooks=("StreamConsumerDown",),
    ),
)  # fmt: skip

BOARD: Final = Board(
    title="Serving",
    description="Availability, latency and degradation of POST /predict and of the stream, for on-call.",
    panels=PANELS,
    by_instance=True,
)
