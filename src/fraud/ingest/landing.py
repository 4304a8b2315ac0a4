"""The landing zone: what sources deliver, as Parquet files below `transactions/` and `labels/`."""

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
"""Columns a source may leave out; ingest says what stands in for them."""
NO_DAY: Final = "unknown"
HELD_BACK: Final = "held_back"


@dataclass(frozen=True, slots=True)
class LandedFile:
    """One delivered file, known by its bytes."""

    uri: str
    name: str
    """Path below the landing zone."""
    sha256: str
    rows: int


def landed_files(landing_uri: str, feed: Feed) -> Iterator[LandedFile]:
    """What was delivered, by path. Raises BadInputError for a file that is no Parquet file of this feed."""
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
    """The file's rows in the feed's schema; optional columns that are not there are null.

    Raises BadInputError when the bytes are not those that were listed, are damaged, or a type does not fit.
    """
    fs, path = located(file.uri)
    data: bytes = fs.cat_file(path)
    if sha256(data).hexdigest() != file.sha256:
        raise BadInputError(f"{file.uri} changed while being read", hint="deliver files under fresh names; run again")
    try:
        return in_schema(file.uri, feed, _open(file.uri, data).read(columns=SCHEMAS[feed].names))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInputError(f"{file.uri} cannot be read", got=str(error), hint="deliver the file again") from error


def in_schema(name: str, feed: Feed, table: pa.Table) -> pa.Table:
    """The table's rows in the feed's schema. Optional columns that are not there are null; an id that cannot be used is
    null, and `parse_error` says why.

    Raises BadInputError naming `name` when a column is missing, is there twice, or has a type that does not fit.
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
    """Every delivered row of these transactions, whatever ingest made of it. Reads the whole landing zone."""
    wanted = pa.array(sorted(transactions), pa.string())
    tables = [read_landed(file, "transactions") for file in landed_files(landing_uri, "transactions")]
    found = [table.filter(pc.is_in(table["transaction_id"], wanted)) for table in tables]
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


def _fits(got: pa.DataType, wanted: pa.DataType) -> bool:
    kind = got.value_type if pa.types.is_dictionary(got) else got
    if pa.types.is_null(kind):
        return True
    if pa.types.is_timestamp(wanted):
        return pa.types.is_timestamp(kind) and kind.tz is not None
    accepted = {
        pa.string(): (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        pa.bool_(): (pa.types.is_boolean,),
        pa.float64(): (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal),
    }
    return any(test(kind) for test in accepted[wanted])
