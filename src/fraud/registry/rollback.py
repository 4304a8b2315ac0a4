"""Set Production to the version before the last change, and record the change in the promotion history."""

from pydantic import Field

from fraud.errors import RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.registry import model_versions
from fraud.registry.mlflow_client import ModelVersion
from fraud.registry.promotion_log import Recorded, opened


class Config(JobConfig):
    """Reason."""

    reason: str = Field(default="rolled back by hand", min_length=3, description="stored in the promotion history")


class Result(JobResult):
    """The production version after the run."""

    version: str
    replaced: str
    actor: str


def run(config: Config, context: Context) -> Result:
    """Roll back. Raises RefusedError when there is no earlier version, or when its files were changed."""

    def choose(_current: str | None, history: list[Recorded]) -> ModelVersion:
        target = history[-1].entry.replaced if history else None
        if target is None:
            raise RefusedError("there is no earlier production version", hint="fraud history shows the changes")
        model_versions.fetch(context.settings, int(target))
        return model_versions.find(context.settings, int(target))

    actor = context.settings.actor
    with opened(context.settings) as promotion:
        entry = promotion.change("rollback", choose, actor=actor, reason=config.reason)
    if entry is None or entry.replaced is None:
        raise RefusedError("Production is already that version", hint="fraud history shows the changes")
    context.log.info("production rolled back", version=entry.version, replaced=entry.replaced)
    return Result(version=entry.version, replaced=entry.replaced, actor=actor)
