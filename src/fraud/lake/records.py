"""Records of the partitions of a table: for each version, a file with the objects and inputs of every partition.

A record is a Parquet file in `_partitions/`, named by its content, that one read gets whole. `fraud.lake.table` commits
it with a version.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from itertools import islice, pairwise
from typing import Final, NamedTuple

import pyarrow as pa
from pydantic import TypeAdapter

from fraud.lake.objects import DataObject, parquet, put_atomically, read_parquet

RECORDS: Final = "_partitions"
_FIRST_KEPT: Final = b"first_kept"
_FIELDS: Final = ("name", "rows", "bytes", "sha256", "columns")
_RECORD: Final = pa.schema([
    ("partition", pa.string()),
    ("objects", pa.list_(pa.struct([
        ("name", pa.string()), ("rows", pa.int64()), ("bytes", pa.int64()), ("sha256", pa.string()),
        ("columns", pa.string()),
    ]))),
    ("made_from", pa.map_(pa.string(), pa.string())),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Partition:
    """The objects of a partition and their inputs. It contains no time: the same rows give an equal partition."""

    name: str
    """Value of the key, such as `2025-03-01`."""
    objects: tuple[DataObject, ...]
    made_from: dict[str, str] = field(default_factory=dict)
    """Fingerprints of the inputs and other facts, by name. A job compares them to decide whether to run."""

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(o.rows for o in self.objects)

    @property
    def bytes(self) -> int:
        """Size of the objects."""
        return sum(o.bytes for o in self.objects)

    @property
    def content_sha256(self) -> str:
        """Hash of the objects' hashes in order: equal if and only if the bytes of the partition are equal."""
        return sha256("".join(o.sha256 for o in self.objects).encode()).hexdigest()

    def paths(self, key: str) -> list[str]:
        """Paths of the objects below a table that is partitioned by `key`."""
        return [f"{key}={self.name}/{o.name}" for o in self.objects]


class Contents(NamedTuple):
    """What a version of a table contains."""

    partitions: Mapping[str, Partition]
    """By name, in order of the names."""
    first_kept: str = ""
    """The retention watermark: partitions before it were expired. "" before the first one expired."""


OBJECT_JSON: Final = TypeAdapter(DataObject)
PARTITION_JSON: Final = TypeAdapter(Partition)


def record_name(number: int) -> str:
    """Path of a record below the table."""
    return f"{RECORDS}/{number:016x}.parquet"


def write_record(table_uri: str, contents: Contents) -> int:
    """Write the record of the contents. Returns its number, 63 bits of the sha256 of its bytes."""
    rows = [
        {
            "partition": name, "made_from": list(each.made_from.items()),
            "objects": [{n: getattr(o, n) for n in _FIELDS} | {"columns": _text(o.columns)} for o in each.objects],
        }
        for name, each in contents.partitions.items()
    ]  # fmt: skip
    schema = _RECORD.with_metadata({_FIRST_KEPT: contents.first_kept})
    data = parquet(pa.Table.from_pylist(rows, schema), dictionary=True)
    number = int.from_bytes(sha256(data).digest()[:8], "big") >> 1
    put_atomically(f"{table_uri}/{record_name(number)}", data)
    return number


def read_record(table_uri: str, name: str) -> Contents:
    """The contents of a record. Raises FileNotFoundError."""
    record = read_parquet(f"{table_uri}/{name}")
    return Contents(_partitions(record), (record.schema.metadata or {}).get(_FIRST_KEPT, b"").decode())


def _partitions(record: pa.Table) -> dict[str, Partition]:
    """The partitions of a record, read by column and not validated: there may be ten years of days."""
    objects, facts = (record[name].combine_chunks() for name in ("objects", "made_from"))
    # Not `flatten` and `value_lengths`: these import pyarrow.compute, 50 ms in a process that opens tables only.
    stored = zip(*(objects.values.field(name).to_pylist() for name in _FIELDS), strict=True)
    named = zip(facts.keys.to_pylist(), facts.items.to_pylist(), strict=True)
    object_counts, fact_counts = (
        [end - first for first, end in pairwise(each.offsets.to_pylist())] for each in (objects, facts)
    )
    return {
        name: Partition(
            name=name, made_from=dict(islice(named, fact_count)),
            objects=tuple(
                DataObject(o[0], o[1], o[2], o[3], _columns(o[4]))
                for o in islice(stored, object_count)
            ),
        )
        for name, object_count, fact_count in zip(
            record["partition"].to_pylist(), object_counts, fact_counts, strict=True
        )
    }  # fmt: skip


@lru_cache
def _text(columns: tuple[tuple[str, str], ...]) -> str:
    return json.dumps(columns)


@lru_cache
def _columns(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, kind) for name, kind in json.loads(text))
