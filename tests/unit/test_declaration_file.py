"""Reading features.yaml: an error names the line and the key, and no file can exhaust the process."""

import time
from pathlib import Path

import pytest

from fraud import declaration_file
from fraud.errors import BadConfigError

TEXT = """\
columns:
  kind: {type: category, values: [a, other]}
entities:
  user:
    id: user_id
    max_events: 64
features:
  - {name: amount, kind: request, op: column, column: amount}
  - name: mean_{window}
    kind: window
    entity: user
    aggregate: mean
    column: amount
    window:
      - 1d
      - 7d
"""


def read(folder: Path, text: str | bytes) -> str:
    """The error of a file with this content."""
    path = folder / "features.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    began = time.monotonic()
    with pytest.raises(BadConfigError) as caught:
        declaration_file.load(path)
    assert time.monotonic() - began < 5
    return str(caught.value).replace(str(path), "FILE")


def test_a_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / declaration_file.NAME).write_text(TEXT)
    assert [f.name for f in declaration_file.load_of(tmp_path).features] == ["amount", "mean_1d", "mean_7d"]


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("values: [a, other]", "value: [a, other]", 2, "columns.kind.value"),
        ("max_events: 64", "max_events: 5000", 6, "entities.user.max_events"),
        ("    id: user_id\n", "", 4, "entities.user"),
        ("id: user_id", "id: kind", 5, "entities.user.id"),
        ("op: column, column: amount", "op: column, column: amounts", 8, "features.0.column"),
        ("aggregate: mean", "aggregate: average", 12, "features.1.aggregate"),
        ("- 7d", "- 7 days", 16, "features.1.window.1"),
        ("    entity: user\n", "", 9, "features.1"),
        ("features:", "feature:", 7, "feature"),
        ("amount}", "amount, default: .nan}", 8, "features.0.default"),
        ("amount}", "amount, default: -.inf}", 8, "features.0.default"),
        ("amount}", "amount, description: 2026-01-01}", 8, "features.0.description"),
        ("[a, other]", "[no, other]", 2, "columns.kind.values.0"),
    ],
)
def test_an_error_names_line_and_key(tmp_path: Path, old: str, new: str, line: int, key: str) -> None:
    assert old in TEXT
    assert read(tmp_path, TEXT.replace(old, new)).startswith(f"FILE, line {line}: {key}\n  expected: ")


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("max_events: 64", "max_events: 64\n    id: merchant_id", 7),
        ("op: column,", "op: column, op: missing,", 8),
        ("features:", "entities: {}\nfeatures:", 7),
    ],
)
def test_a_key_twice_is_refused(tmp_path: Path, old: str, new: str, line: int) -> None:
    error = read(tmp_path, TEXT.replace(old, new))
    assert f"FILE, line {line}: " in error
    assert "expected: each key once" in error


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, "FILE, line 2: *a\n  expected: no aliases"),
        ("a: &a\n  b: *a\n", "FILE, line 2: *a\n  expected: no aliases"),
        ("[" * 50_000, "FILE, line 1\n  expected: at most 16 levels"),
        ("- " * 50_000, "FILE, line 1\n  expected: at most 16 levels"),
        ("#" * 300_000, "FILE is too long\n  expected: at most 262,144 bytes\n  got: 300,000 bytes"),
        ("features: !!python/object/apply:os.system [true]", "FILE is not YAML in UTF-8"),
        ("features: 2026-13-45", "FILE is not YAML in UTF-8"),
        ("features: [", "FILE is not YAML in UTF-8"),
        ("a: 1\n---\nb: 1\n", "FILE is not YAML in UTF-8"),
        ("? [a]\n: b\n", "FILE is not YAML in UTF-8"),
        (b"\xff\xfe\x00", "FILE is not YAML in UTF-8"),
        ("a: \x00", "FILE is not YAML in UTF-8"),
        ("", "FILE, line 1: the file as a whole\n  expected: a mapping"),
        ("features", "FILE, line 1: the file as a whole\n  expected: a mapping"),
        ("1: 2", "FILE, line 1: the file as a whole\n  expected: a key that is text"),
    ],
)
def test_other_content_is_one_clear_error(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert read(tmp_path, text).startswith(expected)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "features.yaml"
    with path.open("wb") as file:
        file.truncate(200 * 2**30)  # sparse: reading it would fail
    with pytest.raises(BadConfigError, match="is too long"):
        declaration_file.load(path)


def test_a_file_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "features.yaml", tmp_path):
        with pytest.raises(BadConfigError, match="does not exist"):
            declaration_file.load(path)
