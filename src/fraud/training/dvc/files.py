"""Write the `.dvc` files of the versions to keep: by them `dvc pull` brings data and models back, and `dvc gc` knows
what may go.

Kept is what an alias names, what ever was Production (an auditor asks about answers long given), and what is young.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.registry import retained
from fraud.training.dvc import data_versions


class Config(JobConfig):
    """Where to, and what counts as young."""

    out: Path = Field(description="folder that becomes a DVC project; .dvc files in it are replaced")
    keep_days: int | None = Field(
        default=None, ge=0, description="versions made in the last days are kept whatever they are; FRAUD_VERSION_DAYS"
    )


class Result(JobResult):
    """Versions with data or model in the remote."""

    remote: str
    kept: list[str]
    expire: list[str]
    """Removed from the remote by `dvc gc --workspace --cloud` in the folder."""


def run(config: Config, context: Context) -> Result:
    """Write the files; remove nothing. Raises UnavailableError when registry or history do not answer."""
    keep_days = context.settings.version_days if config.keep_days is None else config.keep_days
    versions = retained.divided(context.settings, keep_days, datetime.now(UTC))
    kept, expire = ([v for v in some if "dvc_data_md5" in v.tags] for some in versions)
    sets = catalog.TRAINING_SETS
    pointers = {f"{sets.name}/{sets.key}={v.tags['snapshot']}": v.tags["dvc_data_md5"] for v in kept}
    pointers |= {f"models/{v.version}": v.tags["dvc_model_md5"] for v in kept}
    data_versions.write_pointers(config.out, context.settings.dvc_remote, pointers)
    return Result(
        remote=context.settings.dvc_remote, kept=[str(v.version) for v in kept],
        expire=[str(v.version) for v in expire],
    )  # fmt: skip
