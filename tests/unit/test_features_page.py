"""The examples of docs/features.md are valid, alone and together, in the declaration that is shipped."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraud.core.declaration import parse
from fraud.core.declaration_types import AGGREGATES, DAILY_AGGREGATES, OPERANDS
from fraud.core.plan import Plan

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/features.md").read_text()
EXAMPLES = dict(re.findall(r"^\*\*([\w ]+)\.\*\* .*?```yaml\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


def shipped() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "feature_repo/features.yaml").read_text())
    return found


def added(written: dict[str, Any], example: str) -> dict[str, Any]:
    """The declaration with an example's columns, entities and features at the end of its own."""
    more = yaml.safe_load(example)
    return {
        **written,
        "columns": written["columns"] | more.get("columns", {}),
        "entities": written["entities"] | more.get("entities", {}),
        "features": written["features"] + more["features"],
    }


def test_there_are_five_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_adds_features_to_the_shipped_declaration(name: str) -> None:
    before, after = Plan(parse(shipped())), Plan(parse(added(shipped(), EXAMPLES[name])))
    assert set(after.vector.names) > set(before.vector.names)
    assert after.hash != before.hash


def test_the_examples_together() -> None:
    written = shipped()
    for example in EXAMPLES.values():
        written = added(written, example)
    assert parse(written).hash != parse(shipped()).hash


def test_the_first_declaration_of_the_page_is_one() -> None:
    (first,) = re.findall(r"## Write a declaration\n\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert Plan(parse(yaml.safe_load(first))).vector.names == ("amount", "device_users_7d")


@pytest.mark.parametrize("word", [*OPERANDS, *AGGREGATES, *DAILY_AGGREGATES])
def test_every_op_and_aggregate_is_in_a_table(word: str) -> None:
    assert re.search(rf"^\| .*`{word}`.* \|", PAGE, re.MULTILINE)
