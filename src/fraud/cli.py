"""`fraud <job>`: the one door through which Airflow, DVC, CI and people run jobs.

With --json, standard output is one line of JSON, the typed result; the log goes to standard error. The exit code says
what kind of failure it was (fraud.errors): only 75 is worth trying again.
"""

import importlib
import io
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from fraud import printing
from fraud.errors import BadConfigError, FraudError, UnavailableError, full_disk
from fraud.job_list import ENDLESS, JOBS, MONITORED

if TYPE_CHECKING:
    from structlog.stdlib import BoundLogger

    from fraud.job import JobConfig, JobResult

USAGE = "usage: fraud JOB [--flags] [--json]    (fraud JOB --help for a job's flags)\n\njobs:\n"


def configure_log() -> None:
    """Logs go to standard error: for a person at a terminal coloured, else one JSON object a line."""
    import logging  # noqa: PLC0415 - `fraud --help` imports nothing that takes time

    import structlog  # noqa: PLC0415

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


def run_job(name: str, arguments: list[str]) -> "JobResult":
    """Parse the flags into the job's config and run it. Raises FraudError for anything a person can fix."""
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
    settings = Settings.load()
    context = Context(settings, Params.load(settings.project / "params.yaml"), structlog.get_logger(job=name))
    with nullcontext() if name in ENDLESS else still_running(context.log):
        if name not in MONITORED or not config.monitored:
            result: JobResult = module.run(config, context)
            return result
        from fraud.lake.job_runs import recorded  # noqa: PLC0415

        with recorded(settings.job_runs_uri, name, context.log) as record:
            result = module.run(config, context)
            record(result.model_dump(mode="json"))
        return result


@contextmanager
def still_running(log: "BoundLogger", every_s: float = 5.0) -> Iterator[None]:
    """Log a line every few seconds for the length of a `with` block, so that no job is silent for longer."""
    ended, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not ended.wait(every_s):
            log.info("still running", seconds=round(time.monotonic() - began))

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def _parse(config: "type[JobConfig]", arguments: list[str], name: str) -> "JobConfig":
    """Flags to config. Only flags: an environment variable that happens to be named like a field is none of ours."""
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
    _print_anything()
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
    except _foreseen() as caught:
        error = _named(caught)
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
            "a disk is full", expected="room for what the job writes, also in TMPDIR", got=full,
            hint="make room and run the job again: nothing of this run is visible",
        )  # fmt: skip
    if isinstance(error, FraudError):
        return error
    if isinstance(error, _store_errors()):
        return UnavailableError(
            "the object store does not answer",
            got=str(error),
            hint="see to AWS_ENDPOINT_URL; run again when it is back",
        )
    return None


def _print_anything() -> None:
    """A character that the terminal's encoding lacks is printed as an escape instead of ending the job."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
