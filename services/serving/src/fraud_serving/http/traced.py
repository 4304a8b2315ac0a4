"""The ASGI application of serving with traces: it reads the traceparent of a request, and exports its spans."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from fraud_serving.http.predict import Headers, PredictApp, Response
from fraud_serving.tracing.trace import CURRENT, received

if TYPE_CHECKING:
    from fraud_serving.tracing.spans import Spans

_FAILED: Final = 500


class TracedPredictApp(PredictApp):
    """`spans` None: traces are carried to the prediction log, and no span is exported."""

    def __init__(self, spans: "Spans | None", *parts: Any) -> None:  # noqa: ANN401 - those of PredictApp
        super().__init__(*parts)
        self._spans = spans

    async def respond(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes | Callable[[], Awaitable[bytes]]
    ) -> Response:
        trace = received(headers)
        if trace is None:
            return await super().respond(method, path, query, headers, body)
        before, status = CURRENT.set(trace), _FAILED
        try:
            response = await super().respond(method, path, query, headers, body)
            status = response.status
        finally:
            CURRENT.reset(before)
            if self._spans is not None:
                self._spans.export(trace, path, status)
        return response
