"""The simulated month, the two model versions and the nightly process of rest_replay.py."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from fraud import declaration_file
from fraud.core.columns import learnt_values
from fraud.core.contract import US_PER_DAY, US_PER_HOUR
from fraud.core.declaration import Declaration
from fraud.core.declaration_types import CategoryColumn
from fraud.core.plan import Plan
from fraud.features.engines.arrow_windows import microseconds, window_values
from fraud.ingest.delivery import delivering
from fraud.simulator import deliveries
from fraud.training.ladder.boosting import FittedBoosting

ROOT: Final = Path(__file__).resolve().parents[2]
FILES: Final = (ROOT / declaration_file.NAME, ROOT / "tests/declarations/second.yaml")
"""The declarations of the two versions: the shipped one, which is also the project's, and another one."""
START: Final = date(2025, 1, 1)
FIRST_DAY: Final = (START - date(1970, 1, 1)).days
LATE: Final = 1 / 20
"""Share of the transactions that arrive up to six days after the event, in addition to the simulator's."""
TREES, LEAVES, FITTED_ROWS = 100, 15, 20_000

NIGHTS: Final = """
import json, os, signal, sys, time
from pathlib import Path
import structlog
from redis.connection import Connection
from fraud import declaration_file
from fraud.core.declaration import parse
from fraud.features import build_daily, materialize, online_store
from fraud.ingest import ingest_labels, ingest_transactions
from fraud.job import Context
from fraud.params import Params
from fraud.settings import Settings

online_store.ENTITIES_PER_ROUND_TRIP = int(sys.argv[1])
settings = Settings.load()
structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
live = [parse(json.loads(text), learnt=True) for text in json.loads(sys.argv[2])]
project = declaration_file.load_of(settings.project)
params = Params.load(settings.project / "params.yaml")
context = Context(settings, params, project, structlog.get_logger(), lambda: live)
send = Connection.send_packed_command
sent, last = 0, 0

def dying(connection, *arguments, **named):
    global sent
    send(connection, *arguments, **named)
    sent += 1
    if sent == last:
        os.kill(os.getpid(), signal.SIGKILL)

def work(command):
    if command == "ingest":
        ingest_transactions.run(ingest_transactions.Config(), context)
        ingest_labels.run(ingest_labels.Config(), context)
        return build_daily.run(build_daily.Config(live=True), context)
    if command == "rebuild":
        return build_daily.run(build_daily.Config(live=True, full=True), context)
    Connection.send_packed_command = dying
    return materialize.run(materialize.Config(live=True), context)

for line in sys.stdin:
    command, last = line.split()[0], int(line.split()[1])
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        result = json.loads(work(command).model_dump_json())
        os.write(writer, json.dumps({"sent": sent, "result": result}).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as output:
        found = output.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps({"code": code, **json.loads(found or "{}")}), flush=True)
"""


@dataclass(frozen=True)
class Month:
    """The transactions in order of arrival, and what lands each day."""

    rows: pa.Table
    """Sorted by created_timestamp, the time of arrival."""
    arrived_us: NDArray[np.int64]
    labels: list[pa.Table]
    """The reports of each day."""

    @property
    def days(self) -> int:
        return len(self.labels)

    def land(self, landing_uri: str, day: int) -> None:
        """Land the transactions and labels that arrived on a day (0 is the first)."""
        first, end = (self.arrived_us.searchsorted((FIRST_DAY + day + i) * US_PER_DAY) for i in (0, 1))
        with delivering(landing_uri) as written:
            name = str(START + timedelta(days=day))
            written.add("transactions", name, "replay", self.rows.slice(first, end - first))
            if self.labels[day].num_rows:
                written.add("labels", name, "replay", self.labels[day])


