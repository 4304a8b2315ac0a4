"""Copy the registry of an installation without servers (a SQLite file) into the folder of an MLflow server.

Versions, runs, tags and aliases keep their numbers and ids. The artifacts, which clients of the file read from this
machine's disk, get addresses under which the server gives them to any host.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from pydantic import Field

from fraud.errors import BadConfigError, RefusedError
from fraud.job import Context, JobConfig, JobResult
from fraud.uris import encoded_uri, sqlite_path

_SERVED: Final = "mlflow-artifacts:/"
_ADDRESSES: Final = (("experiments", "artifact_location"), ("runs", "artifact_uri"))
"""Tables and columns of MLflow's database with addresses of artifacts. Sources of versions are `runs:/...`."""


class Config(JobConfig):
    """The folder of the server. No job may run meanwhile."""

    to: Path | None = Field(
        default=None, description="folder of the server; default `<home>/mlflow`, the embedded stack's"
    )


class Result(JobResult):
    """What the copy has."""

    folder: str
    versions: int
    runs: int
    files: int
    bytes: int


def run(config: Config, context: Context) -> Result:
    """Copy database and artifacts; the source is kept.

    Raises BadConfigError without a file to copy, RefusedError when the folder has a registry.
    """
    source, folder = _database(context.settings.mlflow_url), config.to or context.settings.home / "mlflow"
    artifacts, target = context.settings.home / "mlflow-artifacts", folder / "mlflow.db"
    if target.exists():
        raise RefusedError(f"{target} exists", expected="a folder without a registry", hint="set --to, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "mlflow.db.new"
    temporary.unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(temporary)) as new:
        old.backup(new)
        for table, column in _ADDRESSES:
            _serve(new, table, column, encoded_uri(artifacts))
        elsewhere = [uri for (uri,) in new.execute("SELECT artifact_uri FROM runs WHERE artifact_uri LIKE 'file:%'")]
        if elsewhere:
            raise RefusedError(
                "artifacts of a run are in another folder",
                expected=f"below {encoded_uri(artifacts)}", got=elsewhere[0], hint="set FRAUD_HOME to that of the runs",
            )  # fmt: skip
        new.commit()
        [versions], [runs] = (
            new.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - names above
            for table in ("model_versions", "runs")
        )
    # A killed copy is continued; the name of the database appears last.
    shutil.copytree(artifacts, folder / "artifacts", dirs_exist_ok=True)
    temporary.replace(target)
    sizes = [path.stat().st_size for path in (folder / "artifacts").rglob("*") if path.is_file()]
    return Result(folder=str(folder), versions=versions, runs=runs, files=len(sizes), bytes=sum(sizes))


def _database(url: str) -> Path:
    path = sqlite_path(url)
    if path is None or not path.is_file():
        raise BadConfigError(
            "FRAUD_MLFLOW_URL names no registry without a server", expected="the URL of an existing SQLite file",
            got=url,
        )  # fmt: skip
    return path


def _serve(database: sqlite3.Connection, table: str, column: str, folder: str) -> None:
    """Replace addresses of files in the folder by those of the server."""
    database.execute(
        f"UPDATE {table} SET {column} = ? || ltrim(substr({column}, ?), '/') "  # noqa: S608 - names of _ADDRESSES
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (_SERVED, len(folder) + 1, folder, len(folder) + 1, f"{folder}/"),
    )
