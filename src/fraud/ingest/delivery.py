"""Write a delivery into the landing zone: all of its files, of both feeds, or none.

Each file is first written under a temporary name that readers ignore. Then a list of the files is written to the
landing zone, which completes the delivery. The files are renamed and the list is removed. A run that is killed before
the list is written has landed nothing. If it is killed after, the next delivery or ingest renames the files.
"""

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from fraud.errors import BadInputError
from fraud.ingest.landing import HELD_BACK, Feed
from fraud.lake.objects import listed, located, put_atomically

_LIST: Final = "_delivery-"
_PENDING: Final = ".pending"
_HASH_DIGITS: Final = 16


class _Complete(BaseModel):
    """The files of a complete delivery, with paths relative to the landing zone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]


class Delivery:
    """Files that are written and not visible yet. Use `delivering` to create one."""

    def __init__(self, landing_uri: str) -> None:
        self._uri = landing_uri.rstrip("/")
        self._fs, self._path = located(self._uri)
        self._names: list[str] = []

    def add(self, feed: Feed, day: str, source: str, table: pa.Table, *, held_back: bool = False) -> int:
        """Write `table` (columns of the feed's schema) as `<feed>/dt=<day>/<source>-<hash of the bytes>.parquet`.

        Returns the file's size in bytes; 0 when the landing zone or this delivery already contains the file.
        """
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        data = buffer.getvalue()
        digest = sha256(data).hexdigest()[:_HASH_DIGITS]
        name = f"{HELD_BACK + '/' if held_back else ''}{feed}/dt={day}/{source}-{digest}.parquet"
        if name in self._names or self._fs.exists(f"{self._path}/{name}"):
            return 0
        self._names.append(name)
        put_atomically(f"{self._uri}/{name}{_PENDING}", data)
        return len(data)

    def complete(self) -> None:
        """Write the list of the files. From then on the delivery is landed, even if this process is killed."""
        if self._names:
            digest = sha256("\n".join(self._names).encode()).hexdigest()[:_HASH_DIGITS]
            text = _Complete(names=tuple(self._names)).model_dump_json(indent=1)
            put_atomically(f"{self._uri}/{_LIST}{digest}.json", text.encode())

    def discard(self) -> None:
        """Remove the written files."""
        for name in self._names:
            with suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._path}/{name}{_PENDING}")


@contextmanager
def delivering(landing_uri: str) -> Iterator[Delivery]:
    """A delivery that lands at the end of the block. When the block raises, its files are removed."""
    delivery = Delivery(landing_uri)
    with ExitStack() as failed:
        failed.callback(delivery.discard)
        yield delivery
        delivery.complete()
        failed.pop_all()
    finish_deliveries(landing_uri)


def finish_deliveries(landing_uri: str) -> None:
    """Rename the files of complete deliveries. Idempotent, also when called concurrently.

    Raises BadInputError when a file of a complete delivery is missing.
    """
    root = landing_uri.rstrip("/")
    fs, path = located(root)
    for found in listed(root, 1):
        if not (found.startswith(_LIST) and found.endswith(".json")):
            continue
        with suppress(FileNotFoundError):
            for name in _Complete.model_validate_json(fs.cat_file(f"{path}/{found}")).names:
                _rename(root, name)
            fs.rm_file(f"{path}/{found}")


def _rename(root: str, name: str) -> None:
    fs, path = located(f"{root}/{name}")
    try:
        fs.mv(f"{path}{_PENDING}", path)
    except FileNotFoundError as error:
        if not fs.exists(path):
            raise BadInputError(f"{root}/{name} is missing", hint="deliver the same file again") from error
