"""The `fraud` command. Airflow, DVC, CI and people run all jobs with `fraud <job>`.

With --json, standard output is one line of JSON with the typed result. The log goes to standard error. The exit code is
the class of the failure (fraud.errors). Only 75 is retried.
"""

import importlib
import io
import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from fraud import printing
from fraud.errors import BadConfigError, FraudError, UnavailableError, full_disk
from fraud.job_list import JOBS, MONITORED, QUIET

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

    from fraud.core.declaration import Declaration
    from fraud.job import JobConfig, JobResult
    from fraud.settings import Settings

USAGE = "usage: fraud JOB [--flags] [--json]    (fraud JOB --help for a job's flags)\n\njobs:\n"


def configure_log() -> None:
    """Log to standard error: coloured text on a terminal, otherwise one JSON object per line."""
    import logging  # noqa: PLC0415 - `fraud --help` imports nothing that takes time

    import structlog  # noqa: PLC0415

    on_terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S" if on_terminal else "iso", utc=not on_terminal),
            structlog.dev.ConsoleRenderer() if on_terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def run_job(name: str, arguments: list[str]) -> "JobResult":
    """Parse the flags into the job's config and run the job. Raises FraudError for failures with a known cause."""
    import structlog  # noqa: PLC0415 - `fraud --help` imports nothing that takes time
    from pydantic import ValidationError  # noqa: PLC0415
    from pydantic_settings import SettingsError  # noqa: PLC0415

    from fraud.job import Context  # noqa: PLC0415
    from fraud.params import Params  # noqa: PLC0415
    from fraud.settings import Settings  # noqa: PLC0415

    module = importlib.import_module(JOBS[name].module)
    try:
        config = _parse(module.Config, arguments, name)
    except (ValidationError, SettingsError) as error:
        lines = (
            [f"--{'-'.join(map(str, e['loc'])).replace('_', '-')}: {e['msg']}" for e in error.errors()]
            if isinstance(error, ValidationError)
            else [str(error)]
        )
        raise BadConfigError(f"fraud {name}: " + "; ".join(lines), hint=f"fraud {name} --help") from error
    from fraud import declaration_file  # noqa: PLC0415 - imports numpy

    settings = Settings.load()
    context = Context(
        settings, Params.load(settings.project / "params.yaml"), declaration_file.load_of(settings.project),
        structlog.get_logger(job=name), lambda: _live_declarations(settings),
    )  # fmt: skip
    of_run = structlog.contextvars.bound_contextvars(job=name, run=uuid.uuid4().hex[:12])
    with of_run, nullcontext() if name in QUIET else still_running(context.log):
        if name not in MONITORED or not config.monitored:
            result: JobResult = module.run(config, context)
            return result
        from fraud.lake.job_runs import recorded  # noqa: PLC0415

        with recorded(settings.job_runs_uri, name, context.log) as record:
            result = module.run(config, context)
            record(result.model_dump(mode="json"))
        return result


def _live_declarations(settings: "Settings") -> "Sequence[Declaration]":
    from fraud.registry.live_declarations import live_declarations  # noqa: PLC0415 - MLflow takes seconds to import

    return live_declarations(settings)


@contextmanager
def still_running(log: "BoundLogger", every_s: float = 5.0) -> Iterator[None]:
    """Log a line every `every_s` seconds while the `with` block runs."""
    ended, began = threading.Event(), time.monotonic()

    def log_until_ended() -> None:
        while not ended.wait(every_s):
            log.info("still running", seconds=round(time.monotonic() - began))

    thread = threading.Thread(target=log_until_ended, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _parse(config: "type[JobConfig]", arguments: list[str], name: str) -> "JobConfig":
    """Flags to config. Environment variables with the name of a field are ignored."""
    from pydantic_settings import (  # noqa: PLC0415 - `fraud --help` imports nothing that takes time
        BaseSettings,
        CliSettingsSource,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
    )

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

    line = JOBS[name].help
    Flags.__doc__ = f"{line[:1].upper()}{line[1:]}. {config.__doc__}"
    return config.model_validate(Flags().model_dump(exclude_unset=True, by_alias=True))


def main() -> None:
    """Entry point of the `fraud` command."""
    _escape_unprintable()
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        width = max(map(len, JOBS))
        print(USAGE + "\n".join(f"  {name:<{width}}  {job.help}" for name, job in JOBS.items()))
        sys.exit(0)
    configure_log()
    name, rest = arguments[0], [a for a in arguments[1:] if a != "--json"]
    as_json = len(rest) < len(arguments) - 1
    try:
        if name not in JOBS:
            raise BadConfigError(f"no job named {name!r}", expected=", ".join(JOBS), hint="fraud --help")
        result = run_job(name, rest)
    except _expected_errors() as caught:
        error = _as_fraud_error(caught)
        if error is None:
            raise
        failure = {"error": type(error).__name__, "message": error.message, "expected": error.expected,
                   "got": error.got, "hint": error.hint}  # fmt: skip
        if as_json:
            print(json.dumps(failure))
        print(f"fraud {name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if as_json:
        print(result.model_dump_json())
    else:
        print(result.as_text() or printing.values(result.model_dump(mode="json")))
    sys.exit(result.exit_code)


def _expected_errors() -> tuple[type[Exception], ...]:
    """FraudError, and errors that libraries in use raise when a disk is full or the object store does not answer."""
    duckdb, sqlalchemy = sys.modules.get("duckdb"), sys.modules.get("sqlalchemy.exc")
    databases = [*([duckdb.Error] if duckdb else []), *([sqlalchemy.DBAPIError] if sqlalchemy else [])]
    return (FraudError, OSError, *databases, *_store_errors())


def _store_errors() -> tuple[type[Exception], ...]:
    botocore = sys.modules.get("botocore.exceptions")
    return (botocore.ConnectionError, botocore.HTTPClientError) if botocore else ()


def _as_fraud_error(error: Exception) -> FraudError | None:
    """The error as a FraudError; None for an unexpected one."""
    if isinstance(error, UnavailableError):
        return error
    if full := full_disk(error):
        return UnavailableError(
            "a disk is full", expected="free space for the output of the job and for TMPDIR", got=full,
            hint="free some space and run the job again; this run published nothing",
        )  # fmt: skip
    if isinstance(error, FraudError):
        return error
    if isinstance(error, _store_errors()):
        return UnavailableError(
            "the object store does not answer",
            got=str(error),
            hint="check AWS_ENDPOINT_URL, and run again when the object store is available",
        )
    return None


def _escape_unprintable() -> None:
    """Print characters that the terminal's encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
