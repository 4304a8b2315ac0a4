"""Which jobs there are. Nothing is imported, so that `fraud --help` answers at once."""

from typing import Final

JOBS: Final[dict[str, str]] = {
    "simulate": "write days of a simulated transaction world to the landing zone",
    "import": "bring anybody's CSV or Parquet into the landing zone, by a mapping",
    "ingest": "validate landed transactions into the lake, quarantine the rest",
    "ingest-labels": "validate landed fraud labels into the lake",
    "build-features": "compute the window features of the days that changed",
    "materialize": "bring new events into the online store, Feast's view included",
    "features-explain": "show a user's windows at a moment: the events in each, the values, where they came from",
    "ingest-events": "append events of the stream to the online histories, for users who bypass POST /predict",
    "training-set": "build the point-in-time training set",
    "train": "train the ladder, log it, evaluate the gates, register a candidate",
    "evaluate": "hold a registered version against the gates and the present Production, anew",
    "gates": "print the gates of a version as its report has them",
    "promote": "move the production alias to a version whose gates passed",
    "reject": "say no to a candidate, with a reason: it is not a candidate any more",
    "rollback": "set production back to the version before the last change",
    "expire-waivers": "take production back from a version whose waiver has ended",
    "production-version": "say which version is in production",
    "history": "print the promotion history",
    "lineage": "print a version and everything behind and after it as a tree",
    "compare": "hold two versions against each other on one holdout, as one HTML page",
    "receipt": "print everything behind one answer: model, commit, data, run, gates, approver",
    "replay": "give recorded answers again from what was known then, and compare them to the bit",
    "reproduce": "train a version again from what was recorded of it, and compare the sha256",
    "dvc-files": "write the .dvc files of the versions to keep, for dvc pull and dvc gc",
    "score": "score days of transactions with the production model on Spark, or a file without",
    "consistency": "hold a sample of served answers against the batch scores of the same version",
    "drift": "compare recent days with the production model's training reference",
    "concept-drift": "hold the production model's decisions against the labels that have come",
    "ship-predictions": "bring serving's prediction log into the lake",
    "apply-retention": "let go of partitions, landed files, unused versions, runs and data that are too old to keep",
    "skew": "recompute what serving saw and compare, bit for bit",
    "export-metrics": "answer Prometheus with what lake, jobs, reports and registry say",
    "traffic": "send transactions through POST /predict as a checkout would",
}
"""Name -> one line of help. The module of job `a-b` is `fraud.jobs.a_b` (`import` lives in `import_data`)."""

ENDLESS: Final = frozenset({"export-metrics", "ingest-events", "traffic"})
"""Jobs that may run until they are stopped: a line every few seconds would say nothing."""

WATCHED: Final = frozenset(
    {
        "ingest", "ingest-labels", "build-features", "materialize", "training-set", "train", "promote", "rollback",
        "expire-waivers", "reproduce",
        "score", "consistency", "drift", "concept-drift", "ship-predictions", "skew",
        "apply-retention",
    }
)  # fmt: skip
"""Jobs that Airflow runs and that change something: what their last run did is kept for monitoring."""
