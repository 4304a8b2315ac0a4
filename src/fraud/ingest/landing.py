"""The landing zone: Parquet files of sources below `transactions/` and `labels/`."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.core.contract import TRANSACTION_COLUMNS
from fraud.core.declaration import Declaration
from fraud.errors import BadInputError
from fraud.ingest.flags import can_be_flag, flags_of
from fraud.ingest.ids import ID_COLUMNS, both, can_be_id, described, ids_of
from fraud.lake import catalog
from fraud.lake.objects import listed, located

Feed = Literal["transactions", "labels"]
PARSE_ERROR: Final = "parse_error"
NO_DAY: Final = "unknown"
HELD_BACK: Final = "held_back"


def schema(feed: Feed, declaration: Declaration) -> pa.Schema:
    """The columns of a landed file of this feed: the contract's, the declared ones, and `parse_error`."""
    definition = {"transactions": catalog.TRANSACTIONS, "labels": catalog.LABELS}[feed]
    return definition.schema(declaration).append(pa.field(PARSE_ERROR, pa.string()))


def required(feed: Feed) -> tuple[str, ...]:
    """The columns that a landed file must have. Others may be missing; ingest defines their defaults."""
    if feed == "labels":
        return tuple(catalog.LABEL_SCHEMA.names)
    return tuple(name for name in TRANSACTION_COLUMNS if name != "created_timestamp")


def text_columns(declaration: Declaration) -> tuple[str, ...]:
    """The columns that are read by the rules of `fraud.ingest.ids`: ids and categories."""
    return (*ID_COLUMNS, *(n for n, column in sorted(declaration.columns.items()) if column.type in ("id", "category")))


def flag_columns(declaration: Declaration) -> tuple[str, ...]:
    """The declared flags, which are read by the rules of `fraud.ingest.flags`."""
    return tuple(name for name, column in sorted(declaration.columns.items()) if column.type == "flag")


@dataclass(frozen=True, slots=True)
class LandedFile:
    """One delivered file, identified by the hash of its bytes."""

    uri: str
    name: str
    """Path below the landing zone."""
    sha256: str
    rows: int
    columns: pa.Schema


def landed_files(landing_uri: str, feed: Feed) -> Iterator[LandedFile]:
    """The delivered files, sorted by path. Raises BadInputError for a file that is not a Parquet file."""
    root = f"{landing_uri.rstrip('/')}/{feed}"
    fs, path = located(root)
    for found in listed(root):
        if found.endswith(".parquet"):
            data: bytes = fs.cat_file(f"{path}/{found}")
            uri = f"{root}/{found}"
            file = _open(uri, data)
            digest = sha256(data).hexdigest()
            yield LandedFile(uri, f"{feed}/{found}", digest, file.metadata.num_rows, file.schema_arrow)


def read_landed(file: LandedFile, feed: Feed, declaration: Declaration) -> pa.Table:
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
        rows = _open(file.uri, data).read(columns=schema(feed, declaration).names)
        return in_schema(file.uri, feed, declaration, rows)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BadInputError(f"{file.uri} cannot be read", got=str(error), hint="deliver the file again") from error


def in_schema(name: str, feed: Feed, declaration: Declaration, table: pa.Table) -> pa.Table:
    """The rows of a table in the feed's schema. Missing optional columns are null. An invalid id, category or flag
    becomes null, with the reason in `parse_error`.

    Raises BadInputError with `name` when a column is missing, is repeated or has an unsupported type.
    """
    check_columns(name, feed, declaration, table.schema)
    texts, flags = text_columns(declaration), flag_columns(declaration)
    columns: dict[str, pa.Array] = {}
    errors = pa.nulls(table.num_rows, pa.string())
    for field in schema(feed, declaration):
        if field.name not in table.column_names:
            columns[field.name] = pa.nulls(table.num_rows, field.type)
            continue
        given = table[field.name]
        if field.name in texts:
            columns[field.name], faults = ids_of(field.name, given)
        elif field.name in flags:
            columns[field.name], faults = flags_of(field.name, given)
        else:
            columns[field.name] = given.cast(field.type, safe=False)
            continue
        errors = both(errors, described(field.name, faults, given))
    columns[PARSE_ERROR] = both(columns[PARSE_ERROR], errors)
    return pa.Table.from_arrays(list(columns.values()), schema=schema(feed, declaration))


def delivered(landing_uri: str, transactions: Collection[str], declaration: Declaration) -> pa.Table:
    """All delivered rows of these transactions, including rejected ones. Reads the whole landing zone."""
    ids = pa.array(sorted(transactions), pa.string())
    files = landed_files(landing_uri, "transactions")
    tables = (read_landed(file, "transactions", declaration) for file in files)
    found = [table.filter(pc.is_in(table["transaction_id"], ids)) for table in tables]
    return pa.concat_tables([schema("transactions", declaration).empty_table(), *found])


def _open(uri: str, data: bytes) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise BadInputError(
            f"{uri} is not a Parquet file", got=f"{len(data)} bytes: {error}", hint="deliver the whole file again"
        ) from error


def check_columns(uri: str, feed: Feed, declaration: Declaration, found: pa.Schema) -> None:
    """Raises BadInputError when a column is missing or its type cannot become the contract's."""
    expected = schema(feed, declaration)
    if missing := [name for name in required(feed) if name not in found.names]:
        raise BadInputError(
            f"{uri} lacks {', '.join(missing)}", expected=", ".join(expected.names),
            got=", ".join(found.names) or "no columns", hint="fraud import maps other files to the contract",
        )  # fmt: skip
    if twice := sorted({n for n in expected.names if found.names.count(n) > 1}):
        raise BadInputError(f"{uri} has several columns named {', '.join(twice)}", hint="rename them at the source")
    texts, flags = text_columns(declaration), flag_columns(declaration)
    for field in expected:
        got = found.field(field.name).type if field.name in found.names else pa.null()
        if field.name in texts:
            fits = can_be_id(got)
        else:
            fits = can_be_flag(got) if field.name in flags else _fits(got, field.type)
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
