"""The endpoints POST /predict and POST /predict/batch, as an ASGI application. Other requests go to FastAPI.

A FastAPI route costs 180 us per request before its first line runs, ten times the inference (docs/adr/0007), so these
two do not use one. `openapi.py` adds them to the OpenAPI document. `PredictApp.respond` answers a request from its
headers and body; ASGI (`__call__`) and the short path (`protocol.py`) both call it.
"""

import asyncio
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from fraud_serving.api_keys import ApiKeys
from fraud_serving.http.rate_limit import RateLimit
from fraud_serving.log.access_log import AccessLog
from fraud_serving.metrics import MALFORMED, Metrics
from fraud_serving.schema import ContractError, Problem, explain_requested
from fraud_serving.scoring.scorer import Scorer

Headers = Sequence[tuple[bytes, bytes]]
Decide = Callable[[bytes, bytes, str, int], Awaitable[bytes]]

KEY_HEADER: Final = b"x-api-key"
RETRY_AFTER_S: Final = 1
_JSON: Final = (b"content-type", b"application/json")
_problem = msgspec.json.Encoder().encode


class Response(NamedTuple):
    """A JSON response. `headers` are those besides content-type and content-length."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RefusedError(Exception):
    """A request is refused with `status`, the body `problem` and additional headers."""

    def __init__(self, status: int, problem: Problem, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(problem.reason)
        self.status, self.problem, self.headers = status, problem, headers


def response_to(refused: RefusedError) -> Response:
    return Response(refused.status, _problem(refused.problem), refused.headers)


def _retry_later(error: str, reason: str, seconds: int) -> RefusedError:
    return RefusedError(
        429, Problem(error, f"{reason}; try again in {seconds} s"), ((b"retry-after", b"%d" % seconds),)
    )


_TOO_MANY: Final = _retry_later("overloaded", "too many requests are in progress", RETRY_AFTER_S)
_NOT_POST: Final = RefusedError(405, Problem("method", "expected POST"), ((b"allow", b"POST"),))
_NO_KEY: Final = RefusedError(
    401, Problem("key", "the X-API-Key header is missing or unknown"), ((b"www-authenticate", b"ApiKey"),)
)
_UNKNOWN_CODING: Final = RefusedError(
    415,
    Problem("content_encoding", "Content-Encoding: expected gzip or no header"),
    ((b"accept-encoding", b"gzip"),),
)
_BODY_TIMEOUT: Final = RefusedError(
    408, Problem("timeout", "the body did not arrive in time"), ((b"connection", b"close"),)
)


TOO_MANY: Final = response_to(_TOO_MANY)


class _DisconnectedError(Exception):
    """The client closed the connection before its request was complete."""


class PredictApp:
    """The ASGI application. `fallback` handles all other paths."""

    def __init__(
        self,
        scorer: Scorer,
        fallback: ASGIApp,
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
        self._fallback, self._metrics, self._keys, self._limit, self._access = fallback, metrics, keys, limit, access
        self.max_in_flight = max_in_flight

        async def one(body: bytes, query: bytes, client: str, start_ns: int) -> bytes:
            limit.take(client, 1)
            explain = explain_requested(query) if query else False
            state = scorer.state
            return await scorer.decide(state, state.requests.parse(body), start_ns, explain=explain)

        async def many(body: bytes, _query: bytes, client: str, start_ns: int) -> bytes:
            state = scorer.state
            transactions = state.requests.parse_batch(body)
            limit.take(client, len(transactions))
            return await scorer.decide_batch(state, transactions, start_ns)

        self._routes: dict[str, tuple[Decide, int]] = {
            "/predict": (one, max_body_bytes),
            "/predict/batch": (many, max_batch_bytes),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._fallback(scope, receive, send)
            return

        async def body() -> bytes:
            compressed = _is_gzip(scope["headers"])
            try:
                async with asyncio.timeout(self.body_deadline_s):
                    content = await _read_body(scope, receive, route[1])
            except TimeoutError:
                raise _BODY_TIMEOUT from None
            return await asyncio.to_thread(_gunzipped, content, route[1]) if compressed else content

        self.start()
        try:
            response = await self.respond(scope["method"], scope["path"], scope["query_string"], scope["headers"], body)
        except _DisconnectedError:
            return
        headers = [_JSON, (b"content-length", b"%d" % len(response.body)), *response.headers]
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    @property
    def is_full(self) -> bool:
        """Whether the maximum number of requests is in progress."""
        return self._metrics.in_flight >= self.max_in_flight

    def start(self) -> None:
        """Count one more request in progress; `respond` counts its end.

        A request is counted before its task runs, so that those of one event-loop iteration count together.
        """
        self._metrics.in_flight += 1

    async def respond(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes | Callable[[], Awaitable[bytes]]
    ) -> Response:
        """Answer one request that `start` has counted. Raises _DisconnectedError if the body is incomplete."""
        metrics, client, start_ns = self._metrics, "", time.perf_counter_ns()
        try:
            client = self._admit(method, headers)
            self._check_rate(client)
            if not isinstance(body, bytes):
                body = await body()
            response = Response(200, await self._routes[path][0](body, query, client, time.perf_counter_ns()))
        except RefusedError as error:
            response = response_to(error)
        except ContractError as error:
            response = Response(422, _problem(Problem("invalid", error.reason, error.field or None)))
        except _DisconnectedError:
            metrics.requests[path, 499] += 1
            raise
        except Exception:
            metrics.requests[path, 500] += 1
            raise
        finally:
            metrics.in_flight -= 1
        metrics.requests[path, response.status] += 1
        self._access.add(client, path, response.status, (time.perf_counter_ns() - start_ns) // 1000, len(response.body))
        return response

    def _admit(self, method: str, headers: Headers) -> str:
        """The client, "" if the service runs without keys. Raises RefusedError."""
        if method != "POST":
            raise _NOT_POST
        if self._metrics.in_flight > self.max_in_flight:
            raise _TOO_MANY
        return "" if self._keys is None else _client(self._keys, headers)

    def _check_rate(self, client: str) -> None:
        """Raises RefusedError."""
        if wait_s := self._limit.wait_s(client):
            raise _retry_later("rate", "this client's rate is used up", wait_s)

    def body_timeout(self, path: str) -> Response:
        """The response to a request whose body did not arrive in time, counted and logged."""
        response = response_to(_BODY_TIMEOUT)
        self._metrics.requests[path, response.status] += 1
        self._access.add("", path, response.status, 0, len(response.body))
        return response

    def count_malformed(self, response: Response) -> None:
        """Count and log a response to bytes that are not a request."""
        self._metrics.requests[MALFORMED, response.status] += 1
        self._access.add("", MALFORMED, response.status, 0, len(response.body))

    def count_shed(self, path: str) -> None:
        """Count and log a request that was answered with TOO_MANY before any work was done for it."""
        self._metrics.requests[path, TOO_MANY.status] += 1
        self._access.add_shed(path, TOO_MANY.status, len(TOO_MANY.body))


def _client(keys: ApiKeys, headers: Headers) -> str:
    """The client of the request's key. Raises RefusedError (401) if the key is missing or unknown."""
    for name, value in headers:
        if name == KEY_HEADER:
            client = keys.client_of(value)
            if client is not None:
                return client
            break
    raise _NO_KEY


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, Problem("too_large", f"expected a body of at most {limit} bytes"))


