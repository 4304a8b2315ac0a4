"""`make demo` is killed at each of its steps during checkout traffic, and started again until it completes."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.e2e.project import small_project

from fraud.embedded.servers.airflow_api import AirflowApi
from fraud.embedded.stack import Stack
from fraud.settings import Settings

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]  # Airflow starts, a training, the demo many times over
# Lines that the demo prints at the start of a step. It is killed once at each, in the order of its output.
STEPS: Final = (
    "preparing Airflow's database", "is ready after", "fraud import", "ingest_transactions, all feeds",
    "ingest_transactions.ingest", "build_features.build_features", "train_fraud_model.training_set",
    "train_fraud_model.train", "promote_model.promote", "sending the held-back day", "held-back day delivered",
    "ingest_transactions, transactions feeds",
)  # fmt: skip
AT_LEAST: Final = 6
FILE: Final = "it's $5.parquet"
MAPPING: Final = """\
name: simulated
source: {format: parquet}
transaction_id: {column: transaction_id}
event_timestamp: {column: event_timestamp}
user_id: {column: user_id}
merchant_id: {column: merchant_id}
merchant_category: {column: merchant_category}
amount: {column: amount}
distance_from_home: {column: distance_from_home, unit: kilometres}
label: {column: is_fraud, fraud: ["1"], legitimate: ["0"], delay_days: 7}
"""


class Traffic(threading.Thread):
    """Sends one payment after another, also while serving does not run."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(name="traffic")
        self._url = f"{stack.url('serving')}/predict"
        self._ended = threading.Event()
        self.statuses: Counter[int] = Counter()

    def run(self) -> None:
        number = 0
        with httpx.Client(timeout=10) as client:
            while not self._ended.wait(0.1):
                number += 1
                payment = {
                    "transaction_id": f"traffic-{number}", "user_id": f"traffic-{number % 7}", "merchant_id": "m",
                    "merchant_category": "grocery", "amount": 12.5, "distance_from_home": 3.0,
                    "event_timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                }  # fmt: skip
                try:
                    self.statuses[client.post(self._url, json=payment).status_code] += 1
                except httpx.TransportError:
                    continue  # serving does not run yet

    def end(self) -> None:
        self._ended.set()
        self.join()


def write_source(folder: Path, program: str) -> None:
    """Write simulated transactions with a high fraud rate as one file with labels, and its mapping."""
    env = {**os.environ, "FRAUD_HOME": str(folder / "world")}
    arguments = ["--days=50", "--users=400", "--seed=3", "--fraud-rate=0.04", f"--out={(folder / 'out').as_uri()}"]
    subprocess.run([program, "simulate", *arguments], env=env, check=True, capture_output=True)
    table = ds.dataset(folder / "out/transactions", format="parquet").to_table()
    labels = ds.dataset(folder / "out/labels", format="parquet").to_table()
    fraud = pc.is_in(table["transaction_id"], labels.filter(labels["is_fraud"])["transaction_id"].combine_chunks())
    pq.write_table(table.append_column("is_fraud", fraud.cast(pa.int8()).cast(pa.string())), folder / FILE)
    (folder / "mapping.yaml").write_text(MAPPING)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    made = small_project(tmp_path / "project")
    write_source(made, str(made / ".venv/ml/bin/fraud"))
    # Free ports, chosen before the first demo, which would use the default ones.
    Stack.open(Settings(home=made / "var", project=made), usual_ports=False)
    yield made
    subprocess.run([*MAKE, "down"], env=environment(made), cwd=made, check=True)
    shutil.rmtree(made, ignore_errors=True)


MAKE: Final = ["make", "--no-print-directory", "--old-file=setup", "--old-file=system"]


def environment(project: Path) -> dict[str, str]:
    return {**os.environ, "FRAUD_HOME": str(project / "var"), "FRAUD_PROJECT": str(project)}


def demo(project: Path, steps: list[str]) -> str | None:
    """Run the demo and kill it, with make and its steps, at the first of `steps` that it prints. Returns this step.

    None: the demo ended with exit code 0.
    """
    command = [*MAKE, "demo", f"SOURCE={project / FILE}", f"MAPPING={project / 'mapping.yaml'}", "DETACH=1"]
    with subprocess.Popen(
        command, env=environment(project), cwd=project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            sys.stdout.write(line)
            printed.append(line)
            step = next((step for step in steps if step in line), None)
            if step:
                os.killpg(process.pid, signal.SIGKILL)
                return step
        assert process.wait() == 0, "".join(printed[-30:])
    return None


def test_a_demo_that_was_killed_at_any_step_completes_when_it_is_run_again(project: Path) -> None:
    left = list(STEPS)
    killed_at: list[str] = []
    stack = Stack.open(Settings(home=project / "var", project=project))
    traffic = Traffic(stack)
    traffic.start()
    try:
        while step := demo(project, left):
            killed_at.append(step)
            left.remove(step)
    finally:
        traffic.end()
    print("killed at:", killed_at, "answers:", dict(traffic.statuses))
    assert len(killed_at) >= AT_LEAST, killed_at
    # Every payment got a decision: without a model that of the rule, marked degraded.
    assert set(traffic.statuses) == {200}
    # The same counts as in a run without a kill: every row once.
    rows = pq.read_metadata(project / FILE).num_rows
    api = AirflowApi(stack.url("airflow"), stack.secret["AIRFLOW_ADMIN_PASSWORD"])
    ingested = api.results("ingest_transactions", "ingest")
    accepted, duplicates, quarantined = (
        sum(result[name] for result in ingested) for name in ("accepted", "duplicates", "quarantined")
    )
    assert accepted + duplicates + quarantined == rows
    served = httpx.get(f"{stack.url('serving')}/model").raise_for_status().json()
    assert served["model_version"] == "1"  # there was one training
    assert (stack.home / "summary.txt").is_file()
