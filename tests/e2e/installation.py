"""An installation without servers for tests: deliveries of simulated days, and nights of `fraud nightly`."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.e2e.project import small_project

from fraud.lake import catalog
from fraud.uris import uri_of

FRAUD: Final = Path(sys.executable).with_name("fraud")
WORLD: Final = ("--days=52", "--users=400", "--seed=3", "--fraud-rate=0.04")


class Installation:
    """A project and an empty FRAUD_HOME. `delivered` has the days whose files are not in the landing zone yet."""

    def __init__(self, folder: Path) -> None:
        self.home, self.delivered = folder / "home", folder / "delivered"
        self.project = small_project(folder / "project")
        self.environment = {
            **os.environ, "FRAUD_HOME": str(self.home), "FRAUD_PROJECT": str(self.project), "FRAUD_REDIS_URL": "none",
            "FRAUD_MLFLOW_URL": f"sqlite:///{self.home}/mlflow.db",
        }  # fmt: skip
        subprocess.run(
            [FRAUD, "simulate", *WORLD], check=True,
            env={**self.environment, "FRAUD_LANDING_URI": uri_of(self.delivered)},
        )  # fmt: skip
        self.days = sorted(path.name.removeprefix("dt=") for path in (self.delivered / "transactions").iterdir())

    def use(self, variables: Mapping[str, str]) -> None:
        """Settings of the commands from now on."""
        self.environment |= variables

    def deliver(self, *days: str) -> None:
        """Move the files of some days to the landing zone."""
        for feed in ("transactions", "labels"):
            for day in days:
                source, target = (root / feed / f"dt={day}" for root in (self.delivered, self.home / "landing"))
                if source.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(source, target)

    def command(self, night: int) -> list[str]:
        """The nightly run of the n-th night; nights of 2026 in which no weekly chain is due."""
        return [str(FRAUD), "nightly", "--json", "--now", f"2026-06-0{night}T02:00:00Z"]

    def night(self, night: int) -> dict[str, str]:
        """The state of each job, by DAG and task; of its first run, where drift starts another training.

        Raises CalledProcessError when a job failed.
        """
        output = subprocess.run(self.command(night), check=True, env=self.environment, stdout=subprocess.PIPE).stdout
        return {f"{job['dag']}.{job['task']}": job["state"] for job in reversed(json.loads(output)["jobs"])}

    def fraud(self, *arguments: str) -> dict[str, Any]:
        output = subprocess.run(
            [FRAUD, *arguments, "--json"], check=True, env=self.environment, stdout=subprocess.PIPE
        ).stdout
        result: dict[str, Any] = json.loads(output.splitlines()[-1])
        return result

    def rows(self, dataset: catalog.DatasetDefinition) -> dict[str, int]:
        """Rows by day."""
        found = dataset.at(uri_of(self.home / "lake"))
        return {day: found.read(day).num_rows for day in found.partitions()}

    def killed_after(self, job: str, night: int) -> None:
        """Run a night until the job has ended, kill it, and wait until the job that survives it has ended."""
        command = self.command(night)
        with subprocess.Popen(command, env=self.environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as run:
            for line in run.stderr or ():
                if line.startswith(b"{") and json.loads(line).get("job") == job:
                    break
            run.send_signal(signal.SIGKILL)
        with (self.home / "nightly.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
