"""Score days of transactions with one model version on Spark, one `scores` partition per day.

Each slice of a day's `features` is one Spark task: it reads the slice, scores it and writes one object of scores with
the same rows in the same order. Rows do not pass through the JVM. The days become visible in one commit,
after checks of the whole day, so repeated tasks and killed runs do no harm; see docs/batch.md.
"""

import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from pydantic import Field, model_validator

from fraud.errors import BadInputError, UnavailableError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import Dataset, DatasetVersion
from fraud.lake.records import Partition
from fraud.scoring.scorer import Scorer
from fraud.scoring.slices import Slice, SliceScored, SliceUnusable, scoring_task, slices_of

if TYPE_CHECKING:
    from fraud.registry.model_versions import ModelArtifact

SLICES_AT_ONCE: Final = 16
"""Days are scored together until they have this many slices. A cancelled backfill keeps the days published before."""
_REJECTED: Final = "rejected: "


class Config(JobConfig):
    """Days or file, and model version."""

    date: dt.date | None = Field(
        default=None,
        description="one day; default the newest day, and recent days whose scores are missing or out of date",
    )
    first: dt.date | None = Field(default=None, alias="from", description="first day of a range")
    last: dt.date | None = Field(default=None, alias="to", description="last day of a range")
    model: int | None = Field(
        default=None,
        description="score with this version instead of production (what-if); written to `what_if/version-N`",
    )
    force: bool = Field(default=False, description="also score days that are up to date")
    input: Path | None = Field(
        default=None, description="CSV or Parquet file with the contract's columns, scored instead of days"
    )
    output: Path | None = Field(default=None, description="file for the scores of --input: .csv or .parquet")
    as_of_version: int | None = Field(
        default=None,
        ge=0,
        description="with --model: version of the table of features that is read; default the newest",
    )

    @model_validator(mode="after")
    def _one_way_to_name_days(self) -> "Config":
        if (self.first is None) != (self.last is None) or (self.date and self.first):
            raise ValueError("give --date, or --from and --to, or none of them")
        if self.first and self.last and self.first > self.last:
            raise ValueError(f"--from {self.first} is after --to {self.last}")
        if (self.input is None) != (self.output is None) or (self.input and (self.date or self.first or self.force)):
            raise ValueError("give --input with --output, and no days")
        if self.as_of_version is not None and (self.model is None or self.input):
            raise ValueError(
                "give --as-of-version with --model, and no file: nightly scores are of the newest features"
            )
        return self

    @property
    def monitored(self) -> bool:
        """False for a file and for a what-if: they are not nightly scores."""
        return self.input is None and self.model is None


class DayScored(JobResult):
    """Result of one day."""

    day: str
    rows: int
    flagged: int
    rejected: dict[str, int]
    changed: bool
    content_sha256: str


class Result(JobResult):
    """Scored days and totals."""

    days: list[DayScored]
    rows: int
    flagged: int
    rejected: int
    reasons: dict[str, int]
    """Rejected rows by reason."""
    model_version: str
    model_sha256: str
    seconds: dict[str, float]
    resumed: int = 0
    """Days whose scores a killed run had written."""
    window_features: str = ""
    """Of a file: where its window features are from."""
    daily_features: str = ""
    """Of a file: where its daily features are from."""


def run(config: Config, context: Context) -> Result:
    """Score the days that are not up to date and publish them in one commit.

    Raises RefusedError without a usable model version, BadInputError for a day that has no features or fails a check,
    UnavailableError when Spark dies or the lake cannot be written.
    """
    from fraud.registry import model_versions  # noqa: PLC0415 - mlflow takes seconds to import

    started = time.monotonic()
    artifact = model_versions.fetch(context.settings, config.model)
    seconds = {"model": time.monotonic() - started}
    if config.input and config.output:
        return _score_file(config.input, config.output, artifact, context)
    features = catalog.features(artifact.plan.stored_hash).at(context.settings.lake_uri).open(config.as_of_version)
    definition = catalog.SCORES if config.model is None else catalog.what_if(artifact.version)
    target = definition.at(context.settings.lake_uri)
    scores = target.open()
    if not features.partitions():
        raise _no_features(artifact, features, context)
    sources = {day: _source(features, day) for day in _days(config, context, features, scores)}
    before = {day: scores.partition(day) for day in sources}
    todo = [
        day
        for day, source in sources.items()
        if config.force or (made := before[day]) is None or not _current(made, source, artifact)
    ]
    staged = {} if config.force else target.staged()
    resumed = [made for day in todo if (made := staged.get(day)) and _current(made, sources[day], artifact)]
    todo = [day for day in todo if day not in {made.name for made in resumed}]
    context.log.info(
        "scoring started", days=len(sources), to_do=len(todo), resumed=len(resumed), model_version=artifact.version
    )
    if not todo:
        target.commit(resumed)
    else:
        from fraud.scoring.trees import FastTrees, batch_model  # noqa: PLC0415 - numba takes a second to import

        compiled = isinstance(batch_model(artifact.model), FastTrees)  # compiles the kernel before the workers start
        context.log.info("model loaded", engine="compiled trees" if compiled else "ONNX Runtime")
        seconds |= _score(todo, features, target, artifact, context, sources, list(resumed))
    scored = target.open()
    days = [_summary(scored, day, before=before[day]) for day in sources]
    seconds["total"] = time.monotonic() - started
    reasons = sum((Counter(day.rejected) for day in days), Counter[str]())
    return Result(
        days=days, rows=sum(d.rows for d in days), flagged=sum(d.flagged for d in days), rejected=reasons.total(),
        reasons=reasons, model_version=artifact.version, model_sha256=artifact.model_sha256,
        seconds={name: round(value, 3) for name, value in seconds.items()}, resumed=len(resumed),
    )  # fmt: skip


