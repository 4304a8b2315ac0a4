"""Run in the serving environment: the metrics of serving and of the stream, with answers counted, on the port given."""

import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from fraud_serving.metrics import Metrics
from fraud_serving.stream.metrics import StreamMetrics

METRICS = Metrics()
METRICS.model_info = {"version": "1", "sha256": "0" * 64, "level": "boosting"}
METRICS.store_up = 1
METRICS.count_daily_tables(["merchant"])
METRICS.daily_ages = lambda: {"merchant": 3600.0}
STREAM = StreamMetrics()
STREAM.lag, STREAM.assigned, STREAM.broker_up = {0: 3}, 1, 1
METRICS.add(STREAM)


class Handler(BaseHTTPRequestHandler):
    """Ten more answers at every scrape, one of them fraud."""

    def do_GET(self) -> None:
        METRICS.registry_seen_s = 4e9  # the registry answered in the year 2096: never too long ago
        for number in range(10):
            METRICS.observe(20.0 + number, 0.9 if number == 0 else 0.01, 0.5, 0.002)
            METRICS.requests["/predict", 200] += 1
            METRICS.history["store"] += 1
            METRICS.daily["merchant", "current"] += 1
            METRICS.log_written += 1
            STREAM.decided += 1
            STREAM.batch.observe(1.0)
            STREAM.decision.observe(0.01)
        body = METRICS.render()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
