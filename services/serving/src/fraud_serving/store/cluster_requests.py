"""A request to a cluster: its commands by node, and the commands that a node redirected.

Order: an append of an entity may not pass an earlier one. A node replies in the order of the commands, so this holds
while a slot stays where it is. When a node redirects a command (MOVED, ASK, TRYAGAIN), the slot is held: newer commands
of the slot wait until the node has replied to everything that it was sent before, and then all of them are sent in
their order, one at a time. A redirected command was not executed, so none is executed twice.
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

import hiredis

from fraud_serving.metrics import Metrics
from fraud_serving.store.connection import NO_REPLY, Pending, Reply
from fraud_serving.store.in_flight import Request
from fraud_serving.store.link import Link
from fraud_serving.store.store import MAX_PENDING


class Route(Protocol):
    """Where the commands of a slot go."""

    def submit(self, request: Request, at: Sequence[int], slots: Sequence[int], commands: Sequence[bytes]) -> None:
        """Send the commands at these places of the request. `slots` and `commands` are those of the whole request."""


class Nowhere:
    """The route of slots whose node was not found yet."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def submit(self, request: Request, at: Sequence[int], slots: Sequence[int], commands: Sequence[bytes]) -> None:  # noqa: ARG002
        self._metrics.store_error("down")
        request.fill(len(at))


Redirected = Callable[["Part", int, hiredis.ReplyError], None]


class Node:
    """A node of the cluster. `redirected` is called with each command that it redirects."""

    def __init__(self, link: Link, metrics: Metrics, redirected: Redirected) -> None:
        self.link, self._metrics, self.redirected = link, metrics, redirected
        self.place: Final = (link.host, link.port)
        self.suspect = False
        """Whether it stated that the cluster is down. Others then decide about its slots."""
        self.used_s = 0.0
        """When a redirection named it last (loop time)."""

    @property
    def idle(self) -> bool:
        """Whether it has replied to everything, or has no connection."""
        return self.link.connection is None or not self.link.connection.pending

    def submit(self, request: Request, at: Sequence[int], slots: Sequence[int], commands: Sequence[bytes]) -> None:
        connection = self.link.connection
        if connection is None or len(connection.pending) >= MAX_PENDING:
            if request.future is not None:
                self._metrics.store_error("down" if connection is None else "full")
            request.fill(len(at))
            return
        data = commands[at[0]] if len(at) == 1 else b"".join([commands[i] for i in at])
        send = connection.send_later if request.future is None else connection.send
        send(data, Part(request, self, at, slots, commands))


class Part(Pending):
    """The commands of a request that were sent to one node."""

    __slots__ = ("_ended", "at", "commands", "node", "request", "slots")
    follows_redirects = True

    def __init__(
        self, request: Request, node: Node, at: Sequence[int], slots: Sequence[int], commands: Sequence[bytes]
    ) -> None:
        self.future, self.count, self.sent_s = request.future, len(at), request.sent_s
        self.replies, self.redirected, self._ended = [], False, False
        self.request, self.node, self.at, self.slots, self.commands = request, node, at, slots, commands

    def waits(self) -> bool:
        return self.future is not None and not self._ended

    def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        request = self.request
        if not self.redirected:
            if request.future is not None:
                for at, reply in zip(self.at, self.replies, strict=False):
                    request.replies[at] = reply
                request.fill(self.count)
            return
        missing = self.count - len(self.replies)
        for at, reply in zip(self.at, [*self.replies, *[NO_REPLY] * missing], strict=True):
            if isinstance(reply, hiredis.ReplyError) and not missing:
                self.node.redirected(self, at, reply)
            else:
                request.set(at, NO_REPLY if isinstance(reply, hiredis.ReplyError) else reply)


class Held:
    """A command of a held slot."""

    __slots__ = ("asked", "at", "command", "ended", "request")

    def __init__(self, request: Request, at: int, command: bytes, asked: Node | None = None) -> None:
        self.request, self.at, self.command = request, at, command
        self.asked = asked
        """The node that an ASK named: for this command only."""
        self.ended = False

    def __lt__(self, other: "Held") -> bool:
        return (self.request.number, self.at) < (other.request.number, other.at)

    def end(self, reply: Reply) -> None:
        """Set the reply, unless it is set."""
        if not self.ended:
            self.ended = True
            self.request.set(self.at, reply)


class Hold:
    """The commands of a held slot, in the order in which they were submitted."""

    def __init__(self) -> None:
        self._waiting: list[Held] = []
        self._sent: Held | None = None

    def submit(self, request: Request, at: Sequence[int], slots: Sequence[int], commands: Sequence[bytes]) -> None:  # noqa: ARG002
        for i in at:
            self.add(Held(request, i, commands[i]))

    def add(self, held: Held) -> None:
        heappush(self._waiting, held)

    def next(self) -> Held | None:
        """The next command to send."""
        self._sent = heappop(self._waiting) if self._waiting else None
        return self._sent

    def expire(self, before_s: float) -> None:
        """End the wait for commands that were submitted before `before_s` (loop time)."""
        for held in (*self._waiting, *([self._sent] if self._sent else ())):
            if held.request.sent_s <= before_s:
                held.end(NO_REPLY)
        self._waiting = [held for held in self._waiting if not held.ended]
        heapify(self._waiting)
