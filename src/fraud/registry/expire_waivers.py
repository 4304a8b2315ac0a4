"""Roll back the production version if its waiver has expired.

The new production version is the last earlier one that was promoted without a waiver, or with a valid one.
"""

from collections.abc import Iterator
from datetime import UTC, date, datetime

from pydantic import Field

from fraud.errors import RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.registry import model_versions
from fraud.registry.mlflow_client import ModelVersion
from fraud.registry.promotion_log import Recorded, approval_of, expired, opened


class Config(JobConfig):
    """Date of the check."""

    today: date | None = Field(default=None, description="default: today, UTC")


class Result(JobResult):
    """The production version after the run."""

    version: str | None
    """None if there is no production version."""
    replaced: str | None
    changed: bool
    waiver_expires: str
    """End of the waiver of the current production version; "" without a waiver."""


def run(config: Config, context: Context) -> Result:
    """Check and roll back. Raises RefusedError when the waiver has expired and no earlier version can replace it."""
    today = config.today or datetime.now(UTC).date()
    with opened(context.settings) as promotion:
        current = promotion.repair()
        ended = expired(promotion.verify(), current, today) if current else None
        if ended is None:
            return Result(
                version=current, replaced=None, changed=False, waiver_expires=_end(promotion.history(), current)
            )

        def choose(now: str | None, history: list[Recorded]) -> ModelVersion:
            if now is None or expired(history, now, today) is None:
                raise RefusedError("Production has changed during the run", hint="run it again")
            return _sound(now, history, today, context)

        reason = f"the waiver of {', '.join(ended.gates)} by {ended.person} expired on {ended.expires}: {ended.reason}"
        entry = promotion.change("expire", choose, actor=context.settings.actor, reason=reason)
        history = promotion.history()
    version, replaced = (entry.version, entry.replaced) if entry else (current, None)
    context.log.warning("waiver expired", production=version, replaced=replaced, reason=reason)
    return Result(
        version=version, replaced=replaced, changed=entry is not None, waiver_expires=_end(history, version)
    )  # fmt: skip


def _sound(now: str, history: list[Recorded], today: date, context: Context) -> ModelVersion:
    for version in _earlier(now, history):
        if expired(history, version, today) is None:
            try:
                model_versions.fetch(context.settings, int(version))
            except RefusedError as error:
                context.log.warning("earlier version unusable", version=version, reason=error.message)
                continue
            return model_versions.find(context.settings, int(version))
    raise RefusedError(
        f"the waiver of version {now} has expired, and no earlier version can replace it",
        expected="an earlier production version without a waiver, or with a valid one",
        hint="promote a version whose gates pass, or waive again: fraud promote --version N --waive ...",
    )


def _earlier(now: str, history: list[Recorded]) -> Iterator[str]:
    """Former production versions, the latest first."""
    versions = [row.entry.replaced for row in reversed(history)]
    yield from dict.fromkeys(version for version in versions if version is not None and version != now)


def _end(history: list[Recorded], version: str | None) -> str:
    entry = approval_of(history, version) if version else None
    return entry.waiver.expires if entry and entry.waiver else ""
