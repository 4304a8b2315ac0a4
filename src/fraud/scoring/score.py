"""Score days of transactions with one model version on Spark, one `scores` partition a day.

Each slice of a day's `features` is one Spark task: read it, score it, put one object of scores, same rows, same
order. Rows never pass through the JVM. Nothing is visible before the whole day was checked and its manifest replaced,
so a task may run twice and a run may die anywhere; see docs/batch.md.
"""

import datetime as dt
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fraud.errors import BadInputError, UnavailableError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.dataset import ROWS_PER_GROUP, DataObject, Dataset, Manifest, located
from fraud.scoring.scorer import INPUT, Model, Scorer

if TYPE_CHECKING:
    from pyspark.core.broadcast import Broadcast

    from fraud.registry.model_versions import ModelArtifact

SLICES_AT_ONCE: Final = 16
"""Days are scored together until they have this many slices: work for some cores, and a backfill that is cancelled
keeps the days before."""
_REJECTED: Final = "rejected: "
_SESSIONS: Final[dict[str, Model]] = {}


class Config(JobConfig):
    """Which days, and with what."""

    date: dt.date | None = Field(
        default=None, description="one day; without any: the newest day, and older ones whose scores are out of date"
    )
    first: dt.date | None = Field(default=None, alias="from", description="first day of a range")
    last: dt.date | None = Field(default=None, alias="to", description="last day of a range")
    model: int | None = Field(
        default=None, description="a version instead of production: a what-if, kept in `what_if/version=N`"
    )
    force: bool = Field(default=False, description="score again even what is up to date")
    input: Path | None = Field(
        default=None, description="a CSV or Parquet file of the contract's columns, scored here instead of any day"
    )
    output: Path | None = Field(default=None, description="where its scores go: a .csv or .parquet file")

    @model_validator(mode="after")
    def _one_way_to_name_days(self) -> "Config":
        if (self.first is None) != (self.last is None) or (self.date and self.first):
            raise ValueError("give --date, or --from and --to, or none of them")
        if self.first and self.last and self.first > self.last:
            raise ValueError(f"--from {self.first} is after --to {self.last}")
        if (self.input is None) != (self.output is None) or (self.input and (self.date or self.first or self.force)):
            raise ValueError("give --input with --output, and no days")
        return self

    @property
    def monitored(self) -> bool:
        """A file or a what-if says nothing about how the nightly scores are doing."""
        return self.input is None and self.model is None


class DayScored(JobResult):
    """One day's figures."""

    day: str
    rows: int
    flagged: int
    rejected: dict[str, int]
    changed: bool
    content_sha256: str


class Result(JobResult):
    """What a run did."""

    days: list[DayScored]
    rows: int
    flagged: int
    rejected: int
    reasons: dict[str, int]
    """For the rejections."""
    model_version: str
    model_sha256: str
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Slice:
    """Some rows of a data object of a day of `features`: the unit of work. Cut by the input alone, never by cores."""

    day: str
    uri: str
    object: DataObject
    first: int
    """Offset of the first row, and of the one behind the last."""
    end: int


@dataclass(frozen=True, slots=True)
class SliceScored:
    """What a task hands back: the object it put, and what the driver checks."""

    object: DataObject
    rows_in: int
    flagged: int
    rejected: Counter[str]
    id_hashes: NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class SliceUnusable:
    """The input of a task is broken. A value, not an exception: Spark would hide its kind, and try again."""

    reason: str


