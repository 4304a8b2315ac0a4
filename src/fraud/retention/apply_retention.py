"""Let go of what is too old to keep: partitions, landed files, versions nobody used, their runs, data and reports.

Never touched: a version that an alias names or that ever was Production, its run, its training set, its data in the
DVC remote and its report. Answers and drift, concept and skew reports have their own jobs (docs/operations.md).
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import chain

from pydantic import BaseModel, ConfigDict, Field

from fraud.job import Context, JobConfig, JobResult
from fraud.registry.mlflow_client import registry_errors
from fraud.retention import expired
from fraud.retention.expired import Old


class Config(JobConfig):
    """Counted from when, and whether to remove at all."""

    dry_run: bool = Field(default=False, description="print what would go and how many bytes; remove nothing")
    today: dt.date | None = Field(default=None, description="day that ages count from; default: today, UTC")

    @property
    def monitored(self) -> bool:
        return not self.dry_run


class Freed(BaseModel):
    """What went of one store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    count: int
    bytes: int
    names: list[str]


class Result(JobResult):
    """What went, or would go."""

    dry_run: bool
    count: int
    bytes: int
    stores: list[Freed]

    def as_text(self) -> str:
        lines = [
            f"{freed.store:<24}{freed.count:>8} {freed.bytes:>16,} bytes  {_span(freed.names)}" for freed in self.stores
        ]
        verb = "would go" if self.dry_run else "went"
        return "\n".join([*lines, f"{self.count} things, {self.bytes:,} bytes {verb}"])


def run(config: Config, context: Context) -> Result:
    """Find, count, remove. Run again after a kill, it goes on with what is left.

    Raises UnavailableError when registry or history are away, RefusedError when the history does not verify: without
    them nobody knows what must stay, and nothing is removed.
    """
    today = config.today or dt.datetime.now(dt.UTC).date()
    old = list(chain(_versions(today, context), _lake(today, context)))
    freed: dict[str, list[Old]] = defaultdict(list)
    for each in old:
        freed[each.store].append(each)
        if not config.dry_run:
            with registry_errors():
                each.remove()
    stores = [
        Freed(store=store, count=len(some), bytes=sum(o.bytes for o in some), names=sorted(o.name for o in some))
        for store, some in freed.items()
    ]
    for store in stores:
        context.log.info("retention", dry_run=config.dry_run, store=store.store, count=store.count, bytes=store.bytes)
    return Result(dry_run=config.dry_run, count=len(old), bytes=sum(s.bytes for s in stores), stores=stores)


def _lake(today: dt.date, context: Context) -> Iterator[Old]:
    settings = context.settings
    newest = expired.newest_day(settings.lake_uri, today)
    if newest is not None:
        look_back = dt.timedelta(days=expired.LOOK_BACK_DAYS)
        first_features = newest - dt.timedelta(days=settings.transaction_days)
        first_scores = newest - dt.timedelta(days=settings.prediction_retention_days)
        terms = {
            "features": first_features, "labels": first_features, "transactions": first_features - look_back,
            "scores": first_scores, **dict.fromkeys(expired.what_ifs(settings.lake_uri), first_scores),
        }  # fmt: skip
        for name, first_kept in terms.items():
            yield from expired.lake_days(settings.lake_uri, name, first_kept.isoformat())
    landed_before = _before(today, settings.landing_days)
    yield from expired.partitions_by_age(settings.lake_uri, "quarantine", "batch", landed_before)
    yield from expired.landed(settings.landing_uri, settings.lake_uri, landed_before)
    yield from expired.unnamed_objects(settings.lake_uri, _before(today, expired.UNNAMED_DAYS))
    reported = f"{settings.reports_uri.rstrip('/')}/compare"
    yield from expired.report_folders(reported, _before(today, settings.report_days))


def _versions(today: dt.date, context: Context) -> Iterator[Old]:
    """Versions first: a run is removed when no version stands on it any more."""
    from fraud.registry import retained  # noqa: PLC0415 - MLflow and DVC take seconds to import
    from fraud.registry.training_runs import TrainingRuns  # noqa: PLC0415
    from fraud.training.dvc import data_versions  # noqa: PLC0415 - MLflow and DVC take seconds to import

    settings = context.settings
    before = _before(today, settings.version_days)
    versions = retained.divided(settings, settings.version_days, _before(today, 0))
    with registry_errors():
        runs = TrainingRuns(settings)
        every = runs.runs()
        kept_runs = {version.run_id for version in versions.kept}
        kept_runs |= {run.info.run_id for run in every if run.info.start_time >= before.timestamp() * 1000}
        for version in versions.expire:
            yield Old("versions", str(version.version), 0, partial(runs.remove_version, str(version.version)))
        for run in every:
            if not kept_runs & {run.info.run_id, run.data.tags.get("mlflow.parentRunId")}:
                yield Old("runs", run.info.run_id, runs.size_bytes(run.info.run_id), partial(runs.remove_run, run))
    reports = f"{settings.reports_uri.rstrip('/')}/training"
    yield from expired.report_folders(reports, before, kept_runs)
    # A run that is not a version yet names its data already.
    named = [version.tags for version in versions.kept]
    named += [run.data.tags for run in every if run.info.run_id in kept_runs]
    snapshots = {tags["snapshot"] for tags in named if "snapshot" in tags}
    yield from expired.partitions_by_age(settings.lake_uri, "training_sets", "snapshot", before, snapshots)
    md5s = {tags[key] for tags in named for key in ("dvc_data_md5", "dvc_model_md5") if key in tags}
    recent = _before(today, expired.UNNAMED_DAYS)
    for name, weight in data_versions.unnamed(settings.dvc_remote, sorted(md5s), recent):
        yield Old("DVC remote", name, weight, partial(data_versions.remove, settings.dvc_remote, name))


def _before(today: dt.date, days: int) -> dt.datetime:
    """The beginning of the day that many days ago."""
    return dt.datetime.combine(today, dt.time.min, dt.UTC) - dt.timedelta(days=days)


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
