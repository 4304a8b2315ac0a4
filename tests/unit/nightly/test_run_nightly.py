"""The order, the resuming and the lock of `fraud nightly`, with a stand-in program for the jobs."""

import datetime as dt
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fraud.cli import run_job
from fraud.errors import BadInputError, FraudError, UnavailableError
from fraud.nightly.run_nightly import Result
from fraud.nightly.state import State

ROOT = Path(__file__).resolve().parents[3]
# What each job prints on a night with new data, a candidate that passes, and no drift.
NORMAL: dict[str, dict[str, Any]] = {
    "expire-waivers": {"changed": False},
    "ingest": {"accepted": 10},
    "ingest-labels": {"accepted": 2},
    "build-features": {"days_built": 1},
    "skew": {"retrain": False, "verdict": "ok"},
    "training-set": {"snapshot": "abc"},
    "train": {"gates_passed": True, "version": "7"},
    "gates": {"version": "7"},
    "promote": {"changed": True, "version": "7"},
    "production-version": {"version": "7"},
    "consistency": {"compared": 0},
    "drift": {"retrain": False},
    "concept-drift": {"retrain": False},
}
WEDNESDAY = "2026-03-04T02:00:00Z"
THURSDAY = "2026-03-05T02:00:00Z"
JOB = """#!{python}
import json, os, signal, sys, time
home, name = "{home}", sys.argv[1]
plan = json.load(open(home + "/plan.json")).get(name, {{}})
plan = plan.pop(0) if isinstance(plan, list) else plan
with open(home + "/calls", "a") as calls:
    calls.write(json.dumps([os.environ["FRAUD_ACTOR"], *sys.argv[1:]]) + chr(10))
if plan.get("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
if "wait" in plan:
    print("waits", file=open(home + "/waits", "w"))
    open(plan["wait"]).read()
if plan.get("kills_parent"):
    os.kill(os.getppid(), signal.SIGKILL)
print(json.dumps(plan.get("result", plan)))
sys.exit(plan.get("code", 0))
"""
UNTIL = """
import sys
sys.executable = sys.argv.pop(1)
from fraud.cli import main
main()
"""


