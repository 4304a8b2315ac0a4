"""Look up rows of a dataset by transaction_id without reading the dataset into memory."""

from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fraud.lake.dataset import Dataset, located
from fraud.uris import duckdb_file, path_or_uri


def rows_with_ids(dataset: Dataset, ids: pa.Array | pa.ChunkedArray, columns: Sequence[str]) -> pa.Table | None:
    """The rows of a dataset whose transaction_id is in `ids`, in any order; None for a dataset without partitions.

    The id column, and the other columns of the row groups with a match, are streamed: memory use grows with `ids` and
    the number of rows found.
    """
    uris = [uri for partition in dataset.partitions() for uri in dataset.object_uris(partition)]
    if not uris:
        return None
    fs, _ = located(dataset.uri)
    local = "file" in fs.protocol
    with duckdb.connect() as connection:
        if not local:
            connection.register_filesystem(fs)
        connection.register("ids", pa.table({"transaction_id": ids}))
        chosen = ", ".join(f'"{column}"' for column in columns)
        paths = [duckdb_file(path_or_uri(uri)) for uri in uris]
        query = f"SELECT {chosen} FROM read_parquet($paths) SEMI JOIN ids USING (transaction_id)"  # noqa: S608
        return connection.sql(query, params={"paths": paths}).to_arrow_table()


def by_day(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """Split a table by the UTC day of a timestamp column. The order of rows within a day is kept."""
    days = table[column].cast(pa.timestamp("us")).cast(pa.date32())
    for day in sorted(pc.unique(days).to_pylist()):
        yield day.isoformat(), table.filter(pc.equal(days, pa.scalar(day)))
