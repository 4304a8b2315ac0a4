"""The code contains no name of a column or feature of features.yaml: what a team declares is data."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from fraud.core.declaration import BUILT_IN
from fraud.core.declaration_types import AGGREGATES, DAILY_AGGREGATES, OPERANDS
from fraud.declaration_file import load_of

ROOT: Final = Path(__file__).resolve().parents[2]
SHORT_REQUEST: Final = ROOT / "src/fraud/core/short_request.py"
WORDS_OF_THE_FORMAT: Final = {*BUILT_IN, *OPERANDS, *AGGREGATES, *DAILY_AGGREGATES, "category", "number", "flag", "id"}
"""A feature may have the name of a built-in column, an operation or a type."""


def declared() -> set[str]:
    declaration = load_of(ROOT)
    return {*declaration.columns, *(feature.name for feature in declaration.features)} - WORDS_OF_THE_FORMAT


def code() -> list[Path]:
    files = sorted(path for folder in ("src", "services", "plugins", "dags") for path in (ROOT / folder).rglob("*.py"))
    return [path for path in files if path != SHORT_REQUEST]


def docstrings(tree: ast.AST) -> set[int]:
    """Ids of the expression nodes that are documentation."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string, identifier and keyword, without documentation."""
    documentation = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.value.lineno, node.arg


@pytest.mark.parametrize("path", code(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_declared_name_is_written_in_code(path: Path) -> None:
    pattern = re.compile(rf"(?<![a-z0-9_])(?:{'|'.join(sorted(declared()))})(?![a-z0-9_])")
    plain_words = {name for name in declared() if "_" not in name}
    found = [
        f"line {line}: {text[:80]}"
        for line, text in names(ast.parse(path.read_text()))
        for match in pattern.finditer(text)
        # An ordinary word in a message or as an attribute is not the name of a column.
        if match[0] not in plain_words or text == match[0]
    ]
    assert not found


def test_the_test_sees_names() -> None:
    tree = ast.parse('"""device_id in a docstring"""\nvalue = row["device_id"]\nprint(row.card_present)\n')
    assert [text for _, text in names(tree) if text in declared()] == ["device_id", "card_present"]
