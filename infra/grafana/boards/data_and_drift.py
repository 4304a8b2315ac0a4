"""Dashboard *Data and drift*: deliveries, drift, declared features, skew."""

from typing import Final

from panels import NO_OR_YES, Board, Lines, Row, Stat, Tiles

PANELS: Final = (
    Stat(
        title="Firing alerts", description="Alerts of the area data. The annotations of the graphs name them.",
        queries={"alerts": 'count(ALERTS{alertstate="firing",area="data"}) or vector(0)'}, unit="short", bad=1,
        runbooks=("README",),
    ),
    Stat(
        title="Drift found", unit="none", bad=1, texts=NO_OR_YES, none="unknown",
        description="Verdict of the newest drift report. unknown: it has too few rows.",
        queries={"found": "max(fraud_drift_found)"}, runbooks=("DriftFound",),
    ),
    Stat(
        title="Drifted features", unit="percentunit", bad=0.3, decimals=1, none="no report",
        description="Share of the features whose PSI reaches the limit. Training is requested above 30 %.",
        queries={"share": "max(fraud_drift_share)"}, runbooks=("DriftFound",),
    ),
    Stat(
        title="Values with skew", unit="short", bad=1, none="no report",
        description="Served values that differ from their recomputation, and events that are missing in the store.",
        queries={"values": "sum(fraud_skew_mismatches) + sum(fraud_skew_events_lost)"}, runbooks=("SkewFound",),
    ),
    Stat(
        title="Quarantined rows", unit="percentunit", bad=0.02, decimals=2, none="no delivery",
        description="Share of the last delivery. The limit is the gate max_quarantine_rate in params.yaml.",
        queries={"share": 'sum(fraud_ingest_rows{outcome="quarantined"}) / (sum(fraud_ingest_rows) > 0)'},
        runbooks=("QuarantineRateHigh",),
    ),
    Stat(
        title="Features behind", unit="short", bad=1,
        description="Stored features that are older than the newest transactions.",
        queries={"features": "count(platform:feature:behind_seconds > 0) or vector(0)"},
        runbooks=("FeaturesStale", "DailySnapshotLate"),
    ),
    Row("Drift against the training reference"),
    Lines(
        title="PSI of each feature, last week", unit="short", decimals=3, many=True, top=0.1, limits=("limit",),
        description="Population stability index of the last days, in the bins of the training reference. probability: "
        "of the scores.",
        queries={
            "{{feature}}": "max by (feature) (fraud_drift_psi)", "limit": "max(fraud_drift_psi_limit)",
            "probability": "max(fraud_drift_prediction_psi)",
        },
        runbooks=("DriftFound",),
    ),
    Lines(
        title="PSI of each feature, newest day", unit="short", decimals=3, many=True, top=0.1, limits=("limit",),
        description="Of the newest day alone. One feature above the limit is drift.",
        queries={
            "{{feature}}": "max by (feature) (fraud_drift_newest_day_psi)",
            "limit": "max(fraud_drift_newest_day_psi_limit)",
        },
        runbooks=("DriftFound",),
    ),
    Lines(
        title="Missing values and unknown categories in the week of the drift report", unit="percentunit", many=True,
        top=0.01, description="Shares of the rows of the drift report.",
        queries={
            "{{feature}}": "max by (feature) (fraud_drift_missing_share)",
            "{{feature}}, unknown category": "max by (feature) (fraud_drift_unknown_category_share)",
        },
        runbooks=("DriftFound",),
    ),
    Row("Declared features"),
    Lines(
        title="Missing values of each declared column and feature in answers", unit="percentunit", many=True, top=0.01,
        description="Share of nulls in the newest shipped answers, by column, window or daily feature. A column that "
        "may be absent has a constant share.",
        queries={"{{feature}}": "max by (feature) (fraud_served_missing_share)"}, runbooks=("DriftFound", "SkewFound"),
    ),
    Lines(
        title="Time behind the transactions, of each stored feature", unit="s", many=True, top=86_400,
        description="Newest day of transactions minus the newest day of the feature: of a daily feature the newest "
        "published snapshot, of a window feature the newest day of features in the lake. A snapshot ahead of the "
        "transactions is shown as 0.",
        queries={"{{feature}}": "clamp_min(max by (feature) (platform:feature:behind_seconds), 0)"},
        runbooks=("FeaturesStale", "DailySnapshotLate"),
    ),
    Lines(
        title="Features behind the transactions, by declaration", unit="s", top=86_400,
        description="A declaration is that of the project or of a version with an alias. The label is the start of its "
        "stored_hash.",
        queries={"{{declaration}}": 'max by (declaration) (platform:behind:seconds{dataset="features"})'},
        runbooks=("FeaturesStale",),
    ),
    Tiles(
        title="Declarations of the versions with an alias", unit="short", decimals=0,
        description="Number of features, by declaration and the start of its stored_hash.",
        queries={"{{declaration}}, stored {{stored}}": "max by (declaration, stored) (fraud_declaration_features)"},
        runbooks=("FeaturesStale",),
    ),
    Row("Skew: served values and their recomputation"),
    Lines(
        title="Values with skew, by feature", unit="short", bad=1, top=1.2, many=True,
        description="Served values that differ from the recomputed ones, and events that are missing in the store.",
        queries={
            "{{feature}}": "max by (feature) (fraud_skew_mismatches)", "events lost": "max(fraud_skew_events_lost)",
        },
        runbooks=("SkewFound",),
    ),
    Lines(
        title="Rows that were checked", unit="short",
        description="Answers of the skew report, rows of the drift report, and answers of the missing shares.",
        queries={
            "answers, skew": "max(fraud_skew_rows)", "rows, drift": "max(fraud_drift_rows)",
            "answers, missing values": "max(fraud_served_missing_rows)",
        },
        runbooks=("MonitorBehind",),
    ),
    Lines(
        title="Rows of the last delivery", unit="short", description="By outcome.",
        queries={"{{outcome}}": "max by (outcome) (fraud_ingest_rows)"}, runbooks=("QuarantineRateHigh",),
    ),
    Lines(
        title="Unknown categories and retries in requests", unit="cps",
        description="An unknown category is replaced by the declared value. A retry gets the first answer again.",
        queries={
            "unknown categories": "sum(rate(serving_unknown_category_total[$__rate_interval]))",
            "retries": "sum(rate(serving_repeated_total[$__rate_interval]))",
        },
        runbooks=("DriftFound",),
    ),
)  # fmt: skip

BOARD: Final = Board(
    title="Data and drift", description="Deliveries, drift, declared features and skew.", panels=PANELS
)
