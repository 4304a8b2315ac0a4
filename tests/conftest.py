"""Fixtures of tests in several folders."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as it is pushed to a DVC remote: two files, one of them in a folder of its own."""
    made = tmp_path / "model"
    (made / "inner").mkdir(parents=True)
    (made / "a.txt").write_text("a\n")
    (made / "inner/b.txt").write_text("b\n")
    return made
