"""Write the `.dvc` files of the versions to keep, for `dvc pull` and `dvc gc`.

Kept are versions with an alias, versions that were ever in production, and recent versions.
"""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.registry import retained
from fraud.training.dvc import data_versions


class Config(JobConfig):
    """Target folder and retention."""

    out: Path = Field(description="folder of the DVC project; its .dvc files are replaced")
    keep_days: int | None = Field(
        default=None, ge=0, description="keep all versions of the last days; default FRAUD_VERSION_DAYS"
    )


class Result(JobResult):
    """Versions with data or a model in the remote."""

    remote: str
    kept: list[str]
    expire: list[str]
    """`dvc gc --workspace --cloud` in the folder removes these from the remote."""


def run(config: Config, context: Context) -> Result:
    """Write the files. Removes nothing from the remote. Raises UnavailableError when the registry does not answer."""
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
