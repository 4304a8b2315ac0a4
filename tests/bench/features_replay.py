"""A simulated month sent to a real online store by sixteen clients, while `fraud materialize` is killed repeatedly.

    .venv/ml/bin/python tests/bench/features_replay.py [--users 3000] [--days 31] [--declaration FILE]

The default is the shipped declaration, with a history per entity. Every answer, one per event and entity, is compared
with the values of the batch kernel at the answer's sequence. An eighth of the events arrive up to six days late, a
twelfth twice. A second process loads the days until then from the lake; it is killed with SIGKILL after its first
command to the store, its second, and so on, until a run loads the last day. Prints one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import redis
import structlog
from numpy.typing import NDArray

from fraud import declaration_file
from fraud.core.contract import US_PER_HOUR, id_hash
from fraud.core.declaration import Declaration
from fraud.core.plan import window_sets
from fraud.core.windows import WindowSet
from fraud.embedded.servers import valkey
from fraud.features.engines.arrow_records import as_declared, stored_records
from fraud.features.engines.arrow_windows import microseconds, window_values
from fraud.features.online_store import Event, OnlineHistory
from fraud.ingest import ingest_transactions
from fraud.job import Context
from fraud.lake import catalog
from fraud.params import Params
from fraud.settings import Settings
from fraud.simulator import simulate

ROOT: Final = Path(__file__).resolve().parents[2]
CLIENTS: Final = 16
KILLER: Final = """
import os, signal, sys
import structlog
from pathlib import Path
from redis.connection import Connection
from fraud import declaration_file
from fraud.features import materialize, online_store
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

online_store.ENTITIES_PER_ROUND_TRIP = int(sys.argv[1])
settings = Settings.load()
structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
declared = declaration_file.load(Path(sys.argv[2]))
context = Context(settings, Params.load(settings.project / "params.yaml"), declared, structlog.get_logger())
send = Connection.send_packed_command
left = 0

def dying(connection, *arguments, **named):
    global left
    send(connection, *arguments, **named)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

Connection.send_packed_command = dying
for line in sys.stdin:
    number, day = line.split()
    left = int(number)
    child = os.fork()
    if child == 0:
        materialize.run(materialize.Config.model_validate({"to": day}), context)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def world(home: Path, url: str, declaration: Declaration, users: int, days: int) -> pa.Table:
    """A lake with a simulated month; its transactions."""
    settings = Settings.model_validate({"home": home, "project": ROOT, "redis_url": url})
    context = Context(settings, Params.load(ROOT / "params.yaml"), declaration, structlog.get_logger())
    simulate.run(simulate.Config(days=days, users=users, seed=5), context)
    ingest_transactions.run(ingest_transactions.Config(), context)
    rows = catalog.TRANSACTIONS.at(settings.lake_uri).read_range("2000", "2100")
    assert rows is not None
    return rows


