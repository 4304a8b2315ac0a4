"""A soak of two nights on the whole embedded stack. It is interrupted in the second one and continued.

The schedule of two nights has a bad candidate, both kinds of drift and a rollback.
"""

import json
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from tests.soak.world import HISTORY_DAYS, START

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_two_nights_interrupted_and_continued(tmp_path: Path) -> None:
    folder = tmp_path / "soak"
    command = [sys.executable, "-m", "tests.soak", "--nights", "2", "--folder", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            print(line, end="")
            if "night 1/2" in line:
                break
        delivered = folder / f"home/landing/transactions/dt={START + timedelta(days=HISTORY_DAYS + 1)}"
        while not delivered.exists():
            assert first.poll() is None
            time.sleep(0.1)
        first.send_signal(signal.SIGTERM)  # while Airflow ingests the files of night 2
        print(first.stdout.read())
    assert first.returncode == 128 + signal.SIGINT
    assert len(json.loads((folder / "soak.json").read_text())["nights"]) == 2  # night 0 and night 1

    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0
    found = json.loads((folder / "report.json").read_text())
    assert found["ok"]
    assert [night["night"] for night in found["nights"]] == [0, 1, 2]
    judged = {check["name"]: check["nights"] for check in found["invariants"]}
    assert judged.pop("bad_candidate_is_refused") == judged.pop("rollback_restores") == 1
    assert judged.pop("data_drift_is_found") == judged.pop("bounded_growth") == 0  # too few nights
    assert set(judged.values()) == {2}
    assert all(night["answers"] > 300 for night in found["nights"][1:])
    assert "No invariant broken." in (folder / "report.html").read_text()

    other = subprocess.run([*command, "--seed", "2"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert other.returncode == 2
    assert "other arguments" in other.stderr
