"""docs/data.md is the reference of mapping keys: each key of the model with its default, and no other."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from fraud.ingest.mapping.mapping import Mapping
from fraud.ingest.mapping.sections import (
    CategoryText,
    DeclaredNumber,
    Flag,
    GreatCircle,
    Label,
    Number,
    Source,
    Text,
    Time,
)

PAGE = (Path(__file__).resolve().parents[3] / "docs/data.md").read_text()
SECTIONS = (Mapping, Source, Text, CategoryText, Number, Time, DeclaredNumber, GreatCircle, Flag, Label)


def default(model: type[BaseModel], key: str) -> str:
    """As the page writes it."""
    field = model.model_fields[key]
    if field.is_required():
        return "required"
    return f"`{json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)}`"


def documented(model: type[BaseModel]) -> dict[str, str]:
    """Key -> default, from the table below the heading of the model's name."""
    section = re.search(rf"^### {model.__name__}\n(.*?)(?=^#)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, f"docs/data.md has no heading {model.__name__}"
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", section[1], re.MULTILINE)
    assert all(meaning.strip() for _, _, meaning in rows)
    return {key: value for key, value, _ in rows}


@pytest.mark.parametrize("model", SECTIONS)
def test_every_key_is_documented_with_its_default(model: type[BaseModel]) -> None:
    assert documented(model) == {key: default(model, key) for key in model.model_fields if key != "declared"}


def test_every_section_that_a_mapping_can_have_is_documented() -> None:
    named = set(re.findall(r"'#/\$defs/(\w+)'", str(Mapping.model_json_schema())))
    assert named | {"Mapping"} == {model.__name__ for model in SECTIONS}


@pytest.mark.parametrize("heading", ["CSV dialects", "Times", "Public formats"])
def test_the_page_has_its_sections(heading: str) -> None:
    assert re.search(rf"^## {heading}$", PAGE, re.MULTILINE)
