"""The demo's command line."""

import argparse
from pathlib import Path

import pytest

from fraud.embedded.demo import Source
from fraud.errors import BadConfigError


def arguments(source: str, mapping: Path | None) -> argparse.Namespace:
    return argparse.Namespace(source=source, mapping=mapping, days=150, users=1500, seed=1)


def test_without_a_source_transactions_are_simulated() -> None:
    assert Source.of(arguments("", None)).command == (
        "simulate", "--days=150", "--users=1500", "--seed=1", "--hold-back-days=1",
    )  # fmt: skip


def test_a_file_is_imported_by_its_mapping(tmp_path: Path) -> None:
    file, mapping = tmp_path / "a.csv", tmp_path / "a.yaml"
    file.touch()
    mapping.touch()
    command = ("import", f"--source={file}", f"--mapping={mapping}", "--hold-back-days=1")
    assert Source.of(arguments(str(file), mapping)).command == command


def test_a_source_without_its_mapping_is_refused() -> None:
    with pytest.raises(BadConfigError, match="needs a mapping"):
        Source.of(arguments("a.csv", None))


def test_a_missing_file_is_refused_before_any_service_starts(tmp_path: Path) -> None:
    mapping = tmp_path / "a.yaml"
    with pytest.raises(BadConfigError, match=r"a\.yaml does not exist"):
        Source.of(arguments("s3://bucket/a.csv", mapping))
    mapping.touch()
    with pytest.raises(BadConfigError, match=r"missing\.csv does not exist"):
        Source.of(arguments(str(tmp_path / "missing.csv"), mapping))
    assert Source.of(arguments("s3://bucket/a.csv", mapping)).command[0] == "import"


def test_a_source_may_be_a_folder_or_a_pattern(tmp_path: Path) -> None:
    mapping = tmp_path / "a.yaml"
    mapping.touch()
    for source in (str(tmp_path), str(tmp_path / "*.yaml")):
        assert Source.of(arguments(source, mapping)).command[1] == f"--source={source}"
    with pytest.raises(BadConfigError, match="does not exist"):
        Source.of(arguments(str(tmp_path / "*.csv"), mapping))
