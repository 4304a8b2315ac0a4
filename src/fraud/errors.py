"""Errors that a person can act on: expected, got, hint. Each class has its exit code."""

import errno
from collections.abc import Iterator
from typing import ClassVar, Final

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ROOM_TEXTS: Final = ("No space left on device", "database or disk is full", "failed to offload data block")
"""As operating system, SQLite and DuckDB word it, inside the errors of libraries."""


class FraudError(Exception):
    """A failure with a cause we can name. `str()` is the whole message; `exit_code` is what the process ends with."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, expected: str = "", got: str = "", hint: str = "") -> None:
        parts = [message]
        parts += [f"{label}: {text}" for label, text in (("expected", expected), ("got", got), ("hint", hint)) if text]
        super().__init__("\n  ".join(parts))
        self.message, self.expected, self.got, self.hint = message, expected, got, hint


class BadConfigError(FraudError):
    """A setting, parameter or command-line value is wrong. Nothing was started."""

    exit_code = 2


class RefusedError(FraudError):
    """A gate or an approval said no. Running again changes nothing."""

    exit_code = 3


class BadInputError(FraudError):
    """The data cannot be used at all. Single bad rows are quarantined instead."""

    exit_code = 65


class UnavailableError(FraudError):
    """A service that should be there is not. Running again may help: the only error Airflow retries."""

    exit_code = 75


def full_disk(error: BaseException) -> str:
    """What an error, or one that it follows from, says about a disk without room; "" when none does."""
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
