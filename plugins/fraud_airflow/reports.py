"""Read-only access to the reports folder. Paths outside of it are refused."""

import json
import posixpath
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec


class NoSuchReportError(Exception):
    """There is no such file or folder below the reports' root, or the path leaves it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder; `path` is relative to the root, `size` in bytes."""

    path: str
    folder: bool
    size: int

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)


@dataclass(frozen=True, slots=True)
class Summary:
    """One report in a list: its page (relative to the root), when it was written, and its result in a few words."""

    page: str
    written: datetime
    result: str


class Reports:
    """HTML reports below a `file://` or `s3://` URI."""

    def __init__(self, uri: str) -> None:
        # A cached listing would hide reports that are written later; the server runs for weeks.
        self._fs, self._root = fsspec.core.url_to_fs(uri, use_listings_cache=False)
        self._local = "file" in ([self._fs.protocol] if isinstance(self._fs.protocol, str) else self._fs.protocol)

    def _inside(self, path: str) -> str:
        parts = [part for part in path.split("/") if part]
        if any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
            raise NoSuchReportError(path)
        full = posixpath.join(self._root, *parts)
        # A symbolic link could still point outside.
        if self._local and not Path(full).resolve().is_relative_to(Path(self._root).resolve()):
            raise NoSuchReportError(path)
        return full

    def entries(self, path: str) -> list[Entry]:
        """The entries of a folder in descending order of names: newest first for dates. Raises NoSuchReportError."""
        full = self._inside(path)
        if not self._fs.isdir(full):
            if path.strip("/"):
                raise NoSuchReportError(path)
            return []  # no report was written yet
        found = [
            Entry(posixpath.relpath(item["name"], self._root), item["type"] == "directory", int(item["size"] or 0))
            for item in self._fs.ls(full, detail=True)
        ]
        return sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name, reverse=True)

    def read(self, path: str) -> bytes:
        """The bytes of a report. Raises NoSuchReportError."""
        full = self._inside(path)
        if not self._fs.isfile(full):
            raise NoSuchReportError(path)
        return bytes(self._fs.cat_file(full))

    def summaries(self, path: str) -> list[Summary]:
        """The reports one level below a folder, newest first. A report is an HTML page and its JSON record."""
        found = []
        for folder in (entry for entry in self.entries(path) if entry.folder):
            names = {entry.name: entry for entry in self.entries(folder.path)}
            for name, page in names.items():
                stem, dot, kind = name.rpartition(".")
                if dot and kind == "html" and f"{stem}.json" in names:
                    record = names[f"{stem}.json"].path
                    written: datetime = self._fs.modified(self._inside(record))
                    found.append(Summary(page.path, written.astimezone(UTC), _result(json.loads(self.read(record)))))
        return sorted(found, key=lambda summary: (summary.written, summary.page), reverse=True)


def _result(record: dict[str, Any]) -> str:
    """Of a training its version, level and failed gates; of a monitor its verdict."""
    if "gates_passed" in record:
        failed = ", ".join(record["failed_gates"]).replace("_", " ")
        return f"{record['candidate']}, {record['selected_level']}: {f'failed {failed}' if failed else 'passed'}"
    return str(record.get("verdict", ""))
