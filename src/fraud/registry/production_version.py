"""Say which version is in production, so that what needs one can wait for the first instead of failing."""

from fraud.job import Context, JobConfig, JobResult


class Config(JobConfig):
    """Nothing to choose."""


class Result(JobResult):
    """`version` is None while there is no Production model."""

    version: str | None


def run(_config: Config, context: Context) -> Result:
    """Ask the registry. Raises UnavailableError."""
    from fraud.registry.model_versions import production_version  # noqa: PLC0415 - mlflow takes seconds to import

    version = production_version(context.settings)
    if version is None:
        context.log.warning("there is no Production model yet: train one and promote it")
    return Result(version=version)
