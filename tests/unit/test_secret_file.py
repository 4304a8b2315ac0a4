"""The file of secrets: generated, kept and refused values."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fraud.secret_file import main, read_env, weak

COMPOSE = "a: ${DB_PASSWORD:?}\nb: ${FERNET_KEY:?}\nc: ${PORT:-80}\n"


@pytest.fixture
def compose(tmp_path: Path) -> Path:
    path = tmp_path / "docker-compose.yml"
    path.write_text(COMPOSE)
    return path


def test_required_variables_are_generated_once(tmp_path: Path, compose: Path) -> None:
    env = tmp_path / ".env"
    main([str(env), str(compose)])
    first = read_env(env)
    assert set(first) == {"DB_PASSWORD", "FERNET_KEY"}
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    main([str(env), str(compose)])
    assert read_env(env) == first


def test_other_lines_are_kept(tmp_path: Path, compose: Path) -> None:
    env = tmp_path / ".env"
    env.write_text("# mine\nAIRFLOW_PORT=18080\nDB_PASSWORD=\n")
    main([str(env), str(compose)])
    assert env.read_text().startswith("# mine\nAIRFLOW_PORT=18080\n")
    assert len(read_env(env)["DB_PASSWORD"]) == 32


@pytest.mark.parametrize("value", ["admin", "short", "change-me-change-me-change-me", "my-secret-password-for-prod"])
def test_a_password_from_an_example_is_refused(tmp_path: Path, compose: Path, value: str) -> None:
    env = tmp_path / ".env"
    env.write_text(f"DB_PASSWORD={value}\n")
    with pytest.raises(SystemExit, match="DB_PASSWORD"):
        main([str(env), str(compose)])


def test_a_generated_secret_is_never_refused(tmp_path: Path) -> None:
    compose = tmp_path / "docker-compose.yml"
    compose.write_text("".join(f"${{SECRET_{n}:?}}\n" for n in range(300)))
    main([str(tmp_path / ".env"), str(compose)])
    assert weak(read_env(tmp_path / ".env")) == []


def test_it_runs_with_the_standard_library_only(tmp_path: Path, compose: Path) -> None:
    source = Path(__file__).resolve().parents[2] / "src"
    command = [sys.executable, "-S", "-m", "fraud.secret_file", str(tmp_path / ".env"), str(compose)]
    subprocess.run(command, check=True, env={"PYTHONPATH": str(source)})
    assert read_env(tmp_path / ".env")
