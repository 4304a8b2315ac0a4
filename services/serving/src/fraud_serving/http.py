"""The ASGI door. The two hot paths are answered here, by hand; everything else is FastAPI's.

A FastAPI route costs 180 us before its first line runs, ten times the model (docs/serving.md), so POST /predict and
POST /predict/batch never enter it. What they accept and answer stands in the same OpenAPI document (`openapi.py`).
"""

import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from fraud_serving.api_keys import ApiKeys
from fraud_serving.metrics import Metrics
from fraud_serving.schema import ContractError, Problem, parse, parse_batch
from fraud_serving.scoring import Scorer

Decide = Callable[[bytes, int], Awaitable[bytes]]

KEY_HEADER: Final = b"x-api-key"
RETRY_AFTER_S: Final = 1
_JSON: Final = (b"content-type", b"application/json")
_problem = msgspec.json.Encoder().encode


class RefusedError(Exception):
    """A request that is answered with a problem: `status`, `problem` and more headers."""

    def __init__(self, status: int, problem: Problem, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(problem.reason)
        self.status, self.problem, self.headers = status, problem, headers


_TOO_MANY: Final = RefusedError(
    429,
    Problem("overloaded", f"too many requests are at work; try again in {RETRY_AFTER_S} s"),
    ((b"retry-after", b"%d" % RETRY_AFTER_S),),
)
_NOT_POST: Final = RefusedError(405, Problem("method", "only POST is answered here"), ((b"allow", b"POST"),))
_NO_KEY: Final = RefusedError(
    401, Problem("key", "the X-API-Key header is missing or unknown"), ((b"www-authenticate", b"ApiKey"),)
)


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
        max_in_flight: int,
        max_body_bytes: int,
        max_batch_bytes: int,
    ) -> None:
        self._rest, self._metrics, self._keys, self._max_in_flight = rest, metrics, keys, max_in_flight

        async def one(body: bytes, began_ns: int) -> bytes:
            return await scorer.decide(parse(body), began_ns)

        async def many(body: bytes, began_ns: int) -> bytes:
            return await scorer.decide_batch(parse_batch(body), began_ns)

        self._routes: dict[str, tuple[Decide, int]] = {
            "/predict": (one, max_body_bytes),
            "/predict/batch": (many, max_batch_bytes),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._rest(scope, receive, send)
            return
        status = 200
        more: tuple[tuple[bytes, bytes], ...] = ()
        self._metrics.in_flight += 1
        try:
            body = await self._answer(scope, receive, *route)
        except RefusedError as error:
            status, more, body = error.status, error.headers, _problem(error.problem)
        except ContractError as error:
            status, body = 422, _problem(Problem("invalid", error.reason, error.field or None))
        except _GoneError:
            self._metrics.requests[scope["path"], 499] += 1
            return
        except Exception:
            self._metrics.requests[scope["path"], 500] += 1
            raise
        finally:
            self._metrics.in_flight -= 1
        self._metrics.requests[scope["path"], status] += 1
        headers = [_JSON, (b"content-length", b"%d" % len(body)), *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, decide: Decide, limit: int) -> bytes:
        if scope["method"] != "POST":
            raise _NOT_POST
        if self._metrics.in_flight > self._max_in_flight:
            raise _TOO_MANY
        if self._keys is not None and not is_allowed(self._keys, scope):
            raise _NO_KEY
        message = await receive()
        if message["type"] != "http.request":
            raise _GoneError
        body: bytes = message["body"]
        if message.get("more_body", False) or len(body) > limit:
            body = await _whole(body, scope, receive, limit)
        return await decide(body, time.perf_counter_ns())


def is_allowed(keys: ApiKeys, scope: Scope) -> bool:
    """Whether the request carries a key that is known."""
    for name, value in scope["headers"]:
        if name == KEY_HEADER:
            return keys.client_of(value) is not None
    return False


async def _whole(first: bytes, scope: Scope, receive: Receive, limit: int) -> bytes:
    """A body that comes in pieces. Raises RefusedError (413) as soon as it is known to be too large."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    body, more = bytearray(first), True
    while True:
        if len(body) > limit or (declared.isdigit() and int(declared[:20]) > limit):
            raise RefusedError(413, Problem("too_large", f"the body may have {limit} bytes"))
        if not more:
            return bytes(body)
        message = await receive()
        if message["type"] != "http.request":
            raise _GoneError
        body += message.get("body", b"")
        more = message.get("more_body", False)
