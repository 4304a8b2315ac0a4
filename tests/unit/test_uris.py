"""Paths with characters that mean something in a URI or a pattern are paths like any other."""

import ast
import shlex
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy
import structlog

from fraud import declaration_file
from fraud.embedded.stack import Stack
from fraud.features.feast_snapshot import local_snapshots, publish_snapshots, views
from fraud.ingest import ingest_labels, ingest_transactions
from fraud.ingest.delivery import delivering
from fraud.ingest.landing import schema
from fraud.job import Context
from fraud.lake import catalog, reports
from fraud.lake.lookup import rows_with_ids
from fraud.lake.objects import located, put_atomically
from fraud.params import Params
from fraud.settings import Settings
from fraud.uris import duckdb_file, path_of, sqlite_path, sqlite_url, uri_of

ROOT = Path(__file__).parents[2]
THREE = declaration_file.load(ROOT / "tests/declarations/three.yaml")
NAMES = ["a[1]b", "a*b", "a?b", "a b", "a%20b", "a#b", "a::b", "a{1,2}b", "a'b", "a$b", "aäb", "~a"]
NEIGHBOURS = ["a1b", "axb", "a1", "a2b"]
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", NAMES)
def test_a_uri_leads_back_to_its_path_and_nowhere_else(tmp_path: Path, name: str) -> None:
    target = tmp_path / name / "x.json"
    assert path_of(uri_of(target)) == target
    put_atomically(uri_of(target), b"1")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [target]
    fs, path = located(uri_of(target))
    assert fs.cat_file(path) == b"1"


@pytest.mark.parametrize("name", NAMES)
def test_a_sqlite_url_leads_back_to_its_path(tmp_path: Path, name: str) -> None:
    database = tmp_path / name / "x.db"
    database.parent.mkdir()
    engine = sqlalchemy.create_engine(sqlite_url(database))
    assert sqlite_path(sqlite_url(database)) == database
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x int)"))
    engine.dispose()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [database]


def row(number: int, name: str) -> dict[str, object]:
    return {
        "transaction_id": f"{name}-{number}", "event_timestamp": AT, "created_timestamp": AT, "user_id": "u",
        "merchant_id": "m", "merchant_category": "home", "amount": 1.0, "distance_from_home": None,
    }  # fmt: skip


def filled(home: Path, count: int) -> Context:
    """A home whose landing zone has `count` transactions and as many labels, taken into its lake."""
    settings = Settings(home=home, project=ROOT)
    context = Context(settings, Params.load(ROOT / "params.yaml"), THREE, structlog.get_logger())
    rows = [row(number, home.name) for number in range(count)]
    labels = [{"transaction_id": r["transaction_id"], "is_fraud": False, "label_timestamp": AT} for r in rows]
    with delivering(settings.landing_uri) as delivery:
        delivery.add("transactions", "2026-01-01", "test", pa.Table.from_pylist(rows, schema("transactions", THREE)))
        delivery.add("labels", "2026-01-01", "test", pa.Table.from_pylist(labels, schema("labels", THREE)))
    assert ingest_transactions.run(ingest_transactions.Config(), context).accepted == count
    assert ingest_labels.run(ingest_labels.Config(), context).unknown_transactions == 0
    return context


@pytest.mark.parametrize("name", ["a[1]b", "a*b", "a?b", "a b::c%d#e"])
def test_a_home_of_any_name_is_read_whole_and_without_its_neighbours(tmp_path: Path, name: str) -> None:
    for neighbour in NEIGHBOURS:
        filled(tmp_path / neighbour, 2)
    context = filled(tmp_path / name, 3)
    transactions = catalog.TRANSACTIONS.at(context.settings.lake_uri)
    assert transactions.partitions() == ["2026-01-01"]
    table = transactions.read("2026-01-01")
    found = rows_with_ids(transactions.open(), table["transaction_id"], table.schema)
    assert found is not None
    assert found.num_rows == 3
    assert ingest_transactions.run(ingest_transactions.Config(), context).files_known == 1
    reports.write(f"{context.settings.reports_uri}/skew/2026-01-01", "skew", "<p>", {"day": 1})
    assert reports.newest(context.settings.reports_uri, "skew") == {"day": 1}


