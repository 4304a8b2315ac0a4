"""Alertmanager's configuration: validity, routes by severity, receivers of a deployment's file."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.infra.conftest import ROOT, alerts, tool

from fraud.embedded.servers.alertmanager import configuration
from fraud.errors import BadConfigError

FOLDER = ROOT / "infra/alertmanager"


def amtool(*arguments: str) -> str:
    program = tool("amtool", "prometheus-alertmanager")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_the_configuration_is_valid_as_committed_and_with_the_example_receivers(tmp_path: Path) -> None:
    for name in ("alertmanager.yml", "receivers.example.yml"):
        shutil.copy(FOLDER / name, tmp_path / name.replace(".example", ""))
    amtool("check-config", str(FOLDER / "alertmanager.yml"))
    (tmp_path / "whole.yml").write_text(configuration(tmp_path))
    amtool("check-config", str(tmp_path / "whole.yml"))
    assert "slack_configs" in (tmp_path / "whole.yml").read_text()


def test_a_receiver_without_a_route_is_refused(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "alertmanager.yml", tmp_path)
    (tmp_path / "receivers.yml").write_text("- name: on-cal\n")
    with pytest.raises(BadConfigError, match="no route uses"):
        configuration(tmp_path)


@pytest.mark.parametrize(
    ("severity", "receiver"), [("page", "on-call"), ("ticket", "tickets"), ("none", "dead-man-switch")]
)
def test_the_severity_determines_the_receiver(severity: str, receiver: str) -> None:
    labels = (f"severity={severity}", "area=serving", "alertname=X")
    assert amtool("config", "routes", "test", f"--config.file={FOLDER / 'alertmanager.yml'}", *labels) == receiver


def test_every_inhibition_names_existing_alerts() -> None:
    rules = yaml.safe_load((FOLDER / "alertmanager.yml").read_text())["inhibit_rules"]
    matchers = [m for rule in rules for side in ("source_matchers", "target_matchers") for m in rule[side]]
    named = [m.partition("alertname")[2].strip(' =~!"').split("|") for m in matchers if m.startswith("alertname")]
    names = alerts()
    for name in (n for names in named for n in names):
        assert name in names or any(a.startswith(name.removesuffix(".*")) for a in names), name
