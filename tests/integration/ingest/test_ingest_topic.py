"""A Kafka topic into the landing zone and the lake: each message once, whatever happens between."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as pq
import pytest
from tests import s3
from tests.integration.broker import ROOT, context, send, transaction

from fraud.embedded.servers import child, kafka
from fraud.embedded.sockets import free_port
from fraud.errors import BadConfigError, BadInputError, UnavailableError
from fraud.ingest import ingest_labels, ingest_topic, ingest_transactions
from fraud.ingest.ingest_topic import Config, Result
from fraud.lake import catalog
from fraud.streams import rejected
from fraud.streams.topic_reader import reading


def land(home: Path, bootstrap: str, topic: str, **more: object) -> Result:
    return ingest_topic.run(Config.model_validate({"topic": topic, **more}), context(home, bootstrap))


def rejections(home: Path, bootstrap: str, topic: str) -> rejected.Listing:
    listed = rejected.run(rejected.Config(list=rejected.List(topic=topic), replay=None), context(home, bootstrap))
    assert isinstance(listed, rejected.Listing)
    return listed


def landed(home: Path) -> list[str]:
    """Partition and range of the files, without the leading zeros."""
    found = []
    for path in sorted((home / "landing").rglob("*.parquet")):
        first, last = (int(number) for number in path.stem.split("-"))
        found.append(f"{path.parent.name.removeprefix('partition=')}:{first}-{last}")
    return found


def ingest(home: Path) -> ingest_transactions.Result:
    return ingest_transactions.run(ingest_transactions.Config(), context(home, ""))


def in_lake(home: Path) -> list[dict[str, Any]]:
    table = catalog.TRANSACTIONS.at(f"file://{home}/lake").read_range("2000", "3000")
    return [] if table is None else table.to_pylist()


def test_new_messages_land_once_and_reach_the_lake(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    send(kafka_broker, topic, [transaction(n) for n in range(5)])
    send(kafka_broker, topic, [transaction(n) for n in range(5, 8)], partition=1)

    first = land(tmp_path, kafka_broker, topic, messages_per_file=2)
    assert (first.partitions, first.messages, first.files, first.unreadable, first.lost) == (2, 8, 5, 0, 0)
    assert landed(tmp_path) == ["0:0-1", "0:2-3", "0:4-4", "1:0-1", "1:2-2"]
    assert land(tmp_path, kafka_broker, topic).messages == 0

    send(kafka_broker, topic, [transaction(8)], partition=1)
    assert land(tmp_path, kafka_broker, topic).messages == 1
    assert landed(tmp_path)[-1] == "1:3-3"

    result = ingest(tmp_path)
    assert (result.rows_in, result.accepted, result.quarantined, result.duplicates) == (9, 9, 0, 0)
    rows = {row["transaction_id"]: row for row in in_lake(tmp_path)}
    assert set(rows) == {f"t{n}" for n in range(9)}
    one = rows["t3"]
    assert (one["user_id"], one["amount"], one["merchant_category"]) == ("u3", 4.5, "grocery")
    assert one["event_timestamp"] == datetime(2026, 1, 1, 0, 3, tzinfo=UTC)


def test_the_ingestion_time_is_the_timestamp_of_the_message(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    send(kafka_broker, topic, [transaction(1)], timestamp=1_767_230_000_123)
    land(tmp_path, kafka_broker, topic)
    ingest(tmp_path)
    assert in_lake(tmp_path)[0]["created_timestamp"] == datetime.fromtimestamp(1_767_230_000.123, UTC)


def test_an_empty_topic_lands_nothing(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    assert land(tmp_path, kafka_broker, topic) == Result(
        topic=topic, partitions=2, messages=0, unreadable=0, rejected=0, lost=0, gone_at_first=0, unknown_fields={},
        files=0,
    )  # fmt: skip
    assert landed(tmp_path) == []


UNREADABLE: Final[list[tuple[bytes | dict[str, Any] | None, str]]] = [
    (None, "message: expected a JSON object, got a message without a value"),
    (b"\xff{", "message: expected a JSON object, got b'\\xff{'"),
    (b"[1]", "message: expected a JSON object, got b'[1]'"),
    (b'{"amount": NaN}', "NaN is not JSON"),
    (b"[" * 100_000, "message: expected a JSON object"),
    (transaction(20, amount="12"), "amount: expected a number, got '12'"),
    (transaction(21, amount=True), "amount: expected a number, got True"),
    (transaction(22, amount=10**400), "amount: int too large"),
    (transaction(23, user_id=7), "user_id: expected a text, got 7"),
    (transaction(24, user_id="\ud800"), "user_id: expected a text in Unicode"),
    (transaction(25, event_timestamp="2026-01-01T00:00:00"), "event_timestamp: expected a time like"),
    (transaction(26, event_timestamp="2026-02-30T00:00:00Z"), "event_timestamp: day is out of range"),
    (transaction(28, card_present="yes"), "card_present: expected true or false, got 'yes'"),
]


def test_what_cannot_be_read_is_quarantined_with_its_reason(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    send(kafka_broker, topic, [transaction(1), *(value for value, _ in UNREADABLE), transaction(2)])
    result = land(tmp_path, kafka_broker, topic)
    assert (result.messages, result.unreadable, result.rejected) == (len(UNREADABLE) + 2, len(UNREADABLE), 0)

    rows = pq.read_table(next((tmp_path / "landing").rglob("*.parquet")))["parse_error"].to_pylist()
    assert [rows[0], rows[-1]] == [None, None]
    for error, (_, expected) in zip(rows[1:-1], UNREADABLE, strict=True):
        assert expected in error

    taken = ingest(tmp_path)
    assert (taken.accepted, taken.quarantined) == (2, len(UNREADABLE))


def test_a_message_of_10_mb_lands(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    send(kafka_broker, topic, [transaction(1, note="x" * 10_000_000), transaction(2)])
    result = land(tmp_path, kafka_broker, topic)
    assert (result.messages, result.unreadable, result.unknown_fields) == (2, 0, {"note": 1})


def test_fields_of_a_request_that_a_transaction_does_not_have_are_ignored(
    tmp_path: Path, kafka_broker: str, topic: str
) -> None:
    own = {"hour_of_day": 0, "day_of_week": 3, "transaction_velocity": 2.0, "distance_from_home": 1.0}
    more = {"created_timestamp": "2030-01-01T00:00:00Z", "parse_error": "x", "loyalty": 1}
    send(kafka_broker, topic, [transaction(1, **own, **more)])
    result = land(tmp_path, kafka_broker, topic)
    assert result.unknown_fields == {"created_timestamp": 1, "loyalty": 1, "parse_error": 1}
    ingest(tmp_path)
    assert in_lake(tmp_path)[0]["created_timestamp"] < datetime(2030, 1, 1, tzinfo=UTC)


def test_labels_land_and_unreadable_ones_are_rejected(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    good = {"transaction_id": "t1", "is_fraud": True, "label_timestamp": "2026-01-03T00:00:00Z"}
    others = [{"transaction_id": "t2", "is_fraud": False}, {"transaction_id": "t3", "is_fraud": 1}]
    send(kafka_broker, topic, [good, *others], timestamp=1_767_500_000_000, key=b"t")
    result = land(tmp_path, kafka_broker, topic, feed="labels")
    assert (result.messages, result.unreadable, result.rejected) == (3, 1, 1)

    ingest_labels.run(ingest_labels.Config(), context(tmp_path, ""))
    table = catalog.LABELS.at(f"file://{tmp_path}/lake").read_range("2000", "3000")
    assert table is not None
    assert table.to_pylist() == [
        {"transaction_id": "t1", "is_fraud": True, "label_timestamp": datetime(2026, 1, 3, tzinfo=UTC)},
        {"transaction_id": "t2", "is_fraud": False, "label_timestamp": datetime.fromtimestamp(1_767_500_000, UTC)},
    ]
    listed = rejected.run(
        rejected.Config(list=rejected.List(topic=topic), replay=None), context(tmp_path, kafka_broker)
    )
    assert isinstance(listed, rejected.Listing)
    assert [(r.where, r.reason, r.field, r.key) for r in listed.rows] == [("0@2", "invalid", "is_fraud", "t")]


def test_progress_is_what_landed_not_what_was_committed(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    """A file that somebody removed before it was ingested lands again; one that was ingested does not."""
    send(kafka_broker, topic, [transaction(n) for n in range(6)])
    land(tmp_path, kafka_broker, topic, messages_per_file=2)
    paths = sorted((tmp_path / "landing").rglob("*.parquet"))
    removed = paths[1].read_bytes()
    paths[1].unlink()
    send(kafka_broker, topic, [transaction(6)])

    assert land(tmp_path, kafka_broker, topic).messages == 3
    assert landed(tmp_path) == ["0:0-1", "0:2-3", "0:4-5", "0:6-6"]
    assert paths[1].read_bytes() == removed

    assert ingest(tmp_path).accepted == 7
    for path in (tmp_path / "landing").rglob("*.parquet"):
        path.unlink()  # as apply-retention does
    assert land(tmp_path, kafka_broker, topic).messages == 0


def test_a_topic_that_was_created_again_is_read_from_its_first_message(
    tmp_path: Path, kafka_broker: str, topic: str
) -> None:
    send(kafka_broker, topic, [transaction(n) for n in range(3)])
    land(tmp_path, kafka_broker, topic)
    admin = kafka.admin(kafka_broker)
    admin.delete_topics([topic])[topic].result()
    kafka.create_topics(kafka_broker, {topic: 1})
    send(kafka_broker, topic, [transaction(n) for n in range(3, 5)])

    assert land(tmp_path, kafka_broker, topic).messages == 2
    assert landed(tmp_path) == ["0:0-2", "0:0-1"]
    assert ingest(tmp_path).accepted == 5


def test_a_missing_topic_and_a_missing_broker_are_errors(tmp_path: Path, kafka_broker: str) -> None:
    with pytest.raises(BadInputError, match="no Kafka topic nowhere"):
        land(tmp_path, kafka_broker, "nowhere")
    with pytest.raises(BadConfigError, match="FRAUD_KAFKA_BROKERS"):
        land(tmp_path, "", "transactions")


def test_brokers_that_do_not_answer_are_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraud.streams.kafka.REQUEST_SECONDS", 0.5)
    with pytest.raises(UnavailableError, match="Kafka does not answer"):
        land(tmp_path, kafka.address(free_port()), "transactions")


def test_messages_that_retention_removed_are_an_error_and_counted_when_accepted(tmp_path: Path) -> None:
    """The broker has no retention: the first batches are removed from its storage."""
    with s3.running(tmp_path / "s3") as objects:
        storage = kafka.Storage.s3(s3.BUCKET, objects.environment)
        server = kafka.start(tmp_path / "broker", {"transactions": 1}, storage=storage)
        try:
            send(server.bootstrap, "transactions", [transaction(n) for n in range(3)])
            land(tmp_path, server.bootstrap, "transactions")
            for n in range(3, 8):
                send(server.bootstrap, "transactions", [transaction(n)])  # each a batch of its own
        finally:
            child.stop(server.pid)
        files = objects.file_system()
        for path in files.find(s3.BUCKET):
            if path.endswith(".batch") and int(Path(path).stem) < 5:
                files.rm_file(path)
        server = kafka.start(tmp_path / "broker", port=server.port, storage=storage)
        try:
            with pytest.raises(BadInputError, match="offsets 3 to 4 of partition 0") as raised:
                land(tmp_path, server.bootstrap, "transactions")
            assert "--accept-loss" in raised.value.hint
            assert landed(tmp_path) == ["0:0-2"]

            result = land(tmp_path, server.bootstrap, "transactions", accept_loss=True)
            assert (result.messages, result.lost, result.gone_at_first) == (3, 2, 0)
            assert landed(tmp_path) == ["0:0-2", "0:3-4", "0:5-7"]
            again = land(tmp_path, server.bootstrap, "transactions")
            assert (again.messages, again.lost) == (0, 0)
            assert ingest(tmp_path).accepted == 6

            late = land(tmp_path / "late", server.bootstrap, "transactions")
            assert (late.messages, late.lost, late.gone_at_first) == (3, 0, 5)
        finally:
            child.stop(server.pid)


KILLED = """
import json, os, signal, sys
from pathlib import Path
from tests.integration.broker import context
from fraud.ingest import ingest_topic, topic_files
from fraud.ingest.ingest_topic import Config
from fraud.streams.rejected_topic import Sender

