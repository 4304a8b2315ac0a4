"""Writes dashboards/*.json. A panel is its question, its queries, a unit, where it turns bad, and the runbook for then.

Run after a change: `python infra/grafana/build.py`. Tests fail when the files differ from what this writes.
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
class Panel:
    """`queries` are legend -> PromQL. `warn` and `bad` colour values at or above them; `low` those below it instead."""

    question: str
    queries: Mapping[str, str]
    unit: str
    runbook: str
    bad: float | None = None
    warn: float | None = None
    low: float | None = None
    single: bool = False
    why: str = ""

    def steps(self) -> list[dict[str, Any]]:
        """Grafana's thresholds, lowest first."""
        if self.low is not None:
            return [{"color": "red", "value": None}, {"color": "green", "value": self.low}]
        found: list[dict[str, Any]] = [{"color": "green", "value": None}]
        found += [{"color": "orange", "value": self.warn}] * (self.warn is not None)
        return found + [{"color": "red", "value": self.bad}] * (self.bad is not None)

    def as_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Grafana's model of the panel."""
        custom = {} if self.single else {"custom": {"thresholdsStyle": {"mode": "dashed"}, "fillOpacity": 5}}
        return {
            "id": number,
            "type": "stat" if self.single else "timeseries",
            "title": self.question,
            "description": self.why,
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
    question: str,
    expr: str,
    unit: str,
    runbook: str,
    *,
    bad: float | None = None,
    low: float | None = None,
    why: str = "",
) -> Panel:
    """A panel of one figure."""
    return Panel(question, {"": expr}, unit, runbook, bad=bad, low=low, why=why, single=True)


SERVING: Final = (
    one("Does serving answer?", 'count(up{job="serving"} == 1) or vector(0)', "short", "ServingDown", low=1),
    one("Is the objective of 99.9 % met today?", "1 - max(serving:failures:ratio_rate6h)", "percentunit",
        "AvailabilityBudgetBurns", low=0.999),
    one("Is the online store there?", "min(serving_store_up)", "bool_yes_no", "OnlineStoreDown", low=1),
    one("How long ago did the registry answer?", "time() - min(serving_registry_seen_timestamp_seconds)", "s",
        "RegistryUnreachable", bad=120),
    Panel("How much is asked, and how is it answered?",
          {"{{endpoint}} {{status}}": "sum by (endpoint, status) (rate(serving_requests_total[5m]))"}, "reqps",
          "AvailabilityBudgetBurnsFast"),
    Panel("Which share of answers fails?",
          {"5 minutes": "serving:failures:ratio_rate5m", "1 hour": "serving:failures:ratio_rate1h",
           "6 hours": "serving:failures:ratio_rate6h"}, "percentunit", "AvailabilityBudgetBurnsFast", warn=0.001,
          bad=0.0144, why="A 5xx or a 429. Orange: the objective; red: 2 % of the month's budget goes in an hour."),
    Panel("How long do customers wait?",
          {"p50": "histogram_quantile(0.5, sum by (le) (rate(model_inference_duration_seconds_bucket[5m])))",
           "p95": "histogram_quantile(0.95, sum by (le) (rate(model_inference_duration_seconds_bucket[5m])))",
           "p99": "serving:latency:p99_5m"}, "s", "LatencyP99High", bad=0.2),
    Panel("Which share waits longer than 200 ms?",
          {"5 minutes": "serving:slow:ratio_rate5m", "1 hour": "serving:slow:ratio_rate1h",
           "6 hours": "serving:slow:ratio_rate6h"}, "percentunit", "LatencyBudgetBurnsFast", warn=0.01, bad=0.144),
    Panel("Which answers are degraded, and why?",
          {"{{reason}}": "sum by (reason) (rate(serving_degraded_total[5m]))"}, "reqps", "DegradedAnswers", bad=1),
    Panel("What goes wrong at the online store?",
          {"{{kind}}": "sum by (kind) (rate(serving_store_errors_total[5m]))"}, "ops", "OnlineStoreDown", bad=1),
    Panel("How busy are the workers?",
          {"CPU {{instance}}": 'rate(process_cpu_seconds_total{job="serving"}[5m])',
           "in flight {{instance}}": "serving_in_flight"}, "short", "LatencyP99High", warn=48, bad=96,
          why="One worker has one CPU. 96 requests in flight is the default limit; one more is a 429."),
    Panel("Does every answer get its log record?",
          {"written": "sum(rate(serving_log_records_total[5m]))", "dropped": "sum(rate(serving_log_dropped_total[5m]))",
           "failed writes": "sum(rate(serving_log_errors_total[5m]))"}, "ops", "PredictionLogLost"),
)  # fmt: skip

