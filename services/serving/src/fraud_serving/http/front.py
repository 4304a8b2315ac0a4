"""The ASGI application. POST /predict and POST /predict/batch are answered here, everything else by FastAPI.

A FastAPI route costs 180 us before its first line runs, ten times the model (docs/serving.md), so these two do not use
one. `openapi.py` adds them to the same OpenAPI document. `Front.exchange` answers a request from its head and body;
ASGI (`__call__`) and the short path (`protocol.py`) both call it.
"""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from fraud_serving.http.api_keys import ApiKeys
from fraud_serving.http.limits import RateLimit
from fraud_serving.http.schema import ContractError, Problem, explain_asked, parse, parse_batch
from fraud_serving.log.access_log import AccessLog
from fraud_serving.metrics import MALFORMED, Metrics
from fraud_serving.scoring.scorer import Scorer

Headers = Sequence[tuple[bytes, bytes]]
Decide = Callable[[bytes, bytes, str, int], Awaitable[bytes]]

KEY_HEADER: Final = b"x-api-key"
RETRY_AFTER_S: Final = 1
_JSON: Final = (b"content-type", b"application/json")
_problem = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """What goes back: always JSON. `headers` are those besides content-type and content-length."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RefusedError(Exception):
    """A request that is answered with a problem: `status`, `problem` and more headers."""

    def __init__(self, status: int, problem: Problem, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(problem.reason)
        self.status, self.problem, self.headers = status, problem, headers


def reply_to(refused: RefusedError) -> Reply:
    return Reply(refused.status, _problem(refused.problem), refused.headers)


def _later(error: str, reason: str, seconds: int) -> RefusedError:
    return RefusedError(
        429, Problem(error, f"{reason}; try again in {seconds} s"), ((b"retry-after", b"%d" % seconds),)
    )


_TOO_MANY: Final = _later("overloaded", "too many requests are at work", RETRY_AFTER_S)
_NOT_POST: Final = RefusedError(405, Problem("method", "only POST is answered here"), ((b"allow", b"POST"),))
_NO_KEY: Final = RefusedError(
    401, Problem("key", "the X-API-Key header is missing or unknown"), ((b"www-authenticate", b"ApiKey"),)
)
_UNKNOWN_CODING: Final = RefusedError(
    415,
    Problem("content_encoding", "Content-Encoding: expected gzip, or none"),
    ((b"accept-encoding", b"gzip"),),
)
_TOO_SLOW: Final = RefusedError(408, Problem("timeout", "the body did not come in time"), ((b"connection", b"close"),))


TOO_MANY: Final = reply_to(_TOO_MANY)


class _GoneError(Exception):
    """The caller hung up before its request was whole."""


class Front:
    """The ASGI application."""

    def __init__(
        self,
        scorer: Scorer,
        rest: ASGIApp,
        metrics: Metrics,
        keys: ApiKeys | None,
        limit: RateLimit,
        access: AccessLog,
        max_in_flight: int,
        max_body_bytes: int,
        max_batch_bytes: int,
        body_deadline_s: float,
    ) -> None:
        self.max_body_bytes, self.body_deadline_s = max_body_bytes, body_deadline_s
        self._rest, self._metrics, self._keys, self._limit, self._access = rest, metrics, keys, limit, access
        self.max_in_flight = max_in_flight

        async def one(body: bytes, query: bytes, client: str, began_ns: int) -> bytes:
            limit.take(client, 1)
            explain = explain_asked(query) if query else False
            return await scorer.decide(parse(body), began_ns, explain=explain)

        async def many(body: bytes, _query: bytes, client: str, began_ns: int) -> bytes:
            transactions = parse_batch(body)
            limit.take(client, len(transactions))
            return await scorer.decide_batch(transactions, began_ns)

        self._routes: dict[str, tuple[Decide, int]] = {
            "/predict": (one, max_body_bytes),
            "/predict/batch": (many, max_batch_bytes),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._rest(scope, receive, send)
            return

        async def body() -> bytes:
            compressed = _is_gzip(scope["headers"])
            try:
                async with asyncio.timeout(self.body_deadline_s):
                    whole = await _whole(scope, receive, route[1])
            except TimeoutError:
                raise _TOO_SLOW from None
            return await asyncio.to_thread(_gunzipped, whole, route[1]) if compressed else whole

        self.start()
        try:
            reply = await self.exchange(scope["method"], scope["path"], scope["query_string"], scope["headers"], body)
        except _GoneError:
            return
        headers = [_JSON, (b"content-length", b"%d" % len(reply.body)), *reply.headers]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    @property
    def is_full(self) -> bool:
        """Whether as many requests of the hot paths are in progress as are allowed."""
        return self._metrics.in_flight >= self.max_in_flight

    def start(self) -> None:
        """Count one more request in progress. It is counted before its task runs, so that requests that arrive in the
        same iteration of the event loop see each other; `exchange` counts its end.
        """
        self._metrics.in_flight += 1

    async def exchange(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes | Callable[[], Awaitable[bytes]]
    ) -> Reply:
        """Answer one request of a hot path that `start` has counted. Raises _GoneError when its body never came."""
        metrics, client, began_ns = self._metrics, "", time.perf_counter_ns()
        try:
            client = self._admit(method, headers)
            self._hold_to_rate(client)
            if not isinstance(body, bytes):
                body = await body()
            reply = Reply(200, await self._routes[path][0](body, query, client, time.perf_counter_ns()))
        except RefusedError as error:
            reply = reply_to(error)
        except ContractError as error:
            reply = Reply(422, _problem(Problem("invalid", error.reason, error.field or None)))
        except _GoneError:
            metrics.requests[path, 499] += 1
            raise
        except Exception:
            metrics.requests[path, 500] += 1
            raise
        finally:
            metrics.in_flight -= 1
        metrics.requests[path, reply.status] += 1
        self._access.add(client, path, reply.status, (time.perf_counter_ns() - began_ns) // 1000, len(reply.body))
        return reply

    def _admit(self, method: str, headers: Headers) -> str:
        """The client, "" where no keys are asked for. Raises RefusedError."""
        if method != "POST":
            raise _NOT_POST
        if self._metrics.in_flight > self.max_in_flight:
            raise _TOO_MANY
        return "" if self._keys is None else _client(self._keys, headers)

    def _hold_to_rate(self, client: str) -> None:
        """Raises RefusedError."""
        if wait_s := self._limit.wait_s(client):
            raise _later("rate", "this client's rate is used up", wait_s)

    def too_slow(self, path: str) -> Reply:
        """The answer to a request whose body did not come in time, counted and logged."""
        reply = reply_to(_TOO_SLOW)
        self._metrics.requests[path, reply.status] += 1
        self._access.add("", path, reply.status, 0, len(reply.body))
        return reply

    def count_malformed(self, reply: Reply) -> None:
        """Count and log an answer to bytes that are not a request."""
        self._metrics.requests[MALFORMED, reply.status] += 1
        self._access.add("", MALFORMED, reply.status, 0, len(reply.body))

    def count_shed(self, path: str) -> None:
        """Account for one request too many, answered with TOO_MANY before any work was done for it."""
        self._metrics.requests[path, TOO_MANY.status] += 1
        self._access.add_shed(path, TOO_MANY.status, len(TOO_MANY.body))


def _client(keys: ApiKeys, headers: Headers) -> str:
    """Whose key the request carries. Raises RefusedError (401) when it is nobody's."""
    for name, value in headers:
        if name == KEY_HEADER:
            client = keys.client_of(value)
            if client is not None:
                return client
            break
    raise _NO_KEY


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, Problem("too_large", f"the body may have {limit} bytes"))


