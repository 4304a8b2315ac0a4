"""Packages import only what the table in docs/architecture.md allows. Imports inside functions count too."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
STANDARD: Final = set(sys.stdlib_module_names)
EVERYWHERE: Final = {"errors", "__version__"}
MOST_MODULES: Final = 15
MOST_LINES: Final = 400


def allowed() -> dict[str, set[str]]:
    """Package of `fraud` -> the packages of `fraud` it may import, from the table "Packages"."""
    page = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `fraud\.(\w+)` \| [^|]+ \|([^|]*)\|$", page, re.MULTILINE)
    return {package: set(re.findall(r"\w+", names)) for package, names in rows}


def imports(path: Path) -> Iterator[str]:
    """Absolute names of everything the file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def below(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def ours(path: Path) -> set[str]:
    """Packages of `fraud` that the file imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("fraud.")}


def package_of(path: Path) -> str:
    return path.relative_to(ROOT / "src/fraud").parts[0].removesuffix(".py")


def test_the_table_lists_every_package_once() -> None:
    packages = {package_of(path) for path in below("src/fraud")} - {"__init__", "errors"}
    assert set(allowed()) == packages


def test_a_package_imports_only_packages_above_it_in_the_table() -> None:
    order = list(allowed())
    for row, (package, names) in enumerate(allowed().items()):
        assert names <= set(order[:row]), f"{package} comes before {names - set(order[:row])}"


@pytest.mark.parametrize("path", below("src/fraud"), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_package_imports_only_what_the_table_allows(path: Path) -> None:
    package = package_of(path)
    if package not in {"__init__", "errors"}:
        assert ours(path) <= allowed()[package] | {package} | EVERYWHERE


def test_the_table_allows_only_what_is_used() -> None:
    used: dict[str, set[str]] = {package: set() for package in allowed()}
    for path in below("src/fraud"):
        if package_of(path) in used:
            used[package_of(path)] |= ours(path) - EVERYWHERE - {package_of(path)}
    assert used == allowed()


@pytest.mark.parametrize("path", below("src/fraud/core"), ids=lambda p: p.name)
def test_core_needs_numpy_and_pydantic_only(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)} <= STANDARD | {"numpy", "pydantic", "fraud"}


def test_serving_imports_core_alone() -> None:
    for path in below("services/serving/src"):
        assert ours(path) <= {"core"}, path


def test_airflow_reaches_the_platform_through_the_command_line_alone() -> None:
    own = {"fraud_airflow", "airflow", "fastapi", "fsspec", "markdown_it"}
    for path in [*below("plugins"), *below("dags")]:
        assert {name.split(".")[0] for name in imports(path)} <= STANDARD | own, path
    for path in below("plugins"):
        assert not {"dags"} & {name.split(".")[0] for name in imports(path)}, path


@pytest.mark.parametrize("root", ["src/fraud", "services/serving/src/fraud_serving", "plugins/fraud_airflow"])
def test_a_package_has_few_modules(root: str) -> None:
    folders = [ROOT / root, *(path for path in (ROOT / root).rglob("*") if path.is_dir())]
    counts = {str(folder.relative_to(ROOT)): len([*folder.glob("[!_]*.py")]) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_a_module_is_short() -> None:
    modules = [path for root in ("src", "services", "plugins", "dags", "tests") for path in below(root)]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules}
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}
