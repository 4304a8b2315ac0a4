"""Dashboard *Model health*: versions, decisions, gates, concept drift."""

from typing import Final

from panels import OK_OR_FAILED, Board, Lines, Row, Stat, Tiles

SHARES: Final = '{figure=~"recall|precision|average_precision"}'


def _spaced(expr: str) -> str:
    """A space instead of the last underscore of each gate's name, so that it fits into a tile in several lines."""
    return f'label_replace({expr}, "gate", "$1 $2", "gate", "(.+)_(.+)")'


PANELS: Final = (
    Stat(
        title="Firing alerts", description="Alerts of the area model. The annotations of the graphs name them.",
        queries={"alerts": 'count(ALERTS{alertstate="firing",area="model"}) or vector(0)'}, unit="short", bad=1,
        runbooks=("README",),
    ),
    Stat(
        title="Production version", unit="short", low=1, named=True, none="none",
        description="Version and level behind the alias production, as the registry has it.",
        queries={"{{version}} {{level}}": "fraud_production_info"}, runbooks=("NoProductionModel",),
    ),
    Stat(
        title="Other versions", unit="short", bad=1,
        description="Replicas that answer with a version other than Production. A swap takes seconds.",
        queries={
            "replicas": "count(serving_model_info unless on (environment, version) fraud_production_info) or vector(0)",
        },
        runbooks=("ServingBehindRegistry",),
    ),
    Stat(
        title="Refused in 24 hours", unit="short", decimals=0, bad=1,
        description="Artefacts that serving did not load; the version before them still answers.",
        queries={"refused": "sum(increase(serving_artefacts_refused_total[1d])) or vector(0)"},
        runbooks=("ArtefactRefused",),
    ),
    Stat(
        title="Failed gates", description="Gates that the newest candidate did not pass.", unit="short", bad=1,
        queries={"gates": "count(fraud_gate_passed == 0) or vector(0)"}, runbooks=("GatesFailed",),
    ),
    Stat(
        title="Flagged in the last day", unit="percentunit", decimals=2, none="no answers",
        description="Share of the answers of 24 hours that are fraud.",
        queries={"share": "max(model:flagged:ratio1d)"}, runbooks=("FraudRatioOffBaseline",),
    ),
    Row("Versions and gates"),
    Tiles(
        title="Served version of each replica", unit="short", named=True, low=1,
        description="Replica, version and level.",
        queries={"{{instance}}: {{version}} {{level}}": "serving_model_info"},
        runbooks=("NoProductionModel", "ServingBehindRegistry"),
    ),
    Tiles(
        title="Gates of the newest candidate", unit="short", texts=OK_OR_FAILED, low=1,
        description="A failed gate blocks promotion. The gate report of the run has the measured values.",
        queries={"{{gate}}": _spaced(_spaced("fraud_gate_passed"))}, runbooks=("GatesFailed",),
    ),
    Row("Decisions"),
    Lines(
        title="Flagged share and its baseline", unit="percentunit", references=("baseline", "baseline + 2 sigma"),
        description="Share of answers of 24 hours that are fraud. The baseline is that of the days that the Production "
        "version scored, or of its training reference.",
        queries={
            "last day": "max(model:flagged:ratio1d)",
            "baseline": "max(fraud_baseline_flagged_ratio)",
            "baseline + 2 sigma": "max(fraud_baseline_flagged_ratio) + 2 * max(fraud_baseline_flagged_ratio_sigma)",
        },
        runbooks=("FraudRatioOffBaseline",),
    ),
    Lines(
        title="Deviation of the flagged share", unit="short", low=-2, bad=2, top=2.4, signed=True, bottom=-2.4,
        description="Standard deviations from the baseline, including the noise of counting. The alert fires after 24 "
        "hours beyond 2 in either direction.",
        queries={"standard deviations": "max(model:flagged:sigmas1d)"}, runbooks=("FraudRatioOffBaseline",),
    ),
    Lines(
        title="Mean confidence", unit="percentunit", low=0.6, top=1,
        description="Over 24 hours, by outcome. 50 % is at the decision threshold, 100 % is the largest distance.",
        queries={"{{outcome}}": "max by (outcome) (model:confidence:mean1d)"}, runbooks=("ConfidenceLow",),
    ),
    Lines(
        title="Mean amount", unit="currencyUSD", references=("training",),
        description="Of the answers of 24 hours, and of the training reference of the Production version.",
        queries={"last day": "max(model:amount:mean1d)", "training": "max(fraud_baseline_amount_mean)"},
        runbooks=("AmountOffTraining",),
    ),
    Lines(
        title="Deviation of the mean amount from training", unit="percentunit", low=-0.2, bad=0.2, top=0.24,
        signed=True, bottom=-0.24,
        description="The alert fires beyond 20 % in either direction for 6 hours.",
        queries={"deviation": "max(model:amount:offset1d)"}, runbooks=("AmountOffTraining",),
    ),
    Lines(
        title="Decisions by outcome", unit="cps",
        description="Of POST /predict, batches and the stream.",
        queries={"{{outcome}}": "sum by (outcome) (rate(model_predictions_total[$__rate_interval]))"},
        runbooks=("FraudRatioOffBaseline",),
    ),
    Row("Concept drift: decisions and the labels that arrived since"),
    Lines(
        title="Evidence of concept drift", unit="short", limits=("limit",),
        description="Without concept drift, the evidence reaches the limit at most once in concept.false_alarm_days "
        "(params.yaml) on average.",
        queries={"evidence": "max(fraud_concept_evidence)", "limit": "max(fraud_concept_evidence_limit)"},
        runbooks=("ConceptDriftFound",),
    ),
    Lines(
        title="Quality with mature labels, and on the holdout", unit="percentunit", top=1,
        description="holdout: what the gate report of the Production version promised.",
        queries={
            "{{figure}}": f"max by (figure) (fraud_concept_figure{SHARES})",
            "{{figure}}, holdout": f"max by (figure) (fraud_concept_promise{SHARES})",
        },
        runbooks=("ConceptDriftFound",),
    ),
    Lines(
        title="Savings per 1,000 transactions", unit="currencyUSD", references=("holdout",), signed=True,
        description="Fraud that was stopped, minus the cost of stopping legitimate customers.",
        queries={
            "mature labels": 'max(fraud_concept_figure{figure="saved_per_1000"})',
            "holdout": 'max(fraud_concept_promise{figure="saved_per_1000"})',
        },
        runbooks=("ConceptDriftFound",),
    ),
    Lines(
        title="Expected frauds for each fraud that occurred", unit="short", decimals=2, references=("holdout",), top=2,
        description="Sum of the probabilities divided by the number of frauds. 1 is a calibrated model.",
        queries={
            "mature labels": 'max(fraud_concept_figure{figure="expected_over_seen"})',
            "holdout": 'max(fraud_concept_promise{figure="expected_over_seen"})',
        },
        runbooks=("ConceptDriftFound",),
    ),
    Lines(
        title="Transactions on days with mature labels", unit="short",
        description="Frauds reported in time and late, transactions without a label, stopped ones without a label; and "
        "the number of those days.",
        queries={
            "{{known}}": "max by (known) (fraud_concept_labels)", "days": "max(fraud_concept_days)",
        },
        runbooks=("LabelsStale", "ConceptDriftFound"),
    ),
)  # fmt: skip

BOARD: Final = Board(
    title="Model health", description="Served versions, decisions, gates and concept drift.", panels=PANELS
)