@contextmanager
def killer(home: Path, url: str, entities_at_once: int, declaration: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that loads the lake once per number on its standard input, and is killed after that many commands."""
    environment = {**os.environ, "FRAUD_HOME": str(home), "FRAUD_PROJECT": str(ROOT), "FRAUD_REDIS_URL": url}
    command = [sys.executable, "-c", KILLER, str(entities_at_once), str(declaration)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


class Entity:
    """Rows of one entity of the declaration: what is stored of each, and the id, null for a row without one."""

    def __init__(self, windows: WindowSet, rows: pa.Table, declaration: Declaration, at: NDArray[np.int64]) -> None:
        self.windows, self.layout = windows, windows.layout
        self.ids = rows[self.layout.id_column].to_pylist()
        records = stored_records(as_declared(rows, declaration), at, self.layout)
        self.stored = [record[1:] for record in records.tolist()]


Answer = tuple[int, int, int, list[float | None]]
"""Row, number of the entity, sequence, values."""


def replay(
    rows: pa.Table, declaration: Declaration, url: str, killed: AbstractContextManager[subprocess.Popen[str]],
    entities_at_once: int,
) -> dict[str, int]:  # fmt: skip
    rng = np.random.default_rng(11)
    n, at = rows.num_rows, microseconds(rows["event_timestamp"])
    entities = [Entity(windows, rows, declaration, at) for windows in window_sets(declaration)]
    name, user = rows["transaction_id"].to_pylist(), rows["user_id"].to_pylist()
    sent_at = at + np.where(rng.random(n) < 1 / 8, rng.integers(0, 6 * 24, n) * US_PER_HOUR, 0)
    log = [int(i) for i in np.argsort(sent_at, kind="stable") for _ in range(1 + int(i % 12 == 0))]
    shard = [id_hash(u) % CLIENTS for u in user]
    stores = [OnlineHistory(redis.Redis.from_url(url)) for _ in range(CLIENTS)]

    def send(client: int, some: list[int]) -> list[Answer]:
        answers: list[Answer] = []
        for i in (i for i in some if shard[i] == client):
            own = [(k, e) for k, e in enumerate(entities) if e.ids[i] is not None]
            events = [Event(e.layout, e.ids[i], e.stored[i]) for _, e in own]
            found = stores[client].append_all(name[i], int(at[i]), events)
            for (k, e), known in zip(own, found, strict=True):
                values = e.windows.evaluate(known.events, known.newest_us, int(at[i]), e.stored[i])
                answers.append((i, k, known.sequence, values))
        return answers

    served: list[Answer] = []
    kills, complete = 0, False
    histories = sum(len({id_ for id_ in e.ids if id_ is not None}) for e in entities)
    runs = histories // entities_at_once + 8  # about the number of commands until a run completes
    with killed as process, ThreadPoolExecutor(CLIENTS) as pool:
        assert process.stdin is not None
        assert process.stdout is not None
        parts = np.array_split(log, runs)
        for part in [*parts, *([parts[0][:0]] * 10_000)]:
            if complete and not len(part):
                break
            until = int(sent_at[part[-1]]) if len(part) else int(at.max())
            day = str(np.datetime64(min(until, int(at.max())), "us").astype("datetime64[D]"))
            if not complete:
                process.stdin.write(f"{kills + 1} {day}\n")
                process.stdin.flush()
            for answers in pool.map(send, range(CLIENTS), [part.tolist()] * CLIENTS):
                served += answers
            if not complete:
                code = int(process.stdout.readline())
                assert code in (0, -9), code
                kills += code != 0
                complete = code == 0 and not len(part)
        process.stdin.close()

    mismatches = doubled_or_lost = 0
    for k, entity in enumerate(entities):
        answers = [(i, place, values) for i, number, place, values in served if number == k]
        sequence = np.full(n, -1, dtype=np.int64)
        for i, place, _ in reversed(answers):
            sequence[i] = place
        doubled_or_lost += _misplaced(stores[0], entity, name, sequence)
        batch = _batch_values(rows, declaration, entity, at, sequence)
        mismatches += sum(
            place != sequence[i] or [None if np.isnan(v) else v for v in batch[:, i].tolist()] != values
            for i, place, values in answers
        )
    return {"rows": n, "entities": len(entities), "answers": len(served), "mismatches": mismatches,
            "doubled_or_lost": doubled_or_lost, "kills": kills}  # fmt: skip


def _misplaced(store: OnlineHistory, entity: Entity, name: list[str], sequence: NDArray[np.int64]) -> int:
    """Events that the store has more or less often than once, or at another sequence than the answer's.

    Events older than the entity's retention were removed; their number is that of the first stored sequence.
    """
    rows: dict[str, list[int]] = {}
    for i, id_ in enumerate(entity.ids):
        if id_ is not None:
            rows.setdefault(id_, []).append(i)
    count = 0
    for id_, found in store.orders(entity.layout, sorted(rows)):
        expected = {id_hash(name[i]): int(sequence[i]) for i in rows[id_] if sequence[i] >= found.base}
        stored = dict(zip(found.ids.tolist(), range(found.base, found.base + len(found.ids)), strict=True))
        count += len(expected.items() ^ stored.items()) + abs(found.base + len(stored) - len(rows[id_]))
    return count


def _batch_values(
    rows: pa.Table, declaration: Declaration, entity: Entity, at: NDArray[np.int64], sequence: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The kernel's values of an entity's features, with the sequence as ingestion time: float64[features, n]."""
    order = np.lexsort((sequence, at))
    ingested = pa.array(sequence[order], pa.timestamp("us", "UTC"))
    table = rows.take(pa.array(order)).set_column(
        rows.column_names.index("created_timestamp"), "created_timestamp", ingested
    )  # fmt: skip
    found = window_values(table, declaration)
    values = np.empty((len(entity.windows.names), len(at)))
    values[:, order] = np.stack([found[name] for name in entity.windows.names])
    return values


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=3_000)
    parser.add_argument("--days", type=int, default=31)
    parser.add_argument("--users-at-once", type=int, default=100, help="entities that one command of the load covers")
    parser.add_argument("--declaration", type=Path, default=ROOT / declaration_file.NAME)
    requested = parser.parse_args()
    declaration = declaration_file.load(requested.declaration)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        home = Path(folder)
        with valkey.running(home / "valkey") as server:
            rows = world(home, server.url, declaration, requested.users, requested.days)
            killed = killer(home, server.url, requested.users_at_once, requested.declaration)
            result = replay(rows, declaration, server.url, killed, requested.users_at_once)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
