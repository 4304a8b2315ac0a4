"""kill -9 of the consumer at every step, of the broker and of the store, while payments flow; prints the table.

    .venv/ml/bin/python tests/bench/stream_kills.py [--kills 3]

2,000 payments of 40 users per row. The consumer kills itself at the step, `--kills` times at different batches, and is
started again. The broker is librdkafka's mock cluster: it goes down for a second (every connection is closed, new ones
are refused) and comes back with its log, `--kills` times, as a broker with a disk that is killed and started again. The
broker of the wheel cannot stand in for that: killed over an S3 server while it received records, it gave offsets twice.
The store has an append-only file; it is killed `--kills` times and started again.
Every decision is read from the topic. Columns: payments without decision (lost), payments with two decisions that
differ in more than `repeated` (different) or with more than one that is not marked (unmarked), decisions in all,
repeated ones, degraded ones. Writes build/bench/stream_kills.json.
"""

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

sys.path.append(str(Path(__file__).parents[1] / "serving"))

import serving_model
from kafka import Client, MockBroker, Stream
from servers import Valkey
from stream_checks import all_decided, tally, transactions

from fraud.embedded.servers import valkey

ROOT: Final = Path(__file__).parents[2]
STEPS: Final = ("polled", "appended", "kept", "produced", "acknowledged", "committed")
SERVING: Final = str(ROOT / ".venv/serving/bin/python")
PAUSE_S: Final = 1.0


class World:
    """The servers of one row."""

    def __init__(self, folder: Path, cache: Path, stack: ExitStack) -> None:
        self.folder, self._cache = folder, cache
        folder.mkdir()
        self._broker = MockBroker()
        stack.callback(self._broker.stop)
        self.store = Valkey(str(valkey.binary()), folder / "valkey", durable=True)
        self.store.start()
        stack.callback(self.store.stop)
        self.client = Client(self._broker.bootstrap)
        stack.callback(self.client.close)
        self._stack, self.streams = stack, 0

    def stream(self, **settings: str) -> Stream:
        self.streams += 1
        folder = self.folder / f"stream{self.streams}"
        made = Stream(
            folder, self._broker.bootstrap, self.store.url, None, PYTHONPATH=serving_model.sources(ROOT),
            SERVING_MODEL_CACHE=str(self._cache), SERVING_POLL_SECONDS="3600", STREAM_BATCH_MESSAGES="50", **settings,
        )  # fmt: skip
        made.python = SERVING
        self._stack.callback(made.close)
        return made

    def kill_broker(self) -> None:
        self._broker.down()
        threading.Event().wait(PAUSE_S)
        self._broker.up()

    def kill_store(self) -> None:
        self.store.stop()
        self.store.start()


Payments = Sequence[dict[str, Any]]


def send(client: Client, part: Payments) -> None:
    for transaction in part:
        client.transaction(transaction)
    client.flush()


def consumer_killed(world: World, step: str, kills: int, sent: Payments) -> None:
    """Send a part, start a consumer that kills itself, and so on; the last one is not killed."""
    size = len(sent) // (kills + 1)
    for kill in range(kills):
        send(world.client, sent[kill * size : (kill + 1) * size])
        # One commit covers many batches, so its first one is the one at which to die.
        at = 1 if step == "committed" else 1 + 2 * kill
        stream = world.stream(KILL_STEP=step, KILL_AT=str(at))
        stream.program = (str(ROOT / "tests/serving/killed_stream.py"),)
        stream.start(wait_for="")
        assert stream.process is not None
        assert stream.process.wait(120) == -signal.SIGKILL, stream.output
        stream.process = None
    send(world.client, sent[kills * size :])
    world.stream().start(wait_for="")


def supervised(world: World, ended: threading.Event) -> None:
    """Keep one consumer running: it ends itself when the broker has lost the state of its producer."""
    stream = world.stream().start(wait_for="")
    while not ended.wait(0.1):
        if stream.process is not None and stream.process.poll() is not None:
            assert stream.process.returncode == 1, stream.output
            stream.process = None
            stream = world.stream().start(wait_for="")


def server_killed(world: World, kill: Callable[[], None], kills: int, sent: Payments) -> Counter[str]:
    """Kill a server while payments flow through one consumer."""
    ended = threading.Event()
    supervisor = threading.Thread(target=supervised, args=(world, ended))
    supervisor.start()
    try:
        first = sent[:20]
        send(world.client, first)
        all_decided(world.client, first)
        sending = threading.Thread(target=paced, args=(world.client, sent[20:], 2 * kills * PAUSE_S))
        sending.start()
        for _ in range(kills):
            threading.Event().wait(PAUSE_S)
            kill()
        sending.join()
        return tally(sent, all_decided(world.client, sent, 300))
    finally:
        ended.set()
        supervisor.join()


def paced(client: Client, sent: Payments, seconds: float) -> None:
    began_s = time.monotonic()
    for n, transaction in enumerate(sent):
        client.transaction(transaction)
        if n % 20 == 0:
            client.serve()
            time.sleep(max(0.0, began_s + seconds * n / len(sent) - time.monotonic()))
    client.flush()


def row(world: World, name: str, kills: int) -> Counter[str]:
    sent = transactions()
    if name in STEPS:
        consumer_killed(world, name, kills, sent)
        counts = tally(sent, all_decided(world.client, sent, 300))
    else:
        counts = server_killed(world, world.kill_broker if name == "broker" else world.kill_store, kills, sent)
    counts["kills"] = kills
    counts["restarts"] = world.streams - 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3, help="of each row")
    parser.add_argument("--rows", nargs="*", default=[*STEPS, "broker", "store"])
    given = parser.parse_args()
    rows: dict[str, dict[str, int]] = {}
    columns = ("sent", "kills", "restarts", "decisions", "lost", "different", "unmarked", "repeated", "degraded")
    print(f"{'killed':<14}" + "".join(f"{column:>11}" for column in columns))
    with tempfile.TemporaryDirectory(prefix="fraud-bench-") as folder:
        serving_model.write(Path(folder) / "cache")
        for name in given.rows:
            with ExitStack() as stack:
                rows[name] = dict(row(World(Path(folder) / name, Path(folder) / "cache", stack), name, given.kills))
            print(f"{name:<14}" + "".join(f"{rows[name].get(column, 0):>11,}" for column in columns), flush=True)
    path = ROOT / "build/bench/stream_kills.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    wrong = sum(of[column] for of in rows.values() for column in ("lost", "different", "unmarked"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
