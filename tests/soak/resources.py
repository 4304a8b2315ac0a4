"""What the stack uses after a night: disk, rows of its databases, and memory and open files of each service."""

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from fraud.embedded import processes, services
from fraud.embedded.processes import Process
from fraud.embedded.stack import Stack

DATABASES: Final = {
    "airflow": "airflow/airflow.db", "mlflow": "mlflow/mlflow.db", "promotions": "control.db", "feast": "feast.db",
}  # fmt: skip


class Service(NamedTuple):
    """One service: all processes of its session."""

    started: int
    """Start of its first process, in clock ticks: another number after a restart."""
    memory_mb: float
    """Proportional set size: a page that n processes share counts 1/n for each."""
    open_files: int
    processes: int


class Usage(NamedTuple):
    """One measurement."""

    disk_mb: dict[str, float]
    """By folder of the stack's home, `files` for the files in it, and `tmp`."""
    rows: dict[str, int]
    """By database."""
    services: dict[str, Service]

    def as_dict(self) -> dict[str, Any]:
        return self._asdict() | {"services": {name: s._asdict() for name, s in self.services.items()}}

    @classmethod
    def of(cls, record: dict[str, Any]) -> "Usage":
        return cls(record["disk_mb"], record["rows"], {n: Service(**s) for n, s in record["services"].items()})


def measure(stack: Stack, temporary: Path) -> Usage:
    """Measure a stack at rest."""
    entries = sorted(stack.home.iterdir())
    disk = {entry.name: size_mb(entry) for entry in entries if entry.is_dir()}
    disk |= {"files": sum(size_mb(entry) for entry in entries if entry.is_file()), "tmp": size_mb(temporary)}
    rows = {name: count for name, path in DATABASES.items() if (count := rows_of(stack.home / path)) is not None}
    found = {}
    for service in services.all_services(stack):
        first = processes.running_process(service.name, stack.run)
        if first is not None:
            found[service.name] = measured(first, processes.members(service.name, stack.run))
    return Usage(disk, rows, found)


def size_mb(path: Path) -> float:
    """Size of a file or of all files below a folder. Files that are removed meanwhile do not count."""
    if path.is_file():
        return path.stat().st_size / 1e6
    found = dict[tuple[int, int], int]()
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                stat = (Path(folder) / name).lstat()
                found[stat.st_dev, stat.st_ino] = stat.st_size
    return sum(found.values()) / 1e6


def rows_of(path: Path) -> int | None:
    """Rows of all tables of a SQLite database; None if there is no such file."""
    if not path.is_file():
        return None
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return sum(int(database.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]) for name in tables)  # noqa: S608 - names of the database's own tables


def measured(first: Process, members: list[Process]) -> Service:
    """Sums over the processes of a service. A process that ends meanwhile does not count."""
    memory = files = count = 0
    for process in members:
        with suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            memory += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
            files += len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            count += 1
    return Service(first.started, round(memory / 1024, 1), files, count)


def orphans(stack: Stack) -> list[str]:
    """Processes of the stack that neither are in a running service's session nor descend from one in it."""
    sessions = {
        process.pid
        for path in stack.run.glob("*.json")
        if (process := processes.running_process(path.stem, stack.run)) is not None
    }
    return [_described(process.pid) for process in processes.apart(processes.marked(stack.mark), sessions)]


def _described(pid: int) -> str:
    try:
        return f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes().replace(bytes(1), b' ').decode(errors='replace')}"
    except (FileNotFoundError, ProcessLookupError):
        return str(pid)
