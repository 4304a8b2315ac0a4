"""The measurements of lake.py, in one process, with the `fraud` of PYTHONPATH: this commit's or another one's.

`publish FOLDER _`, `jobs FOLDER ROWS` or `log FOLDER NIGHTS`. Prints the figures as JSON in the last line.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa

import fraud
from fraud.lake import catalog

SOURCES: Final = Path(fraud.__file__).parents[2]
FIRST: Final = date(2016, 1, 1)
ROWS: Final = 10_000
READS: Final = 7
# A process ends without waiting for the threads of pyarrow, which sometimes abort at the end of the interpreter.
END: Final = "print(*(b - a for a, b in pairwise(at)), flush=True); os._exit(0)"
JOB_DAYS: Final = 60
KEPT_DAYS: Final = 7
Figures = dict[str, float]


def rows_of(day: date, seed: int = 0) -> pa.Table:
    random = np.random.default_rng([seed, day.toordinal()])
    start = (day - date(1970, 1, 1)).days * 86_400_000_000
    at = pa.array(np.sort(random.integers(start, start + 86_400_000_000, ROWS)), pa.timestamp("us", "UTC"))
    return pa.table(
        {
            "transaction_id": [f"{n:032x}" for n in random.integers(0, 2**63, ROWS).tolist()],
            "event_timestamp": at, "created_timestamp": at,
            "user_id": [f"u{n}" for n in random.integers(0, 5_000, ROWS)],
            "merchant_id": [f"m{n}" for n in random.integers(0, 2_000, ROWS)],
            "amount": random.lognormal(3, 1, ROWS).round(2), "card_present": random.random(ROWS) < 0.8,
            "country": [("US", "DE", "FR")[n] for n in random.integers(0, 3, ROWS)],
            "device_id": [f"d{n}" for n in random.integers(0, 9_000, ROWS)],
            "distance_from_home": random.exponential(20, ROWS),
            "merchant_category": [f"c{n}" for n in random.integers(0, 14, ROWS)],
        }
    )  # fmt: skip


def days(n: int) -> list[date]:
    return [FIRST + timedelta(k) for k in range(n)]


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def fastest(imports: str, call: str, *arguments: str) -> list[float]:
    """Milliseconds of a new process with its imports, of the first call in it, and of the next one: least of READS."""
    code = "import os, sys, time; from itertools import pairwise; " + imports + "at = [time.perf_counter()]; "
    code += f"{call}; at.append(time.perf_counter()); " * 2 + END
    taken = []
    for _ in range(READS):
        began = time.perf_counter()
        printed = subprocess.check_output([sys.executable, "-c", code, *arguments], text=True)
        taken.append([time.perf_counter() - began, *map(float, printed.split())])
    return [1e3 * min(column) for column in zip(*taken, strict=True)]


def published(dataset: Any, tables: Mapping[date, pa.Table]) -> tuple[float, float]:  # noqa: ANN401 - of either commit
    """Seconds of writing the objects, and of committing them."""
    if hasattr(dataset, "written"):
        began = time.perf_counter()
        partitions = [dataset.written(str(day), table) for day, table in tables.items()]
        written = time.perf_counter() - began
        return written, timed(lambda: dataset.commit(partitions))
    began = time.perf_counter()
    objects = {str(day): [dataset.put(str(day), table)] for day, table in tables.items()}
    written = time.perf_counter() - began
    return written, timed(lambda: [dataset.commit(day, found) for day, found in objects.items()])


def publish(folder: Path, _: int) -> Figures:
    found: Figures = {}
    for n in (1, 30, 180):
        shutil.rmtree(folder, ignore_errors=True)
        dataset = catalog.TRANSACTIONS.at(f"file://{folder}")
        tables = {day: rows_of(day) for day in days(n)}
        written, committed = published(dataset, tables)
        found |= {f"write_objects_{n}_s": written, f"commit_{n}_s": committed, f"publish_{n}_s": written + committed}
    found["replace_3_of_180_s"] = sum(published(dataset, {day: rows_of(day, 1) for day in days(180)[-3:]}))
    found["rerun_180_s"] = sum(published(dataset, tables | {day: rows_of(day, 1) for day in days(180)[-3:]}))
    _, found["read_1_of_180_ms"], found["read_1_again_ms"] = fastest(
        "from fraud.lake import catalog; dataset = catalog.TRANSACTIONS.at(sys.argv[1]); ",
        "dataset.read('2016-03-31')", f"file://{folder}",
    )  # fmt: skip
    return found


def jobs(folder: Path, rows: int) -> Figures:
    """`fraud build-features` of three window features over all days, and again with nothing to do."""
    sys.path.insert(0, str(SOURCES / "tests/bench"))
    import features as bench  # noqa: PLC0415 - the benchmark of the measured commit

    bench.lake(folder, rows, 10_000, JOB_DAYS)
    shutil.rmtree(folder / "lake/features", ignore_errors=True)
    project = bench.project_of_three(folder)

    def job(*arguments: str) -> tuple[float, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        took = timed(lambda: bench.job(folder, *arguments, project=project))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    build = job("build-features", "--full")
    again = job("build-features")
    [definition] = catalog.in_lake(f"file://{folder}/lake")
    dataset = definition.at(f"file://{folder}/lake")
    names = dataset.partitions()
    assert len(names) == JOB_DAYS
    read = timed(lambda: dataset.read_range(names[0], names[-1], ["transaction_id", "amount"]))
    return {
        "build_s": build[0], "build_cpu_s": build[1], "nothing_to_build_s": again[0],
        "nothing_to_build_cpu_s": again[1], "read_features_s": read,
    }  # fmt: skip


def files_of(root: Path) -> list[Path]:
    return [path for part in ("_delta_log", "_partitions") for path in (root / part).iterdir()]


def log(folder: Path, nights: int) -> Figures:
    """A table after nightly commits, each of a new day and the day before again, with clean-up as retention does it.

    The objects do not exist: nothing here reads them. Files get the age that they would have.
    """
    from fraud.lake.objects import DataObject  # noqa: PLC0415 - not in the baseline
    from fraud.lake.records import RECORDS, Partition  # noqa: PLC0415
    from fraud.lake.table import columns_of  # noqa: PLC0415

    dataset = catalog.TRANSACTIONS.at(f"file://{folder}")
    root, kinds = Path(dataset.uri.removeprefix("file://")), columns_of(rows_of(FIRST).schema)
    listed, commits, now = [], [], time.time()
    for k, day in enumerate(days(nights)):
        new = [
            Partition(str(at), (DataObject(f"{k:023d}{kind}.parquet", ROWS, 500_000, f"{k:063d}{kind}", kinds),),
                      {"transactions": f"{k:064d}"})
            for at, kind in ((day, "a"), (day - timedelta(1), "b")) if at >= FIRST
        ]  # fmt: skip
        commits.append(timed(lambda new=new: dataset.commit(new)))
        at = now - 86_400 * (nights - k)
        for path in [*(root / "_delta_log").glob(f"{k:020d}.*"), root / dataset.table.record_of_newest()]:
            os.utime(path, (at, at))
        old = at - 86_400 * KEPT_DAYS
        with os.scandir(root / RECORDS) as records:  # `fraud apply-retention`, every night
            for record in records:
                with suppress(FileNotFoundError):
                    if record.stat().st_mtime < old:
                        Path(record.path).unlink()
        listed.append(len(files_of(root)))
    files = files_of(root)
    day = str(days(nights)[nights // 2])
    ours = "from fraud.lake import catalog; dataset = catalog.TRANSACTIONS.at(sys.argv[1]); "
    whole, opened, again = fastest(ours, "dataset.open().object_uris(sys.argv[2])", f"file://{folder}", day)
    _, by_others, _ = fastest(
        "from deltalake import DeltaTable; ", "DeltaTable(sys.argv[1]).file_uris([('dt', '=', sys.argv[2])])",
        str(root), day,
    )  # fmt: skip
    prefix = f"after_{nights}_nights"
    return {
        f"{prefix}_new_process_ms": whole,
        f"{prefix}_open_ms": opened,
        f"{prefix}_open_again_ms": again,
        f"{prefix}_open_by_others_ms": by_others,
        f"{prefix}_commit_ms": 1e3 * sorted(commits[-40:])[20],
        f"{prefix}_slowest_commit_of_40_ms": 1e3 * max(commits[-40:]),
        f"{prefix}_log_mb": sum(path.stat().st_size for path in files) / 1e6,
        f"{prefix}_files_listed": float(listed[-1]),
        "most_files_listed_in_the_first_year": float(max(listed[:365])),
        "most_files_listed_in_the_last_year": float(max(listed[-365:])),
    }


if __name__ == "__main__":
    part: Callable[[Path, int], Figures] = {"publish": publish, "jobs": jobs, "log": log}[sys.argv[1]]
    print(json.dumps(part(Path(sys.argv[2]), int(sys.argv[3]))))
