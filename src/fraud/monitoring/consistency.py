"""Compare a sample of served answers with the nightly scores of the same transactions by the same model.

`fraud skew` compares served features with recomputed ones; this job compares two published results. A difference is
caused by the features (batch and serving used other events) or by the way the model was run.
"""

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from fraud.core.contract import US_PER_DAY
from fraud.core.features import WINDOW_NAMES
from fraud.errors import BadInputError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog

MAX_DIFFERENCE: Final = 1e-6
"""Largest accepted difference of probabilities across runtimes. On one machine the bits are equal."""
RECENT_DAYS: Final = 7
EXAMPLES: Final = 5
_COLUMNS: Final = ["transaction_id", "prediction_id", "event_us", "history", "fraud_probability", "is_fraud",
                   "model_sha256", *WINDOW_NAMES]  # fmt: skip


class Config(JobConfig):
    """Day and size of the sample."""

    date: dt.date | None = Field(default=None, description="day of served_at; default the last week of answers")
    sample: int = Field(
        default=10_000, ge=1, description="answers per day: those with the lowest hash of transaction_id"
    )


class Result(JobResult):
    """compared = equal + within tolerance + mismatches; answers sampled = compared + skipped."""

    days: list[str]
    verdict: str
    """ok | mismatch | nothing (no answer could be compared)"""
    compared: int
    equal: int
    """Equal bit for bit."""
    mismatches: int
    """Answers whose probability differs by more than 1e-6, or whose decision differs."""
    features_differ: int
    """Mismatches with different window features in batch and serving."""
    worst: float
    skipped: dict[str, int]
    examples: list[str]


@dataclass
class _Tally:
    compared: int = 0
    equal: int = 0
    mismatches: int = 0
    features_differ: int = 0
    worst: float = 0.0
    skipped: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)


def run(config: Config, context: Context) -> Result:
    """Compare the requested days. Raises BadInputError for a day without answers."""
    lake = context.settings.lake_uri
    predictions = catalog.PREDICTIONS.at(lake)
    published = predictions.partitions()
    if config.date and str(config.date) not in published:
        raise BadInputError(f"no answers of {config.date} in the lake", hint="fraud ship-predictions")
    days = [str(config.date)] if config.date else published[-RECENT_DAYS:]
    tally = _Tally()
    for served in days:
        answers = _sample(predictions.read(served, _COLUMNS), config.sample, tally)
        events = answers["event_us"].to_numpy() // US_PER_DAY
        for day in np.unique(events).tolist():
            _compare(answers.filter(pa.array(events == day)), str(np.datetime64(day, "D")), lake, tally)
        context.log.info("day compared", day=served, compared=tally.compared, mismatches=tally.mismatches)
    verdict = "mismatch" if tally.mismatches else "ok" if tally.compared else "nothing"
    return Result(
        days=days, verdict=verdict, compared=tally.compared, equal=tally.equal, mismatches=tally.mismatches,
        features_differ=tally.features_differ, worst=tally.worst, skipped=dict(sorted(tally.skipped.items())),
        examples=tally.examples,
    )  # fmt: skip


def _sample(answers: pa.Table, most: int, tally: _Tally) -> pa.Table:
    """Sample the answers with a history, those with the lowest id hashes. Every run gives the same sample."""
    from pandas.util import hash_array  # noqa: PLC0415 - pandas takes a second to import

    stored = pc.equal(answers["history"], "store")
    tally.skipped += Counter({"answered without the online store's history": pc.sum(pc.invert(stored)).as_py() or 0})
    answers = answers.filter(stored)
    hashes = hash_array(answers["transaction_id"].to_numpy(), categorize=False)
    return answers.take(np.sort(np.argsort(hashes, kind="stable")[:most]))


def _compare(answers: pa.Table, day: str, lake: str, tally: _Tally) -> None:
    """Compare the answers of one event day with its scores."""
    scores, features = catalog.SCORES.at(lake), catalog.FEATURES.at(lake)
    manifest = scores.manifest(day)
    if manifest is None:
        tally.skipped[f"{day} has no scores"] += answers.num_rows
        return
    same = pc.equal(answers["model_sha256"], manifest.made_from["model_sha256"])
    tally.skipped += Counter({"scored by another model": pc.sum(pc.invert(same)).as_py() or 0})
    answers = answers.filter(same)
    scored = scores.read(day, ["transaction_id", "fraud_probability", "is_fraud"])
    place = pc.index_in(answers["transaction_id"], value_set=scored["transaction_id"].combine_chunks())
    tally.skipped += Counter({"not among the day's scores": place.null_count})
    answers, place = answers.filter(pc.is_valid(place)), pc.drop_null(place)
    if not answers.num_rows:
        return
    batch = scored.take(place)
    served_p = answers["fraud_probability"].to_numpy()
    batch_p = batch["fraud_probability"].to_numpy().astype(np.float64)
    difference = np.abs(served_p - batch_p)
    decided = answers["is_fraud"].to_numpy() == batch["is_fraud"].to_numpy()
    wrong = (difference > MAX_DIFFERENCE) | ~decided
    tally.compared += len(wrong)
    tally.equal += int(((served_p.astype(np.float32) == batch_p) & decided).sum())
    tally.mismatches += int(wrong.sum())
    tally.worst = max(tally.worst, float(difference.max()))
    if not wrong.any():
        return
    differ = _other_windows(answers.filter(pa.array(wrong)), features.read(day, ["transaction_id", *WINDOW_NAMES]))
    tally.features_differ += int(differ.sum())
    for i, differs in zip(np.flatnonzero(wrong)[:EXAMPLES].tolist(), differ.tolist(), strict=False):
        name = answers["transaction_id"][i].as_py()
        cause = "different window features" if differs else "equal window features"
        tally.examples.append(f"{name}: served {served_p[i]!r}, batch {batch_p[i]!r}, {cause}")
    del tally.examples[EXAMPLES:]


def _other_windows(answers: pa.Table, features: pa.Table) -> NDArray[np.bool_]:
    """Whether the window features of batch and serving differ, bool[n]."""
    rows = features.take(pc.index_in(answers["transaction_id"], value_set=features["transaction_id"].combine_chunks()))
    other = np.zeros(answers.num_rows, dtype=np.bool_)
    for name in WINDOW_NAMES:
        served, batch = (pc.fill_null(t[name].cast(pa.float64()), np.nan).to_numpy() for t in (answers, rows))
        other |= ~((served == batch) | (np.isnan(served) & np.isnan(batch)))
    return other
