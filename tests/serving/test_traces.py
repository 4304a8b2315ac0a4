"""Traces: the traceparent in the prediction log, and the spans that a collector receives over OTLP."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from servers import Registry, Serving, Valkey, until

from fraud.embedded.sockets import free_port
from fraud_serving.tracing.trace import received, valid_traceparent

TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE_ID}-{PARENT_ID}-01", f"00-{TRACE_ID}-{PARENT_ID}-00"
"""The first is the example of W3C Trace Context, level 1."""
PAYMENT = {
    "transaction_id": "t1", "user_id": "traced", "merchant_id": "m", "amount": 100.0, "merchant_category": "travel",
    "event_timestamp": "2026-03-04T03:00:00Z", "distance_from_home": 3.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (SAMPLED, SAMPLED),
        (f" {NOT_SAMPLED} ", NOT_SAMPLED),
        (f"cc-{TRACE_ID}-{PARENT_ID}-01-of-a-later-version", f"cc-{TRACE_ID}-{PARENT_ID}-01"),
        (f"cc-{TRACE_ID}-{PARENT_ID}-01", f"cc-{TRACE_ID}-{PARENT_ID}-01"),
        (f"ff-{TRACE_ID}-{PARENT_ID}-01", None),
        (f"{SAMPLED}-more", None),
        (f"cc-{TRACE_ID}-{PARENT_ID}-01more", None),
        (f"00-{TRACE_ID.upper()}-{PARENT_ID}-01", None),
        (f"00-{'0' * 32}-{PARENT_ID}-01", None),
        (f"00-{TRACE_ID}-{'0' * 16}-01", None),
        (f"00-{TRACE_ID[1:]}-{PARENT_ID}-01", None),
        ("", None),
        ("00-\u0661-x", None),
    ],
)
def test_a_traceparent_is_valid_as_w3c_defines_it(value: str, expected: str | None) -> None:
    assert valid_traceparent(value.encode()) == expected


def test_two_headers_are_no_trace() -> None:
    header = (b"traceparent", SAMPLED.encode())
    assert received([header, header]) is None
    trace = received([(b"host", b"x"), header])
    assert trace is not None
    assert (f"{trace.trace_id:032x}", f"{trace.parent_id:016x}", trace.sampled) == (TRACE_ID, PARENT_ID, True)


def test_without_the_setting_no_module_of_the_sdk_is_imported_and_no_part_is_replaced() -> None:
    code = """
import sys
from fraud_serving.http import app
from fraud_serving.metrics import Metrics
from fraud_serving.service import Service
from fraud_serving.settings import Settings
settings = Settings.load({"SERVING_REDIS_URL": "redis://h/0", "SERVING_MLFLOW_URL": "http://h", "SERVING_OPEN": "1",
                          "SERVING_MODEL_CACHE": "/tmp/a", "SERVING_PREDICTION_LOG": "/tmp/b"})
service = Service(settings, Metrics(), None)
parts = (app.public(service), service.scorer, service.store, service.scorer._inference)
print(*(type(part).__name__ for part in parts), "opentelemetry.sdk" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split() == ["PredictApp", "Scorer", "ServerStore", "Inference", "False"]


class Collector:
    """Receives spans as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                for of_resource in request.resource_spans:
                    attributes = {each.key: each.value.string_value for each in of_resource.resource.attributes}
                    collector.services.add(attributes["service.name"])
                    for scope in of_resource.scope_spans:
                        collector.spans += scope.spans
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    yield found
    found.close()


def carried(serving: Serving) -> dict[str, str | None]:
    """Transaction -> traceparent of the records, of a server that was stopped."""
    return {record["transaction_id"]: record.get("traceparent") for record in serving.records()}


def post(serving: Serving, path: str, body: object, *headers: str) -> None:
    sent = [("traceparent", header) for header in headers]
    assert serving.client.post(path, json=body, headers=sent).status_code == 200


def test_the_traceparent_is_in_the_records_only_where_the_request_has_one(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry, SERVING_TRACES="1")
    post(serving, "/predict", PAYMENT, NOT_SAMPLED)
    post(serving, "/predict", PAYMENT | {"transaction_id": "t2"})
    post(serving, "/predict", PAYMENT | {"transaction_id": "t3"}, "not-a-trace")
    batch = {"transactions": [PAYMENT | {"transaction_id": name} for name in ("t4", "t5")]}
    post(serving, "/predict/batch", batch, SAMPLED)
    serving.stop()
    assert carried(serving) == {"t1": NOT_SAMPLED, "t2": None, "t3": None, "t4": SAMPLED, "t5": SAMPLED}


def test_without_the_setting_records_have_no_traceparent(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry)
    post(serving, "/predict", PAYMENT | {"user_id": "untraced", "transaction_id": "u1"}, SAMPLED)
    serving.stop()
    assert carried(serving) == {"u1": None}
    assert "traceparent" not in serving.records()[0]


def test_a_sampled_request_has_spans_of_its_parts_below_the_callers_span(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str], collector: Collector
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry, SERVING_TRACES="1", SERVING_OTLP_ENDPOINT=collector.url)
    post(serving, "/predict", PAYMENT | {"user_id": "spans", "transaction_id": "s1"}, SAMPLED)
    post(serving, "/predict", PAYMENT | {"user_id": "spans", "transaction_id": "s2"}, NOT_SAMPLED)
    post(serving, "/predict", PAYMENT | {"user_id": "spans", "transaction_id": "s3"})
    refused = serving.client.post("/predict", json={"amount": -1}, headers={"traceparent": SAMPLED})
    assert refused.status_code == 422
    serving.stop()  # what is queued is sent before the process ends
    assert collector.services == {"fraud-serving"}
    answers = [span for span in collector.spans if span.name == "POST /predict"]
    assert {span.parent_span_id.hex() for span in answers} == {PARENT_ID}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE_ID}
    assert {span.kind for span in answers} == {Span.SPAN_KIND_SERVER}
    statuses = [{each.key: each.value.int_value for each in span.attributes} for span in answers]
    assert [found["http.response.status_code"] for found in statuses] == [200, 422]
    answer = answers[0]
    texts = {each.key: each.value.string_value for each in answer.attributes}
    assert texts["fraud.model_version"] == versions[0]
    assert texts["fraud.prediction_id"] == serving.records()[0]["prediction_id"]
    parts = [span for span in collector.spans if span.parent_span_id == answer.span_id]
    assert [span.name for span in parts] == ["parse", "store", "inference"]
    times = [moment for span in parts for moment in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert times == sorted(times)
    assert answer.start_time_unix_nano <= times[0]
    assert times[-1] <= answer.end_time_unix_nano
    assert [span.name for span in collector.spans if span.parent_span_id == answers[1].span_id] == []


def test_a_collector_that_does_not_answer_changes_no_answer_and_does_not_stop_the_end_of_the_process(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    closed = f"http://127.0.0.1:{free_port()}"
    serving = start(shared_store.url, registry, SERVING_TRACES="1", SERVING_OTLP_ENDPOINT=closed)
    for number in range(20):
        post(serving, "/predict", PAYMENT | {"user_id": "down", "transaction_id": f"d{number}"}, SAMPLED)
    until(lambda: serving.metric("serving_log_records_total") == 20, "the records are written")
    serving.stop()
    assert set(carried(serving).values()) == {SAMPLED}