def _score_file(source: Path, target: Path, artifact: "ModelArtifact", context: Context) -> Result:
    """Score one file without Spark and without the lake."""
    from fraud.scoring.scored_file import score_file  # noqa: PLC0415 - pandera takes seconds to import
    from fraud.scoring.trees import batch_model  # noqa: PLC0415 - numba takes a second to import

    began = time.monotonic()
    scorer = Scorer(batch_model(artifact.model), artifact.version, artifact.plan, artifact.threshold)
    done = score_file(source, target, scorer)
    origins: dict[str, Any] = {"window_features": done.window_features, "daily_features": done.daily_features}
    context.log.info("file scored", file=str(source), rows=done.rows, **origins)
    return Result(
        days=[], rows=done.rows, flagged=done.flagged, rejected=done.rejected.total(),
        reasons=dict(sorted(done.rejected.items())), model_version=artifact.version,
        model_sha256=artifact.model_sha256, seconds={"total": round(time.monotonic() - began, 3)}, **origins,
    )  # fmt: skip


def _no_features(artifact: "ModelArtifact", features: DatasetVersion, context: Context) -> BadInputError:
    own = artifact.plan.stored_hash == context.declaration.stored_hash
    return BadInputError(
        f"there are no features to score with version {artifact.version}",
        expected=f"days of {features.name}, which the declaration in the version describes",
        got="none in the lake" if own else "none in the lake; features.yaml declares other columns or features",
        hint="fraud build-features" if own else "fraud build-features --live, for the versions with an alias; for "
        "another version, first put its declaration into features.yaml",
    )  # fmt: skip


def _days(config: Config, context: Context, features: DatasetVersion, scores: DatasetVersion) -> list[str]:
    """The requested days; by default the newest, and days of the week before it whose scores are out of date."""
    published = features.partitions()
    if config.date:
        return [str(config.date)]
    if config.first:
        chosen = [day for day in published if str(config.first) <= day <= str(config.last)]
        if not chosen:
            raise BadInputError(
                f"features has no day from {config.first} to {config.last}", hint=f"newest: {published[-1]}"
            )
        return chosen
    newest = published[-1]
    first = str(dt.date.fromisoformat(newest) - dt.timedelta(days=context.params.drift.current_days - 1))

    def out_of_date(day: str) -> bool:
        made = scores.partition(day)
        return made is None or made.made_from["features"] != _source(features, day).content_sha256

    return [day for day in published if day == newest or (day >= first and out_of_date(day))]


def _source(features: DatasetVersion, day: str) -> Partition:
    partition = features.partition(day)
    if partition is None:
        raise BadInputError(
            f"features has no day {day}", expected=f"one of {features.partitions()[-5:]}", hint="fraud build-features"
        )
    return partition


def _made_from(source: Partition, artifact: "ModelArtifact") -> dict[str, str]:
    return {
        "features": source.content_sha256,
        "model_version": artifact.version,
        "model_sha256": artifact.model_sha256,
        "feature_hash": artifact.feature_hash,
        "threshold": repr(artifact.threshold),
    }


def _current(made: Partition, source: Partition, artifact: "ModelArtifact") -> bool:
    return _made_from(source, artifact).items() <= made.made_from.items()


