"""A simulated month through POST /predict and through the topic, and every answer of the one compared with the other.

    .venv/ml/bin/python tests/bench/stream_replay.py [--users 3600] [--days 31] [--rate 1500]

Two stores with the same daily snapshots, one model with the shipped declaration. Sixteen clients send the month to
POST /predict, each one the payments of its own users, in order of arrival; some arrive up to six days late, and a
twelfth is sent twice. The same messages in the same order are produced to the topic at `--rate` per second. One
consumer runs all the time; a second one joins, and leaves by SIGTERM or kill -9 in turn, so that partitions move and
messages are delivered again. A device is one of its user here: the order of events of an entity that several users
share is that of their arrival, which differs from run to run, over REST too.

Compared are the bytes of the answers (without prediction_id and `repeated`) and, in the records of the prediction
logs, columns, features, sequences, newest event times, snapshots and probability. Prints one line of JSON.
"""

import argparse
import json
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, redirect_stdout
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import redis
from rest_replay import log_of, post, requests_of
from rest_replay_world import FILES, FIRST_DAY, ROOT, model_of, resolved, simulated

from fraud import declaration_file
from fraud.core.daily import Snapshot
from fraud.core.plan import Plan
from fraud.embedded.servers import kafka as kafka_server
from fraud.embedded.servers import mlflow_server, valkey

sys.path.append(str(ROOT / "tests/serving"))

from kafka import TOPICS, Client, Stream, committed
from servers import Registry, Serving, until

CLIENTS: Final = 16
AWAY_S: Final = 4.0
TOGETHER_S: Final = 6.0
FALSIFIED: Final = 100
RECORDED: Final = (
    "user_id", "merchant_id", "amount", "event_us", "hour_of_day", "day_of_week", "history", "degraded",
    "fraud_probability", "is_fraud", "threshold", "model_version", "model_sha256", "feature_hash", "columns",
    "features", "sequences", "newest_us", "snapshots",
)  # fmt: skip
"""What a record has in common with the one of the same transaction in the other log."""
Pairs = list[tuple[str, bytes]]


def messages_of(rows: pa.Table, log: Sequence[int]) -> Pairs:
    """(user_id, body) in order of sending."""
    bodies = [request.partition(b"\r\n\r\n")[2] for request in requests_of(rows)]
    users = rows["user_id"].to_pylist()
    return [(users[row], bodies[row]) for row in log]


def own_devices(rows: pa.Table) -> pa.Table:
    """The rows with a device of its own for each user and device."""
    at = rows.column_names.index("device_id")
    own = pc.binary_join_element_wise(rows["user_id"], rows["device_id"], "-", null_handling="emit_null")
    return rows.set_column(at, "device_id", own)


def publish_daily(url: str, plan: Plan, merchants: Iterable[str], days: int) -> None:
    """The same random snapshots at every call, one per day."""
    rng = random.Random(5)  # noqa: S311 - of the bench
    with closing(redis.Redis.from_url(url)) as client:
        for table in plan.tables:
            for day in range(FIRST_DAY, FIRST_DAY + days):
                width = len(table.names)
                snapshot = Snapshot(day, f"bench-{day:012d}", [rng.random() for _ in range(width)])
                rows = {merchant: table.pack([rng.random() for _ in range(width)]) for merchant in merchants}
                client.mset({table.row_key(snapshot.id, merchant): row for merchant, row in rows.items()})
                client.hset(table.pointer_key, str(day), snapshot.to_json())


def over_rest(port: int, messages: Pairs) -> dict[str, list[dict[str, Any]]]:
    """transaction_id -> answers, in order."""
    of_client: list[list[bytes]] = [[] for _ in range(CLIENTS)]
    for user, body in messages:
        of_client[hash(user) % CLIENTS].append(body)
    answers: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def run(bodies: list[bytes]) -> list[dict[str, Any]]:
        found = []
        with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for body in bodies:
                request = b"POST /predict HTTP/1.1\r\nHost: replay\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                status, answer = post(line, request)
                assert status == 200, answer
                found.append(json.loads(answer))
        return found

    with ThreadPoolExecutor(CLIENTS) as pool:
        for found in pool.map(run, of_client):
            for answer in found:
                answers[answer["transaction_id"]].append(answer)
    return answers


class Consumers:
    """One consumer all the time, and a second one that comes and goes."""

    def __init__(self, home: Path, make: Any) -> None:  # noqa: ANN401 - a function of the bench
        self._make, self._stopped = make, threading.Event()
        self.all: list[Stream] = [make(home / "first").start()]
        self.counts: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._run, args=(home,))

    def __enter__(self) -> "Consumers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self, home: Path) -> None:
        while not self._stopped.is_set():
            number = len(self.all)
            second = self._make(home / f"second{number}").start()
            self.all.append(second)
            second.until_assigned(2)
            self._stopped.wait(TOGETHER_S)
            how = signal.SIGKILL if number % 2 else signal.SIGTERM
            second.stop(how)
            self.counts["killed" if how == signal.SIGKILL else "terminated"] += 1
            self._stopped.wait(AWAY_S)


def through_topic(client: Client, messages: Pairs, rate: float, expected: set[str]) -> dict[str, list[dict[str, Any]]]:
    """transaction_id -> decisions, in order of the topic."""
    began_s = time.monotonic()
    for n, (user, body) in enumerate(messages):
        client.send(user, body)
        if n % 100 == 0:
            client.read_once()
            time.sleep(max(0.0, began_s + n / rate - time.monotonic()))
    client.flush()
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    done = 0

    def complete() -> bool:
        nonlocal done
        client.read()
        decisions = client.of("decisions")
        for decision in decisions[done:]:
            answer = decision.json
            found[answer["transaction_id"]].append(answer)
        done = len(decisions)
        return expected <= found.keys()

    until(complete, "a decision for every transaction", 300)
    return found


