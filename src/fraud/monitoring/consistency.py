"""Compare a sample of served answers with the nightly scores of the same transactions by the same model.

`fraud skew` compares served features with recomputed ones; this job compares two published results. A difference is
caused by the features (batch and serving used other events) or by the way the model was run.
"""

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from fraud.audit.answering_versions import AnsweringVersions
from fraud.core.contract import US_PER_DAY
from fraud.errors import BadInputError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import DatasetVersion

MAX_DIFFERENCE: Final = 1e-6
"""Largest accepted difference of probabilities across runtimes. On one machine the bits are equal."""
RECENT_DAYS: Final = 7
EXAMPLES: Final = 5
_COLUMNS: Final = ["transaction_id", "prediction_id", "event_us", "history", "fraud_probability", "is_fraud",
                   "model_version", "model_sha256", "feature_hash"]  # fmt: skip


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
    """Mismatches with different window or daily features in batch and serving."""
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
    predictions, scores = (definition.at(lake).open() for definition in (catalog.PREDICTIONS, catalog.SCORES))
    published = predictions.partitions()
    if config.date and str(config.date) not in published:
        raise BadInputError(f"no answers of {config.date} in the lake", hint="fraud ship-predictions")
    days = [str(config.date)] if config.date else published[-RECENT_DAYS:]
    tally, versions = _Tally(), AnsweringVersions(context.settings)
    for served in days:
        answers = _sample(predictions.read(served, _COLUMNS), config.sample, tally)
        events = answers["event_us"].to_numpy() // US_PER_DAY
        for day in np.unique(events).tolist():
            name, of_day = str(np.datetime64(day, "D")), answers.filter(pa.array(events == day))
            wrong = _compare(of_day, scores, name, tally)
            if wrong.num_rows:
                _explain(wrong, predictions, served, name, lake, versions, tally)
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


def _compare(answers: pa.Table, scores: DatasetVersion, day: str, tally: _Tally) -> pa.Table:
    """Compare the answers of one event day with its scores. Returns those that differ, with their score in `batch`."""
    partition = scores.partition(day)
    if partition is None:
        tally.skipped[f"{day} has no scores"] += answers.num_rows
        return answers.slice(0, 0)
    same = pc.equal(answers["model_sha256"], partition.made_from["model_sha256"])
    tally.skipped += Counter({"scored by another model": pc.sum(pc.invert(same)).as_py() or 0})
    answers = answers.filter(same)
    scored = scores.read(day, ["transaction_id", "fraud_probability", "is_fraud"])
    place = pc.index_in(answers["transaction_id"], value_set=scored["transaction_id"].combine_chunks())
    tally.skipped += Counter({"not among the day's scores": place.null_count})
    answers, place = answers.filter(pc.is_valid(place)), pc.drop_null(place)
    if not answers.num_rows:
        return answers
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
    return answers.append_column("batch", pa.array(batch_p)).filter(pa.array(wrong))


def _explain(
    wrong: pa.Table,
    predictions: DatasetVersion,
    served: str,
    day: str,
    lake: str,
    versions: AnsweringVersions,
    tally: _Tally,
) -> None:
    """Count the answers whose features differ from those of the batch, and name the features in the examples.

    All answers are of one version.
    """
    rows = wrong.to_pylist()
    version = versions.of(rows[0])
    differ: dict[str, NDArray[np.bool_]] | None = None
    if not isinstance(version, str):
        dataset, names = catalog.features(version.plan.stored_hash).at(lake).open(), version.plan.features
        if dataset.partition(day) is not None:
            answers = _features_of(wrong, predictions, served, "prediction_id", names)
            batch = _features_of(wrong, dataset, day, "transaction_id", names)
            differ = {name: _different(answers[name], batch[name]) for name in names}
    for i, row in enumerate(rows):
        found = [name for name, where in (differ or {}).items() if where[i]]
        tally.features_differ += bool(found)
        if len(tally.examples) < EXAMPLES:
            cause = "features not in the lake" if differ is None else "equal features"
            tally.examples.append(
                f"{row['transaction_id']}: served {row['fraud_probability']!r}, batch {row['batch']!r}, "
                + (f"different {', '.join(found)}" if found else cause)
            )


def _features_of(rows: pa.Table, dataset: DatasetVersion, partition: str, key: str, names: Sequence[str]) -> pa.Table:
    """Features of a dataset, float64, in the order of `rows`, by a unique column."""
    schema = pa.schema([(key, pa.string()), *((name, pa.float64()) for name in names)])
    table = dataset.read_as(partition, schema)
    return table.take(pc.index_in(rows[key], value_set=table[key].combine_chunks()))


def _different(served: pa.ChunkedArray, batch: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where the values of batch and serving differ, bool[n]."""
    one, other = (pc.fill_null(values, np.nan).to_numpy() for values in (served, batch))
    differs: NDArray[np.bool_] = ~((one == other) | (np.isnan(one) & np.isnan(other)))
    return differs
