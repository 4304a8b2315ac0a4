"""Tests of the monitoring. Prometheus' tools are a system package; a test that needs a missing one is skipped."""

import ast
import re
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = sorted((ROOT / "infra/prometheus/rules").glob("*.yml"))

SOURCES: Final = (
    *(ROOT / f"src/fraud/monitoring/{name}_metrics.py" for name in ("platform", "declared", "online_store")),
    ROOT / "services/serving/src/fraud_serving/metrics.py",
    ROOT / "services/serving/src/fraud_serving/stream/metrics.py",
)  # fmt: skip
# Exposed by Prometheus, Alertmanager and the client library themselves.
THIRD_PARTY: Final = re.compile(r"^(up|ALERTS|scrape_\w+|process_\w+|prometheus_\w+|alertmanager_\w+)$")
SUFFIXES: Final = ("", "_total", "_bucket", "_sum", "_count")
WORDS: Final = {
    "and",
    "or",
    "unless",
    "bool",
    "offset",
    "by",
    "on",
    "ignoring",
    "without",
    "group_left",
    "group_right",
    "le",
}


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


def metrics(expression: str) -> set[str]:
    """The metric names of a PromQL expression: the names without strings, label lists, functions and keywords."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![\w:.$])[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])", bare)
    return set(names) - WORDS


@pytest.fixture(scope="session")
def exposed() -> set[str]:
    """Every metric name among the string constants of SOURCES, with the suffixes that Prometheus adds."""
    nodes = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    bases = {text for text in texts if re.fullmatch(r"(?:fraud|model|serving|stream)_\w+", text)}
    return {base + suffix for base in bases for suffix in SUFFIXES} | {r["record"] for r in rules() if "record" in r}
