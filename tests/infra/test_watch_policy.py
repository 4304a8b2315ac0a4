"""Rules for alerts and panels: a runbook, a severity, a description, and metrics that exist."""

import ast
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.infra.conftest import ROOT, alerts, rules

_spec = importlib.util.spec_from_file_location("grafana_build", ROOT / "infra/grafana/build.py")
assert _spec is not None
assert _spec.loader is not None
build = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = build  # dataclasses look their module up
_spec.loader.exec_module(build)

RUNBOOKS = ROOT / "docs/runbooks"
DASHBOARDS = sorted((ROOT / "infra/grafana/dashboards").glob("*.json"))
SECTIONS = ["What it means", "Why it fires", "What to check", "What to do"]
SEVERITIES = {"page": "Page: ", "ticket": "Ticket: ", "none": "No severity: "}
"""Severity of an alert -> how the first line of its runbook starts."""
SOURCES = (
    ROOT / "src/fraud/monitoring/platform_metrics.py", ROOT / "src/fraud/monitoring/declared_metrics.py",
    ROOT / "services/serving/src/fraud_serving/metrics.py",
    ROOT / "services/serving/src/fraud_serving/stream/metrics.py",
)  # fmt: skip
# Exposed by Prometheus, Alertmanager and the client library themselves.
THIRD_PARTY = re.compile(r"^(up|ALERTS|scrape_\w+|process_\w+|prometheus_\w+|alertmanager_\w+)$")
SUFFIXES = ("", "_total", "_bucket", "_sum", "_count")
WORDS = {"and", "or", "unless", "bool", "offset", "by", "on", "ignoring", "without", "group_left", "group_right", "le"}


def metrics(expression: str) -> set[str]:
    """The metric names of a PromQL expression: the names without strings, label lists, functions and keywords."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", " ", bare)
    names = re.findall(r"(?<![\w:.$])[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])", bare)
    return set(names) - WORDS


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                yield path.stem, panel


@pytest.fixture(scope="module")
def exposed() -> set[str]:
    """Every metric name among the string constants of SOURCES, with the suffixes that Prometheus adds."""
    nodes = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    bases = {text for text in texts if re.fullmatch(r"(?:fraud|model|serving|stream)_\w+", text)}
    return {base + suffix for base in bases for suffix in SUFFIXES} | {r["record"] for r in rules() if "record" in r}


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_has_a_severity_an_area_a_summary_and_links_its_runbook(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in {"page", "ticket", "none"}
    assert rule["labels"]["area"] in {"serving", "model", "data", "platform"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
    assert rule["annotations"]["runbook_url"] == "{{ $externalLabels.docs }}/runbooks/" + name + ".md"
    page = (RUNBOOKS / f"{name}.md").read_text()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == SECTIONS
    assert page.startswith(f"# {name}\n\n{SEVERITIES[rule['labels']['severity']]}")
    escalation = page.rstrip().splitlines()[-1]
    assert escalation.startswith("* Escalate: ")


def test_every_runbook_belongs_to_an_alert() -> None:
    pages = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert pages == set(alerts())
    listed = re.findall(r"\[(\w+)\]\(\1\.md\)", (RUNBOOKS / "README.md").read_text())
    assert sorted(listed) == sorted(alerts())


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_reads_metrics_that_exist(rule: dict[str, Any], exposed: set[str]) -> None:
    unknown = {name for name in metrics(rule["expr"]) - exposed if not THIRD_PARTY.match(name)}
    assert not unknown


def test_a_runbook_queries_metrics_that_exist(exposed: set[str]) -> None:
    for path in RUNBOOKS.glob("*.md"):
        named = set(re.findall(r"\b(?:fraud|serving|model|stream)_[a-z0-9_]+\b", path.read_text()))
        # Names of DAGs and columns may have the same prefix.
        assert {n for n in named if n not in exposed} <= {"model_sha256", "model_version"}, path.name


@pytest.mark.parametrize(("dashboard", "panel"), list(panels()), ids=lambda v: v if isinstance(v, str) else v["title"])
def test_a_panel_has_a_title_a_unit_thresholds_and_a_runbook(
    dashboard: str, panel: dict[str, Any], exposed: set[str]
) -> None:
    assert panel["title"], f"{dashboard}: a panel without a title"
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}
    for link in panel["links"]:
        assert (RUNBOOKS / Path(link["url"]).name).is_file()
    assert panel["links"]
    for target in panel["targets"]:
        unknown = {name for name in metrics(target["expr"]) - exposed if not THIRD_PARTY.match(name)}
        assert not unknown


def test_dashboards_have_unique_ids_and_panels_do_not_overlap() -> None:
    boards = [json.loads(path.read_text()) for path in DASHBOARDS]
    assert sorted(b["uid"] for b in boards) == [
        "fraud-data-and-drift", "fraud-model-health", "fraud-pipelines", "fraud-serving",
    ]  # fmt: skip
    for board in boards:
        assert len({p["id"] for p in board["panels"]}) == len(board["panels"])
        cells = [
            (x, y)
            for p in board["panels"]
            for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
            for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
        ]
        assert len(cells) == len(set(cells)), board["title"]
        assert max(x for x, _ in cells) < 24


@pytest.mark.parametrize("name", sorted(build.DASHBOARDS))
def test_a_dashboard_is_the_output_of_its_builder(name: str) -> None:
    path = ROOT / f"infra/grafana/dashboards/{name}.json"
    assert path.read_text() == build.text(name), "run: python infra/grafana/build.py"


def test_provisioning_defines_the_data_source_of_the_panels() -> None:
    folder = ROOT / "infra/grafana/provisioning"
    source = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"][0]
    assert (source["type"], source["uid"]) == ("prometheus", "prometheus")
    provider = yaml.safe_load((folder / "dashboards/fraud.yml").read_text())["providers"][0]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
