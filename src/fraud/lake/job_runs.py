"""Records of the last run of each job, for monitoring: two small files per job.

`<uri>/<job>/last.json` is written when a run starts and again when it ends; a record without an end belongs to a run
that is in progress or was killed. `<uri>/<job>/succeeded.json` is the last successful run with its typed result. The
records contain wall-clock times, so they are kept outside of the lake.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from fraud.errors import BadInputError, FraudError
from fraud.lake.objects import located, put_atomically

UNNAMED_FAILURE: Final = 1


class JobRun(BaseModel):
    """One run. Times are seconds since 1970. `exit_code` is None before the end of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: str
    started_s: float
    finished_s: float | None = None
    exit_code: int | None = None
    error: str = ""
    result: Mapping[str, Any] | None = None

    def ended(self, exit_code: int, error: str = "", result: Mapping[str, Any] | None = None) -> Self:
        """A copy with the end of the run."""
        now = {"finished_s": time.time(), "exit_code": exit_code, "error": error, "result": result}
        return self.model_copy(update=now)


@contextmanager
def recorded(uri: str, job: str, log: structlog.stdlib.BoundLogger) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Record the run of the block. Yields a function to call with the job's result. Exceptions are recorded and raised.

    A record that cannot be written is logged as a warning; it does not fail the job.
    """
    run = JobRun(job=job, started_s=time.time())
    results: list[Mapping[str, Any]] = []
    _keep(uri, "last", run, log)
    try:
        yield results.append
    except FraudError as error:
        _keep(uri, "last", run.ended(error.exit_code, error.message), log)
        raise
    except BaseException as error:
        _keep(uri, "last", run.ended(UNNAMED_FAILURE, type(error).__name__), log)
        raise
    run = run.ended(0, result=results[-1] if results else None)
    _keep(uri, "last", run, log)
    _keep(uri, "succeeded", run, log)


def last(uri: str, job: str) -> JobRun | None:
    """The run that started last, None without one. Raises BadInputError for an invalid record."""
    return _read(uri, job, "last")


def last_success(uri: str, job: str) -> JobRun | None:
    """The last successful run, None without one. Raises BadInputError for an invalid record."""
    return _read(uri, job, "succeeded")


def _place(uri: str, job: str, which: str) -> str:
    return f"{uri.rstrip('/')}/{job}/{which}.json"


def _keep(uri: str, which: str, run: JobRun, log: structlog.stdlib.BoundLogger) -> None:
    try:
        put_atomically(_place(uri, run.job, which), json.dumps(run.model_dump(mode="json"), indent=1).encode())
    except OSError as error:
        log.warning("record of the run not written", uri=_place(uri, run.job, which), error=str(error))


def _read(uri: str, job: str, which: str) -> JobRun | None:
    fs, path = located(_place(uri, job, which))
    try:
        return JobRun.model_validate_json(fs.cat_file(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise BadInputError(f"{path} is not the record of a run", got=str(error), hint="remove it") from error