bootstrap, topic, runs = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def run(home, fatal):
    steps = 0

    def step():
        nonlocal steps
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1

    def dying(function):
        def stepped(*arguments, **named):
            step()
            found = function(*arguments, **named)
            step()
            return found
        return stepped

    Path.replace, Sender.flush = dying(Path.replace), dying(Sender.flush)
    topic_files.put_atomically = dying(topic_files.put_atomically)
    ingest_topic.run(Config(topic=topic, messages_per_file=2, reject=True), context(home, bootstrap))
    (home / "steps").write_text(str(steps))


for home, fatal in runs:
    child = os.fork()
    if not child:
        run(Path(home), fatal)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("exit", os.waitstatus_to_exitcode(status), flush=True)
"""


def run_killed(bootstrap: str, topic: str, runs: list[tuple[Path, int]]) -> list[int]:
    """Run the job once for each (home, step before which it is killed), and return the exit codes."""
    arguments = [bootstrap, topic, json.dumps([(str(home), fatal) for home, fatal in runs])]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("exit ")]


def test_kill_9_at_each_step_lands_each_message_once(tmp_path: Path, kafka_broker: str, topic: str) -> None:
    send(kafka_broker, topic, [transaction(1), b"not JSON", transaction(2)])
    send(kafka_broker, topic, [transaction(3)], partition=1)
    clean = tmp_path / "clean"
    assert run_killed(kafka_broker, topic, [(clean, -1)]) == [0]
    steps = int((clean / "steps").read_text())
    assert steps == 3 * (2 + 2 + 2)  # three files; before and after the flush, the write and its rename

    homes = [tmp_path / f"killed-{step}" for step in range(steps)]
    assert run_killed(kafka_broker, topic, list(zip(homes, range(steps), strict=True))) == [-9] * steps
    assert run_killed(kafka_broker, topic, [(home, -1) for home in homes]) == [0] * steps

    ingest(clean)
    expected = in_lake(clean)
    assert [row["transaction_id"] for row in expected] == ["t1", "t2", "t3"]
    for home in homes:
        assert landed(home) == landed(clean) == ["0:0-1", "0:2-2", "1:0-0"]
        result = ingest(home)
        assert (result.rows_in, result.accepted, result.quarantined, result.duplicates) == (4, 3, 1, 0)
        assert in_lake(home) == expected
    # Sent to the rejected topic by every run that reached it, and listed once.
    listed = rejections(clean, kafka_broker, topic)
    assert (listed.messages, [row.where for row in listed.rows]) == (1, ["0@1"])


def test_messages_that_retention_removes_while_they_are_read_are_an_error(tmp_path: Path, mock_broker: str) -> None:
    """librdkafka's own broker removes the oldest messages of a partition beyond 5 MiB."""
    for _ in range(8):
        send(mock_broker, "transactions", [b"x" * 900_000])

    settings = context(tmp_path, mock_broker).settings
    with reading(settings, "transactions") as reader:
        oldest = reader.oldest(0)
        assert oldest > 0
        with pytest.raises(UnavailableError, match="retention removed messages"):
            list(reader.chunks(0, 0, None, 10))
        (chunk,) = reader.chunks(0, oldest, None, 10)
    assert (chunk.first, chunk.end, len(chunk.records)) == (oldest, 8, 8 - oldest)
