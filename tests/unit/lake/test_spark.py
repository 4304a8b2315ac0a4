"""What is known before a JVM is started."""

import subprocess
import sys
from pathlib import Path

CODE = """
from fraud.lake.spark import spark_session
from fraud.settings import Settings
with spark_session(Settings(), "test"):
    pass
"""


def test_without_java_it_says_what_to_install(tmp_path: Path) -> None:
    """In a process of its own: a session that is up in this one would be used."""
    ended = subprocess.run(
        [sys.executable, "-c", CODE],
        env={"PATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "BadConfigError: Spark needs Java" in ended.stderr
