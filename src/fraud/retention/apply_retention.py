"""Remove data older than its retention: partitions, landed files, model versions never used, their runs and reports.

Never removed: a version that an alias names or that ever was in production or exported, its run, its training set, the
features and daily tables of its declaration, its data in the DVC remote and its report. Answers and drift, concept and
skew reports are expired by the jobs that write them (docs/operations.md).
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain

from pydantic import BaseModel, ConfigDict, Field

from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog, declarations
from fraud.lake.catalog import DatasetDefinition
from fraud.registry.mlflow_client import registry_errors
from fraud.retention import expired
from fraud.retention.expired import Expired


class Config(JobConfig):
    """The day that ages are counted from, and whether to remove anything."""

    dry_run: bool = Field(default=False, description="print what would be removed and its size; remove nothing")
    today: dt.date | None = Field(default=None, description="day that ages are counted from; default: today, UTC")

    @property
    def monitored(self) -> bool:
        return not self.dry_run


class Removed(BaseModel):
    """What was removed from one store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    store: str
    count: int
    bytes: int
    names: list[str]


class Result(JobResult):
    """What was removed, or would be removed in a dry run, by store."""

    dry_run: bool
    count: int
    bytes: int
    stores: list[Removed]

    def as_text(self) -> str:
        lines = [
            f"{each.store:<24}{each.count:>8} {each.bytes:>16,} bytes  {_span(each.names)}" for each in self.stores
        ]
        verb = "would be removed" if self.dry_run else "removed"
        return "\n".join([*lines, f"{self.count} items, {self.bytes:,} bytes {verb}"])


def run(config: Config, context: Context) -> Result:
    """Find, count and remove. A run after a killed one removes what is left.

    Raises UnavailableError when the registry or the promotion history is unavailable, and RefusedError when the history
    does not verify. Nothing is removed then: both are needed to determine which versions must be kept.
    """
    today = config.today or dt.datetime.now(dt.UTC).date()
    found = list(chain(_versions(today, context), _lake(today, context)))
    by_store: dict[str, list[Expired]] = defaultdict(list)
    for each in found:
        by_store[each.store].append(each)
        if not config.dry_run:
            with registry_errors():
                each.remove()
    stores = [
        Removed(store=store, count=len(some), bytes=sum(e.size_bytes for e in some), names=sorted(e.name for e in some))
        for store, some in by_store.items()
    ]
    for store in stores:
        event = "expired data found" if config.dry_run else "expired data removed"
        context.log.info(event, store=store.store, count=store.count, bytes=store.bytes)
    return Result(dry_run=config.dry_run, count=len(found), bytes=sum(s.bytes for s in stores), stores=stores)


def _lake(today: dt.date, context: Context) -> Iterator[Expired]:
    settings = context.settings
    newest = expired.newest_day(settings.lake_uri, today)
    if newest is not None:
        built, what_ifs = catalog.in_lake(settings.lake_uri), catalog.what_ifs(settings.lake_uri)
        # What is built from transactions and labels comes first: no day is built again from what is left of them.
        for definition in (*built, catalog.LABELS, catalog.TRANSACTIONS, catalog.SCORES, *what_ifs):
            first_kept = newest - dt.timedelta(days=_retention_days(definition, context))
            yield from expired.partitions_before(definition, settings.lake_uri, first_kept.isoformat())
    landed_before = _before(today, _retention_days(catalog.QUARANTINE, context))
    yield from expired.partitions_published_before(catalog.QUARANTINE, settings.lake_uri, landed_before)
    yield from expired.landed(settings.landing_uri, settings.lake_uri, landed_before)
    now = dt.datetime.combine(today, dt.datetime.now(dt.UTC).timetz())
    history = now - dt.timedelta(days=settings.history_days)
    yield from expired.unreferenced_objects(settings.lake_uri, history)
    compared = f"{settings.reports_uri.rstrip('/')}/compare"
    yield from expired.report_folders(compared, _before(today, settings.report_days))


def _versions(today: dt.date, context: Context) -> Iterator[Expired]:
    """Versions come first: a run is removed once no version refers to it."""
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
            yield Expired("versions", str(version.version), 0, partial(runs.remove_version, str(version.version)))
        for run in every:
            if not kept_runs & {run.info.run_id, run.data.tags.get("mlflow.parentRunId")}:
                yield Expired("runs", run.info.run_id, runs.size_bytes(run.info.run_id), partial(runs.remove_run, run))
    reports = f"{settings.reports_uri.rstrip('/')}/training"
    yield from expired.report_folders(reports, before, kept_runs)
    # A run has the tags of its data before its version is registered.
    named = [version.tags for version in versions.kept]
    named += [run.data.tags for run in every if run.info.run_id in kept_runs]
    snapshots = {tags["snapshot"] for tags in named if "snapshot" in tags}
    yield from expired.partitions_published_before(catalog.TRAINING_SETS, settings.lake_uri, before, snapshots)
    yield from _declared(before, named, context)
    md5s = {tags[key] for tags in named for key in ("dvc_data_md5", "dvc_model_md5") if key in tags}
    recent = _before(today, expired.UNNAMED_DAYS)
    for name, size_bytes in data_versions.unnamed(settings.dvc_remote, sorted(md5s), recent):
        yield Expired("DVC remote", name, size_bytes, partial(data_versions.remove, settings.dvc_remote, name))


def _declared(before: dt.datetime, named: Sequence[Mapping[str, str]], context: Context) -> Iterator[Expired]:
    """Datasets of declarations that neither the project nor a kept version or run (`named`: their tags) needs."""
    lake_uri, own = context.settings.lake_uri, context.declaration
    hashes = {own.hash, *(tags["feature_hash"] for tags in named if "feature_hash" in tags)}
    stored = {own.stored_hash, *(tags["stored_hash"] for tags in named if "stored_hash" in tags)}
    recorded = declarations.recorded(lake_uri)
    kept = [own, *(declaration for feature_hash, declaration in recorded.items() if feature_hash in hashes)]
    needed = {definition.name for definition in catalog.of_declarations(kept)}
    needed |= {catalog.features(stored_hash).name for stored_hash in stored}
    yield from expired.unused_datasets(lake_uri, needed, before)
    yield from expired.unused_declarations(lake_uri, hashes, before)


def _retention_days(definition: DatasetDefinition, context: Context) -> int:
    retention = definition.retention
    return int(getattr(context.settings, retention.setting)) + retention.more_days


def _before(today: dt.date, days: int) -> dt.datetime:
    """Midnight UTC of the day `days` days before `today`."""
    return dt.datetime.combine(today, dt.time.min, dt.UTC) - dt.timedelta(days=days)


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} .. {names[-1]}"
