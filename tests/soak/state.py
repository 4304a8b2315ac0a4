"""What is observed after a night. Every field has a source of its own, so that an invariant compares two of them."""

from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Feed:
    """Rows of one feed: in the delivered files, in the ledger of ingest, and in the lake."""

    delivered: int
    """Counted from the files of the landing zone alone."""
    rows: int
    """Of the ledger, as are the next three."""
    accepted: int
    quarantined: int
    duplicates: int
    in_lake: int
    ids: int
    """Different keys among the rows of the lake: the transaction, for a label with its time and value."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The nightly scores, compared with the accepted transactions of the same days by id."""

    days: int
    rows: int
    unscored: int
    """Accepted transactions without a score."""
    unknown: int
    """Scores without an accepted transaction."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The payments of the day, sent to POST /predict."""

    sent: int
    answered: int
    """Answered with 200."""
    degraded: int
    resent: int
    flagged: int
    unlogged: int
    """Payments without a record in the lake's predictions."""
    unreadable: int
    """Lines of the prediction log that are no record."""
    repeats: int = 0
    """Times that the whole day was sent again, because serving did not answer."""


@dataclass(frozen=True, slots=True)
class Skew:
    """`fraud skew` over the answers of the last days."""

    records: int
    compared: int
    mismatches: int
    events_lost: int
    probabilities_wrong: int
    skipped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Registry:
    """Production, from four sources, and the promotion history."""

    chain: str
    """Why the hash chain of the history does not verify; "" if it does."""
    changes: int
    in_history: str
    """Version of the newest change."""
    alias: str
    in_stage: tuple[str, ...]
    """Versions with MLflow's stage Production."""
    served: str
    versions: int
    candidate: str
    """Newest version."""
    failed_gates: tuple[str, ...]
    """Of the newest version."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Receipts and replays of a sample of answers and nightly rows."""

    sampled: int
    problems: tuple[str, ...]
    equal: int
    different: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Monitors:
    """The results of `drift` and `concept_drift` in Airflow; verdict "" if the task did not run."""

    drift: str = ""
    drifted_share: float = 0.0
    concept: str = ""
    evidence: float = 0.0
    """Of concept drift; it is drift from `limit` on."""
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class Observed:
    """All of it."""

    feeds: dict[str, Feed]
    scores: Scores
    answers: Answers
    skew: Skew
    registry: Registry
    audit: Audit
    orphans: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    """Failed tasks of Airflow's runs, by DAG and task."""
    expected_failures: tuple[str, ...] = ()
    """Those that the schedule causes: a damaged file fails ingest."""
    candidate_is_bad: bool = False
    """Whether the night's candidate was trained on wrong labels."""
    production_before: str = ""
    rolled_back_to: str = ""
    """Version that Production had before the release which was rolled back; "" without a rollback."""
    serving_killed: bool = False
    monitors: Monitors = Monitors()
    usage: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, record: dict[str, Any]) -> Self:
        """From `as_dict`, also after JSON."""
        parts = {
            "feeds": {name: Feed(**feed) for name, feed in record["feeds"].items()},
            "scores": Scores(**record["scores"]), "answers": Answers(**record["answers"]),
            "skew": Skew(**record["skew"]),
            "registry": Registry(**{n: _tuple(v) for n, v in record["registry"].items()}),
            "monitors": Monitors(**record["monitors"]),
            "audit": Audit(**{n: _tuple(v) for n, v in record["audit"].items()}),
        }  # fmt: skip
        return cls(**{name: parts.get(name, _tuple(value)) for name, value in record.items()})


def _tuple(value: Any) -> Any:  # noqa: ANN401 - JSON has lists for tuples
    return tuple(value) if isinstance(value, list) else value
