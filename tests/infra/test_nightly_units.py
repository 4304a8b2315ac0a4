"""The crontab and the systemd units of the nightly run."""

import re
import subprocess
from pathlib import Path

import pytest
from tests.infra.conftest import ROOT, tool

from fraud.settings import Settings

FOLDER = ROOT / "infra/nightly"
COMMAND = "/opt/fraud/.venv/ml/bin/fraud"
PACKAGE = "systemd"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with the paths of this checkout, because systemd looks for the program."""
    (tmp_path / "fraud").write_text("#!/bin/sh\n")
    (tmp_path / "fraud").chmod(0o755)
    (tmp_path / "nightly.env").write_text((FOLDER / "nightly.env").read_text())
    for name in ("fraud-nightly.service", "fraud-nightly.timer"):
        unit = (FOLDER / name).read_text().replace(COMMAND, str(tmp_path / "fraud"))
        (tmp_path / name).write_text(unit.replace("/etc/fraud/", f"{tmp_path}/"))
    return tmp_path


def verify(folder: Path) -> str:
    """What systemd says about the units; "" if it accepts them without a warning."""
    units = [folder / "fraud-nightly.timer", folder / "fraud-nightly.service"]
    command = [tool("systemd-analyze", PACKAGE), "verify", "--man=no", *units]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return "\n".join(line for line in (done.stdout + done.stderr).splitlines() if "fraud-nightly" in line)


def test_systemd_accepts_the_units(installed: Path) -> None:
    assert verify(installed) == ""


def test_systemd_would_find_a_wrong_key(installed: Path) -> None:
    path = installed / "fraud-nightly.timer"
    path.write_text(path.read_text().replace("OnCalendar=", "OnCalendr="))
    assert "OnCalendr" in verify(installed)


def test_the_timer_is_that_of_the_ingest_dag(installed: Path) -> None:
    [calendar] = re.findall(r"^OnCalendar=(.*)$", (FOLDER / "fraud-nightly.timer").read_text(), re.MULTILINE)
    shown = subprocess.run(
        [tool("systemd-analyze", PACKAGE), "calendar", calendar], check=True, capture_output=True, text=True
    )
    assert "*-*-* 02:00:00 UTC" in shown.stdout
    assert '"0 2 * * *"' in (ROOT / "dags/ingest_transactions.py").read_text()


def variables(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(FRAUD_\w+)=(.*)$", text, re.MULTILINE))


def test_cron_and_systemd_have_the_same_settings_and_they_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    of_cron, of_systemd = (variables((FOLDER / name).read_text()) for name in ("crontab", "nightly.env"))
    assert of_cron == of_systemd
    assert {name.removeprefix("FRAUD_").lower() for name in of_cron} <= set(Settings.model_fields)
    for name, value in of_cron.items():
        monkeypatch.setenv(name, value)
    assert not Settings.load().has_online_store


def test_the_crontab_has_a_nightly_line_and_one_for_the_start_of_the_machine() -> None:
    lines = [
        line for line in (FOLDER / "crontab").read_text().splitlines() if line and not re.match(r"#|[A-Z_]+=", line)
    ]
    times = [line.partition(COMMAND)[0].split() for line in lines]
    assert times == [["0", "2", "*", "*", "*"], ["@reboot"]]
    # cron takes an unescaped % for a line break.
    assert all(" nightly " in line and "%" not in line for line in lines)
