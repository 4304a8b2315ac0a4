"""Tests of the monitoring. Prometheus' tools are a system package; a test that needs a missing one is skipped."""

import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = sorted((ROOT / "infra/prometheus/rules").glob("*.yml"))


def tool(name: str, package: str) -> str:
    """The path of a system program; skips the test where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"NOT TESTED: {name} is not installed; install the package {package}")
    return found


def rules() -> list[dict[str, Any]]:
    """Every rule of every file."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Name -> alerting rule."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}
