"""A file or module that a docstring, a comment or a page names exists."""

import ast
import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
SUFFIXES: Final = r"(?:py|md|ya?ml|sh|svg|sql|lua|j2|in)"
A_PATH: Final = re.compile(rf"(?<![\w/.<>*{{}}$-])((?:[\w-][\w.-]*/)+[\w.-]+\.{SUFFIXES})(?![\w/])")
"""`folder/name.suffix`, neither absolute, a pattern, a URL nor a template."""
A_PYTHON_FILE: Final = re.compile(r"(?<![\w/.<>*{}$-])([\w-]+\.py)(?![\w/(])")
AN_ADR: Final = re.compile(r"docs/adr/(\d{4})\b(?!-)")
A_MODULE: Final = re.compile(r"\b((?:fraud|fraud_serving|fraud_airflow)(?:\.[A-Za-z_]\w+)+)")
"""Names of one letter are placeholders."""
PACKAGES: Final = {
    "fraud": ROOT / "src/fraud",
    "fraud_serving": ROOT / "services/serving/src/fraud_serving",
    "fraud_airflow": ROOT / "plugins/fraud_airflow",
}
NOT_IN_GIT: Final = {
    "feature_repo/features.yaml",  # planned
    "infra/alertmanager/receivers.yml",  # a deployment's own
    "mappings/yours.yaml",  # the reader's own
    "report/model_card.md",  # an artifact of a run
}


@cache
def tracked() -> frozenset[str]:
    """The files of Git, from the root of the repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return frozenset(listed.splitlines())


@cache
def ends() -> frozenset[str]:
    """Every path by which a tracked file can be named: from the root, or from any folder above it."""
    return frozenset("/".join(path.split("/")[i:]) for path in tracked() for i in range(path.count("/") + 1))


def prose(name: str) -> str:
    """Comments and docstrings of a program, comments of a configuration file, the whole of a page."""
    text = (ROOT / name).read_text()
    if name.endswith(".md"):
        return text
    if not name.endswith(".py"):
        return "\n".join(line.partition("#")[2] for line in text.splitlines())
    comments = [t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    return "\n".join([*comments, *docstrings(text)])


def docstrings(text: str) -> Iterator[str]:
    """Strings that stand alone: docstrings, and the comments on values."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(value))):
                yield value


def missing(name: str, text: str) -> list[str]:
    """What a text in the file `name` names and is not there."""
    here = Path(name).parent
    paths = [
        path
        for path in A_PATH.findall(text)
        if path not in NOT_IN_GIT and path not in ends() and not (ROOT / here / path).exists()
    ]
    files = [file for file in A_PYTHON_FILE.findall(text) if file not in ends()]
    records = [
        f"docs/adr/{number}"
        for number in AN_ADR.findall(text)
        if not any(file.startswith(f"docs/adr/{number}-") for file in tracked())
    ]
    return [*paths, *files, *records, *(module for module in A_MODULE.findall(text) if not found(module))]


def found(dotted: str) -> bool:
    """Whether `package.module.name` leads to a module, and its last part to a word in it."""
    package, *parts = dotted.split(".")
    folder = PACKAGES[package]
    for part in parts:
        module = folder / f"{part}.py"
        if module.is_file():
            rest = parts[parts.index(part) + 1 :]
            return not rest or re.search(rf"\b{rest[0]}\b", module.read_text()) is not None
        folder /= part
        if not folder.is_dir():
            return False
    return True


def texts() -> list[str]:
    kinds = (".py", ".md", ".yml", ".yaml", ".sh", ".toml", ".in", "Makefile")
    return sorted(name for name in tracked() if name.endswith(kinds) and (ROOT / name).is_file())


def test_every_file_and_module_that_a_text_names_exists() -> None:
    assert [f"{name}: {what}" for name in texts() for what in missing(name, prose(name))] == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see docs/adr/0031-no-such.md and `nowhere.py`", ["docs/adr/0031-no-such.md", "nowhere.py"]),
        ("docs/adr/0099, fraud.io.online and fraud.job_list.NOTHING", [
            "docs/adr/0099", "fraud.io.online", "fraud.job_list.NOTHING",
        ]),
        ("docs/adr/0031, fraud.job_list.JOBS, `tests/run.py`, `<home>/x/y.py`, https://example.org/a/b.md", []),
    ],
)  # fmt: skip
def test_a_missing_file_is_found(text: str, expected: list[str]) -> None:
    assert missing("README.md", text) == expected


def test_the_table_of_changes_names_files_that_exist() -> None:
    """docs/contributing.md: every path in code, folders included, from the root of the repository."""
    page = (ROOT / "docs/contributing.md").read_text()
    named = set(re.findall(r"`((?:src|services|plugins|infra|feature_repo|tests|docs|dags)/[^`\s]*)`", page))
    assert len(named) > 10
    assert {path for path in named - NOT_IN_GIT if not (ROOT / path).exists()} == set()
