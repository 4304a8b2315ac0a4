"""Print the number of the production version. Airflow skips tasks that need one while there is none."""

from fraud.job import Context, JobConfig, JobResult


class Config(JobConfig):
    """No parameters."""


class Result(JobResult):
    """`version` is None if there is no production version."""

    version: str | None


def run(_config: Config, context: Context) -> Result:
    """Read the registry. Raises UnavailableError."""
    from fraud.registry.model_versions import production_version  # noqa: PLC0415 - mlflow takes seconds to import

    version = production_version(context.settings)
    if version is None:
        context.log.warning("no production version; train and promote one")
    return Result(version=version)
