"""The trace of a request: its traceparent header, and the parts of the answer with their times."""

import asyncio
import re
import time
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

HEADER: Final = b"traceparent"
_FORMAT: Final = re.compile(rb"(?P<version>[0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?P<more>-.*)?")
_LENGTH: Final = 55
"""Of version 00, and of the start of later versions."""
_INVALID_VERSION: Final = b"ff"
_SAMPLED: Final = 1


class Part(NamedTuple):
    """A part of an answer. Times are ns since 1970."""

    name: str
    start_ns: int
    end_ns: int


class Trace:
    """One request that was sent with a valid traceparent. Clock readings are those of `time.perf_counter_ns`."""

    __slots__ = ("_offset_ns", "header", "parts", "prediction_ids", "start_ns", "version")

    def __init__(self, header: str) -> None:
        self.header = header
        self.start_ns = time.time_ns()
        self._offset_ns = self.start_ns - time.perf_counter_ns()
        self.parts: list[Part] = []
        self.prediction_ids: list[str] = []
        self.version = ""

    @property
    def trace_id(self) -> int:
        return int(self.header[3:35], 16)

    @property
    def parent_id(self) -> int:
        return int(self.header[36:52], 16)

    @property
    def sampled(self) -> bool:
        """Whether the caller records this trace."""
        return bool(int(self.header[53:55], 16) & _SAMPLED)

    def add(self, name: str, start_ns: int) -> None:
        """Add the part that began at a reading of the clock and ends now."""
        self.parts.append(Part(name, start_ns + self._offset_ns, time.perf_counter_ns() + self._offset_ns))

    def add_when_done(self, name: str, future: "asyncio.Future[Any]") -> None:
        """Add the part from now to the result of a future."""
        start_ns = time.perf_counter_ns()
        future.add_done_callback(lambda _: self.add(name, start_ns))


CURRENT: Final[ContextVar[Trace | None]] = ContextVar("trace", default=None)
"""The trace of the request that this task answers."""


def valid_traceparent(value: bytes) -> str | None:
    """The first 55 characters of a header that conforms to W3C Trace Context, level 1; None for another."""
    found = _FORMAT.fullmatch(value.strip())
    if found is None or found["version"] == _INVALID_VERSION or (found["version"] == b"00" and found["more"]):
        return None
    if not int(found[2], 16) or not int(found[3], 16):
        return None
    return found[0][:_LENGTH].decode()


def received(headers: Iterable[tuple[bytes, bytes]]) -> Trace | None:
    """The trace of a request's headers; None without exactly one valid traceparent."""
    values = [value for name, value in headers if name == HEADER]
    header = valid_traceparent(values[0]) if len(values) == 1 else None
    return None if header is None else Trace(header)