def simulated(declaration: Declaration, users: int, days: int) -> Month:
    """A month of valid transactions; some of them arrive late."""
    plan = deliveries.Plan(START, days, users, 5, 0.0075, 0.0, declaration.columns)
    found = list(deliveries.deliveries(plan))
    rows = pa.concat_tables([delivery.transactions for delivery in found]).combine_chunks()
    rng, at = np.random.default_rng(11), microseconds(rows["event_timestamp"])
    late = at + rng.integers(US_PER_HOUR, 6 * US_PER_DAY, len(at))
    late = np.where((rng.random(len(at)) < LATE) & (late < (FIRST_DAY + days) * US_PER_DAY), late, 0)
    arrived = np.maximum(microseconds(rows["created_timestamp"]), late)
    order = np.argsort(arrived, kind="stable")
    times = pa.array(arrived[order], pa.timestamp("us", "UTC"))
    rows = rows.take(pa.array(order))
    rows = rows.set_column(rows.column_names.index("created_timestamp"), "created_timestamp", times)
    return Month(rows, arrived[order], [delivery.labels for delivery in found])


def resolved(declaration: Declaration, rows: pa.Table) -> Declaration:
    """The declaration with the lists that training would learn from these rows."""
    lists = {}
    for name in declaration.to_learn:
        column = declaration.columns[name]
        assert isinstance(column, CategoryColumn)
        lists[name] = learnt_values(column, dict(Counter(rows[name].drop_null().to_pylist())))
    return Plan(declaration.resolved(lists)).declaration


def model_of(plan: Plan, rows: pa.Table, seed: int) -> tuple[bytes, bytes]:
    """`model.onnx` and `serving.json` of a version whose probability depends on every input, float32 bit by bit."""
    rows = rows.slice(0, FITTED_ROWS).sort_by([("event_timestamp", "ascending"), ("created_timestamp", "ascending")])
    rng, at = np.random.default_rng(seed), microseconds(rows["event_timestamp"])
    windows, n = window_values(rows, plan.declaration), rows.num_rows
    base: list[NDArray[np.float64]] = [
        (at // US_PER_HOUR % 24).astype(float),
        ((at // US_PER_DAY + 3) % 7).astype(float),
    ]
    for of, source in zip(plan.vector.inputs[2:], plan.sources, strict=True):
        if of.categories:
            base.append(rng.integers(0, len(of.categories), n).astype(np.float64))
        elif source.column is not None:
            base.append(pc.fill_null(pc.cast(rows[source.column], pa.float64()), float("nan")).to_numpy())
        elif of.name in windows:
            base.append(windows[of.name])
        else:  # a daily feature: a rate, or a count or an amount
            values = rng.gamma(1.0, 0.02 if "rate" in of.name else 60.0, n)
            base.append(np.where(rng.random(n) < 0.05, np.nan, values))
    vectors = plan.vector.table(base)
    ranks = vectors.argsort(axis=0).argsort(axis=0) / n
    score = ranks @ rng.choice([-1.0, 1.0], vectors.shape[1]) + rng.normal(0, 0.5, n)
    fitted = HistGradientBoostingClassifier(
        max_iter=TREES, max_leaf_nodes=LEAVES, learning_rate=0.1, early_stopping=False, random_state=seed
    ).fit(vectors, score > np.quantile(score, 0.8))
    data, golden = FittedBoosting(fitted, ()).to_onnx(), vectors[:8]
    answers = onnxruntime.InferenceSession(data).run(["fraud_probability"], {"features": golden})[0]
    facts = {
        "model_sha256": sha256(data).hexdigest(), "model_bytes": len(data), "feature_hash": plan.hash,
        "threshold": 0.5, "level": "boosting", "declaration": json.loads(plan.declaration.canonical()),
        "reference": [0 if of.categories else 1.0 for of in plan.vector.inputs],
        "golden": {"vectors": golden.tolist(), "probabilities": answers.astype(float).tolist()},
    }  # fmt: skip
    return data, json.dumps(facts).encode()


class Nights:
    """The nightly jobs, each run in a process of its own that can be killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, command: str, kill_at: int = 0) -> dict[str, Any]:
        """Run a job and return its result; `materialize` is killed after its `kill_at`-th command (0: not killed)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command} {kill_at}\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert found["code"] == (-9 if kill_at and "sent" not in found else 0), (command, found)
        return found


@contextmanager
def nights(environment: dict[str, str], entities_at_once: int, live: list[Declaration]) -> Iterator[Nights]:
    """The process of the nightly jobs. `live`: the declarations of both versions."""
    declared = json.dumps([declaration.canonical() for declaration in live])
    command = [sys.executable, "-c", NIGHTS, str(entities_at_once), declared]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Nights(process)
        assert process.stdin is not None
        process.stdin.close()
