"""The tables of the lake: their versions, and the partitions of a version."""

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from fraud.errors import BadInputError
from fraud.job import Context, JobConfig, JobResult
from fraud.lake import catalog
from fraud.lake.catalog import DatasetDefinition

SHOWN: int = 20
"""Newest partitions and commits that the text shows; the result has all."""


class Config(JobConfig):
    """Without `dataset`: a line for each table of the lake."""

    dataset: str | None = Field(default=None, description="table whose partitions and commits are listed, as in scores")
    as_of_version: int | None = Field(
        default=None, ge=0, description="version of the table that is read; default the newest"
    )


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Partition(_Part):
    """A partition of the version."""

    name: str
    rows: int
    bytes: int
    content_sha256: str
    made_from: dict[str, str]


class Commit(_Part):
    """A commit that is still in the log."""

    version: int
    at: datetime
    job: str
    run: str


class Table(_Part):
    """A version of a table."""

    name: str
    version: int
    rows: int
    bytes: int
    first: str
    last: str
    """First and last partition."""
    partitions: list[Partition]
    """Only with `dataset`."""
    commits: list[Commit]
    """Only with `dataset`; newest first."""


class Result(JobResult):
    """The tables that exist."""

    tables: list[Table]

    def as_text(self) -> str:
        lines = [f"{'table':<36}{'version':>8}{'rows':>14}{'bytes':>16}  partitions"]
        for table in self.tables:
            lines.append(
                f"{table.name:<36}{table.version:>8}{table.rows:>14,}{table.bytes:>16,}  {table.first} .. {table.last}"
            )
            lines += [
                f"  {p.name:<34}{'':>8}{p.rows:>14,}{p.bytes:>16,}  {p.content_sha256[:12]}"
                for p in table.partitions[-SHOWN:]
            ]
            lines += [
                f"  version {c.version:<6}{c.at:%Y-%m-%d %H:%M:%S}  {c.job} {c.run}" for c in table.commits[:SHOWN]
            ]
        return "\n".join(lines)


def run(config: Config, context: Context) -> Result:
    """Read the tables. Raises BadInputError for a dataset or version that does not exist."""
    lake_uri = context.settings.lake_uri
    definitions = {d.name: d for d in (*catalog.ALL, *catalog.in_lake(lake_uri), *catalog.what_ifs(lake_uri))}
    if config.dataset is None:
        if config.as_of_version is not None:
            raise BadInputError("a version is that of one table", hint="--dataset NAME --as-of-version N")
        found = [_table(definition, lake_uri, None) for definition in definitions.values()]
        return Result(tables=[table for table in found if table.version >= 0])
    if config.dataset not in definitions:
        raise BadInputError(f"the lake has no table {config.dataset}", expected=", ".join(definitions))
    table = _table(definitions[config.dataset], lake_uri, config.as_of_version, details=True)
    if table.version < 0:
        raise BadInputError(f"the table {config.dataset} does not exist yet")
    return Result(tables=[table])


def _table(definition: DatasetDefinition, lake_uri: str, version: int | None, *, details: bool = False) -> Table:
    dataset = definition.at(lake_uri)
    opened = dataset.open(version)
    partitions, names = opened.contents.partitions, opened.partitions()
    commits = [
        Commit(
            version=commit["version"], at=datetime.fromtimestamp(commit["timestamp"] / 1000, UTC),
            job=commit.get("job", ""), run=commit.get("run", ""),
        )
        for commit in (dataset.table.history() if details else ())
    ]  # fmt: skip
    return Table(
        name=dataset.name, version=opened.number, rows=opened.rows,
        bytes=sum(p.bytes for p in partitions.values()), first=names[0] if names else "",
        last=names[-1] if names else "", commits=commits,
        partitions=[
            Partition(name=n, rows=p.rows, bytes=p.bytes, content_sha256=p.content_sha256, made_from=p.made_from)
            for n, p in (partitions.items() if details else ())
        ],
    )  # fmt: skip
