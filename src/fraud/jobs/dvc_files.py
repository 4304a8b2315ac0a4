"""Write the `.dvc` files of the versions to keep: by them `dvc pull` brings data and models back, and `dvc gc` knows
what may go.

Kept is what an alias names, what ever was Production (an auditor asks about answers long given), and what is young.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from pydantic import Field

from fraud.io import data_versions, model_artifact
from fraud.io.promotion import opened
from fraud.io.training_run import TrainingRuns, answering
from fraud.jobs import Context, JobConfig, JobResult

ALIASES = (model_artifact.PRODUCTION, "previous", "staging")


class Config(JobConfig):
    """Where to, and what counts as young."""

    out: Path = Field(description="folder that becomes a DVC project; .dvc files in it are replaced")
    keep_days: int = Field(default=180, ge=0, description="versions made in the last days are kept whatever they are")


class Result(JobResult):
    """Versions with data or model in the remote."""

    remote: str
    kept: list[str]
    let_go: list[str]
    """Removed from the remote by `dvc gc --workspace --cloud` in the folder; the registry keeps their record."""


def run(config: Config, context: Context) -> Result:
    """Write the files; remove nothing. Raises UnavailableError when registry or history do not answer."""
    with answering():
        versions = [v for v in TrainingRuns(context.settings).versions() if "dvc_data_md5" in v.tags]
    with opened(context.settings) as promotion:
        lasting = {record.entry.version for record in promotion.history()}
        lasting |= {str(found.version) for alias in ALIASES if (found := promotion.version(alias)) is not None}
    young = datetime.now(UTC) - timedelta(days=config.keep_days)

    def stays(version: ModelVersion) -> bool:
        made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
        return str(version.version) in lasting or made >= young

    kept = [version for version in versions if stays(version)]
    pointers = {f"training_sets/snapshot={v.tags['snapshot']}": v.tags["dvc_data_md5"] for v in kept}
    pointers |= {f"models/{v.version}": v.tags["dvc_model_md5"] for v in kept}
    data_versions.write_pointers(config.out, context.settings.dvc_remote, pointers)
    names = {str(v.version) for v in kept}
    return Result(
        remote=context.settings.dvc_remote, kept=[str(v.version) for v in kept],
        let_go=[str(v.version) for v in versions if str(v.version) not in names],
    )  # fmt: skip
