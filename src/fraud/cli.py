"""`fraud <job>`: the one door through which Airflow, DVC, CI and people run jobs.

With --json, standard output is one line of JSON, the typed result; the log goes to standard error. The exit code says
what kind of failure it was (fraud.errors): only 75 is worth trying again.
"""

import importlib
import json
import logging
import sys

import structlog
from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from fraud.errors import BadConfigError, FraudError, UnavailableError, full_disk
from fraud.jobs import JOBS, WATCHED, Context, JobConfig, JobResult
from fraud.params import Params
from fraud.settings import Settings

LONG = 6
USAGE = "usage: fraud JOB [--flags] [--json]    (fraud JOB --help for a job's flags)\n\njobs:\n"


def configure_log() -> None:
    """Logs go to standard error: for a person at a terminal coloured, else one JSON object a line."""
    to_person = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if to_person else "iso", utc=not to_person),
            structlog.dev.ConsoleRenderer() if to_person else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def run_job(name: str, arguments: list[str]) -> JobResult:
    """Parse the flags into the job's config and run it. Raises FraudError for anything a person can mend."""
    module = importlib.import_module("fraud.jobs." + ("import_data" if name == "import" else name.replace("-", "_")))
    try:
        config = _parse(module.Config, arguments, name)
    except (ValidationError, SettingsError) as error:
        lines = (
            [f"--{'-'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']}" for e in error.errors()]
            if isinstance(error, ValidationError)
            else [str(error)]
        )
        raise BadConfigError(f"fraud {name}: " + "; ".join(lines), do=f"fraud {name} --help") from error
    settings = Settings.load()
    context = Context(settings, Params.load(settings.project / "params.yaml"), structlog.get_logger(job=name))
    if name not in WATCHED or not config.watched:
        result: JobResult = module.run(config, context)
        return result
    from fraud.io.job_runs import recorded  # noqa: PLC0415 - `fraud --help` needs no storage

    with recorded(settings.job_runs_uri, name, context.log) as record:
        result = module.run(config, context)
        record(result.model_dump(mode="json"))
    return result


def _parse(config: type[JobConfig], arguments: list[str], name: str) -> JobConfig:
    """Flags to config. Only flags: an environment variable that happens to be named like a field is none of ours."""

    class Flags(BaseSettings, config):  # type: ignore[misc, valid-type]
        model_config = SettingsConfigDict(
            cli_prog_name=f"fraud {name}", cli_kebab_case=True, cli_implicit_flags=True, cli_hide_none_type=True,
            cli_avoid_json=True, cli_enforce_required=True,
        )  # fmt: skip

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (CliSettingsSource(settings_cls, cli_parse_args=arguments),)

    Flags.__doc__ = config.__doc__
    return config.model_validate(Flags().model_dump(exclude_unset=True, by_alias=True))


def main() -> None:
    """Entry point of the `fraud` command."""
    configure_log()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE + "\n".join(f"  {name:<18}{line}" for name, line in JOBS.items()))
        sys.exit(0)
    name, rest = arguments[0], [a for a in arguments[1:] if a != "--json"]
    as_json = len(rest) < len(arguments) - 1
    try:
        if name not in JOBS:
            raise BadConfigError(f"no job named {name!r}", expected=", ".join(JOBS), do="fraud --help")
        result = run_job(name, rest)
    except _foreseen() as caught:
        error = _named(caught)
        if error is None:
            raise
        failure = {"error": type(error).__name__, "message": error.message, "expected": error.expected,
                   "came": error.came, "do": error.do}  # fmt: skip
        if as_json:
            print(json.dumps(failure))
        print(f"fraud {name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(result.model_dump_json() if as_json else result.for_people() or _for_people(result))


def _foreseen() -> tuple[type[Exception], ...]:
    """Ours, and what libraries in use raise when a disk is full or an S3 endpoint does not answer."""
    duckdb, sqlalchemy = sys.modules.get("duckdb"), sys.modules.get("sqlalchemy.exc")
    databases = [*([duckdb.Error] if duckdb else []), *([sqlalchemy.DBAPIError] if sqlalchemy else [])]
    return (FraudError, OSError, *databases, *_store_errors())


def _store_errors() -> tuple[type[Exception], ...]:
    botocore = sys.modules.get("botocore.exceptions")
    return (botocore.ConnectionError, botocore.HTTPClientError) if botocore else ()


def _named(error: Exception) -> FraudError | None:
    """The error as ours; None for one that is not foreseen."""
    if isinstance(error, UnavailableError):
        return error
    if full := full_disk(error):
        return UnavailableError(
            "a disk is full", expected="room for what the job writes, also in TMPDIR", came=full,
            do="make room and run the job again: nothing of this run is visible",
        )  # fmt: skip
    if isinstance(error, FraudError):
        return error
    if isinstance(error, _store_errors()):
        return UnavailableError(
            "the object store does not answer", came=str(error), do="see to AWS_ENDPOINT_URL; run again when it is back"
        )
    return None


def _for_people(result: JobResult) -> str:
    values = result.model_dump(mode="json")
    width = max((len(key) for key in values), default=0)
    return "\n".join(f"{key:<{width}}  {_short(value)}" for key, value in values.items())


def _short(value: object) -> object:
    """A long list of plain values as its ends and its length; --json has all of it."""
    if isinstance(value, list) and len(value) > LONG and not isinstance(value[0], list | dict):
        return f"{value[0]} .. {value[-1]} ({len(value)})"
    return value
