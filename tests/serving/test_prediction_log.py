"""The prediction log: complete after SIGTERM, at most the last line incomplete after SIGKILL; requests do not wait."""

import json
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from expected import probability
from servers import Registry, Serving, Valkey, until

from fraud_serving.log.prediction_log import Entry, PredictionLog
from fraud_serving.log.prediction_record import Lines, PredictionRecord
from fraud_serving.metrics import Metrics
from fraud_serving.scoring.challenger import Challenger

PAYMENT = {
    "amount": 100.0,
    "merchant_category": "travel",
    "hour_of_day": 3,
    "day_of_week": 2,
    "distance_from_home": 3.0,
}
FIRST = datetime(2026, 3, 4, 3, 0, tzinfo=UTC)


@pytest.fixture
def serving(start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]) -> Serving:
    registry.promote(versions[0])
    return start(shared_store.url, registry)


def test_a_record_holds_what_the_answer_was_made_from(
    serving: Serving, versions: list[str], registry: Registry
) -> None:
    given = {
        "transaction_id": "t1", "user_id": "log-user", "merchant_id": "m", "amount": 100.00004,
        "merchant_category": "zeppelin", "event_timestamp": FIRST.isoformat(),
    }  # fmt: skip
    serving.predict(**given)
    later = (FIRST + timedelta(minutes=30)).isoformat()
    answer = serving.predict(**(given | {"transaction_id": "t2", "event_timestamp": later}))
    serving.stop()
    record = serving.records()[1]
    facts = json.loads(registry.files(0)[1])
    expected = {
        "prediction_id": answer["prediction_id"], "transaction_id": "t2", "user_id": "log-user", "merchant_id": "m",
        "amount": 100.0, "event_us": 1_772_593_200_000_000 + 1_800_000_000, "hour_of_day": 3, "day_of_week": 2,
        "columns": {"merchant_category": "other", "distance_from_home": None},
        "sequences": {"user": 1}, "newest_us": {"user": 1_772_593_200_000_000}, "snapshots": {},
        "history": "store", "degraded": False,
        "features": {"transaction_velocity_1h": 1.0, "avg_amount_7d": 100.0, "unique_merchants_30d": 1.0},
        "fraud_probability": answer["fraud_probability"], "is_fraud": answer["is_fraud"], "threshold": 0.5,
        "model_version": versions[0], "model_sha256": facts["model_sha256"], "feature_hash": facts["feature_hash"],
    }  # fmt: skip
    assert {name: record[name] for name in expected} == expected
    by_hand = probability(0, 100.0, velocity=1, average=100.0, merchants=1, other=True)
    assert record["fraud_probability"] == pytest.approx(by_hand, abs=1e-6)
    assert set(record) - set(expected) == {"served_us", "latency_us"}


def test_sigterm_loses_no_record(serving: Serving) -> None:
    answered = {serving.predict(**PAYMENT)["prediction_id"] for _ in range(300)}
    rows = serving.client.post("/predict/batch", json={"transactions": [PAYMENT] * 3_000}).json()["predictions"]
    serving.stop(signal.SIGTERM)
    assert {record["prediction_id"] for record in serving.records()} == answered | {a["prediction_id"] for a in rows}


def test_kill_9_loses_at_most_what_was_answered_within_the_last_flush(serving: Serving) -> None:
    early = {serving.predict(**PAYMENT)["prediction_id"] for _ in range(50)}
    until(lambda: serving.metric("serving_log_records_total") == 50, "the flush")
    serving.predict(**PAYMENT)
    serving.stop(signal.SIGKILL)
    whole = b"".join(p.read_bytes() for p in serving.log_folder.glob("*.jsonl")).split(b"\n")[:-1]
    assert early <= {json.loads(line)["prediction_id"] for line in whole}


def test_a_full_disk_is_counted_and_serving_goes_on_and_nothing_is_torn_or_lost(serving: Serving) -> None:
    assert serving.process is not None
    pid = serving.process.pid
    no_limit = resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (2_000, no_limit))  # a few records, then writes fail
    answered = {serving.predict(**PAYMENT)["prediction_id"] for _ in range(100)}
    until(lambda: serving.metric("serving_log_errors_total") > 0, "a failed write")
    answered |= {serving.predict(**PAYMENT)["prediction_id"] for _ in range(10)}
    for record in serving.records():
        assert record["prediction_id"] in answered  # whole lines only
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (no_limit, no_limit))
    until(lambda: serving.metric("serving_log_records_total") == 110, "catching up")
    assert {record["prediction_id"] for record in serving.records()} == answered
    assert serving.metric("serving_log_dropped_total") == 0


