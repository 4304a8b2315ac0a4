"""Unit tests of every alert, evaluated by promtool: infra/prometheus/tests/cases.yml."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.infra.conftest import ROOT, RULES, alerts, tool

# Every value is read as text: YAML would take `0x60` for a hexadecimal number.
CASES: dict[str, Any] = yaml.load((ROOT / "infra/prometheus/tests/cases.yml").read_text(), yaml.BaseLoader)  # noqa: S506
LONG_HOURS = 12
FIRING = 'count by (alertname) (ALERTS{alertstate="firing",alertname!="Watchdog"})'


def in_environment(series: str) -> str:
    """A series with the labels that a scrape adds."""
    name, _, labels = series.rstrip("}").partition("{")
    job = "platform" if name.startswith("fraud_") else "prometheus" if name.startswith("prometheus_") else "serving"
    found = dict(re.findall(r'(\w+)="([^"]*)"', labels))
    labelled = {"environment": "test", "instance": "a", "job": job, **found}
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labelled.items()) + "}"


def hours(duration: str) -> float:
    """Hours of a duration in promtool's notation."""
    units = {"m": 1 / 60, "h": 1.0, "d": 24.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"(\d+)([mhd])", duration))


def last(case: dict[str, Any]) -> float:
    """The time of a case's last check, in hours."""
    return max(hours(at) for at in [*case.get("quiet", []), *case.get("fires", {})])


def shortened(values: str, until_hours: float) -> str:
    """`x6000` reduced to the length of the case. promtool's time is proportional to the samples."""
    return values.replace("x6000", f"x{round(until_hours * 60) + 10}")


def as_promtool(case: dict[str, Any]) -> dict[str, Any]:
    """The case as a test group of promtool."""
    world = {**CASES["healthy"], **case.get("with", {})}
    expected = {**{at: [] for at in case.get("quiet", [])}, **case.get("fires", {})}
    return {
        "name": case["name"],
        "interval": "1m",
        "input_series": [
            {"series": in_environment(s), "values": shortened(v, last(case))} for s, v in world.items() if v != "null"
        ],
        "promql_expr_test": [
            {
                "expr": FIRING,
                "eval_time": at,
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names],
            }
            for at, names in expected.items()
        ],
    }


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case["name"], marks=pytest.mark.slow if last(case) > LONG_HOURS else ())
        for case in CASES["cases"]
    ],
)
def test_exactly_the_expected_alerts_fire(case: dict[str, Any], tmp_path: Path) -> None:
    promtool = tool("promtool", "prometheus")
    test = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": "5m" if last(case) > LONG_HOURS else "1m",
        "tests": [as_promtool(case)],
    }
    unit = tmp_path / "case.yml"
    unit.write_text(yaml.safe_dump(test))
    done = subprocess.run([promtool, "test", "rules", str(unit)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_quiet() -> None:
    fires = {name for case in CASES["cases"] for names in case.get("fires", {}).values() for name in names}
    assert fires == set(alerts()) - {"Watchdog"}
    assert CASES["cases"][0]["quiet"], "the healthy world is the quiet case of every alert"


def test_the_rules_and_the_configuration_are_valid() -> None:
    promtool = tool("promtool", "prometheus")
    checked = [promtool, "check", "config", str(ROOT / "infra/prometheus/prometheus.yml")]
    done = subprocess.run(checked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"(\d+) rules found", done.stdout)
    assert len(found) == len(RULES)