def _score(
    days: list[str],
    features: DatasetVersion,
    scores: Dataset,
    artifact: "ModelArtifact",
    context: Context,
    sources: dict[str, Partition],
    scored: list[Partition],
) -> dict[str, float]:
    """Score `days`, then publish them and the days in `scored` in one commit; seconds by stage."""
    from fraud.lake.spark import run_tasks, spark_session  # noqa: PLC0415 - Spark takes seconds to import

    began = time.monotonic()
    seconds = {"score": 0.0, "publish": 0.0}
    with spark_session(context.settings, "score_nightly") as spark:
        seconds["spark_start"] = time.monotonic() - began
        context.log.info("Spark started", seconds=round(seconds["spark_start"], 1), days=len(days))
        task = scoring_task(scores, artifact, spark.sparkContext.broadcast(artifact.model))
        of_days = (list(slices_of(features, day, sources[day])) for day in days)
        for slices in _together(of_days, lambda: 4 * spark.sparkContext.defaultParallelism):
            mark = time.monotonic()
            results = run_tasks(spark, task, slices, lambda piece: piece.end - piece.first, context.log)
            seconds["score"] += time.monotonic() - mark
            mark = time.monotonic()
            for partition in _checked_days(list(zip(slices, results, strict=True)), sources, artifact):
                scored.append(partition)
                with _full_disk():
                    scores.stage(partition)
                context.log.info("day scored", day=partition.name, rows=partition.rows)
            seconds["publish"] += time.monotonic() - mark
    mark = time.monotonic()
    with _full_disk():
        scores.commit(scored)
    seconds["publish"] += time.monotonic() - mark
    return seconds


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            "the scores cannot be published", got=str(error), hint="free some space and run again"
        ) from error


def _together(days: Iterable[list[Slice]], at_least: Callable[[], int]) -> Iterator[list[Slice]]:
    """Group whole days until a group has SLICES_AT_ONCE slices, or `at_least()` as more workers join."""
    group: list[Slice] = []
    for slices in days:
        group += slices
        if len(group) >= max(SLICES_AT_ONCE, at_least()):
            yield group
            group = []
    if group:
        yield group


def _checked_days(
    results: list[tuple[Slice, SliceScored | SliceUnusable]], sources: dict[str, Partition], artifact: "ModelArtifact"
) -> Iterator[Partition]:
    """The new partition of each day. Raises BadInputError when a slice could not be read, or a check fails."""
    unusable = [f"{piece.uri}: {result.reason}" for piece, result in results if isinstance(result, SliceUnusable)]
    if unusable:
        raise BadInputError("features cannot be read", got="; ".join(unusable), hint="fraud build-features")
    for day in dict.fromkeys(piece.day for piece, _ in results):
        parts = [result for piece, result in results if piece.day == day and isinstance(result, SliceScored)]
        yield _checked(day, sources[day], parts, artifact)


def _checked(day: str, source: Partition, parts: list[SliceScored], artifact: "ModelArtifact") -> Partition:
    """Check the whole day. Raises BadInputError if a check fails."""
    rejected = sum((part.rejected for part in parts), Counter[str]())
    rows_in, rows_out = sum(part.rows_in for part in parts), sum(part.object.rows for part in parts)
    if not source.rows == rows_in == rows_out + rejected.total():
        raise BadInputError(
            f"the row counts of {day} do not match", expected=f"{source.rows} rows of features",
            got=f"{rows_in} read, {rows_out} scored, {rejected.total()} rejected", hint="fraud build-features",
        )  # fmt: skip
    hashes = np.concatenate([part.id_hashes for part in parts])
    hashes.sort()
    if (hashes[1:] == hashes[:-1]).any():
        raise BadInputError(f"features of {day} contain a transaction_id twice", hint="fraud build-features")
    counts = {f"{_REJECTED}{reason}": str(count) for reason, count in rejected.items()}
    flagged = sum(part.flagged for part in parts)
    return Partition(
        name=day, objects=tuple(part.object for part in parts),
        made_from={**_made_from(source, artifact), "flagged": str(flagged), **counts},
    )  # fmt: skip


def _summary(scores: DatasetVersion, day: str, *, before: Partition | None) -> DayScored:
    partition = scores.partition(day)
    if partition is None:
        raise BadInputError(f"the scores of {day} do not exist", hint=f"fraud score --date {day}")
    rejected = {
        reason.removeprefix(_REJECTED): int(count)
        for reason, count in partition.made_from.items()
        if reason.startswith(_REJECTED)
    }
    return DayScored(
        day=day, rows=partition.rows, flagged=int(partition.made_from["flagged"]), rejected=rejected,
        changed=partition != before, content_sha256=partition.content_sha256,
    )  # fmt: skip
