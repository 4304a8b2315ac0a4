"""What is known before a JVM is started."""

from pathlib import Path

import pytest

from fraud.errors import BadConfigError
from fraud.io.spark import spark_session
from fraud.settings import Settings


def test_without_java_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(BadConfigError, match="Spark needs Java"), spark_session(Settings(home=tmp_path), "test"):
        pass
