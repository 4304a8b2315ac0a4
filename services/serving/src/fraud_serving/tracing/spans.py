"""OpenTelemetry spans of sampled requests, sent to a collector over OTLP/HTTP by a thread of the SDK.

The SDK reads its own OTEL_* variables: OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*, OTEL_EXPORTER_OTLP_HEADERS.
"""

import time
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, set_span_in_context

from fraud_serving.tracing.trace import Trace

_TIMEOUT_S: Final = 2.0
"""Of one request to the collector, so that a collector that is down does not delay the end of the process."""
_SERVER_ERROR: Final = 500


class Spans:
    """Creates spans with the parents that the requests name. `export` runs on the event loop and does not wait."""

    def __init__(self, endpoint: str, service: str) -> None:
        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: service}), shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces", timeout=_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("fraud_serving")

    def export(self, trace: Trace, path: str, status: int) -> None:
        """Queue the span of an answer and those of its parts, if the caller records the trace."""
        if not trace.sampled:
            return
        parent = SpanContext(
            trace.trace_id, trace.parent_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED)
        )
        attributes: dict[str, str | int] = {
            "http.request.method": "POST", "http.route": path, "http.response.status_code": status,
        }  # fmt: skip
        if status >= _SERVER_ERROR:
            attributes["error.type"] = str(status)
        if trace.version:
            attributes["fraud.model_version"] = trace.version
        if len(trace.prediction_ids) == 1:
            attributes["fraud.prediction_id"] = trace.prediction_ids[0]
        answer = self._tracer.start_span(
            f"POST {path}", set_span_in_context(NonRecordingSpan(parent)), SpanKind.SERVER, attributes,
            start_time=trace.start_ns,
        )  # fmt: skip
        inside = set_span_in_context(answer)
        for name, start_ns, end_ns in trace.parts:
            self._tracer.start_span(name, inside, start_time=start_ns).end(end_ns)
        answer.end(time.time_ns())

    def close(self) -> None:
        """Send what is queued."""
        self._provider.shutdown()