MODEL: Final = (
    Panel("Which version is Production?", {"{{version}} {{level}}": "fraud_production_info"}, "short",
          "NoProductionModel", low=1, single=True, why="Its name is the version and the ladder's level."),
    one("How many replicas answer with another version?",
        "count(serving_model_info unless on (environment, version) fraud_production_info) or vector(0)", "short",
        "ServingBehindRegistry", bad=1),
    one("How many artefacts were refused today?", "sum(increase(serving_artefacts_refused_total[1d]))", "short",
        "ArtefactRefused", bad=1),
    one("How many gates refuse the newest candidate?", "count(fraud_gate_passed == 0) or vector(0)", "short",
        "GatesFailed", bad=1),
    Panel("Which version answers?", {"{{instance}} {{version}} {{level}}": "serving_model_info"}, "short",
          "ServingBehindRegistry"),
    Panel("Which share is called fraud, and what is usual?",
          {"last day": "model:flagged:ratio1d", "baseline": "fraud_baseline_flagged_ratio",
           "baseline + 2 sigma": "fraud_baseline_flagged_ratio + 2 * fraud_baseline_flagged_ratio_sigma"},
          "percentunit", "FraudRatioOffBaseline"),
    Panel("How unusual is that share?", {"standard deviations": "model:flagged:sigmas1d"}, "short",
          "FraudRatioOffBaseline", bad=2, why="Below -2 is as unusual as above 2."),
    Panel("How sure are decisions?", {"{{outcome}}": "model:confidence:mean1d"}, "percentunit", "ConfidenceLow",
          low=0.6, why="0.5 is the threshold itself, 1 as far from it as can be."),
    Panel("What do customers pay, and what did the model learn on?",
          {"mean of the last day": "model:amount:mean1d", "training mean": "fraud_baseline_amount_mean"},
          "currencyUSD", "AmountOffTraining"),
    Panel("How far is that from training?", {"offset": "model:amount:offset1d"}, "percentunit", "AmountOffTraining",
          bad=0.2),
    Panel("Which gates did the newest candidate pass?", {"{{gate}}": "fraud_gate_passed"}, "bool_yes_no", "GatesFailed",
          low=1),
    Panel("Do decisions keep what the holdout promised?",
          {"evidence against": "fraud_concept_evidence", "alarm": "fraud_concept_evidence_limit"}, "short",
          "ConceptDriftFound", why="By labels that have come since. While the promise is kept it gets to the alarm "
          "once in so many days or more rarely, however often one looks."),
    Panel("How good are decisions once labels have come?",
          {"{{figure}}": 'fraud_concept_figure{figure!="saved_per_1000"}',
           "{{figure}}, promised": 'fraud_concept_promise{figure!="saved_per_1000"}'}, "percentunit",
          "ConceptDriftFound"),
    Panel("What do they save per 1,000 transactions?",
          {"since": 'fraud_concept_figure{figure="saved_per_1000"}',
           "promised": 'fraud_concept_promise{figure="saved_per_1000"}'}, "currencyUSD", "ConceptDriftFound"),
    Panel("Which labels came in time, too late, or not at all?",
          {"{{known}}": "fraud_concept_labels", "days with mature labels": "fraud_concept_days"}, "short",
          "LabelsStale"),
    Panel("Where did window features come from?",
          {"{{source}}": "sum by (source) (rate(serving_history_total[5m]))"}, "reqps", "DegradedAnswers"),
)  # fmt: skip

