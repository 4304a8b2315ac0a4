"""Requests to a cluster of the online store: which ones end together."""

import asyncio
from collections.abc import Awaitable, Callable

from fraud_serving.store.connection import Reply
from fraud_serving.store.in_flight import InFlight, Request

Submit = Callable[[int], tuple[Request, "asyncio.Future[list[Reply]]"]]


def run(scenario: Callable[[InFlight, Submit], Awaitable[None]]) -> None:
    async def started() -> None:
        loop = asyncio.get_running_loop()
        in_flight = InFlight(loop)

        def submit(commands: int) -> tuple[Request, "asyncio.Future[list[Reply]]"]:
            future: asyncio.Future[list[Reply]] = loop.create_future()
            return Request(in_flight, future, commands, loop.time()), future

        await scenario(in_flight, submit)

    asyncio.run(started())


def test_a_request_alone_ends_with_its_last_reply() -> None:
    async def scenario(in_flight: InFlight, submit: Submit) -> None:
        Request(in_flight, None, 1, 0.0)  # its reply is not used
        request, replies = submit(2)
        request.set(1, b"b")
        assert not replies.done()
        request.set(0, b"a")
        assert replies.result() == [b"a", b"b"]

    run(scenario)


def test_requests_that_were_on_their_way_together_end_together() -> None:
    async def scenario(_: InFlight, submit: Submit) -> None:
        (first, of_first), (second, of_second) = submit(1), submit(1)
        second.set(0, b"2")
        newer, of_newer = submit(1)
        assert not of_second.done()
        first.set(0, b"1")
        assert (of_first.result(), of_second.result(), of_newer.done()) == ([b"1"], [b"2"], False)
        newer.set(0, b"3")
        assert of_newer.result() == [b"3"]

    run(scenario)


def test_a_shard_that_does_not_reply_does_not_hold_the_others() -> None:
    async def scenario(_: InFlight, submit: Submit) -> None:
        (late, of_late), (request, replies) = submit(1), submit(1)
        request.set(0, b"1")
        assert await replies == [b"1"]
        assert not of_late.done()
        late.set(0, b"2")
        assert of_late.result() == [b"2"]

    run(scenario)


def test_a_caller_that_is_gone_does_not_hold_the_others() -> None:
    async def scenario(_: InFlight, submit: Submit) -> None:
        (gone, of_gone), (request, replies) = submit(1), submit(1)
        of_gone.cancel()
        request.set(0, b"1")
        gone.set(0, b"2")
        assert replies.result() == [b"1"]

    run(scenario)