def plain(answer: dict[str, Any]) -> str:
    """The answer without what differs between two attempts; equal texts mean equal bits of every number."""
    return json.dumps({name: value for name, value in answer.items() if name not in ("prediction_id", "repeated")})


def records_of(folders: Iterable[Path]) -> dict[str, set[str]]:
    """transaction_id -> what its records contain, one text per different record."""
    found: dict[str, set[str]] = defaultdict(set)
    for folder in folders:
        for segment in folder.glob("*.jsonl"):
            for line in segment.open():
                if line.endswith("\n"):  # the last one of a killed process may be incomplete
                    record = json.loads(line)
                    found[record["transaction_id"]].add(json.dumps([record[name] for name in RECORDED]))
    return found


def compare(
    rest: dict[str, list[dict[str, Any]]], topic: dict[str, list[dict[str, Any]]], of_rest: dict[str, set[str]],
    of_topic: dict[str, set[str]],
) -> Counter[str]:  # fmt: skip
    counts: Counter[str] = Counter(
        different_answers=0, different_records=0, lost=0, ids_differ=0, unmarked=0, degraded=0, without_record=0
    )
    for id_, answers in rest.items():
        decisions = topic.get(id_, [])
        texts = {plain(answer) for answer in (*answers, *decisions)}
        counts["lost"] += not decisions
        counts["answers_compared"] += len(decisions)
        counts["different_answers"] += len(texts) != 1
        counts["repeated"] += sum(answer["repeated"] for answer in decisions)
        counts["unmarked"] += sum(not answer["repeated"] for answer in decisions) > 1
        counts["ids_differ"] += len({answer["prediction_id"] for answer in decisions}) > 1
        counts["degraded"] += any(answer["degraded"] for answer in (*answers, *decisions))
        counts["records_compared"] += 1
        counts["different_records"] += len(of_rest[id_] | of_topic[id_]) != 1
        counts["without_record"] += not of_topic[id_] or not of_rest[id_]
    return counts


def falsified(topic: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The decisions with the last digit of some probabilities changed."""
    changed = {id_: [dict(answer) for answer in answers] for id_, answers in topic.items()}
    for id_ in list(changed)[:FALSIFIED]:
        changed[id_][0]["fraud_probability"] *= 1 + 2**-52
    return changed


def replay(home: Path, given: argparse.Namespace, running: ExitStack) -> dict[str, Any]:
    declaration = declaration_file.load(FILES[0])
    month = simulated(declaration, given.users, given.days)
    rows = own_devices(month.rows)
    plan = Plan(resolved(declaration, rows))
    stores = [running.enter_context(valkey.running(home / f"valkey{n}")).url for n in range(2)]
    merchants = sorted(set(rows["merchant_id"].to_pylist()))
    for url in stores:
        publish_daily(url, plan, merchants, given.days)
    server = running.enter_context(mlflow_server.running(home / "mlflow"))
    registry = Registry(server.url, server.password, home / "models")
    running.callback(registry.close)
    registry.promote(registry.register(*model_of(plan, rows, 0), git_commit="c0ffee"))
    sources = f"{ROOT / 'src'}:{ROOT / 'services/serving/src'}"
    python = str(ROOT / ".venv/serving/bin/python")
    messages = messages_of(rows, log_of(month))
    print(f"{len(messages)} messages", file=sys.stderr)

    serving = Serving(home / "rest", stores[0], registry, SERVING_STORE_DEADLINE_MS="1000",
                      SERVING_LOG_QUEUE_RECORDS="1000000", PYTHONPATH=sources)  # fmt: skip
    serving.python = python
    running.callback(serving.close)
    serving.start()
    began_s = time.monotonic()
    rest = over_rest(serving.port, messages)
    serving.stop()
    print(f"sent to POST /predict in {time.monotonic() - began_s:.0f} s", file=sys.stderr)

    broker = running.enter_context(kafka_server.running(home / "kafka", TOPICS))
    client = Client(broker.bootstrap)
    running.callback(client.close)

    def make(folder: Path) -> Stream:
        stream = Stream(folder, broker.bootstrap, stores[1], registry, PYTHONPATH=sources)
        stream.python = python
        running.callback(stream.close)
        return stream

    began_s = time.monotonic()
    consumers = Consumers(home, make)
    with consumers:
        topic = through_topic(client, messages, given.rate, set(rest))
    seconds = time.monotonic() - began_s
    print(f"through the topic in {seconds:.0f} s, {dict(consumers.counts)}", file=sys.stderr)
    first = consumers.all[0]
    kinds = ("assigned", "revoked", "lost")
    rebalances = {kind: first.metric(f'stream_rebalances_total{{kind="{kind}"}}') for kind in kinds}
    first.until_assigned(4)
    code = first.stop()
    of_rest, of_topic = records_of([serving.log_folder]), records_of(stream.log_folder for stream in consumers.all)
    counts = compare(rest, topic, of_rest, of_topic)
    control = compare(rest, falsified(topic), of_rest, of_topic)
    return {
        "transactions": rows.num_rows, "messages": len(messages), **counts,
        "found_of_falsified": control["different_answers"], "falsified": FALSIFIED,
        "second_consumers": dict(consumers.counts), "rebalances_of_the_first": rebalances,
        "committed": sum(committed(broker.bootstrap)), "exit_code": code, "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=3_600)
    parser.add_argument("--days", type=int, default=31)
    parser.add_argument("--rate", type=float, default=1_500, help="messages per second")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr), ExitStack() as running:
        result = replay(Path(folder), given, running)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
