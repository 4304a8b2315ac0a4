"""Write dashboards/*.json. A panel has a title, queries, a unit, thresholds and a runbook.

Run it after a change: `python infra/grafana/build.py`. A test fails when the files differ from its output.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent / "dashboards"
SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
RUNBOOKS: Final = "${docs}/runbooks"
_COLUMNS: Final = 24
_WIDE, _NARROW, _TALL, _LOW = 12, 6, 8, 4


@dataclass(frozen=True, slots=True)
class Row:
    """A heading of the panels below it, over the whole width."""

    title: str
    width: int = _COLUMNS
    height: int = 1

    def as_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """The row in Grafana's JSON model."""
        place = {"x": x, "y": y, "w": self.width, "h": self.height}
        return {"id": number, "type": "row", "title": self.title, "collapsed": False, "gridPos": place, "panels": []}


@dataclass(frozen=True, slots=True)
class Panel:
    """`queries`: legend -> PromQL. Values are orange from `warn` and red from `bad`, or red below `low`."""

    title: str
    queries: Mapping[str, str]
    unit: str
    runbook: str
    bad: float | None = None
    warn: float | None = None
    low: float | None = None
    single: bool = False
    description: str = ""

    def steps(self) -> list[dict[str, Any]]:
        """Grafana's thresholds, lowest first."""
        if self.low is not None:
            return [{"color": "red", "value": None}, {"color": "green", "value": self.low}]
        found: list[dict[str, Any]] = [{"color": "green", "value": None}]
        found += [{"color": "orange", "value": self.warn}] * (self.warn is not None)
        return found + [{"color": "red", "value": self.bad}] * (self.bad is not None)

    def as_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """The panel in Grafana's JSON model."""
        custom = {} if self.single else {"custom": {"thresholdsStyle": {"mode": "dashed"}, "fillOpacity": 5}}
        return {
            "id": number,
            "type": "stat" if self.single else "timeseries",
            "title": self.title,
            "description": self.description,
            "datasource": SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [
                {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
                for i, (legend, expr) in enumerate(self.queries.items())
            ],
            "fieldConfig": {
                "defaults": {
                    "unit": self.unit,
                    "thresholds": {"mode": "absolute", "steps": self.steps()},
                    "color": {"mode": "thresholds" if self.single else "palette-classic"},
                    **custom,
                },
                "overrides": [],
            },
            "options": {"reduceOptions": {"calcs": ["lastNotNull"]}}
            if self.single
            else {"legend": {"calcs": ["last"]}},
            "links": [
                {"title": f"Runbook: {self.runbook}", "url": f"{RUNBOOKS}/{self.runbook}.md", "targetBlank": True}
            ],
        }

    @property
    def width(self) -> int:
        return _NARROW if self.single else _WIDE

    @property
    def height(self) -> int:
        return _LOW if self.single else _TALL


def one(
    title: str,
    expr: str,
    unit: str,
    runbook: str,
    *,
    bad: float | None = None,
    low: float | None = None,
    description: str = "",
) -> Panel:
    """A panel with a single value."""
    return Panel(title, {"": expr}, unit, runbook, bad=bad, low=low, description=description, single=True)


SERVING: Final = (
    one("Serving replicas that answer", 'count(up{job="serving"} == 1) or vector(0)', "short", "ServingDown", low=1),
    one("Availability over 6 hours (objective 99.9 %)", "1 - max(serving:failures:ratio_rate6h)", "percentunit",
        "AvailabilityBudgetBurns", low=0.999),
    one("Online store connected", "min(serving_store_up)", "bool_yes_no", "OnlineStoreDown", low=1),
    one("Time since the registry answered", "time() - min(serving_registry_seen_timestamp_seconds)", "s",
        "RegistryUnreachable", bad=120),
    Panel("Requests by endpoint and status",
          {"{{endpoint}} {{status}}": "sum by (endpoint, status) (rate(serving_requests_total[5m]))"}, "reqps",
          "AvailabilityBudgetBurnsFast"),
    Panel("Share of failed answers",
          {"5 minutes": "serving:failures:ratio_rate5m", "1 hour": "serving:failures:ratio_rate1h",
           "6 hours": "serving:failures:ratio_rate6h"}, "percentunit", "AvailabilityBudgetBurnsFast", warn=0.001,
          bad=0.0144, description="Answers with a 5xx or a 429. Orange: the objective. Red: an hour uses 2 % of the "
          "month's error budget."),
    Panel("Latency of answers",
          {"p50": "histogram_quantile(0.5, sum by (le) (rate(model_inference_duration_seconds_bucket[5m])))",
           "p95": "histogram_quantile(0.95, sum by (le) (rate(model_inference_duration_seconds_bucket[5m])))",
           "p99": "serving:latency:p99_5m"}, "s", "LatencyP99High", bad=0.2),
    Panel("Share of answers slower than 200 ms",
          {"5 minutes": "serving:slow:ratio_rate5m", "1 hour": "serving:slow:ratio_rate1h",
           "6 hours": "serving:slow:ratio_rate6h"}, "percentunit", "LatencyBudgetBurnsFast", warn=0.01, bad=0.144),
    Panel("Degraded answers by reason",
          {"{{reason}}": "sum by (reason) (rate(serving_degraded_total[5m]))"}, "reqps", "DegradedAnswers", bad=1),
    Panel("Lookups of daily features by state of the snapshot",
          {"{{entity}} {{state}}": "sum by (entity, state) (rate(serving_daily_snapshot_total[5m]))"}, "reqps",
          "DailySnapshotLate", description="stale: an older snapshot was used. missing: default values were used."),
    Panel("Errors of the online store by kind",
          {"{{kind}}": "sum by (kind) (rate(serving_store_errors_total[5m]))"}, "ops", "OnlineStoreDown", bad=1),
    Panel("Load of the workers",
          {"CPU {{instance}}": 'rate(process_cpu_seconds_total{job="serving"}[5m])',
           "in flight {{instance}}": "serving_in_flight"}, "short", "LatencyP99High", warn=48, bad=96,
          description="One worker uses one CPU. The default limit is 96 requests in flight; more requests get a 429."),
    Panel("Records of the prediction log",
          {"written": "sum(rate(serving_log_records_total[5m]))", "dropped": "sum(rate(serving_log_dropped_total[5m]))",
           "failed writes": "sum(rate(serving_log_errors_total[5m]))"}, "ops", "PredictionLogLost"),
    Row("Transactions from Kafka"),
    one("Consumers that answer", 'count(up{job="stream"} == 1) or vector(0)', "short", "StreamConsumerDown", low=1),
    one("Assigned partitions", "sum(stream_assigned_partitions) or vector(0)", "short", "StreamConsumerDown", low=1),
    one("Messages without a decision", "sum(stream_lag_messages) or vector(0)", "short", "StreamLagHigh", bad=10_000),
    one("Rejected in 24 hours", "sum(increase(stream_rejected_total[1d])) or vector(0)", "short",
        "StreamRejectedHigh", bad=1),
    Panel("Messages by outcome", {"{{outcome}}": "sum by (outcome) (rate(stream_messages_total[5m]))"}, "reqps",
          "StreamRejectedHigh", description="repeated: the transaction was decided before; the answer is the same."),
    Panel("Lag by partition", {"{{partition}}": "sum by (partition) (stream_lag_messages)"}, "short", "StreamLagHigh",
          warn=1_000, bad=10_000),
    Panel("Time from message to decision",
          {"p50": "histogram_quantile(0.5, sum by (le) (rate(stream_decision_seconds_bucket[5m])))",
           "p99": "histogram_quantile(0.99, sum by (le) (rate(stream_decision_seconds_bucket[5m])))"}, "s",
          "StreamLagHigh", bad=1),
    Panel("Messages in a batch",
          {"mean": "sum(rate(stream_batch_messages_sum[5m])) / (sum(rate(stream_batch_messages_count[5m])) > 0)",
           "not acknowledged": "sum(stream_unacknowledged_messages)", "paused": "max(stream_paused)"}, "short",
          "StreamLagHigh"),
    Panel("Rejected messages by reason", {"{{reason}}": "sum by (reason) (rate(stream_rejected_total[5m]))"}, "reqps",
          "StreamRejectedHigh"),
    Panel("Rebalances, failed commits and errors of Kafka",
          {"rebalances: {{kind}}": "sum by (kind) (rate(stream_rebalances_total[5m]))",
           "failed commits": 'sum(rate(stream_commits_total{outcome="failed"}[5m]))',
           "errors: {{kind}}": "sum by (kind) (rate(stream_kafka_errors_total[5m]))"}, "ops", "StreamConsumerDown"),
)  # fmt: skip

MODEL: Final = (
    Panel("Production version", {"{{version}} {{level}}": "fraud_production_info"}, "short",
          "NoProductionModel", low=1, single=True, description="The legend is the version and its level."),
    one("Replicas with another version",
        "count(serving_model_info unless on (environment, version) fraud_production_info) or vector(0)", "short",
        "ServingBehindRegistry", bad=1),
    one("Artefacts refused in 24 hours", "sum(increase(serving_artefacts_refused_total[1d]))", "short",
        "ArtefactRefused", bad=1),
    one("Failed gates of the newest candidate", "count(fraud_gate_passed == 0) or vector(0)", "short",
        "GatesFailed", bad=1),
    Panel("Served version by replica", {"{{instance}} {{version}} {{level}}": "serving_model_info"}, "short",
          "ServingBehindRegistry"),
    Panel("Share of flagged transactions and its baseline",
          {"last day": "model:flagged:ratio1d", "baseline": "fraud_baseline_flagged_ratio",
           "baseline + 2 sigma": "fraud_baseline_flagged_ratio + 2 * fraud_baseline_flagged_ratio_sigma"},
          "percentunit", "FraudRatioOffBaseline"),
    Panel("Deviation of the share from its baseline", {"standard deviations": "model:flagged:sigmas1d"}, "short",
          "FraudRatioOffBaseline", bad=2, description="The alert uses the absolute value."),
    Panel("Mean confidence by outcome", {"{{outcome}}": "model:confidence:mean1d"}, "percentunit", "ConfidenceLow",
          low=0.6, description="0.5 is at the decision threshold, 1 is the largest distance from it."),
    Panel("Mean amount, served and in training",
          {"mean of the last day": "model:amount:mean1d", "training mean": "fraud_baseline_amount_mean"},
          "currencyUSD", "AmountOffTraining"),
    Panel("Deviation of the mean amount from training", {"offset": "model:amount:offset1d"}, "percentunit",
          "AmountOffTraining", bad=0.2),
    Panel("Gates of the newest candidate", {"{{gate}}": "fraud_gate_passed"}, "bool_yes_no", "GatesFailed",
          low=1),
    Panel("Evidence of concept drift",
          {"evidence": "fraud_concept_evidence", "limit": "fraud_concept_evidence_limit"}, "short",
          "ConceptDriftFound", description="From labels that have arrived since. Without concept drift, the "
          "evidence reaches the limit at most once in concept.false_alarm_days (params.yaml) on average."),
    Panel("Quality of decisions with mature labels, and on the holdout",
          {"{{figure}}": 'fraud_concept_figure{figure!="saved_per_1000"}',
           "{{figure}}, holdout": 'fraud_concept_promise{figure!="saved_per_1000"}'}, "percentunit",
          "ConceptDriftFound"),
    Panel("Savings per 1,000 transactions",
          {"since": 'fraud_concept_figure{figure="saved_per_1000"}',
           "holdout": 'fraud_concept_promise{figure="saved_per_1000"}'}, "currencyUSD", "ConceptDriftFound"),
    Panel("Labels in time, late and missing",
          {"{{known}}": "fraud_concept_labels", "days with mature labels": "fraud_concept_days"}, "short",
          "LabelsStale"),
    Panel("Source of window features",
          {"{{source}}": "sum by (source) (rate(serving_history_total[5m]))"}, "reqps", "DegradedAnswers"),
)  # fmt: skip

DATA: Final = (
    one("Drift found", "max(fraud_drift_found)", "bool_yes_no", "DriftFound", bad=1),
    one("Share of drifted features", "max(fraud_drift_share)", "percentunit", "DriftFound", bad=0.3),
    one("Served values that differ from their recomputation", "sum(fraud_skew_mismatches)", "short", "SkewFound",
        bad=1),
    one("Quarantined share of the last delivery",
        'sum(fraud_ingest_rows{outcome="quarantined"}) / (sum(fraud_ingest_rows) > 0)', "percentunit",
        "QuarantineRateHigh", bad=0.02),
    Panel("PSI of each feature over the last week",
          {"{{feature}}": "fraud_drift_psi", "limit": "fraud_drift_psi_limit",
           "probability": "fraud_drift_prediction_psi"}, "short", "DriftFound", warn=0.05, bad=0.2,
          description="Population stability index of the last week, in the bins of the training reference."),
    Panel("PSI of each feature on the newest day",
          {"{{feature}}": "fraud_drift_newest_day_psi", "limit": "fraud_drift_newest_day_psi_limit"}, "short",
          "DriftFound", warn=0.05, bad=0.2),
    Panel("Missing values and unknown categories",
          {"{{feature}}": "fraud_drift_missing_share", "unknown category": "fraud_drift_unknown_category_share"},
          "percentunit", "DriftFound"),
    Panel("Skew by feature",
          {"{{feature}}": "fraud_skew_mismatches", "events lost": "fraud_skew_events_lost"}, "short", "SkewFound",
          bad=1),
    Panel("Rows checked for skew and drift", {"answers, skew": "fraud_skew_rows", "rows, drift": "fraud_drift_rows"},
          "short", "MonitorBehind"),
    Panel("Rows of the last delivery by outcome", {"{{outcome}}": "fraud_ingest_rows"}, "short",
          "QuarantineRateHigh"),
    Panel("Unknown categories and retries in requests",
          {"unknown categories": "sum(rate(serving_unknown_category_total[5m]))",
           "retries": "sum(rate(serving_repeated_total[5m]))"}, "reqps", "DriftFound"),
)  # fmt: skip

PIPELINES: Final = (
    one("Jobs whose last run failed", "sum(fraud_job_failed)", "short", "JobFailed", bad=1),
    one("Services that are down", "count(fraud_service_up == 0) or vector(0)", "short", "ServiceDown", bad=1),
    one("Sources that cannot be read", "count(fraud_source_up == 0) or vector(0)", "short", "SourceUnreadable",
        bad=1),
    one("Alertmanager connected", "min(prometheus_notifications_alertmanagers_discovered)", "bool_yes_no",
        "AlertmanagerDown", low=1),
    Panel("Age of the last delivery",
          {"{{dataset}}": 'platform:published:age_seconds{dataset=~"transactions|labels"}'},
          "s", "TransactionsStale", warn=93600, bad=259200),
    Panel("Lag of each dataset behind its input", {"{{dataset}}": "platform:behind:seconds"}, "s", "ScoresStale",
          bad=86400),
    Panel("Freshness over 7 days", {"{{dataset}}": "slo:freshness:ratio_7d"}, "percentunit", "FeaturesStale",
          low=0.99),
    Panel("Rows of the newest day", {"{{dataset}}": "fraud_dataset_rows"}, "short", "TransactionsStale"),
    Panel("Failed and running jobs",
          {"{{job_name}} failed": "fraud_job_failed", "{{job_name}} runs": "fraud_job_running"},
          "bool_yes_no", "JobFailed", bad=1),
    Panel("Duration of the last run of each job", {"{{job_name}}": "fraud_job_duration_seconds"}, "s", "JobStuck",
          bad=10800),
    Panel("Time since the last success of each job", {"{{job_name}}": "time() - fraud_job_succeeded_seconds"}, "s",
          "JobFailed"),
    Panel("Healthy services", {"{{service}}": "fraud_service_up"}, "bool_yes_no", "ServiceDown", low=1),
    Panel("Memory of the online store",
          {"used": "fraud_online_store_memory_bytes", "limit": "fraud_online_store_memory_limit_bytes"}, "bytes",
          "OnlineStoreDown"),
    Panel("Keys in the online store", {"keys": "fraud_online_store_keys"}, "short", "OnlineStoreDown"),
)  # fmt: skip

DASHBOARDS: Final[Mapping[str, tuple[str, str, Sequence[Panel | Row]]]] = {
    "serving": (
        "Serving",
        "Availability, latency and degradation of POST /predict and of the stream, for on-call.",
        SERVING,
    ),
    "model-health": ("Model health", "Served versions, decisions, gates and concept drift.", MODEL),
    "data-and-drift": ("Data and drift", "Deliveries, drift of the features and skew.", DATA),
    "pipelines": ("Pipelines", "Freshness of the datasets, jobs and services.", PIPELINES),
}


def dashboard(uid: str, title: str, description: str, panels: Sequence[Panel | Row]) -> dict[str, Any]:
    """The dashboard in Grafana's JSON model. Panels fill rows from left to right."""
    placed, x, y = [], 0, 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > _COLUMNS:
            x, y = 0, y + panels[number - 2].height
        placed.append(panel.as_json(number, x, y))
        x += panel.width
    return {
        "uid": f"fraud-{uid}",
        "title": title,
        "description": description,
        "tags": ["fraud"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "templating": {
            # The URL of docs/. Grafana does not get external labels, so the exporter exposes it as a metric.
            "list": [
                {
                    "name": "docs",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": {"query": "label_values(fraud_docs_info, url)", "refId": "docs"},
                    "refresh": 1,
                    "hide": 2,
                }
            ]
        },
        "links": [{"title": "Dashboards", "type": "dashboards", "tags": ["fraud"], "asDropdown": True}],
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": SOURCE,
                    "expr": 'ALERTS{alertstate="firing",alertname!="Watchdog"}',
                    "titleFormat": "{{alertname}}",
                    "iconColor": "red",
                    "enable": True,
                }
            ]
        },
        "panels": placed,
    }


def text(name: str) -> str:
    """The content of a dashboard's file."""
    title, description, panels = DASHBOARDS[name]
    return json.dumps(dashboard(name, title, description, panels), indent=1) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        (FOLDER / f"{each}.json").write_text(text(each))
