"""The requests that are on their way to a cluster, and when their callers get the replies.

The shards reply in different iterations of the event loop. If each request ended at once, the requests of one iteration
would be scored and answered in a group per shard. Most of the CPU time of a small group does not depend on its size. So
a request whose replies are complete waits for those that were on their way with it, at most `_WAIT_S`.
"""

import asyncio
from typing import Final

from fraud_serving.store.connection import NO_REPLY, Reply

_WAIT_S: Final = 0.001
"""The resolution of the event loop's timers."""


class Request:
    """The replies to the commands of one caller; `future` is None if they are not used."""

    __slots__ = ("future", "in_flight", "left", "number", "replies", "sent_s")

    def __init__(
        self, in_flight: "InFlight", future: "asyncio.Future[list[Reply]] | None", commands: int, sent_s: float
    ) -> None:
        self.in_flight, self.future, self.left, self.sent_s = in_flight, future, commands, sent_s
        self.number = in_flight.start(self)
        """Counts up: the order in which requests were submitted."""
        self.replies: list[Reply] = [NO_REPLY] * commands

    def set(self, at: int, reply: Reply) -> None:
        """Set the reply to one command."""
        self.replies[at] = reply
        self.fill(1)

    def fill(self, commands: int) -> None:
        """Count commands whose replies are set. The last one completes the request."""
        self.left -= commands
        if not self.left and self.future is not None:
            self.in_flight.complete(self)


class InFlight:
    """Ends requests together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._started = self._open = 0
        self._complete: list[Request] = []
        self._newest = self._awaited = 0
        """Requests up to the number `_newest` are waited for; so many of them are not complete."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self, request: Request) -> int:
        """The number of a new request."""
        self._open += request.future is not None
        self._started += 1
        return self._started

    def complete(self, request: Request) -> None:
        """End the request, now or with others."""
        self._open -= 1
        self._complete.append(request)
        if len(self._complete) == 1:
            self._newest, self._awaited = self._started, self._open
            if self._awaited:
                self._timer = self._loop.call_later(_WAIT_S, self._end)
        elif request.number <= self._newest:
            self._awaited -= 1
        if not self._awaited:
            self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        complete, self._complete = self._complete, []
        for request in complete:
            if request.future is not None and not request.future.done():
                request.future.set_result(request.replies)
