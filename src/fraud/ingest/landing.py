"""The landing zone: Parquet files of sources below `transactions/` and `labels/`."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.errors import BadInputError
from fraud.ingest.ids import ID_COLUMNS, both, can_be_id, described, ids_of
from fraud.lake import catalog
from fraud.lake.dataset import listed, located

Feed = Literal["transactions", "labels"]
PARSE_ERROR: Final = "parse_error"
SCHEMAS: Final[dict[Feed, pa.Schema]] = {
    "transactions": catalog.TRANSACTIONS.schema.append(pa.field(PARSE_ERROR, pa.string())),
    "labels": catalog.LABELS.schema.append(pa.field(PARSE_ERROR, pa.string())),
}
OPTIONAL: Final = frozenset({"created_timestamp", "merchant_category", "distance_from_home", PARSE_ERROR})
"""Columns that a source may omit. Ingest defines their defaults."""
NO_DAY: Final = "unknown"
HELD_BACK: Final = "held_back"


@dataclass(frozen=True, slots=True)
class LandedFile:
    """One delivered file, identified by the hash of its bytes."""

    uri: str
    name: str
    """Path below the landing zone."""
    sha256: str
    rows: int


def landed_files(landing_uri: str, feed: Feed) -> Iterator[LandedFile]:
    """The delivered files, sorted by path. Raises BadInputError for a file that is not a Parquet file of this feed."""
    root = f"{landing_uri.rstrip('/')}/{feed}"
    fs, path = located(root)
    for found in listed(root):
        if found.endswith(".parquet"):
            data: bytes = fs.cat_file(f"{path}/{found}")
            uri = f"{root}/{found}"
            file = _open(uri, data)
            _check(uri, feed, file.schema_arrow)
            yield LandedFile(uri, f"{feed}/{found}", sha256(data).hexdigest(), file.metadata.num_rows)


def read_landed(file: LandedFile, feed: Feed) -> pa.Table:
    """The rows of a file in the feed's schema. Missing optional columns are null.

    Raises BadInputError when the file changed since it was listed, is damaged, or has a column of an unsupported type.
    """
    fs, path = located(file.uri)
    data: bytes = fs.cat_file(path)
    if sha256(data).hexdigest() != file.sha256:
        raise BadInputError(
            f"{file.uri} changed while being read", hint="deliver changed files under new names, then run again"
        )
    try:
        return in_schema(file.uri, feed, _open(file.uri, data).read(columns=SCHEMAS[feed].names))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInputError(f"{file.uri} cannot be read", got=str(error), hint="deliver the file again") from error


def in_schema(name: str, feed: Feed, table: pa.Table) -> pa.Table:
    """The rows of a table in the feed's schema. Missing optional columns are null. An invalid id becomes null, with the
    reason in `parse_error`.

    Raises BadInputError with `name` when a column is missing, is repeated or has an unsupported type.
    """
    _check(name, feed, table.schema)
    schema, rows = SCHEMAS[feed], table.num_rows
    columns: dict[str, pa.Array] = {}
    errors = pa.nulls(rows, pa.string())
    for field in schema:
        if field.name not in table.column_names:
            columns[field.name] = pa.nulls(rows, field.type)
        elif field.name in ID_COLUMNS:
            ids = ids_of(field.name, table[field.name])
            columns[field.name] = ids.texts
            errors = both(errors, described(field.name, ids, table[field.name]))
        else:
            columns[field.name] = table[field.name].cast(field.type, safe=False)
    columns[PARSE_ERROR] = both(columns[PARSE_ERROR], errors)
    return pa.Table.from_arrays(list(columns.values()), schema=schema)


def delivered(landing_uri: str, transactions: Collection[str]) -> pa.Table:
    """All delivered rows of these transactions, including rejected ones. Reads the whole landing zone."""
    ids = pa.array(sorted(transactions), pa.string())
    tables = [read_landed(file, "transactions") for file in landed_files(landing_uri, "transactions")]
    found = [table.filter(pc.is_in(table["transaction_id"], ids)) for table in tables]
    return pa.concat_tables([SCHEMAS["transactions"].empty_table(), *found])


def _open(uri: str, data: bytes) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise BadInputError(
            f"{uri} is not a Parquet file", got=f"{len(data)} bytes: {error}", hint="deliver the whole file again"
        ) from error


def _check(uri: str, feed: Feed, schema: pa.Schema) -> None:
    """Raises BadInputError when a column is missing or its type cannot become the contract's."""
    missing = [f.name for f in SCHEMAS[feed] if f.name not in schema.names and f.name not in OPTIONAL]
    if missing:
        raise BadInputError(
            f"{uri} lacks {', '.join(missing)}", expected=", ".join(SCHEMAS[feed].names),
            got=", ".join(schema.names) or "no columns", hint="fraud import maps other files to the contract",
        )  # fmt: skip
    if twice := sorted({n for n in SCHEMAS[feed].names if schema.names.count(n) > 1}):
        raise BadInputError(f"{uri} has several columns named {', '.join(twice)}", hint="rename them at the source")
    for field in SCHEMAS[feed]:
        got = schema.field(field.name).type if field.name in schema.names else pa.null()
        fits = can_be_id(got) if field.name in ID_COLUMNS else _fits(got, field.type)
        if not fits:
            zone = pa.types.is_timestamp(got)
            raise BadInputError(
                f"{uri}: column {field.name} {'has no time zone' if zone else 'has the wrong type'}",
                expected=str(field.type), got=str(got), hint="fraud import maps other files to the contract",
            )  # fmt: skip


def _fits(got: pa.DataType, expected: pa.DataType) -> bool:
    kind = got.value_type if pa.types.is_dictionary(got) else got
    if pa.types.is_null(kind):
        return True
    if pa.types.is_timestamp(expected):
        return pa.types.is_timestamp(kind) and kind.tz is not None
    accepted = {
        pa.string(): (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        pa.bool_(): (pa.types.is_boolean,),
        pa.float64(): (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal),
    }
    return any(test(kind) for test in accepted[expected])