def _is_gzip(headers: Headers) -> bool:
    """Whether the body is compressed. Raises RefusedError (415) for an encoding other than gzip."""
    codings = b",".join(value for name, value in headers if name == b"content-encoding").strip().lower()
    if codings in (b"gzip", b"x-gzip"):
        return True
    if codings in (b"", b"identity"):
        return False
    raise _UNKNOWN_CODING


def _gunzipped(body: bytes, limit: int) -> bytes:
    """The content of one gzip member. Raises RefusedError (413) above `limit` bytes, ContractError if it is not one."""
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: a gzip header and trailer
    try:
        content = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise ContractError("", f"the body is not gzip, as Content-Encoding states: {error}") from None
    if len(content) > limit:
        raise _too_large(limit)
    if not decoder.eof or decoder.unused_data:
        raise ContractError("", "the body is not exactly one gzip member, as Content-Encoding states")
    return content


async def _whole(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body. Raises RefusedError (413) as soon as it is known to be too large, _GoneError when it never comes."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    body, more = bytearray(), True
    while True:
        if len(body) > limit or (declared.isdigit() and int(declared[:20]) > limit):
            raise _too_large(limit)
        if not more:
            return bytes(body)
        message = await receive()
        if message["type"] != "http.request":
            raise _GoneError
        body += message.get("body", b"")
        more = message.get("more_body", False)
