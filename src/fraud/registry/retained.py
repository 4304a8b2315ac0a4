"""Which versions stay: what an alias names, what ever was Production (answers are asked about later), what is young."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from fraud.registry.mlflow_client import ModelVersion, registry_errors
from fraud.registry.promotion_log import opened
from fraud.registry.training_runs import TrainingRuns
from fraud.settings import Settings


class Versions(NamedTuple):
    """All there are, each in one of the two, oldest first."""

    kept: list[ModelVersion]
    expire: list[ModelVersion]


def divided(settings: Settings, keep_days: int, now: datetime) -> Versions:
    """Versions made less than `keep_days` ago count as young. Raises UnavailableError when registry or history is away.

    Raises RefusedError when the history does not verify: what it says decides what is removed.
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
