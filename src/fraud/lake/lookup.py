"""Look up rows of a dataset by transaction_id without reading the dataset into memory."""

from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fraud.lake.dataset import DatasetVersion, conformed
from fraud.lake.objects import located
from fraud.uris import duckdb_file, path_or_uri


def rows_with_ids(dataset: DatasetVersion, ids: pa.Array | pa.ChunkedArray, schema: pa.Schema) -> pa.Table | None:
    """The rows of a dataset whose transaction_id is in `ids`, in any order; None for a dataset without partitions.

    They have the columns of `schema`. A column that a partition does not have is null. The id column, and the other
    columns of the row groups with a match, are streamed: memory use grows with `ids` and the number of rows found.
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
        paths = [duckdb_file(path_or_uri(uri)) for uri in uris]
        query = (
            "SELECT COLUMNS(lambda name: list_contains($names, name)) "
            "FROM read_parquet($paths, union_by_name = true) SEMI JOIN ids USING (transaction_id)"
        )
        found = connection.sql(query, params={"names": schema.names, "paths": paths}).to_arrow_table()
    return conformed(found, schema)


def by_day(table: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """Split a table by the UTC day of a timestamp column. The order of rows within a day is kept."""
    days = table[column].cast(pa.timestamp("us")).cast(pa.date32())
    for day in sorted(pc.unique(days).to_pylist()):
        yield day.isoformat(), table.filter(pc.equal(days, pa.scalar(day)))