def run(config: Config, context: Context) -> Result:
    """Score what has no scores of its present features by this version; publish each day as a whole.

    Raises RefusedError without a usable model version, BadInputError for a day that has no features or fails a check,
    UnavailableError when Spark dies or the lake cannot be written.
    """
    from fraud.registry import model_versions  # noqa: PLC0415 - mlflow takes seconds to import

    started = time.monotonic()
    artifact = model_versions.fetch(context.settings, config.model)
    seconds = {"model": time.monotonic() - started}
    if config.input and config.output:
        return _score_file(config.input, config.output, artifact, context)
    features = catalog.FEATURES.at(context.settings.lake_uri)
    definition = catalog.SCORES if config.model is None else catalog.what_if(artifact.version)
    scores = definition.at(context.settings.lake_uri)
    sources = {day: _source(features, day) for day in _days(config, context, features, scores)}
    before = {day: scores.manifest(day) for day in sources}
    todo = [
        day
        for day, source in sources.items()
        if config.force or (made := before[day]) is None or not _current(made, source, artifact)
    ]
    context.log.info("scoring", days=len(sources), to_do=len(todo), model_version=artifact.version)
    if todo:
        from fraud.scoring.trees import FastTrees, batch_model  # noqa: PLC0415 - numba takes a second to import

        compiled = isinstance(batch_model(artifact.model), FastTrees)  # and so it is before the workers look for it
        context.log.info("model", walked_by="compiled trees" if compiled else "ONNX Runtime")
        seconds |= _score(todo, features, scores, artifact, context, sources)
    days = [_summary(scores, day, before=before[day]) for day in sources]
    seconds["total"] = time.monotonic() - started
    reasons = sum((Counter(day.rejected) for day in days), Counter[str]())
    return Result(
        days=days, rows=sum(d.rows for d in days), flagged=sum(d.flagged for d in days), rejected=reasons.total(),
        reasons=reasons, model_version=artifact.version, model_sha256=artifact.model_sha256,
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )  # fmt: skip


def _score_file(source: Path, target: Path, artifact: "ModelArtifact", context: Context) -> Result:
    """Without Spark and without the lake."""
    from fraud.scoring.scored_file import score_file  # noqa: PLC0415 - pandera takes seconds to import
    from fraud.scoring.trees import batch_model  # noqa: PLC0415 - numba takes a second to import

    began = time.monotonic()
    scorer = Scorer(batch_model(artifact.model), artifact.version, artifact.feature_hash, artifact.threshold)
    done = score_file(source, target, scorer)
    windows = "given" if done.windows_given else "computed over the file alone"
    context.log.info("scored", file=str(source), rows=done.rows, window_features=windows)
    return Result(
        days=[], rows=done.rows, flagged=done.flagged, rejected=done.rejected.total(),
        reasons=dict(sorted(done.rejected.items())), model_version=artifact.version,
        model_sha256=artifact.model_sha256, seconds={"total": round(time.monotonic() - began, 3)},
    )  # fmt: skip


def _days(config: Config, context: Context, features: Dataset, scores: Dataset) -> list[str]:
    """The days asked for; by default the newest, and those of the week before it whose scores are missing or old."""
    published = features.partitions()
    if not published:
        raise BadInputError("there are no features to score", hint="fraud build-features")
    if config.date:
        return [str(config.date)]
    if config.first:
        chosen = [day for day in published if str(config.first) <= day <= str(config.last)]
        if not chosen:
            raise BadInputError(
                f"features has no day in {config.first}..{config.last}", hint=f"newest: {published[-1]}"
            )
        return chosen
    newest = published[-1]
    first = str(dt.date.fromisoformat(newest) - dt.timedelta(days=context.params.drift.current_days - 1))

    def out_of_date(day: str) -> bool:
        made = scores.manifest(day)
        return made is None or made.made_from["features"] != _source(features, day).content_sha256

    return [day for day in published if day == newest or (day >= first and out_of_date(day))]


def _source(features: Dataset, day: str) -> Manifest:
    manifest = features.manifest(day)
    if manifest is None:
        raise BadInputError(
            f"features has no day {day}", expected=f"one of {features.partitions()[-5:]}", hint="fraud build-features"
        )
    return manifest


def _made_from(source: Manifest, artifact: "ModelArtifact") -> dict[str, str]:
    return {
        "features": source.content_sha256,
        "model_version": artifact.version,
        "model_sha256": artifact.model_sha256,
        "feature_hash": artifact.feature_hash,
        "threshold": repr(artifact.threshold),
    }


