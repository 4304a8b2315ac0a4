"""A simulated month sent to a real online store by sixteen clients, while `fraud materialize` is killed repeatedly.

    .venv/ml/bin/python tests/bench/features_replay.py [--users 3000] [--days 31]

Every answer is compared with the values of the batch kernel at the answer's sequence. An eighth of the events arrive up
to six days late, a twelfth twice. A second process loads the same days from the lake; it is killed with SIGKILL
after its first command to the store, its second, and so on, until one run survives. Prints one line of JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import redis
import structlog

from fraud.core import windows
from fraud.core.contract import US_PER_HOUR, amounts_units, id_hash
from fraud.embedded.servers import valkey
from fraud.features.engines import kernel
from fraud.features.engines.arrow_windows import merchant_hashes, microseconds
from fraud.features.online_store import OnlineHistory
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
from redis.connection import Connection
from fraud.features import materialize, online_store
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

online_store._USERS_PER_ROUND_TRIP = int(sys.argv[1])
settings = Settings.load()
structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
context = Context(settings, Params.load(settings.project / "params.yaml"), structlog.get_logger())
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
    left = int(line)
    child = os.fork()
    if child == 0:
        materialize.run(materialize.Config(), context)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def world(home: Path, url: str, users: int, days: int) -> pa.Table:
    """A lake with a simulated month; its transactions."""
    settings = Settings(home=home, project=ROOT, redis_url=url)  # type: ignore[arg-type] - pydantic hides it
    context = Context(settings, Params.load(ROOT / "params.yaml"), structlog.get_logger())
    simulate.run(simulate.Config(days=days, users=users, seed=5), context)
    ingest_transactions.run(ingest_transactions.Config(), context)
    rows = catalog.TRANSACTIONS.at(settings.lake_uri).read_range("2000", "2100")
    assert rows is not None
    return rows


@contextmanager
def killer(home: Path, url: str, users_at_once: int) -> Iterator[subprocess.Popen[str]]:
    """A process that loads the lake once per number on its standard input, and is killed after that many commands."""
    environment = {**os.environ, "FRAUD_HOME": str(home), "FRAUD_PROJECT": str(ROOT), "FRAUD_REDIS_URL": url}
    command = [sys.executable, "-c", KILLER, str(users_at_once)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process


def replay(rows: pa.Table, home: Path, url: str, users_at_once: int) -> dict[str, int]:
    rng = np.random.default_rng(11)
    n = rows.num_rows
    at, units = microseconds(rows["event_timestamp"]), amounts_units(rows["amount"].to_numpy())
    user, name, shop = (rows[column].to_pylist() for column in ("user_id", "transaction_id", "merchant_id"))
    sent_at = at + np.where(rng.random(n) < 1 / 8, rng.integers(0, 6 * 24, n) * US_PER_HOUR, 0)
    log = [int(i) for i in np.argsort(sent_at, kind="stable") for _ in range(1 + int(i % 12 == 0))]
    shard = [id_hash(u) % CLIENTS for u in user]
    stores = [OnlineHistory(redis.Redis.from_url(url)) for _ in range(CLIENTS)]

    def send(client: int, some: list[int]) -> list[tuple[int, int, windows.WindowValues]]:
        answers = []
        for i in (i for i in some if shard[i] == client):
            stored = stores[client].append(user[i], name[i], int(at[i]), int(units[i]), shop[i])
            answers.append((i, stored.sequence, windows.evaluate(stored.events, stored.newest_us, int(at[i]))))
        return answers

    served: list[tuple[int, int, windows.WindowValues]] = []
    kills, survived = 0, False
    runs = len(set(user)) // users_at_once + 8  # about the number of commands until a run completes
    with killer(home, url, users_at_once) as process, ThreadPoolExecutor(CLIENTS) as pool:
        assert process.stdin is not None
        assert process.stdout is not None
        for part in np.array_split(log, runs):
            if not survived:
                process.stdin.write(f"{kills + 1}\n")
                process.stdin.flush()
            for answers in pool.map(send, range(CLIENTS), [part.tolist()] * CLIENTS):
                served += answers
            if not survived:
                code = int(process.stdout.readline())
                assert code in (0, -9), code
                survived, kills = code == 0, kills + (code != 0)
        while not survived:
            process.stdin.write(f"{kills + 1}\n")
            process.stdin.flush()
            code = int(process.stdout.readline())
            survived, kills = code == 0, kills + (code != 0)
        process.stdin.close()

    order = {u: dict(zip(o.ids.tolist(), range(o.base, o.base + len(o.ids)), strict=True))
             for u, o in stores[0].orders(sorted(set(user)))}  # fmt: skip
    sequence = np.array([order[u][id_hash(t)] for u, t in zip(user, name, strict=True)], dtype=np.int64)
    codes = rows["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    by_user = np.lexsort((sequence, at, codes))
    starts = np.searchsorted(codes[by_user], np.arange(codes.max() + 2))
    merchants = pa.array(merchant_hashes(rows["merchant_id"])).dictionary_encode()
    values = np.empty((len(windows.WINDOW_FEATURES), n))
    values[:, by_user] = kernel.compute(
        starts, at[by_user], sequence[by_user], units[by_user], merchants.indices.to_numpy()[by_user],
        len(merchants.dictionary),
    )  # fmt: skip
    mismatches = sum(
        place != sequence[i] or tuple(None if np.isnan(v) else v for v in values[:, i]) != answer
        for i, place, answer in served
    )
    kept = sum(len(of_user) for of_user in order.values())
    return {"rows": n, "answers": len(served), "mismatches": mismatches, "doubled_or_lost": abs(kept - n),
            "kills": kills}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--users", type=int, default=3_000)
    parser.add_argument("--days", type=int, default=31)
    parser.add_argument("--users-at-once", type=int, default=100, help="users that one command of the load covers")
    requested = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        home = Path(folder)
        with valkey.running(home / "valkey") as server:
            rows = world(home, server.url, requested.users, requested.days)
            result = replay(rows, home, server.url, requested.users_at_once)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