class Nightly:
    """An empty FRAUD_HOME and stand-in jobs."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.program = home, home / "bin/python"
        self.program.parent.mkdir(parents=True)
        job = self.program.with_name("fraud")
        job.write_text(JOB.format(python=sys.executable, home=home))
        job.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(self.program))
        for name, value in self.variables().items():
            monkeypatch.setenv(name, value)
        self.plan({})

    def variables(self) -> dict[str, str]:
        return {"FRAUD_HOME": str(self.home), "FRAUD_PROJECT": str(ROOT), "FRAUD_REDIS_URL": "none"}

    def plan(self, over: Mapping[str, Any]) -> None:
        """What the jobs print from now on: NORMAL with some replaced."""
        (self.home / "plan.json").write_text(json.dumps({**NORMAL, **over}))

    def run(self, *flags: str, now: str = WEDNESDAY) -> Result:
        result = run_job("nightly", ["--retry-seconds", "0", "--now", now, *flags])
        assert isinstance(result, Result)
        return result

    def wait_for_the_lock(self) -> None:
        """Wait until no run and no job of one holds it."""
        with (self.home / "nightly.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)

    def calls(self) -> list[list[str]]:
        """Flags of the jobs that ran since the last call, with the actor first."""
        path = self.home / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [[word for word in json.loads(line) if word != "--json"] for line in lines]

    def jobs(self) -> list[str]:
        return [call[1] for call in self.calls()]


@pytest.fixture
def nightly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nightly:
    return Nightly(tmp_path, monkeypatch)


def states(result: Result) -> dict[str, str]:
    return {f"{job.dag}.{job.task}": job.state for job in result.jobs}


def test_a_night_runs_the_jobs_in_the_order_of_the_assets(nightly: Nightly) -> None:
    result = nightly.run()
    assert nightly.calls() == [
        ["expire_waivers", "expire-waivers"],
        ["nightly", "ingest"],
        ["nightly", "ingest-labels"],
        ["nightly", "build-daily", "--live"],
        ["nightly", "build-features", "--live"],
        ["nightly", "ship-predictions"],
        ["nightly", "skew"],
        ["nightly", "training-set"],
        ["nightly", "train", "--snapshot=abc"],
        ["nightly", "gates", "staging"],
        ["nightly", "promote", "--version=7"],
        ["nightly", "production-version"],
        ["nightly", "score"],
        ["nightly", "consistency"],
        ["nightly", "drift"],
        ["nightly", "concept-drift"],
    ]
    assert result.night == dt.date(2026, 3, 4)
    skipped = {name for name, state in states(result).items() if state == "skipped"}
    assert skipped == {"expire_waivers.expire_waivers", "build_features.materialize", "score_nightly.consistency"}
    assert "build_features.materialize           skipped      0.0 s  no online store" in result.as_text()


def test_a_complete_night_is_not_run_again_and_the_next_one_is_due_from_the_time_of_day(nightly: Nightly) -> None:
    nightly.run()
    nightly.calls()
    for now in (WEDNESDAY, "2026-03-04T23:00:00Z", "2026-03-05T01:59:59Z"):
        assert nightly.run(now=now).as_text() == "night of 2026-03-04: complete before, nothing is due"
    assert nightly.calls() == []
    assert nightly.run(now=THURSDAY).night == dt.date(2026, 3, 5)
    assert nightly.run("--at", "05:00", now="2026-03-06T04:00:00Z").jobs == []
    assert nightly.run("--again", now=THURSDAY).jobs != []


def test_a_night_without_new_data_trains_and_scores_nothing(nightly: Nightly) -> None:
    nightly.plan({"ingest": {"accepted": 0}, "ingest-labels": {"accepted": 0}})
    nightly.run()
    assert nightly.jobs() == ["expire-waivers", "ingest", "ingest-labels"]


def test_training_waits_for_labels_of_a_later_night(nightly: Nightly) -> None:
    nightly.plan({"ingest-labels": {"accepted": 0}})
    nightly.run()
    assert "train" not in nightly.jobs()
    nightly.plan({"ingest": {"accepted": 0}, "build-features": {"days_built": 0}})
    nightly.run(now=THURSDAY)
    assert "train" in nightly.jobs()


@pytest.mark.parametrize(("code", "error"), [(65, BadInputError), (1, FraudError)])
def test_a_failed_job_ends_its_chain_alone_and_is_repeated_by_the_next_run(
    nightly: Nightly, code: int, error: type[FraudError]
) -> None:
    nightly.plan({"training-set": {"code": code, "message": "too few days"}})
    with pytest.raises(error, match="1 of 15 jobs failed") as failure:
        nightly.run()
    assert failure.value.exit_code == code
    assert "train_fraud_model.train              not run" in failure.value.got
    assert "too few days" in failure.value.got
    ran = nightly.jobs()
    assert "train" not in ran
    assert ran[-1] == "concept-drift"
    nightly.plan({})
    assert states(nightly.run()) == {
        "train_fraud_model.training_set": "success", "train_fraud_model.train": "success",
        "promote_model.gates": "success", "promote_model.promote": "success",
        "score_nightly.production_model": "success", "score_nightly.score": "success",
        "score_nightly.consistency": "skipped", "monitor_drift.drift": "success",
        "monitor_drift.concept_drift": "success",
    }  # fmt: skip


@pytest.mark.parametrize("failure", [{"code": 75}, {"killed": True}])
def test_a_job_that_a_service_or_a_signal_ended_is_tried_four_times(nightly: Nightly, failure: dict[str, Any]) -> None:
    nightly.plan({"ingest": failure})
    with pytest.raises(UnavailableError, match="1 of 3 jobs failed"):
        nightly.run()
    assert nightly.jobs() == ["expire-waivers", *["ingest"] * 4]


def test_a_job_that_was_killed_after_its_work_starts_what_follows(nightly: Nightly) -> None:
    """Its second run finds nothing to do, although the first one ingested rows."""
    nightly.plan({"ingest": {"killed": True}})
    with pytest.raises(UnavailableError):
        nightly.run()
    nightly.calls()
    nightly.plan({"ingest": {"accepted": 0}, "ingest-labels": {"accepted": 0}, "build-features": {"days_built": 1}})
    nightly.run()
    assert "build-features" in nightly.jobs()


def test_a_killed_run_is_resumed_at_the_chain_it_was_in(nightly: Nightly) -> None:
    nightly.plan({"train": {"kills_parent": True, "result": NORMAL["train"]}})
    command = [sys.orig_argv[0], "-c", UNTIL, str(nightly.program), "nightly", "--now", WEDNESDAY]
    killed = subprocess.run(command, env={**os.environ, **nightly.variables()}, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert nightly.jobs()[-1] == "train"
    nightly.plan({})
    nightly.wait_for_the_lock()  # the job that killed its parent may not have ended yet
    nightly.run(now=THURSDAY)
    resumed = nightly.jobs()
    assert resumed.count("train") == 1
    assert resumed[-1] == "concept-drift"


def test_two_runs_do_not_overlap_and_a_surviving_job_keeps_the_lock(nightly: Nightly) -> None:
    waits = nightly.home / "waits"
    os.mkfifo(waits)
    os.mkfifo(nightly.home / "go")
    nightly.plan({"ingest": {"wait": str(nightly.home / "go"), "result": {"accepted": 0}}})
    command = [sys.orig_argv[0], "-c", UNTIL, str(nightly.program), "nightly", "--now", WEDNESDAY]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert waits.read_text() == "waits\n"
        with pytest.raises(UnavailableError, match="another nightly run"):
            nightly.run()
        first.kill()
        first.wait()
        with pytest.raises(UnavailableError, match="a job of a killed one"):
            nightly.run()
        (nightly.home / "go").write_text("")
        first.communicate()  # the job has the other ends of the pipes
    nightly.plan({})
    nightly.wait_for_the_lock()
    nightly.run()


def test_sigterm_ends_the_running_job_too(nightly: Nightly) -> None:
    waits = nightly.home / "waits"
    os.mkfifo(waits)
    os.mkfifo(nightly.home / "go")
    nightly.plan({"ingest": {"wait": str(nightly.home / "go")}})
    command = [sys.orig_argv[0], "-c", UNTIL, str(nightly.program), "nightly", "--now", WEDNESDAY]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as first:
        assert waits.read_text() == "waits\n"
        first.terminate()
        assert first.wait() == 128 + signal.SIGTERM
    nightly.plan({})
    nightly.run()


def test_a_monitor_starts_one_training_per_cool_down_and_its_cause_is_recorded(nightly: Nightly) -> None:
    nightly.plan({"drift": {"retrain": True}, "concept-drift": {"retrain": True}})
    first = nightly.run()
    trained = [call for call in nightly.calls() if call[1] == "train"]
    assert [call[2:] for call in trained] == [
        ["--snapshot=abc"], ["--snapshot=abc", "--cause=concept drift, data drift"],
    ]  # fmt: skip
    requests = [job.state for job in first.jobs if job.task == "request_retraining"]
    assert requests == ["success", "skipped"]


def test_a_required_approval_leaves_the_promotion_to_a_person(
    nightly: Nightly, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAUD_APPROVAL", "required")
    result = nightly.run()
    assert "promote" not in nightly.jobs()
    assert states(result)["promote_model.promote"] == "skipped"
    assert "fraud promote" in result.as_text()


def test_weekly_chains_run_on_their_day_and_a_missed_one_once_afterwards(nightly: Nightly) -> None:
    weekly = {"apply-retention", "reproduce"}
    for day, expected in (
        ("06", set()),  # Friday
        ("07", {"apply-retention"}),
        ("08", {"reproduce"}),
        ("09", set()),
        ("17", {"apply-retention", "reproduce"}),  # Tuesday: neither Saturday the 14th nor Sunday the 15th was run
        ("18", set()),
    ):
        nightly.run(now=f"2026-03-{day}T02:00:00Z")
        assert weekly & set(nightly.jobs()) == expected, day


def test_topics_are_landed_with_brokers_only(nightly: Nightly, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_KAFKA_BROKERS", "127.0.0.1:9")
    nightly.plan({"ingest-topic": {"files": 1}})
    nightly.run()
    assert nightly.jobs()[:2] == ["ingest-topic", "ingest-topic"]


def test_a_damaged_state_file_is_an_error_with_its_path(nightly: Nightly) -> None:
    path = nightly.home / "nightly.json"
    path.write_text("{")
    with pytest.raises(BadInputError, match=r"nightly\.json is not the state"):
        State.read(path)