def _current(made: Manifest, source: Manifest, artifact: "ModelArtifact") -> bool:
    return _made_from(source, artifact).items() <= made.made_from.items()


def _score(
    days: list[str],
    features: Dataset,
    scores: Dataset,
    artifact: "ModelArtifact",
    context: Context,
    sources: dict[str, Manifest],
) -> dict[str, float]:
    """Score `days` and publish each as soon as it is scored; seconds by stage."""
    from fraud.lake.spark import run_tasks, spark_session  # noqa: PLC0415 - only a run that has work pays for Spark

    began = time.monotonic()
    seconds = {"score": 0.0, "publish": 0.0}
    with spark_session(context.settings, "score_nightly") as spark:
        seconds["spark_start"] = time.monotonic() - began
        context.log.info("spark is up", seconds=round(seconds["spark_start"], 1), days=len(days))
        task = _task(scores, artifact, spark.sparkContext.broadcast(artifact.model))
        for slices in _together(list(_slices(features, day, sources[day])) for day in days):
            mark = time.monotonic()
            answers = run_tasks(spark, task, slices, lambda piece: piece.end - piece.first, context.log)
            seconds["score"] += time.monotonic() - mark
            mark = time.monotonic()
            _publish_each(scores, list(zip(slices, answers, strict=True)), sources, artifact, context)
            seconds["publish"] += time.monotonic() - mark
    return seconds


def _together(days: Iterable[list[Slice]]) -> Iterator[list[Slice]]:
    """Whole days whose slices are few enough to be scored at once: many small days share the cores."""
    held: list[Slice] = []
    for slices in days:
        held += slices
        if len(held) >= SLICES_AT_ONCE:
            yield held
            held = []
    if held:
        yield held


def _publish_each(
    scores: Dataset,
    answers: list[tuple[Slice, SliceScored | SliceUnusable]],
    sources: dict[str, Manifest],
    artifact: "ModelArtifact",
    context: Context,
) -> None:
    """Raises BadInputError when a slice could not be read, UnavailableError when there is no room."""
    unusable = [f"{piece.uri}: {answer.reason}" for piece, answer in answers if isinstance(answer, SliceUnusable)]
    if unusable:
        raise BadInputError("features cannot be read", got="; ".join(unusable), hint="fraud build-features")
    for day in dict.fromkeys(piece.day for piece, _ in answers):
        parts = [answer for piece, answer in answers if piece.day == day and isinstance(answer, SliceScored)]
        try:
            _publish(scores, day, sources[day], parts, artifact)
        except OSError as error:
            raise UnavailableError(
                f"the scores of {day} cannot be published", got=str(error), hint="make room; run again"
            ) from error
        context.log.info("published", day=day, rows=sum(part.object.rows for part in parts))


def _slices(features: Dataset, day: str, source: Manifest) -> Iterator[Slice]:
    """The day in pieces of a row group; an object without rows is one as well, so that it is looked at."""
    for uri, made in zip(features.object_uris(day), source.objects, strict=True):
        for first in range(0, max(made.rows, 1), ROWS_PER_GROUP):
            yield Slice(day, uri, made, first, min(first + ROWS_PER_GROUP, made.rows))


def _task(
    scores: Dataset, artifact: "ModelArtifact", model: "Broadcast[bytes]"
) -> Callable[[Slice], SliceScored | SliceUnusable]:
    """The function Spark ships to its workers."""
    key, version, meaning, threshold = (
        artifact.model_sha256,
        artifact.version,
        artifact.feature_hash,
        artifact.threshold,
    )

    def score_slice(piece: Slice) -> SliceScored | SliceUnusable:
        from pandas.util import hash_array  # noqa: PLC0415 - pandas takes a second to import

        try:
            table = _read(piece)
        except FileNotFoundError:
            return SliceUnusable("it is not there")
        except (pa.ArrowException, ValueError) as error:
            return SliceUnusable(str(error))
        rows, rejected = Scorer(_session(key, model), version, meaning, threshold).score(table)
        return SliceScored(
            object=scores.put(piece.day, rows),
            rows_in=table.num_rows,
            flagged=pc.sum(rows["is_fraud"]).as_py() or 0,
            rejected=rejected,
            id_hashes=hash_array(rows["transaction_id"].to_numpy(), categorize=False),
        )

    return score_slice


