"""Daily features, features and scores on a Spark cluster of two workers, each on a host, the lake on an S3 server.

    .venv/ml/bin/python tests/bench/cluster_features.py [--rows 10000000 100000000] [--one-machine] [--folder FOLDER]

Needs root (tests/netns.py). All hosts share the processors and the disk of this machine, the S3 server included: the
figures show memory and correctness at a size, not the speed of a cluster. Each size is run on a new cluster; users grow
with the rows, days do not. `--one-machine` also runs the jobs of the first size without a cluster and without S3, and
compares the content of every partition.

Prints the figures of each size when it has ended, and writes build/bench/cluster_features.json; a run of some sizes
keeps those of the others. `time_per_row_SIZE` is relative to 10 million rows. The peak of a worker is the sum of the
proportional set sizes of all processes of its host.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests import netns, spark_cluster  # noqa: E402
from tests.bench.batch_data import SHIPPED, plan_of, trees  # noqa: E402
from tests.bench.features import FIRST, write_lake  # noqa: E402
from tests.integration.conftest import Registry, registry_in  # noqa: E402

from fraud.core.plan import tables  # noqa: E402
from fraud.lake import catalog, spark_archives  # noqa: E402

ROWS_PER_USER: Final = 200
DAYS: Final = 180
BASE: Final = "cluster_10m"
JOBS: Final = {
    "daily": ("build-daily",), "features": ("build-features",),
    "scores": ("score", f"--from={FIRST}", "--to=2030-01-01"),
}  # fmt: skip
PLAN: Final = plan_of(SHIPPED)
FRAUD: Final = Path(sys.executable).with_name("fraud")


class Peaks(threading.Thread):
    """Samples the memory of hosts, MB, and keeps the highest value of each."""

    def __init__(self, hosts: list[netns.Host]) -> None:
        super().__init__(daemon=True)
        self.mb, self._hosts, self._ended = {host.name: 0.0 for host in hosts}, hosts, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(1.0):
            for host in self._hosts:
                with suppress(subprocess.CalledProcessError):  # the cluster ends
                    self.mb[host.name] = max(self.mb[host.name], memory_mb(host))

    def end(self) -> None:
        self._ended.set()
        self.join()


def memory_mb(host: netns.Host) -> float:
    pids = subprocess.run(["ip", "netns", "pids", host.namespace], capture_output=True, text=True, check=True).stdout
    total = 0
    for pid in pids.split():
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def awaited(job: subprocess.Popen[Any], log: Path) -> int:
    """The exit code of a job. The last line of its log is printed every minute."""
    while True:
        try:
            return job.wait(timeout=60)
        except subprocess.TimeoutExpired:
            note("  " + log.read_text().rstrip().rpartition("\n")[2])


@contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def contents(lake_uri: str) -> dict[str, list[tuple[str, str]]]:
    """Content hashes of every partition that the jobs write."""
    definitions = [catalog.features(PLAN.stored_hash), catalog.SCORES, *map(catalog.daily, tables(PLAN.declaration))]
    opened = {definition.name: definition.at(lake_uri).open() for definition in definitions}
    return {name: [(day, found.content_sha256(day)) for day in found.partitions()] for name, found in opened.items()}


def on_cluster(
    rows: int, folder: Path, home: Path, registry: Registry
) -> tuple[dict[str, float], dict[str, list[tuple[str, str]]]]:
    """Seconds of each job, peaks of memory, and the content of the lake."""
    with spark_cluster.running(folder / "hosts", workers=2) as (cluster, _), environment(cluster.store.environment):
        lake = cluster.store.uri("lake")
        began = time.perf_counter()
        write_lake(lake, rows, rows // ROWS_PER_USER, DAYS)
        found = {"deliver_s": time.perf_counter() - began}
        note(f"{rows:,} rows: delivered in {found['deliver_s']:.0f} s")
        variables = cluster.environment(home, FRAUD_LAKE_URI=lake, FRAUD_MLFLOW_URL=registry.url)
        peaks = Peaks([*cluster.workers, cluster.driver])
        peaks.start()
        for name, job in JOBS.items():
            began, log = time.perf_counter(), folder / f"{name}.log"
            if awaited(cluster.start_job(variables, log, *job), log):
                raise SystemExit(log.read_text()[-5_000:])
            found[f"{name}_s"] = time.perf_counter() - began
            note(f"{rows:,} rows: {name} {found[f'{name}_s']:.0f} s")
        peaks.end()
        found |= {f"{name}_peak_mb": mb for name, mb in peaks.mb.items()}
        found["seconds"] = sum(found[f"{name}_s"] for name in JOBS)
        return found | {"rows_per_s": rows / found["seconds"]}, contents(lake)


def on_one_machine(
    rows: int, folder: Path, registry: Registry
) -> tuple[dict[str, float], dict[str, list[tuple[str, str]]]]:
    lake, found = f"file://{folder}/lake", {}
    write_lake(lake, rows, rows // ROWS_PER_USER, DAYS)
    variables = {
        **os.environ, "FRAUD_HOME": str(folder), "FRAUD_PROJECT": str(ROOT), "FRAUD_MLFLOW_URL": registry.url,
        "FRAUD_REDIS_URL": "none", "FRAUD_SPARK_MASTER": "local[2]", "PYTHONPATH": str(ROOT / "src"),
    }  # fmt: skip
    for name, job in JOBS.items():
        began = time.perf_counter()
        subprocess.run([FRAUD, *job], env=variables, check=True, capture_output=True)
        found[f"{name}_s"] = time.perf_counter() - began
    found["seconds"] = sum(found.values())
    return found | {"rows_per_s": rows / found["seconds"]}, contents(lake)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000_000, 100_000_000])
    parser.add_argument("--one-machine", action="store_true")
    parser.add_argument(
        "--folder", type=Path, help="for the disks of the hosts, about 150 bytes per row; default TMPDIR"
    )
    given = parser.parse_args()
    if reason := netns.missing():
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory(dir=given.folder) as name, environment({"TMPDIR": name}):
        folder = Path(name)
        registry = registry_in(folder)
        registry.register(trees(PLAN).to_onnx(), declaration=PLAN.declaration)
        archives = ROOT / "build/spark"
        spark_archives.environment(archives)  # once per environment, so not a part of a job's time
        (folder / "driver").mkdir()
        (folder / "driver/spark").symlink_to(archives)
        for rows in given.rows:
            contenders: dict[str, dict[str, float]] = {}
            ratios: dict[str, float] = {}
            size = f"{rows // 1_000_000}m"
            of_size = folder / size
            of_size.mkdir()
            contenders[f"cluster_{size}"], on_s3 = on_cluster(rows, of_size, folder / "driver", registry)
            ratios[f"worker_peak_mb_{size}"] = max(contenders[f"cluster_{size}"][f"worker{i}_peak_mb"] for i in (0, 1))
            if given.one_machine and rows == given.rows[0]:
                contenders[f"one_machine_{size}"], here = on_one_machine(rows, of_size / "one_machine", registry)
                ratios[f"partitions_{size}"] = sum(map(len, here.values()))
                ratios[f"partitions_with_other_bytes_{size}"] = sum(
                    dict(on_s3[dataset]).get(day) != digest for dataset, days in here.items() for day, digest in days
                )
            shutil.rmtree(of_size)
            keep(contenders, ratios)


def keep(contenders: dict[str, dict[str, float]], ratios: dict[str, float]) -> None:
    """Print the figures of a size and add them to those of other sizes in the file."""
    for name, figures in contenders.items():
        print(f"{name:<18}" + "  ".join(f"{key} {value:,.1f}" for key, value in figures.items()))
    out = ROOT / "build/bench/cluster_features.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    before = json.loads(out.read_text()) if out.exists() else {"contenders": {}, "ratios": {}}
    contenders, ratios = before["contenders"] | contenders, before["ratios"] | ratios
    if (base := contenders.get(BASE)) is not None:
        for name, figures in contenders.items():
            if name.startswith("cluster_"):
                size = name.removeprefix("cluster_")
                ratios[f"time_per_row_{size}"] = base["rows_per_s"] / figures["rows_per_s"]
    for key, value in ratios.items():
        print(f"  {key:<34}{value:>12,.2f}", flush=True)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    out.write_text(json.dumps({"machine": machine, "contenders": contenders, "ratios": ratios}, indent=1) + "\n")


if __name__ == "__main__":
    main()
