"""The table of jobs. It imports no job, so `fraud --help` is fast."""

from typing import Final, NamedTuple


class Job(NamedTuple):
    """The module of a job and its line of help: an imperative sentence without the period."""

    module: str
    help: str


JOBS: Final[dict[str, Job]] = {
    "nightly": Job(
        "fraud.nightly.run_nightly",
        "run the jobs of the scheduled DAGs that are due, in order and without Airflow; for cron or a systemd timer",
    ),
    "simulate": Job("fraud.simulator.simulate", "write days of simulated transactions and labels to the landing zone"),
    "import": Job(
        "fraud.ingest.import_data",
        "convert a CSV or Parquet file to the contract with a mapping, and write it to the landing zone",
    ),
    "ingest-topic": Job(
        "fraud.ingest.ingest_topic", "write the new messages of a Kafka topic to the landing zone, each exactly once"
    ),
    "ingest": Job(
        "fraud.ingest.ingest_transactions",
        "validate landed transactions, write them to the lake and quarantine invalid rows",
    ),
    "ingest-labels": Job("fraud.ingest.ingest_labels", "validate landed fraud labels and write them to the lake"),
    "build-daily": Job(
        "fraud.features.build_daily", "compute the daily snapshots whose transactions or labels changed"
    ),
    "build-features": Job(
        "fraud.features.build_features", "compute the window features of days whose transactions changed"
    ),
    "tables": Job(
        "fraud.inspection.tables", "list the tables of the lake, or the partitions and commits of a version of one"
    ),
    "materialize": Job(
        "fraud.features.materialize",
        "load new events and daily snapshots into the online store and into Feast's online views",
    ),
    "features": Job(
        "fraud.inspection.features_job",
        "list or compare feature declarations, check what one costs, or explain the values of one entity",
    ),
    "ingest-events": Job(
        "fraud.features.ingest_events",
        "append events of a stream to the online store, for transactions that bypass POST /predict",
    ),
    "rejected": Job(
        "fraud.streams.rejected", "list the messages that were rejected from a Kafka topic, or send them to it again"
    ),
    "training-set": Job("fraud.training.training_set", "build the point-in-time training set"),
    "train": Job(
        "fraud.training.train",
        "train every level of the ladder, register the selected one and evaluate it against the gates",
    ),
    "evaluate": Job(
        "fraud.training.evaluate", "evaluate a registered version against the gates and the current production version"
    ),
    "gates": Job("fraud.training.show_gates", "print the gate results of a version"),
    "promote": Job("fraud.registry.promote", "set the production alias to a version whose gates passed or were waived"),
    "reject": Job("fraud.registry.reject", "reject a candidate with a reason, and remove the staging alias from it"),
    "rollback": Job("fraud.registry.rollback", "set the production alias to the version before the last change"),
    "expire-waivers": Job(
        "fraud.registry.expire_waivers", "roll back the production version if its waiver has expired"
    ),
    "production-version": Job("fraud.registry.production_version", "print the number of the production version"),
    "copy-registry": Job(
        "fraud.registry.copy_registry",
        "copy the registry of an installation without servers into the folder of an MLflow server",
    ),
    "history": Job("fraud.registry.history", "verify and print the promotion history, with the exports"),
    "export": Job(
        "fraud.export.export", "write a version to a folder for browsers or for ONNX Runtime on a device, and record it"
    ),
    "lineage": Job("fraud.audit.version_tree", "print the inputs, gates, decisions and scores of a version as a tree"),
    "compare": Job("fraud.training.compare", "compare two versions on one holdout and write an HTML report"),
    "receipt": Job("fraud.audit.receipt", "print the model, commit, data, run, gates and approver behind one answer"),
    "replay": Job(
        "fraud.audit.replay", "compute recorded answers again from recorded inputs and compare them bit for bit"
    ),
    "reproduce": Job(
        "fraud.training.reproduce", "train a version again from its recorded inputs and compare the sha256 of the model"
    ),
    "dvc-files": Job("fraud.training.dvc.files", "write .dvc files for the versions to keep, for dvc pull and dvc gc"),
    "score": Job(
        "fraud.scoring.score",
        "score days of transactions with the production model on Spark, or one file without Spark",
    ),
    "consistency": Job(
        "fraud.monitoring.consistency", "compare a sample of served answers with the nightly scores of the same version"
    ),
    "drift": Job(
        "fraud.monitoring.drift",
        "compare recent features and scores with the data that the production model was trained on",
    ),
    "concept-drift": Job(
        "fraud.monitoring.concept_drift", "compare the production model's decisions with the labels received since"
    ),
    "ship-predictions": Job("fraud.audit.ship_predictions", "write serving's prediction log to the lake"),
    "apply-retention": Job(
        "fraud.retention.apply_retention",
        "remove partitions, landed files, versions, runs and data that are older than their retention",
    ),
    "skew": Job(
        "fraud.monitoring.skew",
        "compare the features that serving used with features recomputed from the lake, bit for bit",
    ),
    "status": Job(
        "fraud.status.status",
        "print what serves, how fresh the data is, which alerts fire, what is wrong and what changed in the last day",
    ),
    "export-metrics": Job(
        "fraud.monitoring.export_metrics", "serve metrics of lake, jobs, reports and registry to Prometheus"
    ),
    "traffic": Job(
        "fraud.simulator.traffic", "send transactions to POST /predict at a given rate, as a checkout service does"
    ),
    "traffic-topic": Job(
        "fraud.simulator.topic_traffic",
        "send transactions to a Kafka topic at a given rate, and wait for the decisions",
    ),
}
"""Command -> the module with its `Config`, `Result` and `run`."""

QUIET: Final = frozenset({"export-metrics", "ingest-events", "nightly", "traffic", "traffic-topic"})
"""Jobs without `still running` lines: they may run until they are stopped, or they log a line per job."""

MONITORED: Final = frozenset(
    {
        "ingest-topic", "ingest", "ingest-labels", "build-daily", "build-features", "materialize", "training-set",
        "train", "promote", "rollback", "expire-waivers", "reproduce",
        "score", "consistency", "drift", "concept-drift", "ship-predictions", "skew",
        "apply-retention",
    }
)  # fmt: skip
"""Jobs that Airflow runs and that write data. The result of their last run is recorded for monitoring."""
