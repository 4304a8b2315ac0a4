"""Errors with the parts expected, got and hint. Each class has an exit code."""

import errno
from collections.abc import Iterator
from typing import ClassVar, Final

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ROOM_TEXTS: Final = ("No space left on device", "database or disk is full", "failed to offload data block")
"""Messages of the operating system, SQLite and DuckDB inside errors of libraries."""


class FraudError(Exception):
    """A failure with a known cause. `str()` gives the message with all parts; `exit_code` is that of the process."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, expected: str = "", got: str = "", hint: str = "") -> None:
        parts = [message]
        parts += [f"{label}: {text}" for label, text in (("expected", expected), ("got", got), ("hint", hint)) if text]
        super().__init__("\n  ".join(parts))
        self.message, self.expected, self.got, self.hint = message, expected, got, hint


class BadConfigError(FraudError):
    """A setting, parameter or command-line value is invalid. The job did not start."""

    exit_code = 2


class RefusedError(FraudError):
    """A gate, an approval or a check refused the action. A retry gives the same result."""

    exit_code = 3


class BadInputError(FraudError):
    """The input data cannot be used. Single invalid rows are quarantined instead."""

    exit_code = 65


class UnavailableError(FraudError):
    """A required service is not available. A retry may succeed; Airflow retries no other error."""

    exit_code = 75


def full_disk(error: BaseException) -> str:
    """The message about a full disk in an error or its causes; "" if there is none."""
    for cause in _causes(error):
        no_room = isinstance(cause, OSError) and cause.errno in _NO_ROOM
        if no_room or any(text in str(cause) for text in _NO_ROOM_TEXTS):
            return str(cause)
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        following = following.__cause__ or following.__context__
