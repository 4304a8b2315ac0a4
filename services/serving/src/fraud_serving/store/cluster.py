"""The online store on a cluster of Valkey or Redis (docs/scale.md): one connection to the primary of each shard.

A request's commands leave in one write per shard and are waited for together, so a request takes one round trip. The
table of slots is read from the nodes. A slot that moved is found by the reply MOVED of its old node, and `Hold` keeps
the order of its commands. What a node that is down or slow does not answer is NO_REPLY for its own entities only.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Final

import hiredis

from fraud_serving.metrics import Metrics
from fraud_serving.store.address import StoreAddress
from fraud_serving.store.cluster_requests import Held, Hold, Node, Nowhere, Part, Route
from fraud_serving.store.connection import NO_REPLY, Pending, Reply, command
from fraud_serving.store.in_flight import InFlight, Request
from fraud_serving.store.link import CONNECT_S, Link
from fraud_serving.store.slots import SLOTS, Place, key_slot, most_stated, parse_ranges
from fraud_serving.store.store import Replies, Store

_log = logging.getLogger(__name__)
_READ_TABLE: Final = command(b"CLUSTER", b"SLOTS")
_PING: Final = command(b"PING")
_ASKING: Final = command(b"ASKING")
_TABLE_S: Final = 5.0
"""The table of slots is read this often, and at once after a redirection or the loss of a connection."""
_BETWEEN_S: Final = 0.2
"""Least time between two readings of the table, and the time between them while a shard has no connection."""
_UNUSED_S: Final = 60.0
"""A node without slots is disconnected after this long."""
_PAUSE_S: Final = 0.002
"""Wait before a command is sent again to a node that could not execute it (TRYAGAIN)."""


class _Followed(Pending):
    follows_redirects = True


class ClusterStore(Store):
    """`connected` is true while every slot's node is connected."""

    takes_single_commands = True

    def __init__(self, address: StoreAddress, deadline_s: float, answer_ttl_s: int, metrics: Metrics) -> None:
        super().__init__(deadline_s, answer_ttl_s, metrics)
        self._address = address
        self._nodes: dict[Place, Node] = {}
        self._known: set[Place] = set(address.nodes)
        nowhere = Nowhere(metrics)
        self._owners: list[Node | None] = [None] * SLOTS
        self._owned: Counter[Node | None] = Counter({None: SLOTS})
        """Number of slots by owner."""
        self._routes: list[Route] = [nowhere] * SLOTS
        self._holds: dict[int, Hold] = {}
        self._changed = asyncio.Event()
        self._read_once = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return all(node is not None and node.link.connection is not None for node in self._owned)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._in_flight = InFlight(self._loop)
        self._start(self._follow_table())
        self._start(self._check_deadlines())
        await self._read_once.wait()
        await asyncio.gather(*(node.link.attempted.wait() for node in self._nodes.values()))

    async def close(self) -> None:
        for task in [*self._tasks]:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await asyncio.gather(*(node.link.close() for node in self._nodes.values()))

    def send(self, commands: Sequence[bytes], count: int) -> Replies | None:  # noqa: ARG002 - one command in each item
        return self._submit([*map(key_slot, commands)], commands)

    def send_keyed(self, keys: Sequence[bytes], commands: Sequence[bytes]) -> Replies | None:
        return self._submit([*map(key_slot, keys)], commands)

    def send_later(self, key: bytes, data: bytes) -> None:
        slot = key_slot(key)
        request = Request(self._in_flight, None, 1, self._loop.time())
        self._routes[slot].submit(request, (0,), (slot,), (data,))

    def _submit(self, slots: Sequence[int], commands: Sequence[bytes]) -> Replies:
        loop, routes = self._loop, self._routes
        future: Replies = loop.create_future()
        request = Request(self._in_flight, future, len(slots), loop.time())
        if len(slots) == 1:
            routes[slots[0]].submit(request, (0,), slots, commands)
            return future
        by_route: dict[Route, list[int]] = {}
        for at, slot in enumerate(slots):
            route = routes[slot]
            if route in by_route:
                by_route[route].append(at)
            else:
                by_route[route] = [at]
        for route, places in by_route.items():
            route.submit(request, places, slots, commands)
        return future

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _node(self, place: Place) -> Node:
        node = self._nodes.get(place)
        if node is None:
            link = Link(self._address, *place, self._metrics, self._on_link_change)
            node = self._nodes[place] = Node(link, self._metrics, self._on_redirect)
            link.start()
        node.used_s = self._loop.time()
        return node

    def _on_link_change(self) -> None:
        self._metrics.store_up = int(self.connected)
        if not self._metrics.store_up:
            self._changed.set()

    def _move(self, slot: int, node: Node) -> None:
        """Note that `node` serves the slot."""
        self._owned[node] += 1
        old = self._owners[slot]
        self._owned[old] -= 1
        if not self._owned[old]:
            del self._owned[old]
        self._owners[slot] = node
        if slot not in self._holds:
            self._routes[slot] = node

    def _on_redirect(self, part: Part, at: int, error: hiredis.ReplyError) -> None:
        """Send a command of a request again, in the order of its slot."""
        slot, node = part.slots[at], part.node
        asked, moved = self._redirection(error, node)
        if moved is None and asked is None and not str(error).startswith("TRYAGAIN"):
            part.request.set(at, NO_REPLY)
            return
        hold = self._holds.get(slot)
        if hold is None:
            hold = self._routes[slot] = self._holds[slot] = Hold()
            self._start(self._release(slot, hold, node))
        if moved is not None:
            self._move(slot, moved)
        hold.add(Held(part.request, at, part.commands[at], asked))

    def _redirection(self, error: hiredis.ReplyError, node: Node) -> tuple[Node | None, Node | None]:
        """The node that ASK names, or the one that MOVED names. Without either, the command was refused."""
        kind, _, rest = str(error).partition(" ")
        if kind not in ("ASK", "MOVED", "TRYAGAIN"):
            node.suspect = True
            self._metrics.store_error("reply")
            _log.warning("%s:%d refused a command: %s", *node.place, error)
            self._changed.set()
            return None, None
        self._metrics.store_redirects[kind.lower()] += 1
        if kind == "TRYAGAIN":
            return None, None
        host, _, port = rest.partition(" ")[2].rpartition(":")
        named = self._node((node.place[0] if host in ("", "?") else host, int(port)))
        if kind == "ASK":
            return named, None
        self._changed.set()
        return None, named

    async def _release(self, slot: int, hold: Hold, node: Node) -> None:
        """Send what is held, when `node` has replied to everything that it was sent before."""
        if node.link.connection is not None:
            await node.link.connection.request(_PING)
        while (held := hold.next()) is not None:
            held.end(await self._reply_to(held, slot))
        del self._holds[slot]
        self._routes[slot] = self._owners[slot] or self._routes[slot]

    async def _reply_to(self, held: Held, slot: int) -> Reply:
        """Follow the redirections of one command until its deadline."""
        until_s = held.request.sent_s + self._deadline_s
        data, asked = held.command, held.asked
        while not held.ended and self._loop.time() < until_s:
            node = asked or self._owners[slot]
            connection = None if node is None else node.link.connection
            if node is None or connection is None:
                await asyncio.sleep(_PAUSE_S)
                continue
            future: Replies = self._loop.create_future()
            pending = _Followed(future, 2 if asked else 1, self._loop.time())
            connection.send(_ASKING + data if asked else data, pending)
            reply = (await future)[-1]
            if not isinstance(reply, hiredis.ReplyError):
                return reply
            asked, moved = self._redirection(reply, node)
            if moved is not None:
                self._move(slot, moved)
            elif str(reply).startswith("TRYAGAIN"):
                await asyncio.sleep(_PAUSE_S)
            elif asked is None:
                break
        return NO_REPLY

    async def _follow_table(self) -> None:
        while True:
            self._changed.clear()
            await self._read_table()
            self._read_once.set()
            await asyncio.sleep(_BETWEEN_S)
            if self.connected:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), _TABLE_S)

    async def _read_table(self) -> None:
        connected = [(node.place, node.link.connection) for node in self._nodes.values()]
        asked = [(place, connection.request(_READ_TABLE)) for place, connection in connected if connection is not None]
        replies = [(place, (await future)[0]) for place, future in asked]
        tables = [*self._tables(replies)]
        if not tables:
            others = sorted(self._known - {place for place, _ in asked})
            tables = [*self._tables(zip(others, await asyncio.gather(*map(self._ask, others)), strict=True))]
        if tables:
            self._use(most_stated(tables))

    def _tables(self, replies: Iterable[tuple[Place, Reply]]) -> Iterable[Sequence[Place | None]]:
        for place, reply in replies:
            if reply is NO_REPLY:
                continue
            try:
                primaries, nodes = parse_ranges(reply, place[0])
            except ValueError as error:
                _log.error("online store at %s:%d: %s", *place, error)
                self._metrics.store_error("reply")
                continue
            self._known |= nodes
            yield primaries

    async def _ask(self, place: Place) -> Reply:
        """The table of a node that has no connection yet."""
        link = Link(self._address, *place, self._metrics, lambda: None)
        try:
            connection = await link.connect()
        except (OSError, TimeoutError, hiredis.ReplyError) as error:
            self._metrics.store_error("connect")
            _log.warning("online store at %s:%d not reachable: %s", *place, error)
            return NO_REPLY
        try:
            async with asyncio.timeout(CONNECT_S):
                return (await connection.request(_READ_TABLE))[0]
        except TimeoutError:
            return NO_REPLY
        finally:
            connection.close()

    def _use(self, primaries: Sequence[Place | None]) -> None:
        """Take over the table, without the slots whose connected node will state where they moved (MOVED).

        A command may be on its way to such a node, and a newer one must not pass it.
        """
        for slot, place in enumerate(primaries):
            old = self._owners[slot]
            if place is None or (old is not None and old.place == place):
                continue
            if old is None or slot in self._holds or old.suspect or old.idle:
                self._move(slot, self._node(place))
        unused_s = self._loop.time() - _UNUSED_S
        for node in [*self._nodes.values()]:
            node.suspect = False
            if node.place not in primaries and node not in self._owned and node.used_s < unused_s:
                del self._nodes[node.place]
                self._start(node.link.close())
        self._on_link_change()

    async def _check_deadlines(self) -> None:
        while True:
            await asyncio.sleep(self._deadline_s / 4)
            before_s = self._loop.time() - self._deadline_s
            for node in self._nodes.values():
                if node.link.connection is not None:
                    node.link.connection.expire(before_s)
            for hold in self._holds.values():
                hold.expire(before_s)