def _is_gzip(headers: Headers) -> bool:
    """Whether the body is compressed. Raises RefusedError (415) for an encoding other than gzip."""
    codings = b",".join(value for name, value in headers if name == b"content-encoding").strip().lower()
    if codings in (b"gzip", b"x-gzip"):
        return True
    if codings in (b"", b"identity"):
        return False
    raise _UNKNOWN_CODING


def _gunzipped(body: bytes, limit: int) -> bytes:
    """The content of one gzip member. Raises RefusedError (413) above `limit` bytes, ContractError for other data."""
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: a gzip header and trailer
    try:
        content = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise ContractError("", f"Content-Encoding is gzip, the body is not: {error}") from None
    if len(content) > limit:
        raise _too_large(limit)
    if not decoder.eof or decoder.unused_data:
        raise ContractError("", "Content-Encoding is gzip: expected a body of exactly one gzip member")
    return content


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body. Raises RefusedError (413) as soon as it exceeds `limit`, _DisconnectedError if it is incomplete."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    body, more = bytearray(), True
    while True:
        if len(body) > limit or (declared.isdigit() and int(declared[:20]) > limit):
            raise _too_large(limit)
        if not more:
            return bytes(body)
        message = await receive()
        if message["type"] != "http.request":
            raise _DisconnectedError
        body += message.get("body", b"")
        more = message.get("more_body", False)
