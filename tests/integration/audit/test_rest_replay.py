"""The replay of docs/performance.md ("Replay through REST") with a few transactions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_every_answer_is_recomputed_bit_by_bit_under_kills_late_events_and_swaps_between_two_feature_sets(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [sys.executable, str(ROOT / "tests/bench/rest_replay.py")]
    command += ["--users", "60", "--days", "6", "--swaps", "8", "--kills", "3", "--entities-at-once", "10"]
    run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    done = json.loads(run.stdout)
    with capsys.disabled():
        print(f"\nreplay through REST: {done}")
    assert done["answers"] == done["compared"] > done["rows"] > 300
    for name in (
        "failed", "degraded", "mismatches", "mixed", "unlogged", "wrong_snapshot", "events_lost", "events_doubled",
    ):  # fmt: skip
        assert done[name] == 0, (name, done["examples"])
    assert done["challenger_mismatches"] == done["snapshots_changed_by_full_rebuild"] == 0
    assert done["audit"]["different"] == {}
    assert done["swaps"] == 8
    assert done["kills"] > 8
    assert set(done["by_version"]) == {"1", "2"}
    assert min(done["daily_values_current"], done["daily_values_stale"], done["daily_values_missing"]) > 0
    # The comparison finds what was changed in copies of the records.
    assert done["found_of_falsified"]["mismatches"] >= 4
    assert done["found_of_falsified"]["mixed"] == 1
    assert done["found_of_falsified"]["wrong_snapshot"] >= 1  # one per daily table of the version