DATA: Final = (
    one("Did the last days drift?", "max(fraud_drift_found)", "bool_yes_no", "DriftFound", bad=1),
    one("Which share of the features drifted?", "max(fraud_drift_share)", "percentunit", "DriftFound", bad=0.3),
    one("How many served values differ from their recomputation?", "sum(fraud_skew_mismatches)", "short", "SkewFound",
        bad=1),
    one("Which share of the last delivery is in quarantine?",
        'sum(fraud_ingest_rows{outcome="quarantined"}) / (sum(fraud_ingest_rows) > 0)', "percentunit",
        "QuarantineRateHigh", bad=0.02),
    Panel("How far is each feature from training?",
          {"{{feature}}": "fraud_drift_psi", "limit": "fraud_drift_psi_limit",
           "probability": "fraud_drift_prediction_psi"}, "short", "DriftFound", warn=0.05, bad=0.2,
          why="Population stability index of the last week over the reference's bins."),
    Panel("How far was the newest day alone?",
          {"{{feature}}": "fraud_drift_newest_day_psi", "limit": "fraud_drift_newest_day_psi_limit"}, "short",
          "DriftFound", warn=0.05, bad=0.2),
    Panel("What is missing or unknown?",
          {"{{feature}}": "fraud_drift_missing_share", "unknown category": "fraud_drift_unknown_category_share"},
          "percentunit", "DriftFound"),
    Panel("Which served values were recomputed otherwise?",
          {"{{feature}}": "fraud_skew_mismatches", "events lost": "fraud_skew_events_lost"}, "short", "SkewFound",
          bad=1),
    Panel("How much was checked?", {"answers, skew": "fraud_skew_rows", "rows, drift": "fraud_drift_rows"}, "short",
          "MonitorBehind"),
    Panel("What became of the last delivery's rows?", {"{{outcome}}": "fraud_ingest_rows"}, "short",
          "QuarantineRateHigh"),
    Panel("Which categories and retries does serving see?",
          {"unknown categories": "sum(rate(serving_unknown_category_total[5m]))",
           "retries": "sum(rate(serving_repeated_total[5m]))"}, "reqps", "DriftFound"),
)  # fmt: skip

PIPELINES: Final = (
    one("How many jobs failed last?", "sum(fraud_job_failed)", "short", "JobFailed", bad=1),
    one("How many services are down?", "count(fraud_service_up == 0) or vector(0)", "short", "ServiceDown", bad=1),
    one("How many sources cannot be read?", "count(fraud_source_up == 0) or vector(0)", "short", "SourceUnreadable",
        bad=1),
    one("Are alerts delivered?", "min(prometheus_notifications_alertmanagers_discovered)", "bool_yes_no",
        "AlertmanagerDown", low=1),
    Panel("When did a delivery last arrive?",
          {"{{dataset}}": 'platform:published:age_seconds{dataset=~"transactions|labels"}'},
          "s", "TransactionsStale", warn=93600, bad=259200),
    Panel("What lags behind its input?", {"{{dataset}}": "platform:behind:seconds"}, "s", "ScoresStale", bad=86400),
    Panel("Was everything fresh this week?", {"{{dataset}}": "slo:freshness:ratio_7d"}, "percentunit", "FeaturesStale",
          low=0.99),
    Panel("How many rows has the newest day?", {"{{dataset}}": "fraud_dataset_rows"}, "short", "TransactionsStale"),
    Panel("Which job failed or runs?",
          {"{{job_name}} failed": "fraud_job_failed", "{{job_name}} runs": "fraud_job_running"},
          "bool_yes_no", "JobFailed", bad=1),
    Panel("How long did each job take?", {"{{job_name}}": "fraud_job_duration_seconds"}, "s", "JobStuck", bad=10800),
    Panel("How long ago did each job succeed?", {"{{job_name}}": "time() - fraud_job_succeeded_seconds"}, "s",
          "JobFailed"),
    Panel("Which services are well?", {"{{service}}": "fraud_service_up"}, "bool_yes_no", "ServiceDown", low=1),
    Panel("How full is the online store?",
          {"used": "fraud_online_store_memory_bytes", "limit": "fraud_online_store_memory_limit_bytes"}, "bytes",
          "OnlineStoreDown"),
    Panel("How many histories does it hold?", {"keys": "fraud_online_store_keys"}, "short", "OnlineStoreDown"),
)  # fmt: skip

DASHBOARDS: Final = {
    "serving": ("Serving", "For on-call: do checkouts get their answers, in time?", SERVING),
    "model-health": ("Model health", "Does the model say what it should?", MODEL),
    "data-and-drift": ("Data and drift", "Is what arrives what the model knows?", DATA),
    "pipelines": ("Pipelines", "Is everything made, and on time?", PIPELINES),
}


def dashboard(uid: str, title: str, question: str, panels: Sequence[Panel]) -> dict[str, Any]:
    """Grafana's model: panels from left to right, a new row where the next one does not fit."""
    placed, x, y = [], 0, 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > _COLUMNS:
            x, y = 0, y + panels[number - 2].height
        placed.append(panel.as_json(number, x, y))
        x += panel.width
    return {
        "uid": f"fraud-{uid}",
        "title": title,
        "description": question,
        "tags": ["fraud"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "templating": {
            # Where docs/ can be read. Grafana knows no external labels, so the exporter tells it.
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
    """The committed file's content."""
    title, question, panels = DASHBOARDS[name]
    return json.dumps(dashboard(name, title, question, panels), indent=1) + "\n"


if __name__ == "__main__":
    for each in DASHBOARDS:
        (FOLDER / f"{each}.json").write_text(text(each))
