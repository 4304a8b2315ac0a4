"""A report of a day is two files: `<name>.html` for people and `<name>.json`, the record, for machines."""

import json
from typing import Any

import fsspec

from fraud.io.lake import put_atomically


def read(folder: str, name: str) -> dict[str, Any] | None:
    """The record, None when there is no report."""
    fs, path = fsspec.core.url_to_fs(f"{folder}/{name}.json")
    try:
        found: dict[str, Any] = json.loads(fs.cat_file(path))
    except FileNotFoundError:
        return None
    return found


def write(folder: str, name: str, page: str, record: dict[str, Any]) -> None:
    """The record comes last: where there is one, the page beside it is whole."""
    put_atomically(f"{folder}/{name}.html", page.encode())
    put_atomically(f"{folder}/{name}.json", (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
