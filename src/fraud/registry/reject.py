"""Reject a candidate: remove the alias `staging` and tag the version with the person and the reason."""

from pydantic import Field

from fraud.errors import RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.registry import model_versions
from fraud.registry.promotion_log import STAGING, opened


class Config(JobConfig):
    """Version and reason."""

    version: str = Field(default=STAGING, description="number or alias")
    reason: str = Field(default="rejected by hand", min_length=3, description="stored on the version")


class Result(JobResult):
    """The recorded rejection."""

    version: str
    actor: str
    reason: str


def run(config: Config, context: Context) -> Result:
    """Record the rejection. Raises RefusedError for the production version."""
    version = model_versions.named(context.settings, config.version)
    actor = context.settings.actor
    with opened(context.settings) as promotion:
        if str(version.version) == promotion.repair():
            raise RefusedError(f"version {version.version} is Production", hint="use fraud rollback")
        promotion.reject(version, actor=actor, reason=config.reason)
    context.log.info("version rejected", version=str(version.version), actor=actor, reason=config.reason)
    return Result(version=str(version.version), actor=actor, reason=config.reason)
