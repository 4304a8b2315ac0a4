"""The job `features`: list, compare and check declarations, and explain the values of one entity.

A declaration is named by the number of a model version, by an alias, or by the path of a file.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import CliPositionalArg, CliSubCommand, get_subcommand

from fraud import declaration_file
from fraud.core.declaration import Declaration
from fraud.errors import BadConfigError
from fraud.inspection import cost, explain, listing
from fraud.job import Context, JobConfig, JobResult, Moment
from fraud.registry import model_versions


class List(JobConfig):
    """Print the features of a declaration: kind, entity, aggregate, window, type, default, group, model inputs."""

    version: str | None = Field(
        default=None, description="number or alias of a model version; default: the project's features.yaml"
    )


class Diff(JobConfig):
    """Print the differences between two declarations, and what must be built and loaded for the second."""

    first: CliPositionalArg[str] = Field(description="number or alias of a model version, or a file")
    second: CliPositionalArg[str] = Field(description="number or alias of a model version, or a file")


class Explain(JobConfig):
    """Print an entity's window features at a time: their values in store and lake, and the events of each window."""

    id: CliPositionalArg[str] = Field(description="the entity's id, such as a user_id")
    at: Moment = Field(description="time with a zone, such as 2026-02-01T12:00:00Z")
    entity: str = Field(default="user", description="name of a declared entity with window features")
    version: str | None = Field(
        default=None, description="number or alias of a model version; default: the project's features.yaml"
    )


class Check(JobConfig):
    """Check a declaration, and measure what it would cost on this machine."""

    file: CliPositionalArg[Path] = Field(description="a feature declaration")
    rows: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="rows to backfill; default: those of the lake"
    )


class Config(JobConfig):
    """One of list, diff, explain and check; `fraud features <command> --help` describes its flags."""

    list: CliSubCommand[List]
    diff: CliSubCommand[Diff]
    explain: CliSubCommand[Explain]
    check: CliSubCommand[Check]


def run(config: Config, context: Context) -> JobResult:
    """Run the command. Raises BadConfigError for a declaration that cannot be read, RefusedError for an absent version.

    `explain` raises UnavailableError when the store does not answer; `check` then computes what it cannot measure.
    """
    match get_subcommand(config, is_required=False):
        case List(version=version):
            named = version or declaration_file.NAME
            return listing.listed(named, declaration(named, context))
        case Diff(first=first, second=second):
            return listing.compared((first, declaration(first, context)), (second, declaration(second, context)))
        case Explain() as given:
            declared = declaration(given.version or declaration_file.NAME, context)
            return explain.explained(declared, given.entity, given.id, given.at, context)
        case Check(file=file, rows=rows):
            return cost.measured(str(file), declaration_file.load(file), context, rows)
    raise BadConfigError("no command", expected="list, diff, explain or check", hint="fraud features --help")


def declaration(named: str, context: Context) -> Declaration:
    """The declaration of a model version (number or alias) or of a file. Raises BadConfigError, RefusedError."""
    if named == declaration_file.NAME:
        return context.declaration
    if "/" in named or named.endswith((".yaml", ".yml")):
        return declaration_file.load(Path(named))
    return model_versions.plan_of(context.settings, model_versions.named(context.settings, named)).declaration
