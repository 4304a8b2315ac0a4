"""Prediction records as serving writes them, of any declaration."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fraud import declaration_file
from fraud.core.declaration import Declaration
from fraud.core.plan import Plan

DECLARATIONS: Final = Path(__file__).parent / "declarations"
THREE: Final = declaration_file.load(DECLARATIONS / "three.yaml")
TWO_ENTITIES: Final = declaration_file.load(DECLARATIONS / "two_entities.yaml").resolved(
    {"country": ("de", "fr", "other")}
)


def nested(row: Mapping[str, Any], declaration: Declaration) -> dict[str, Any]:
    """A flat answer as the JSON object of the log: fixed fields, then one object per group of columns."""
    plan = Plan(declaration)
    groups = {
        "columns": {name: name for name in plan.columns},
        "features": {name: name for name in plan.features},
        "sequences": {w.layout.entity: f"sequence_{w.layout.entity}" for w in plan.windows},
        "newest_us": {w.layout.entity: f"newest_us_{w.layout.entity}" for w in plan.windows},
        "snapshots": {table.entity: f"snapshot_{table.entity}" for table in plan.tables},
    }
    grouped = {name for group in groups.values() for name in group.values()}
    fixed = {name: value for name, value in row.items() if name not in grouped}
    return fixed | {group: {key: row.get(name) for key, name in keys.items()} for group, keys in groups.items()}


def line(row: Mapping[str, Any], declaration: Declaration) -> bytes:
    """A flat answer as a line of a segment."""
    return json.dumps(nested(row, declaration)).encode() + b"\n"
