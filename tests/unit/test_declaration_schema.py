"""The JSON Schema accepts what the platform accepts, and marks the errors that an editor can show while one types."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from tests.declaration_strategy import written_declarations

from fraud.core.declaration import DeclarationError, parse

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "feature_repo/features.schema.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
SHIPPED = ROOT / "feature_repo/features.yaml"


def line(**keys: object) -> dict[str, Any]:
    return {"features": [keys]}


def test_the_schema_is_valid() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", ["feature_repo/features.yaml", "tests/declarations/three.yaml"])
def test_the_declarations_of_the_repository_are_accepted(path: str) -> None:
    assert list(VALIDATOR.iter_errors(yaml.safe_load((ROOT / path).read_text()))) == []


def test_the_shipped_file_names_the_schema_for_editors() -> None:
    first = SHIPPED.read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=features.schema.json"
    assert (SHIPPED.parent / "features.schema.json").is_file()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(written_declarations())
def test_every_valid_declaration_is_accepted(written: dict[str, Any]) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(written)] == []


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"features": []},
        {"feature": [], **line(name="a", kind="request", op="column", column="amount")},
        line(name="a", kind="request"),
        line(name="a", kind="requests", op="hour_of_day"),
        line(name="a", kind="request", op="ratio", of="b"),
        line(name="a", kind="request", op="column", column="amount", by="b"),
        line(name="a", kind="request", op="day_in", days=[7]),
        line(name="a", kind="window", entity="user", aggregate="mean", window="7d"),
        line(name="a", kind="window", entity="user", aggregate="count", column="amount", window="7d"),
        line(name="a", kind="window", entity="user", aggregate="average", column="amount", window="7d"),
        line(name="a", kind="window", entity="user", aggregate="count", window="7 days"),
        line(name="a", kind="daily", entity="user", aggregate="fraud_rate", days=91),
        line(name="a", kind="daily", entity="user", aggregate="fraud_rate", days=7, delay=3),
        {"columns": {"x": {"type": "number", "unit": "m"}}, **line(name="a", kind="request", op="hour_of_day")},
        {"columns": {"x": {"type": "category"}}, **line(name="a", kind="request", op="hour_of_day")},
        {"columns": {"X": {"type": "id"}}, **line(name="a", kind="request", op="hour_of_day")},
        {"entities": {"x": {"id": "user_id", "keep": 7}}, **line(name="a", kind="request", op="hour_of_day")},
        {"daily": {"available_at": "3:00"}, **line(name="a", kind="request", op="hour_of_day")},
    ],
)
def test_what_an_editor_marks_is_refused_by_the_platform_too(written: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(written)
    with pytest.raises(DeclarationError):
        parse(written)


def test_every_key_has_a_description() -> None:
    for name, part in SCHEMA["definitions"].items():
        for key, value in part["properties"].items():
            assert value.get("description"), f"{name}.{key}"
