"""The platform uses the glossary's terms: a retired word in code, documentation or reports fails here."""

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
GLOSSARY: Final = ROOT / "docs/glossary.md"
SUFFIXES: Final = {
    ".py",
    ".md",
    ".j2",
    ".yml",
    ".yaml",
    ".toml",
    ".sh",
    ".sql",
    ".lua",
    ".cfg",
    ".json",
    ".svg",
    ".css",
}
THIS: Final = Path(__file__).resolve()


def retired() -> dict[str, str]:
    """Retired word -> the term that replaces it, from the glossary's tables."""
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]*)\|$", GLOSSARY.read_text(), re.MULTILINE)
    return {word: term.strip() for term, words in rows for word in re.findall(r"`([^`]+)`", words)}


def texts() -> list[Path]:
    """What Git tracks and people read."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    paths = (ROOT / name for name in tracked.splitlines())
    return [
        p for p in paths if p.is_file() and (p.suffix in SUFFIXES or p.name == "Makefile") and p not in (GLOSSARY, THIS)
    ]


def found(word: str, text: str) -> list[int]:
    """Line numbers of the word. An underscore counts as a space, a line break too, so names are searched as well."""
    pattern = re.compile(rf"(?<![a-z]){re.escape(word).replace(chr(92) + ' ', '[ _\n]+')}(?![a-z])", re.IGNORECASE)
    return [text.count("\n", 0, match.start()) + 1 for match in pattern.finditer(text)]


@pytest.mark.parametrize("word", sorted(retired()))
def test_a_retired_word_is_not_used(word: str) -> None:
    uses = [f"{path.relative_to(ROOT)}:{line}" for path in texts() for line in found(word, path.read_text())]
    assert uses == [], f"use the glossary's term instead of {word!r}: {retired()[word]}"


def test_the_glossary_has_the_platforms_terms() -> None:
    terms = re.findall(r"^\| ([^|]+) \|", GLOSSARY.read_text(), re.MULTILINE)
    assert len(terms) > 40


def test_a_retired_word_is_found_in_prose_and_in_names() -> None:
    assert found("let go", "it lets\nrows be\n_let_go(1)\nLet go") == [3, 4]
