"""Print the gate results of a version, with the current results of the platform gates `skew` and `online_state`."""

import json
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg

from fraud.errors import RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.registry import model_versions
from fraud.registry.mlflow_client import registry_errors
from fraud.registry.model_versions import PRODUCTION
from fraud.registry.promote import present_gates
from fraud.registry.promotion_log import STAGING, opened
from fraud.registry.training_runs import TrainingRuns
from fraud.stats import gates
from fraud.training.evaluate import gate_lines


class Config(JobConfig):
    """Version."""

    version: CliPositionalArg[str] = Field(default=STAGING, description="number or alias")


class Result(JobResult):
    """The verdict. `version` is "" when there is no candidate."""

    version: str
    selected: str = ""
    champion: str = ""
    """The production version that it was compared with; "" for the default rule."""
    production: str = ""
    """The current production version; "" for none. `fraud promote` requires that it equals `champion`."""
    gates_passed: bool = False
    failed_gates: tuple[str, ...] = ()
    gates: tuple[dict[str, Any], ...] = ()
    report_uri: str = ""
    mlflow_run_url: str = ""

    def as_text(self) -> str:
        if not self.version:
            return "there is no candidate: no version has the alias `staging`"
        against = f"version {self.champion}" if self.champion else "the default rule"
        lines = [f"version {self.version}, level {self.selected}, evaluated against {against}"]
        return "\n".join([*lines, *gate_lines(self.gates), self.report_uri])


def run(config: Config, context: Context) -> Result:
    """Read the record of the version's run. Raises RefusedError for a version that was never evaluated."""
    with registry_errors(), opened(context.settings) as promotion:
        if config.version == STAGING and promotion.version(STAGING) is None:
            return Result(version="")
        version = model_versions.named(context.settings, config.version)
        if version.tags.get("gates") not in ("passed", "failed"):
            raise RefusedError(
                f"version {version.version} was never evaluated against the gates",
                hint=f"fraud evaluate --version {version.version}",
            )  # fmt: skip
        record = json.loads(model_versions.artifact(context.settings, version.run_id, "report/gates.json"))
        url = TrainingRuns(context.settings).url(version.run_id)
        production = promotion.version(PRODUCTION)
        plan = model_versions.plan_of(context.settings, version)
    # Not in the report of the version: these gates depend on the present.
    present = present_gates(context.settings, plan)
    return Result(
        version=str(version.version), selected=record["selected_level"], champion=record["champion"],
        production=str(production.version) if production else "",
        gates_passed=record["gates_passed"] and not gates.failed(present),
        failed_gates=(*record["failed_gates"], *gates.failed(present)),
        gates=(*record["gates"], *(gate.as_dict() for gate in present)),
        report_uri=f"{context.settings.reports_uri.rstrip('/')}/training/{version.run_id}/gates.html",
        mlflow_run_url=url,
    )  # fmt: skip
