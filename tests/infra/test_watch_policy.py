"""Rules for alerts and runbooks: a severity, a description, metrics that exist."""

import re
from typing import Any

import pytest
from tests.infra.conftest import ROOT, THIRD_PARTY, alerts, metrics, rules

RUNBOOKS = ROOT / "docs/runbooks"
SECTIONS = ["What it means", "Why it fires", "What to check", "What to do"]
SEVERITIES = {"page": "Page: ", "ticket": "Ticket: ", "none": "No severity: "}
"""Severity of an alert -> how the first line of its runbook starts."""


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
