"""Say no to a candidate: it is not a candidate any more, and the version tells who said so and why."""

from pydantic import Field

from fraud.errors import RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.registry import model_versions
from fraud.registry.promotion_log import STAGING, opened


class Config(JobConfig):
    """Which version, and why."""

    version: str = Field(default=STAGING, description="number or alias")
    reason: str = Field(default="rejected by hand", min_length=3, description="kept on the version")


class Result(JobResult):
    """What was recorded."""

    version: str
    actor: str
    reason: str


def run(config: Config, context: Context) -> Result:
    """Record it. Raises RefusedError for Production itself: that is what rollback is for."""
    version = model_versions.named(context.settings, config.version)
    actor = context.settings.actor
    with opened(context.settings) as promotion:
        if str(version.version) == promotion.repair():
            raise RefusedError(f"version {version.version} is Production", hint="fraud rollback takes it back")
        promotion.reject(version, actor=actor, reason=config.reason)
    context.log.info("rejected", version=str(version.version), actor=actor, reason=config.reason)
    return Result(version=str(version.version), actor=actor, reason=config.reason)