def test_feast_is_given_snapshots_whose_paths_are_no_pattern(tmp_path: Path) -> None:
    lake, declaration = uri_of(tmp_path / "a[1]b"), THREE
    windows = {"transaction_velocity_1h": [0.0], "avg_amount_7d": [1.0], "unique_merchants_30d": [1]}
    at = pa.array([AT], pa.timestamp("us", "UTC"))
    catalog.features(declaration.stored_hash).at(lake).publish(
        "2026-01-01", pa.table({"user_id": ["u"], "event_timestamp": at, "created_timestamp": at, **windows})
    )
    publish_snapshots(lake, declaration, ["2026-01-01"])
    with local_snapshots(lake, views(declaration)) as folder:
        assert duckdb_file(folder) == folder
        snapshot = Path(folder) / "user_transaction_features.parquet"
        assert snapshot.resolve() == tmp_path / "a[1]b/feast/user_transaction_features.parquet"
        assert pq.read_table(snapshot)["avg_amount_7d"].to_pylist() == [1.0]


@pytest.mark.parametrize("name", ["a b", 'it\'s $5 "x" `id`;&|*?[1]', "ä\\n"])
def test_stack_env_sourced_by_sh_gives_the_values(tmp_path: Path, name: str) -> None:
    ports = dict.fromkeys(("airflow", "alertmanager", "mlflow", "prometheus", "serving", "valkey"), 1)
    secrets = dict.fromkeys(("AIRFLOW_ADMIN_PASSWORD", "VALKEY_PASSWORD", "MLFLOW_ADMIN_PASSWORD"), "p $'w")
    stack = Stack(tmp_path / name, tmp_path / name, ports, "mark", secrets)
    stack.home.mkdir()
    path = stack.write_shell_environment()
    script = f"set -a; . {shlex.quote(str(path))}; env -0"
    done = subprocess.run(["sh", "-euc", script], env={"PATH": "/usr/bin:/bin"}, capture_output=True, check=True)
    got = dict(entry.split("=", 1) for entry in done.stdout.decode().split("\0") if entry)
    expected = stack.platform_environment()
    assert {variable: got[variable] for variable in expected} == expected


OWNERS = {"src/fraud/uris.py", "src/fraud/lake/objects.py"}
"""The modules that turn paths into URIs and list files."""
ELSEWHERE = {
    "src/fraud/features/feast_offline.py": {"read_parquet"},  # of an escaped path
    # Airflow's environment has neither of them.
    "plugins/fraud_airflow/job_environment.py": {"file://"},
    "plugins/fraud_airflow/reports.py": {"url_to_fs"},
    # A source is any URI or pattern that a user gives.
    "src/fraud/ingest/source_file.py": {"url_to_fs", "glob"},
    "src/fraud/settings.py": {"sqlite:///"},  # in the help text of a setting
}
CALLS = {"as_uri", "unstrip_protocol", "_strip_protocol", "url_to_fs", "read_parquet"}
TEXTS = ("file://", "sqlite:///")


def uses(path: Path) -> Iterator[str]:
    """Calls and texts of a module that make URIs, undo them, or give a pattern to a file system. Not in docstrings."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield from (text for text in TEXTS if text in node.value)
        elif isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            if node.attr in CALLS or (node.attr == "glob" and owner.rpartition(".")[2] in ("fs", "_fs", "glob")):
                yield node.attr
            elif node.attr == "open" and owner == "fsspec":  # it expands patterns
                yield "fsspec.open"


@pytest.mark.parametrize("folder", ["src", "plugins", "services", "dags", "feature_repo"])
def test_no_other_module_makes_uris_or_patterns_of_paths(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name not in OWNERS:
            assert set(uses(path)) <= ELSEWHERE.get(name, set()), name
