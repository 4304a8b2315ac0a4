"""Dashboard *Pipelines*: freshness of datasets, jobs, services, the online store, monitoring itself."""

from typing import Final

from panels import FAILED_OR_OK, OK_OR_FAILED, YES_OR_NO, Board, Lines, Row, Stat, Tiles

PANELS: Final = (
    Stat(
        title="Firing alerts", description="Alerts of the areas data and platform, without Watchdog.",
        queries={
            "alerts": 'count(ALERTS{alertstate="firing",area=~"data|platform",alertname!="Watchdog"}) or vector(0)',
        },
        unit="short", bad=1, runbooks=("README",),
    ),
    Stat(
        title="Failed jobs", description="Jobs whose last finished run failed.", unit="short", bad=1,
        queries={"jobs": "sum(fraud_job_failed)"}, runbooks=("JobFailed",),
    ),
    Stat(
        title="Services that are down", unit="short", bad=1,
        description="Airflow's components, MLflow and the online store, as the exporter sees them.",
        queries={"services": "count(fraud_service_up == 0) or vector(0)"}, runbooks=("ServiceDown", "AirflowDown"),
    ),
    Stat(
        title="Unreadable sources", description="Sources of metrics that the exporter cannot read.", unit="short",
        bad=1, queries={"sources": "count(fraud_source_up == 0) or vector(0)"}, runbooks=("SourceUnreadable",),
    ),
    Stat(
        title="Exporter answers", unit="none", low=1, texts=YES_OR_NO,
        description="fraud export-metrics. Without it, there are no metrics of lake, jobs, reports and registry.",
        queries={"answers": 'max(up{job="platform"})'}, runbooks=("PlatformMetricsDown",),
    ),
    Stat(
        title="Alertmanager connected", unit="none", low=1, texts=YES_OR_NO,
        description="Without it, alerts are visible in Prometheus only.",
        queries={"connected": "min(prometheus_notifications_alertmanagers_discovered >= bool 1)"},
        runbooks=("AlertmanagerDown",),
    ),
    Row("Freshness"),
    Lines(
        title="Age of the last delivery", unit="s", warn=93_600, bad=259_200, top=270_000,
        description="Since the newest day was published. Orange: 26 hours, the limit of transactions. Red: 3 days, the "
        "limit of labels.",
        queries={
            "{{dataset}}": 'max by (dataset) (platform:published:age_seconds{dataset=~"transactions|labels"})',
        },
        runbooks=("TransactionsStale", "LabelsStale"),
    ),
    Lines(
        title="Datasets and reports behind their input", unit="s", bad=86_400, top=100_000,
        description="Newest day of the input minus newest day of the dataset or report. Features are those of the "
        "declaration that is most behind.",
        queries={"{{dataset}}": "max by (dataset) (platform:behind:seconds)"},
        runbooks=("FeaturesStale", "ScoresStale", "MonitorBehind"),
    ),
    Lines(
        title="Time that datasets were fresh, 7 days", unit="percentunit", low=0.99, top=1, decimals=1,
        description="Share of the last 7 days in which the dataset was within its limit. The objective is 99 %.",
        queries={"{{dataset}}": "min by (dataset) (slo:freshness:ratio_7d)"},
        runbooks=("TransactionsStale", "LabelsStale", "FeaturesStale", "ScoresStale"),
    ),
    Lines(
        title="Rows of the newest day", unit="short",
        description="By dataset. Features are counted once, for the declaration with the fewest rows.",
        queries={"{{dataset}}": "min by (dataset) (fraud_dataset_rows)"},
        runbooks=("TransactionsStale", "QuarantineRateHigh"),
    ),
    Row("Jobs"),
    Tiles(
        title="Last finished run of each job", unit="short", bad=1, texts=FAILED_OR_OK,
        description="A refusal (exit code 3) is not a failure. A job that never ran has no tile.",
        queries={"{{job_name}}": "max by (job_name) (fraud_job_failed)"}, runbooks=("JobFailed",),
    ),
    Lines(
        title="Running jobs", unit="s", many=True, bad=10_800, none="no job runs",
        description="Time since the start of each run that has not ended.",
        queries={"{{job_name}}": "max by (job_name) ((time() - fraud_job_started_seconds) * (fraud_job_running == 1))"},
        runbooks=("JobStuck",),
    ),
    Lines(
        title="Duration of the last successful run", unit="s", many=True,
        description="By job.", queries={"{{job_name}}": "max by (job_name) (fraud_job_duration_seconds)"},
        runbooks=("JobStuck",),
    ),
    Lines(
        title="Time since the last success", unit="s", many=True, description="By job.",
        queries={"{{job_name}}": "max by (job_name) (time() - fraud_job_succeeded_seconds)"}, runbooks=("JobFailed",),
    ),
    Row("Services and monitoring"),
    Tiles(
        title="Services", unit="short", low=1, texts=OK_OR_FAILED,
        description="Health checks of the services that have no metrics of their own.",
        queries={"{{service}}": "min by (service) (fraud_service_up)"}, runbooks=("ServiceDown", "AirflowDown"),
    ),
    Tiles(
        title="Sources of the exporter", unit="short", low=1, texts=OK_OR_FAILED,
        description="Alerts that use the metrics of a failed source cannot fire.",
        queries={"{{source}}": "min by (source) (fraud_source_up)"}, runbooks=("SourceUnreadable",),
    ),
    Tiles(
        title="Targets of Prometheus", unit="short", low=1, texts=OK_OR_FAILED,
        description="Scrapes of the last seconds, by job and instance.",
        queries={"{{job}} {{instance}}": "min by (job, instance) (up)"},
        runbooks=("ServingDown", "StreamConsumerDown", "PlatformMetricsDown"),
    ),
    Lines(
        title="Firing alerts by name", unit="short",
        description="Series of each firing alert. Watchdog always fires; if it does not, alerts are not evaluated.",
        queries={"{{alertname}}": 'count by (alertname) (ALERTS{alertstate="firing"})'},
        runbooks=("Watchdog", "AlertmanagerDown"),
    ),
    Row("Online store, by shard"),
    Lines(
        title="Memory", unit="bytes", limits=("{{shard}}, limit",),
        description="Used memory and its limit. A store without a limit has no line for it.",
        queries={
            "{{shard}}": "max by (shard) (fraud_online_store_memory_bytes)",
            "{{shard}}, limit": "max by (shard) (fraud_online_store_memory_limit_bytes) > 0",
        },
        runbooks=("OnlineStoreDown",),
    ),
    Lines(
        title="Keys", unit="short", description="Histories, daily rows and pointers.",
        queries={"{{shard}}": "max by (shard) (fraud_online_store_keys)"}, runbooks=("OnlineStoreDown",),
    ),
    Lines(
        title="Commands", unit="ops", description="Commands that the server processed, of all its clients.",
        queries={"{{shard}}": "sum by (shard) (rate(fraud_online_store_commands_total[$__rate_interval]))"},
        runbooks=("OnlineStoreDown",),
    ),
    Lines(
        title="Evicted keys and refused connections", unit="ops", bad=1, top=1.2,
        description="An evicted key is a lost history. The policy noeviction refuses writes instead.",
        queries={
            "{{shard}}, evicted": "sum by (shard) (rate(fraud_online_store_evicted_keys_total[$__rate_interval]))",
            "{{shard}}, refused": "sum by (shard) "
            "(rate(fraud_online_store_refused_connections_total[$__rate_interval]))",
        },
        runbooks=("OnlineStoreDown",),
    ),
)  # fmt: skip

BOARD: Final = Board(title="Pipelines", description="Freshness of the datasets, jobs, services.", panels=PANELS)
