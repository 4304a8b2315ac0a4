"""A feature repository that cannot be read is a configuration error that names the file."""

from pathlib import Path

import pytest

from fraud.errors import BadConfigError
from fraud.features import feast_store


def opened(project: Path) -> object:
    return feast_store.open_store(project, f"sqlite:///{project}/registry.db", "redis://127.0.0.1:9/0")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "feature_repo"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "content",
    [b"project: [unclosed", b"- a list", b"", b"project: fraud", b"project: Pr\xe4mie"],
    ids=["not-yaml", "list", "empty", "no-sections", "latin-1"],
)
def test_a_configuration_that_is_none(repository: Path, content: bytes) -> None:
    (repository / "feature_store.yaml").write_bytes(content)
    with pytest.raises(BadConfigError, match=r"feature_store\.yaml cannot be read"):
        opened(repository.parent)


def test_a_value_that_feast_does_not_accept(repository: Path) -> None:
    text = "project: fraud\nprovider: local\nregistry: {registry_type: sql}\nonline_store: {type: redis}\n"
    (repository / "feature_store.yaml").write_text(text + "entity_key_serialization_version: many\n")
    with pytest.raises(BadConfigError, match=r"feature_store\.yaml is not a valid Feast configuration"):
        opened(repository.parent)


@pytest.mark.parametrize(
    "content", [b"def define(:", b"import no_such_module_here", b"define = unknown_name", b"\xff\xfe"],
    ids=["syntax", "import", "name", "bytes"],
)  # fmt: skip
def test_definitions_that_do_not_load(repository: Path, content: bytes) -> None:
    (repository / "definitions.py").write_bytes(content)
    with pytest.raises(BadConfigError, match=r"definitions\.py cannot be loaded"):
        feast_store.load_definitions(repository.parent)


def test_a_missing_repository(tmp_path: Path) -> None:
    for use in (opened, feast_store.load_definitions):
        with pytest.raises(BadConfigError, match="does not exist"):
            use(tmp_path)