def _read(piece: Slice) -> pa.Table:
    """The rows of a slice, INPUT's columns. The first slice of an object holds its bytes against the manifest."""
    fs, path = located(piece.uri)
    if piece.first == 0:
        data = fs.cat_file(path)
        if (digest := sha256(data).hexdigest()) != piece.object.sha256:
            raise ValueError(f"its manifest says sha256 {piece.object.sha256}, it has {digest}")
        return _rows(pq.ParquetFile(pa.BufferReader(data)), piece)
    with fs.open(path, "rb") as file:
        return _rows(pq.ParquetFile(file), piece)


def _rows(file: pq.ParquetFile, piece: Slice) -> pa.Table:
    """Reads the row groups that hold the slice, and cuts it out. Raises ArrowException or ValueError."""
    starts = np.cumsum([0, *(file.metadata.row_group(g).num_rows for g in range(file.num_row_groups))])
    groups = [g for g in range(file.num_row_groups) if starts[g] < piece.end and starts[g + 1] > piece.first]
    offset = piece.first - int(starts[groups[0]]) if groups else 0
    table = file.read_row_groups(groups, columns=INPUT.names, use_threads=False)
    return table.slice(offset, piece.end - piece.first).cast(INPUT)


def _session(key: str, model: "Broadcast[bytes]") -> Model:
    """The worker's one session of this model: made by its first task, kept for the next."""
    from fraud.scoring.trees import batch_model  # noqa: PLC0415 - numba takes a second to import

    if key not in _SESSIONS:
        _SESSIONS.clear()
        _SESSIONS[key] = batch_model(model.value)
    return _SESSIONS[key]


def _publish(scores: Dataset, day: str, source: Manifest, parts: list[SliceScored], artifact: "ModelArtifact") -> None:
    """Check the day as a whole, then make it visible. Raises BadInputError and publishes nothing when a check fails."""
    rejected = sum((part.rejected for part in parts), Counter[str]())
    rows_in, rows_out = sum(part.rows_in for part in parts), sum(part.object.rows for part in parts)
    if not source.rows == rows_in == rows_out + rejected.total():
        raise BadInputError(
            f"the rows of {day} do not add up", expected=f"{source.rows} rows of features",
            got=f"{rows_in} read, {rows_out} scored, {rejected.total()} rejected", hint="fraud build-features",
        )  # fmt: skip
    hashes = np.concatenate([part.id_hashes for part in parts])
    hashes.sort()
    if (hashes[1:] == hashes[:-1]).any():
        raise BadInputError(f"features of {day} hold a transaction_id twice", hint="fraud build-features")
    counts = {f"{_REJECTED}{reason}": str(count) for reason, count in rejected.items()}
    flagged = sum(part.flagged for part in parts)
    scores.commit(
        day, [part.object for part in parts], {**_made_from(source, artifact), "flagged": str(flagged), **counts}
    )


def _summary(scores: Dataset, day: str, *, before: Manifest | None) -> DayScored:
    manifest = scores.manifest(day)
    if manifest is None:
        raise BadInputError(f"the scores of {day} are gone", hint=f"fraud score --date {day}")
    rejected = {
        reason.removeprefix(_REJECTED): int(count)
        for reason, count in manifest.made_from.items()
        if reason.startswith(_REJECTED)
    }
    return DayScored(
        day=day, rows=manifest.rows, flagged=int(manifest.made_from["flagged"]), rejected=rejected,
        changed=manifest != before, content_sha256=manifest.content_sha256,
    )  # fmt: skip
