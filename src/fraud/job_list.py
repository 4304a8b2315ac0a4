"""Which jobs there are. Nothing is imported, so that `fraud --help` answers at once."""

from typing import Final, NamedTuple


class Job(NamedTuple):
    """Where the code of a job is, and one line of help."""

    module: str
    help: str


JOBS: Final[dict[str, Job]] = {
    "simulate": Job("fraud.simulator.simulate", "write days of a simulated transaction world to the landing zone"),
    "import": Job("fraud.ingest.import_data", "bring anybody's CSV or Parquet into the landing zone, by a mapping"),
    "ingest": Job(
        "fraud.ingest.ingest_transactions", "validate landed transactions into the lake, quarantine the rest"
    ),
    "ingest-labels": Job("fraud.ingest.ingest_labels", "validate landed fraud labels into the lake"),
    "build-features": Job("fraud.features.build_features", "compute the window features of the days that changed"),
    "materialize": Job("fraud.features.materialize", "bring new events into the online store, Feast's view included"),
    "features-explain": Job(
        "fraud.features.explain",
        "show a user's windows at a moment: the events in each, the values, where they came from",
    ),
    "ingest-events": Job(
        "fraud.features.ingest_events",
        "append events of the stream to the online histories, for users who bypass POST /predict",
    ),
    "training-set": Job("fraud.training.training_set", "build the point-in-time training set"),
    "train": Job("fraud.training.train", "train the ladder, log it, evaluate the gates, register a candidate"),
    "evaluate": Job(
        "fraud.training.evaluate", "hold a registered version against the gates and the present Production, again"
    ),
    "gates": Job("fraud.training.show_gates", "print the gates of a version as its report has them"),
    "promote": Job("fraud.registry.promote", "move the production alias to a version whose gates passed"),
    "reject": Job("fraud.registry.reject", "say no to a candidate, with a reason: it is not a candidate any more"),
    "rollback": Job("fraud.registry.rollback", "set production back to the version before the last change"),
    "expire-waivers": Job(
        "fraud.registry.expire_waivers", "take production back from a version whose waiver has ended"
    ),
    "production-version": Job("fraud.registry.production_version", "say which version is in production"),
    "history": Job("fraud.registry.history", "print the promotion history"),
    "lineage": Job("fraud.audit.version_tree", "print a version and everything behind and after it as a tree"),
    "compare": Job("fraud.training.compare", "hold two versions against each other on one holdout, as one HTML page"),
    "receipt": Job(
        "fraud.audit.receipt", "print everything behind one answer: model, commit, data, run, gates, approver"
    ),
    "replay": Job(
        "fraud.audit.replay", "give recorded answers again from what was known then, and compare them to the bit"
    ),
    "reproduce": Job(
        "fraud.training.reproduce", "train a version again from what was recorded of it, and compare the sha256"
    ),
    "dvc-files": Job(
        "fraud.training.dvc.files", "write the .dvc files of the versions to keep, for dvc pull and dvc gc"
    ),
    "score": Job(
        "fraud.scoring.score", "score days of transactions with the production model on Spark, or a file without"
    ),
    "consistency": Job(
        "fraud.monitoring.consistency", "hold a sample of served answers against the batch scores of the same version"
    ),
    "drift": Job("fraud.monitoring.drift", "compare recent days with the production model's training reference"),
    "concept-drift": Job(
        "fraud.monitoring.concept_drift", "hold the production model's decisions against the labels that have come"
    ),
    "ship-predictions": Job("fraud.audit.ship_predictions", "bring serving's prediction log into the lake"),
    "apply-retention": Job(
        "fraud.retention.apply_retention",
        "let go of partitions, landed files, unused versions, runs and data that are too old to keep",
    ),
    "skew": Job("fraud.monitoring.skew", "recompute what serving saw and compare, bit for bit"),
    "export-metrics": Job(
        "fraud.monitoring.export_metrics", "answer Prometheus with what lake, jobs, reports and registry say"
    ),
    "traffic": Job("fraud.simulator.traffic", "send transactions through POST /predict as a checkout would"),
}
"""Command -> the module with its `Config`, `Result` and `run`."""

ENDLESS: Final = frozenset({"export-metrics", "ingest-events", "traffic"})
"""Jobs that may run until they are stopped: a line every few seconds would say nothing."""

MONITORED: Final = frozenset(
    {
        "ingest", "ingest-labels", "build-features", "materialize", "training-set", "train", "promote", "rollback",
        "expire-waivers", "reproduce",
        "score", "consistency", "drift", "concept-drift", "ship-predictions", "skew",
        "apply-retention",
    }
)  # fmt: skip
"""Jobs that Airflow runs and that change something: what their last run did is kept for monitoring."""
