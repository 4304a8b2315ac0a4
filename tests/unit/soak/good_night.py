"""A night in which every invariant holds."""

from typing import Final

from tests.soak.state import Answers, Audit, Feed, Monitors, Observed, Registry, Scores, Skew

USAGE: Final = {
    "disk_mb": {"lake": 40.0, "logs": 2.0}, "rows": {"airflow": 900},
    "services": {"serving": {"started": 7, "memory_mb": 150.0, "open_files": 30, "processes": 1}},
}  # fmt: skip
GOOD: Final = Observed(
    feeds={
        "transactions": Feed(
            delivered=1010, rows=1010, accepted=980, quarantined=10, duplicates=20, in_lake=980, ids=980
        ),
        "labels": Feed(delivered=50, rows=50, accepted=50, quarantined=0, duplicates=0, in_lake=50, ids=50),
    },
    scores=Scores(days=3, rows=300, unscored=0, unknown=0),
    answers=Answers(sent=400, answered=400, degraded=3, resent=0, flagged=5, unlogged=0, unreadable=0),
    skew=Skew(records=400, compared=390, mismatches=0, events_lost=0, probabilities_wrong=0, skipped={}),
    registry=Registry(
        chain="", changes=2, in_history="2", alias="2", in_stage=("2",), served="2", versions=3, candidate="3",
        failed_gates=("better_than_production",),
    ),
    audit=Audit(sampled=8, problems=(), equal=8, different=()),
    monitors=Monitors(drift="ok", drifted_share=0.04, concept="unknown", evidence=0.0, limit=365.0), usage=USAGE,
)  # fmt: skip