def test_beyond_the_queues_bound_records_are_dropped_and_counted(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry, SERVING_LOG_QUEUE_RECORDS="1000")
    assert serving.process is not None
    resource.prlimit(serving.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    answer = serving.client.post("/predict/batch", json={"transactions": [PAYMENT] * 1_500})
    assert answer.status_code == 200
    assert serving.metric("serving_log_dropped_total") == 500
    resource.prlimit(serving.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    until(lambda: serving.metric("serving_log_records_total") == 1_000, "catching up")


def test_segments_are_closed_at_their_size(
    start: Callable[..., Serving], shared_store: Valkey, registry: Registry, versions: list[str]
) -> None:
    registry.promote(versions[0])
    serving = start(shared_store.url, registry, SERVING_LOG_SEGMENT_BYTES="1000000")
    serving.client.post("/predict/batch", json={"transactions": [PAYMENT] * 5_000})
    serving.stop()
    sizes = [path.stat().st_size for path in Path(serving.log_folder).glob("segment-*.jsonl")]
    assert len(sizes) > 2
    assert max(sizes) <= 1_000_000
    assert len(serving.records()) == 5_000


def record(number: int) -> PredictionRecord:
    fields = [name for name in PredictionRecord.__struct_fields__ if not name.startswith("challenger")]
    return PredictionRecord(**(dict.fromkeys(fields, "") | {"prediction_id": str(number)}))


def numbers_in(folder: Path) -> list[int]:
    lines = [line for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]
    return [int(json.loads(line)["prediction_id"]) for line in lines]


class GrowsWhenIterated(deque[Entry]):
    """Simulates an append by the event loop between the creation of an iterator and its first read."""

    def __iter__(self) -> Iterator[Entry]:
        iterator = super().__iter__()
        self.append(self[0])
        return iterator


def test_rows_that_come_while_a_batch_is_taken_do_not_end_the_log(tmp_path: Path) -> None:
    metrics = Metrics()
    log = PredictionLog(tmp_path, 1_000, 1 << 20, metrics, Challenger(metrics).score)
    log._queue = GrowsWhenIterated()
    for number in range(700):
        log.append(record(number))
    log.start()
    log.close()
    assert numbers_in(tmp_path) == list(range(700))


def test_encoded_lines_are_written_in_order_with_records_up_to_the_bound(tmp_path: Path) -> None:
    metrics = Metrics()
    log = PredictionLog(tmp_path, 1_000, 1 << 20, metrics, Challenger(metrics).score)

    def append_lines(first: int, until: int) -> None:
        lines = [msgspec.json.encode(record(number)) + b"\n" for number in range(first, until)]
        log.append_lines(b"".join(lines), len(lines))

    log.append(record(0))
    append_lines(1, 600)
    log.append(record(600))
    append_lines(601, 610)
    append_lines(610, 1_010)
    append_lines(1_010, 1_020)
    log.append(record(1_020))
    assert (log.queued, metrics.log_dropped) == (1_000, 21)
    log.start()
    log.close()
    assert (log.queued, log.written) == (0, 1_000)
    assert numbers_in(tmp_path) == list(range(1_000))


def test_the_lines_of_a_batch_are_its_records_with_ids_and_times() -> None:
    def records(*ids: str, served_us: int = 0, latency_us: int = 0) -> list[PredictionRecord]:
        times = {"served_us": served_us, "latency_us": latency_us}
        texts = ('"served_us":0,', '{"prediction_id":"', "t2\n")
        return [
            msgspec.structs.replace(record(0), prediction_id=id_, transaction_id=text, **times)
            for id_, text in zip(ids, texts, strict=True)
        ]

    lines = Lines.of(records("", "", ""))
    expected = msgspec.json.Encoder().encode_lines(records(*lines.ids, served_us=1_772_593_200_000_000, latency_us=7))
    assert lines.served(range(3), 1_772_593_200_000_000, 7) == expected
    assert lines.served([2], 1_772_593_200_000_000, 7) == expected.splitlines(keepends=True)[2]
    assert len(set(lines.ids)) == 3
    assert all(len(id_) == 32 for id_ in lines.ids)
    assert Lines.of(records("", "", "")[:1]).ids == lines.ids[:1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what the test is about
def test_a_thread_that_fails_ends_the_process_which_writes_what_was_left(tmp_path: Path) -> None:
    failures = [RuntimeError("unexpected")]

    def fail_once(_entries: Sequence[Entry]) -> None:
        if failures:
            raise failures.pop()

    ended = threading.Event()
    log = PredictionLog(tmp_path, 1_000, 1 << 20, Metrics(), fail_once)
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        log.start()
        for number in range(700):
            log.append(record(number))
        assert ended.wait(60)
        log.close()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert numbers_in(tmp_path) == list(range(700))
