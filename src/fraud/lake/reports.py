"""Reports of a day. A report is two files: the page `<name>.html` and the record `<name>.json`."""

import datetime as dt
import json
from typing import Any

from fraud.lake.objects import listed, located, put_atomically


def read(folder: str, name: str) -> dict[str, Any] | None:
    """The record of a report, None without one."""
    fs, path = located(f"{folder}/{name}.json")
    try:
        found: dict[str, Any] = json.loads(fs.cat_file(path))
    except FileNotFoundError:
        return None
    return found


def newest(root: str, name: str) -> dict[str, Any] | None:
    """The record of the newest day below `<root>/<name>/<day>`, None without one."""
    folder = f"{root.rstrip('/')}/{name}"
    days = [found.split("/")[0] for found in listed(folder, 2) if found.endswith(f"/{name}.json")]
    return read(f"{folder}/{days[-1]}", name) if days else None


def write(folder: str, name: str, page: str, record: dict[str, Any]) -> None:
    """Write page and record. The record is written last, so a report with a record is complete."""
    put_atomically(f"{folder}/{name}.html", page.encode())
    put_atomically(f"{folder}/{name}.json", (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())


def remove(folder: str) -> None:
    """Remove the reports of a folder, if it exists."""
    fs, path = located(folder)
    if fs.exists(path):
        fs.rm(path, recursive=True)


def expire(root: str, keep_days: int) -> list[str]:
    """Remove the reports below `<root>/<day>` that are more than `keep_days` older than the newest. Returns their days.

    The age is relative to the newest report rather than to today, so that reports on imported history are kept.
    """
    fs, path = located(root)
    days = sorted(entry.rstrip("/").split("/")[-1] for entry in fs.ls(path, detail=False))
    last_kept = str(dt.date.fromisoformat(days[-1]) - dt.timedelta(days=keep_days)) if days else ""
    old = [day for day in days if day < last_kept]
    for day in old:
        fs.rm(f"{path}/{day}", recursive=True)
    return old
