"""Print every change of Production: what, when, who, why. The hash chain is checked first."""

from typing import Any

from fraud.io.promotion import opened
from fraud.jobs import Context, JobConfig, JobResult


class Config(JobConfig):
    """Nothing to choose."""


class Result(JobResult):
    """`changes` are oldest first; `verified` is True, or the job has failed."""

    verified: bool
    production: str | None
    changes: tuple[dict[str, Any], ...]


def run(_config: Config, context: Context) -> Result:
    """Verify and list. Raises RefusedError naming the first entry that was changed."""

    with opened(context.settings) as promotion:
        production = promotion.repair()
        recorded = promotion.verify()
    changes = tuple({"sequence": r.sequence, **r.entry.model_dump(mode="json"), "hash": r.hash} for r in recorded)
    return Result(verified=True, production=production, changes=changes)
