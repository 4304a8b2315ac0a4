"""The declarations whose daily tables were built in a lake: `declarations/<hash>.json`, in canonical form.

The name of a daily table does not show which declaration it belongs to. Retention reads it here, with the hashes that
model versions have as a tag.
"""

import json
from typing import Final

from fraud.core.declaration import Declaration, parse
from fraud.lake.objects import listed, located, opened, put_atomically

_FOLDER: Final = "declarations"
_SUFFIX: Final = ".json"


def record(lake_uri: str, declaration: Declaration) -> None:
    """Record a declaration. Nothing is written when it is recorded."""
    fs, path = located(uri_of(lake_uri, declaration.hash))
    if not fs.exists(path):
        put_atomically(uri_of(lake_uri, declaration.hash), declaration.canonical().encode())


def recorded(lake_uri: str) -> dict[str, Declaration]:
    """The recorded declarations by `Declaration.hash`."""
    found = {}
    for name in listed(f"{lake_uri.rstrip('/')}/{_FOLDER}", 1):
        if name.endswith(_SUFFIX):
            with opened(f"{lake_uri.rstrip('/')}/{_FOLDER}/{name}") as file:
                found[name.removesuffix(_SUFFIX)] = parse(json.loads(file.read()), learnt=True)
    return found


def uri_of(lake_uri: str, feature_hash: str) -> str:
    """Where the declaration with a hash is recorded."""
    return f"{lake_uri.rstrip('/')}/{_FOLDER}/{feature_hash}{_SUFFIX}"
