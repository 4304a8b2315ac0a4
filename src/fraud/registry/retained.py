"""Retention of versions: kept are versions with an alias, versions ever in production or exported, and recent ones."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from fraud.registry.mlflow_client import ModelVersion, registry_errors
from fraud.registry.promotion_log import opened
from fraud.registry.training_runs import TrainingRuns
from fraud.settings import Settings


class Versions(NamedTuple):
    """All versions, split into two lists, oldest first."""

    kept: list[ModelVersion]
    expire: list[ModelVersion]


def divided(settings: Settings, keep_days: int, now: datetime) -> Versions:
    """Versions that were created less than `keep_days` ago are kept. Raises UnavailableError.

    Raises RefusedError when the promotion history does not verify, because it decides what is removed.
    """
    with registry_errors():
        runs = TrainingRuns(settings)
        versions, aliased = runs.versions(), runs.aliased()
    with opened(settings) as promotion:
        entries = [record.entry for record in promotion.verify()]
        lasting = {named for entry in entries for named in (entry.version, entry.replaced) if named is not None}
    young = now - timedelta(days=keep_days)

    def stays(version: ModelVersion) -> bool:
        made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
        return str(version.version) in lasting | aliased or made >= young

    return Versions([v for v in versions if stays(v)], [v for v in versions if not stays(v)])
