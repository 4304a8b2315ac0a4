"""Send transactions to a Kafka topic in an open loop with Poisson arrivals, and wait for their decisions.

Latency is measured from the arrival time, which is drawn before the first message is sent, to the receipt of the
decision, so a slow consumer does not reduce the load (coordinated omission).
"""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
from pydantic import Field

from fraud.job import Context, JobConfig, JobResult
from fraud.simulator.payments import payments
from fraud.streams import rejected_topic
from fraud.streams.rejected_topic import Sender
from fraud.streams.topic_reader import Record, follow

_POLL_S: Final = 0.005
_REPORT_S: Final = 5.0


class Config(JobConfig):
    """Source, topics and rate. The brokers are those of FRAUD_KAFKA_BROKERS."""

    source: Path = Field(description="a Parquet file of transactions, or a folder of them (its transactions/, if any)")
    topic: str = Field(default="transactions", description="topic of the transactions; the key is the user_id")
    decisions: str = Field(default="decisions", description="topic of the answers")
    rate: float = Field(default=200.0, ge=0, description="mean arrivals per second; 0: all at once")
    limit: int | None = Field(default=None, ge=1, description="maximum number of transactions")
    seed: int = Field(default=0, ge=0, description="seed of the arrival times")
    wait_seconds: float = Field(default=120.0, gt=0, description="stop when no decision arrived for this long")


class Result(JobResult):
    """sent = decided + rejected + undecided."""

    sent: int
    decided: int
    """Transactions with a decision."""
    repeated: int
    """Decisions of transactions that were decided before, or whose message was delivered again."""
    rejected: int
    undecided: int
    flagged_fraud: int
    degraded: int
    model_versions: dict[str, int]
    seconds: float
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float


class _Tally:
    def __init__(self, due: dict[str, float]) -> None:
        self._due = due
        self.versions: Counter[str] = Counter()
        self.latencies_s: dict[str, float] = {}
        self.rejected: set[rejected_topic.Place] = set()
        self.repeated = self.fraud = self.degraded = 0

    def decided(self, record: Record, now: float) -> None:
        """Count a decision. Decisions of other transactions are ignored, and those that come twice are repeated."""
        answer = json.loads(record.value or b"{}")
        transaction = answer.get("transaction_id")
        if transaction not in self._due:
            return
        self.repeated += answer["repeated"] or transaction in self.latencies_s
        if transaction not in self.latencies_s:
            self.latencies_s[transaction] = now - self._due[transaction]
            self.fraud += answer["is_fraud"]
            self.degraded += answer["degraded"]
            self.versions[answer["model_version"]] += 1

    def reject(self, record: Record, topic: str) -> None:
        message = rejected_topic.parse(record, topic)
        if message is not None and not message.replayed:
            self.rejected.add(message.place)


def run(config: Config, context: Context) -> Result:
    """Send all transactions, with all declared columns, and wait until each has a decision or is rejected.

    Raises BadInputError for an unusable source or a missing topic, UnavailableError when Kafka does not answer.
    """
    found = payments(config.source, context.declaration.columns, config.limit)
    rng = np.random.default_rng(config.seed)
    arrivals = np.cumsum(rng.exponential(1 / config.rate, len(found))) if config.rate else np.zeros(len(found))
    rejected = rejected_topic.name_of(config.topic)
    sender = Sender(context.settings)
    with follow(context.settings, (config.decisions, rejected)) as read:
        began = moved = reported = time.perf_counter()
        due = {payment.transaction_id: began + at for payment, at in zip(found, arrivals.tolist(), strict=True)}
        tally, sent = _Tally(due), 0
        while (done := len(tally.latencies_s) + len(tally.rejected)) < len(found):
            now = time.perf_counter()
            while sent < len(found) and began + arrivals[sent] <= now:
                payment = found[sent]
                sender.send(config.topic, payment.user_id.encode() or None, payment.body, ())
                sent, moved = sent + 1, now
            sender.poll()
            for topic, record in read(_POLL_S):
                moved = time.perf_counter()
                if topic == config.decisions:
                    tally.decided(record, moved)
                else:
                    tally.reject(record, config.topic)
            if now - reported > _REPORT_S:
                reported = now
                context.log.info("messages sent", sent=sent, of=len(found), done=done)
            if now - moved > config.wait_seconds:
                break
    sender.flush()
    seconds = time.perf_counter() - began
    p50, p99, worst = np.percentile(np.array([*tally.latencies_s.values()] or [0.0]), [50, 99, 100]) * 1e3
    decided = len(tally.latencies_s)
    return Result(
        sent=sent, decided=decided, repeated=tally.repeated, rejected=len(tally.rejected),
        undecided=sent - decided - len(tally.rejected), flagged_fraud=tally.fraud, degraded=tally.degraded,
        model_versions=dict(sorted(tally.versions.items())), seconds=round(seconds, 3),
        per_second=round(decided / seconds, 1), p50_ms=round(float(p50), 3), p99_ms=round(float(p99), 3),
        max_ms=round(float(worst), 3),
    )  # fmt: skip
