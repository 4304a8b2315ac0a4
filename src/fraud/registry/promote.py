"""Set the production alias to a version. Requires that its gates passed, or that a waiver names the failed ones.

Two gates depend on the present and are evaluated here: `skew`, that the newest checked day of answers has no skew, and
`online_state`, that the online store has the histories and daily tables which the version reads.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime

from pydantic import Field

from fraud.core.plan import Plan
from fraud.errors import BadConfigError, RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import git, reports
from fraud.registry import model_versions
from fraud.registry.mlflow_client import ModelVersion
from fraud.registry.model_versions import MODEL_NAME
from fraud.registry.online_state import online_state
from fraud.registry.promotion_log import STAGING, Promotion, Recorded, Waiver, opened
from fraud.settings import Settings
from fraud.stats import gates
from fraud.stats.gates import Gate


class Config(JobConfig):
    """Version, reason and waiver."""

    version: int | None = Field(
        default=None, description="version to promote; default the one with the alias `staging`"
    )
    reason: str | None = Field(
        default=None, min_length=3,
        description="stored in the history; default `all gates passed`. With a waiver, appended to its reason",
    )  # fmt: skip
    waive: tuple[str, ...] = Field(default=(), description="failed gates to waive, by name: all failed gates or none")
    waiver_reason: str = Field(default="", description="why the failed gates are waived")
    waiver_expires: date | None = Field(default=None, description="first day on which the waiver is no longer valid")


class Result(JobResult):
    """The production version after the run."""

    version: str
    replaced: str | None
    changed: bool
    """False if the version was in production already."""
    actor: str
    model_sha256: str
    git_tag: str = ""
    """Tag of the version's commit, if FRAUD_GIT_TAGS is true."""


def run(config: Config, context: Context) -> Result:
    """Check and promote. Raises RefusedError, with no change, or UnavailableError when a service does not answer."""
    actor = context.settings.actor
    waiver = _waiver(config, actor)

    def candidate(promotion: Promotion) -> ModelVersion:
        if config.version is not None:
            return model_versions.find(context.settings, config.version)
        found = promotion.version(STAGING)
        if found is None:
            raise RefusedError(
                "there is no candidate: no version has the alias `staging`",
                hint="train a version whose gates pass, or name one: fraud promote --version N",
            )
        return found

    with opened(context.settings) as promotion:
        current = promotion.repair()
        if config.version is None and promotion.version(STAGING) is None and current is not None:
            context.log.info("no candidate to promote", production=current)
            sha256 = promotion.history()[-1].entry.model_sha256
            return Result(version=current, replaced=None, changed=False, actor=actor, model_sha256=sha256)
        version = candidate(promotion)
        artifact = model_versions.fetch(context.settings, int(version.version))

        def choose(current: str | None, _history: list[Recorded]) -> ModelVersion:
            if str(version.version) != current:
                present = present_gates(context.settings, artifact.plan)
                _require_gates(version.version, version.tags, current, waiver.gates if waiver else (), present)
            return version

        entry = promotion.change("promote", choose, actor=actor, reason=_reason(config), waiver=waiver)
    replaced = entry.replaced if entry else None
    context.log.info("version promoted", version=str(version.version), replaced=replaced, changed=entry is not None)
    tag = _tag_commit(version, context) if entry is not None and context.settings.git_tags else ""
    return Result(
        version=str(version.version), replaced=replaced, changed=entry is not None, actor=actor,
        model_sha256=version.tags["model_sha256"], git_tag=tag,
    )  # fmt: skip


def present_gates(settings: Settings, plan: Plan) -> tuple[Gate, ...]:
    """The gates that depend on the present rather than on the version's training."""
    skew = gates.served_skew(reports.newest(settings.reports_uri, "skew"))
    return skew, online_state(settings, plan)


def _require_gates(
    version: str, tags: Mapping[str, str], current: str | None, waived: tuple[str, ...], present: Sequence[Gate]
) -> None:
    """Raise RefusedError unless the gates passed against the current Production, or each failed one is waived."""
    champion = tags.get("champion") or None
    if champion != current:
        raise RefusedError(
            f"version {version} was compared with another version than the current Production",
            expected=f"gates against {_name(current)}", got=f"gates against {_name(champion)}",
            hint="train again: fraud train",
        )  # fmt: skip
    failed = {name for name in tags.get("failed_gates", "").split(",") if name} | set(gates.failed(present))
    if unfailed := set(waived) - failed:
        raise RefusedError(
            f"version {version} did not fail {', '.join(sorted(unfailed))}: there is nothing to waive",
            expected=f"of its failed gates: {', '.join(sorted(failed)) or 'none'}", got=", ".join(sorted(waived)),
        )  # fmt: skip
    if tags.get("gates") == "passed" and not gates.failed(present):
        return
    if not failed or failed - set(waived):
        raise RefusedError(
            f"version {version} did not pass its gates",
            expected="all gates passed, or a waiver that names each failed one",
            got=f"failed: {', '.join(sorted(failed)) or 'never evaluated'}; waived: {', '.join(waived) or 'none'}"
            + "".join(f"; {gate.name}: {gate.detail}" for gate in present if not gate.passed),
            hint="fraud gates prints them; docs/gates.md explains waivers",
        )  # fmt: skip


def _name(version: str | None) -> str:
    return "no production version" if version is None else f"version {version}"


def _tag_commit(version: ModelVersion, context: Context) -> str:
    """Tag the version's commit `model-v<N>` in the project's repository; "" if that fails."""
    name, commit = f"model-v{version.version}", version.tags.get("git_commit", "unknown")
    error = git.tag(context.settings.project, name, commit, f"{MODEL_NAME} version {version.version}")
    if error:
        context.log.warning("Git tag not set", tag=name, commit=commit, reason=error)
    return "" if error else name


def _reason(config: Config) -> str:
    """The recorded reason: for a waived promotion the waiver's reason, followed by `reason` if given."""
    given = [config.waiver_reason, config.reason] if config.waive else [config.reason or "all gates passed"]
    return "; ".join(dict.fromkeys(reason for reason in given if reason))


def _waiver(config: Config, actor: str) -> Waiver | None:
    if not config.waive:
        if config.waiver_reason or config.waiver_expires:
            raise BadConfigError("a waiver needs the names of the failed gates", hint="add --waive GATE")
        return None
    today = datetime.now(UTC).date()
    if len(config.waiver_reason) < 10 or config.waiver_expires is None or config.waiver_expires <= today:
        raise BadConfigError(
            "a waiver needs a reason and an expiry date",
            expected="--waiver-reason of at least 10 characters, --waiver-expires after today",
            got=f"{config.waiver_reason!r}, {config.waiver_expires}",
        )
    return Waiver(
        gates=config.waive, reason=config.waiver_reason, person=actor, expires=config.waiver_expires.isoformat()
    )
