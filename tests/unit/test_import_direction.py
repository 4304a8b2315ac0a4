"""Arrows point one way (docs/architecture.md). The imports are read from the source, late ones included."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STANDARD = set(sys.stdlib_module_names)
# Package below `fraud` -> packages of ours it may import. Every one may import itself, `errors`, `uris` and `fraud`.
ALLOWED = {
    "core": set(),
    "engines": {"core"},
    "models": {"core", "engines", "params"},
    "io": {"core", "engines", "params", "printing", "settings"},
    "simulator": {"core"},
    "job_list": set(),
    "jobs": {"core", "engines", "io", "job_list", "models", "simulator", "params", "printing", "settings"},
    "embedded": {"secret_file", "settings"},
    "cli": {"io", "job_list", "jobs", "params", "printing", "settings"},
    "errors": set(),
    "params": set(),
    "printing": set(),
    "secret_file": set(),
    "settings": set(),
    "uris": set(),
}


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything the file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def ours(path: Path) -> set[str]:
    """Second parts of what is imported from `fraud`."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("fraud.")}


@pytest.mark.parametrize("path", below("src/fraud"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_package_imports_only_what_lies_below_it(path: Path) -> None:
    package = path.relative_to(ROOT / "src/fraud").parts[0].removesuffix(".py")
    if package != "__init__":
        assert ours(path) <= ALLOWED[package] | {package, "errors", "uris", "__version__"}


@pytest.mark.parametrize("path", below("src/fraud/core"), ids=lambda p: p.name)
def test_core_needs_numpy_and_pydantic_only(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)} <= STANDARD | {"numpy", "pydantic", "fraud"}


def test_serving_imports_core_and_nothing_else_of_ours() -> None:
    for path in below("services/serving/src"):
        assert ours(path) <= {"core"}, path


def test_airflow_reaches_the_platform_through_the_command_line_alone() -> None:
    own = {"fraud_airflow", "airflow", "fastapi", "fsspec", "markdown_it"}
    for path in [*below("plugins"), *below("dags")]:
        assert {name.split(".")[0] for name in imports(path)} <= STANDARD | own, path
    for path in below("plugins"):
        assert not {"dags"} & {name.split(".")[0] for name in imports(path)}, path
