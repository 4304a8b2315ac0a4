"""Backup and restore: a backup of the running stack is restored as a second project beside it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REHEARSAL = "fraud-rehearsal"
VOLUMES = ("mlflow-artifacts", "platform", "predictions", "api-keys", "airflow-logs")
DATABASES = ("airflow", "mlflow", "mlflow_auth", "fraud", "feast")
# Every table's number of rows, in one query.
COUNTS = """SELECT table_name, (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %I.%I',
 table_schema, table_name), false, true, '')))[1] FROM information_schema.tables
 WHERE table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY 1"""
# Tables that change without user activity: heartbeats and logins.
ALIVE = (
    "job",
    "session",
    "ab_user",
    "log",
    "dag",
    "serialized_dag",
    "dag_version",
    "dag_code",
    "dag_priority_parsing_request",
)


def run(*command: str, project: str = "fraud", **environment: str) -> str:
    env = os.environ | {"COMPOSE_PROJECT_NAME": project} | environment
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{command}: {done.stderr[-2000:]}"
    return done.stdout


def compose(*arguments: str, project: str = "fraud") -> str:
    return run("docker", "compose", "--profile", "full", *arguments, project=project)


def stack_runs() -> bool:
    return shutil.which("docker") is not None and bool(
        subprocess.run(
            ["docker", "ps", "--quiet", "--filter", "label=com.docker.compose.project=fraud"],
            capture_output=True, text=True, check=False,
        ).stdout.split()
    )  # fmt: skip


pytestmark = [
    pytest.mark.deploy,
    pytest.mark.slow,
    pytest.mark.skipif(not stack_runs(), reason="no deployed stack runs here: make up"),
]


def rows(project: str) -> dict[str, str]:
    found = {}
    for database in DATABASES:
        lines = compose(
            "exec", "-T", "postgres", "psql", "-U", "postgres", "-d", database, "-qAt", "-c", COUNTS, project=project
        ).splitlines()
        found |= {f"{database}.{line.split('|')[0]}": line.split("|")[1] for line in lines}
    return {name: count for name, count in found.items() if name.split(".")[1] not in ALIVE}


def files(project: str, volume: str) -> set[str]:
    """`sha256  path` of every file."""
    listing = "find . -type f -print0 | sort -z | xargs -0 -r sha256sum"
    image = run("docker", "image", "ls", "--quiet", "fraud-serving").split()[0]
    mount = f"{project}_{volume}:/v:ro"
    return set(
        run(
            "docker",
            "run",
            "--rm",
            "--network",
            "none",
            "--workdir",
            "/v",
            "--volume",
            mount,
            image,
            "sh",
            "-c",
            listing,
        ).splitlines()
    )


def histories(project: str) -> str:
    """The number of histories in the online store, and a digest of them."""
    script = """export REDISCLI_AUTH="$VALKEY_PASSWORD"; keys=$(valkey-cli --scan --pattern 'h:*' | sort)
echo "$keys" | grep -c .; for key in $keys; do valkey-cli --raw dump "$key"; done | sha256sum"""
    return compose("exec", "-T", "valkey", "sh", "-c", script, project=project)


@pytest.fixture
def restored(tmp_path: Path) -> Iterator[str]:
    """The restored project with running stores. It is removed at the end."""
    run("infra/compose/backup.sh", str(tmp_path / "backup"))
    compose("down", "--volumes", project=REHEARSAL)
    try:
        run("infra/compose/restore.sh", str(tmp_path / "backup"), project=REHEARSAL)
        compose("up", "--detach", "--no-build", "--wait", "postgres", "valkey", project=REHEARSAL)
        yield REHEARSAL
    finally:
        compose("down", "--volumes", project=REHEARSAL)


@pytest.mark.timeout(1200)
def test_a_restored_stack_has_all_data_of_the_backup(restored: str) -> None:
    assert rows(restored) == rows("fraud")
    assert histories(restored) == histories("fraud")
    for volume in VOLUMES:
        now, then = files("fraud", volume), files(restored, volume)
        # Serving continues during the backup: files may have been added or extended, and no earlier file is missing.
        missing = {line.split("  ")[1] for line in now} - {line.split("  ")[1] for line in then}
        assert not (then - now) or volume in ("predictions", "airflow-logs"), volume
        assert not missing or volume in ("predictions", "airflow-logs"), volume


def test_a_restore_never_overwrites_a_stack(tmp_path: Path) -> None:
    run("infra/compose/backup.sh", str(tmp_path / "backup"))
    done = subprocess.run(
        ["infra/compose/restore.sh", str(tmp_path / "backup")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode
    assert "has volumes" in done.stderr
