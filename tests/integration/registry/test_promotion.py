"""Changes of Production against a real registry and a real database."""

import itertools
import json
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests import postgres
from tests.integration.registry_platform import PROJECT, Platform, environment

from fraud.embedded.servers import mlflow_server
from fraud.errors import RefusedError
from fraud.registry.model_versions import MODEL_NAME, PRODUCTION
from fraud.registry.promotion_log import PREVIOUS, STAGING, opened
from fraud.settings import Settings


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mlflow_server.Server]:
    with mlflow_server.running(tmp_path_factory.mktemp("mlflow")) as running:
        yield running


@pytest.fixture
def platform(server: mlflow_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    for name, value in environment(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    platform = Platform(server, tmp_path)
    platform.client.create_registered_model(MODEL_NAME)
    yield platform
    platform.client.delete_registered_model(MODEL_NAME)


def test_first_better_and_back(platform: Platform) -> None:
    first = platform.register()
    assert platform.fraud("promote")[1] == {
        "version": first, "replaced": None, "changed": True, "actor": "ada",
        "model_sha256": platform.client.get_model_version(MODEL_NAME, first).tags["model_sha256"], "git_tag": "",
    }  # fmt: skip
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS), platform.alias(STAGING)) == (first, None, None)

    second = platform.register(champion=first)
    assert platform.fraud("promote")[1]["replaced"] == first
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS)) == (second, first)
    assert platform.stages() == {first: "Archived", second: "Production"}

    assert platform.fraud("promote")[1]["changed"] is False

    code, back = platform.fraud("rollback", "--reason", "false alarms")
    assert (code, back["version"], back["replaced"]) == (0, first, second)
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS)) == (first, second)
    assert platform.stages() == {first: "Production", second: "Archived"}

    code, told = platform.fraud("history")
    assert code == 0
    changes = [(c["action"], c["version"], c["replaced"], c["actor"]) for c in told["changes"]]
    assert changes == [
        ("promote", first, None, "ada"), ("promote", second, first, "ada"), ("rollback", first, second, "ada")
    ]  # fmt: skip


def test_a_failed_gate_blocks_unless_each_failed_one_is_waived(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="calibration,slices", staging=False)
    code, told = platform.fraud("promote", "--version", version)
    assert (code, told["error"]) == (3, "RefusedError")
    assert "calibration" in str(told["got"])
    waiver = ["--waiver-reason", "holiday season, agreed with risk", "--waiver-expires", "2999-01-01"]
    assert platform.fraud("promote", "--version", version, "--waive", "calibration", *waiver)[0] == 3
    assert platform.alias(PRODUCTION) is None
    code, _ = platform.fraud("promote", "--version", version, "--waive", "calibration", "--waive", "slices", *waiver)
    assert code == 0
    with opened(platform.settings) as promotion:
        entry = promotion.verify()[0].entry
    assert entry.waiver is not None
    assert (entry.waiver.person, entry.waiver.expires, entry.waiver.gates) == (
        "ada", "2999-01-01", ("calibration", "slices")
    )  # fmt: skip


def _served(home: Path, day: str, mismatches: int) -> None:
    record = {"day": day, "records": 5, "mismatches": mismatches, "events_lost": 0, "probabilities": {"wrong": 0}}
    (home / f"reports/skew/{day}").mkdir(parents=True)
    (home / f"reports/skew/{day}/skew.json").write_text(json.dumps(record))


def test_skew_on_the_newest_day_of_answers_blocks_until_a_clean_day_or_a_waiver(platform: Platform) -> None:
    version = platform.register()
    _served(platform.home, "2026-03-08", 0)
    _served(platform.home, "2026-03-09", 2)
    code, told = platform.fraud("promote")
    assert (code, told["message"]) == (3, f"version {version} did not pass its gates")
    assert told["got"] == "failed: skew; waived: none; skew: 5 answers of 2026-03-09: 2 served values differ"
    assert platform.alias(PRODUCTION) is None
    assert platform.fraud("promote", "--waive", "skew", *WAIVED)[1]["version"] == version
    second = platform.register(champion=version)
    assert platform.fraud("promote")[0] == 3
    _served(platform.home, "2026-03-10", 0)
    assert platform.fraud("promote")[1]["version"] == second


def test_a_waiver_without_an_end_is_refused_at_once(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="calibration", staging=False)
    code, told = platform.fraud("promote", "--version", version, "--waive", "calibration")
    assert (code, told["error"]) == (2, "BadConfigError")


def test_gates_against_another_production_do_not_count(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    stale = platform.register(champion="", staging=False)
    code, told = platform.fraud("promote", "--version", stale)
    assert (code, told["expected"]) == (3, f"gates against version {first}")
    assert platform.alias(PRODUCTION) == first


def test_a_tampered_artefact_is_refused(platform: Platform, server: mlflow_server.Server) -> None:
    version = platform.register()
    run_id = platform.client.get_model_version(MODEL_NAME, version).run_id
    [stored] = [p for p in (server.folder / "artifacts").rglob("model.onnx") if str(run_id) in str(p)]
    stored.write_bytes(b"something else")
    code, told = platform.fraud("promote")
    assert (code, told["error"]) == (3, "RefusedError")
    assert "not what was registered" in str(told["message"])
    assert platform.alias(PRODUCTION) is None


def test_rollback_without_an_earlier_version_is_refused(platform: Platform) -> None:
    assert platform.fraud("rollback")[0] == 3
    platform.register()
    platform.fraud("promote")
    assert platform.fraud("rollback")[0] == 3


WAIVED = ["--waiver-reason", "holiday season, agreed with risk", "--waiver-expires", "2999-01-01"]


def test_a_waiver_of_a_gate_that_did_not_fail_is_refused(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="slices", staging=False)
    code, told = platform.fraud("promote", "--version", version, "--waive", "slices", "--waive", "latency", *WAIVED)
    assert (code, told["message"]) == (3, f"version {version} did not fail latency: there is nothing to waive")
    assert platform.alias(PRODUCTION) is None


def test_an_ended_waiver_takes_production_back_past_every_version_that_stands_on_one(platform: Platform) -> None:
    sound = platform.register()
    platform.fraud("promote")
    first = platform.register(gates="failed", failed="slices", champion=sound, staging=False)
    platform.fraud("promote", "--version", first, "--waive", "slices", *WAIVED)
    second = platform.register(gates="failed", failed="slices", champion=first, staging=False)
    platform.fraud("promote", "--version", second, "--waive", "slices", *WAIVED)

    early = platform.fraud("expire-waivers", "--today", "2998-12-31")[1]
    assert (early["version"], early["changed"], early["waiver_expires"]) == (second, False, "2999-01-01")
    code, told = platform.fraud("expire-waivers", "--today", "2999-01-01")
    assert (code, told["version"], told["replaced"], told["changed"]) == (0, sound, second, True)
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS)) == (sound, second)
    assert platform.fraud("expire-waivers", "--today", "2999-01-01")[1]["changed"] is False
    last = platform.fraud("history")[1]["changes"][-1]
    assert (last["action"], last["version"]) == ("expire", sound)
    assert "holiday season" in last["reason"]


def test_going_back_by_hand_to_a_version_on_an_ended_waiver_does_not_revive_it(platform: Platform) -> None:
    sound = platform.register()
    platform.fraud("promote")
    waived = platform.register(gates="failed", failed="slices", champion=sound, staging=False)
    platform.fraud("promote", "--version", waived, "--waive", "slices", *WAIVED)
    platform.fraud("expire-waivers", "--today", "2999-01-01")
    assert platform.fraud("rollback")[1]["version"] == waived
    assert platform.fraud("expire-waivers", "--today", "2999-01-01")[1]["version"] == sound


def test_an_ended_waiver_with_nothing_to_go_back_to_fails_loudly(platform: Platform) -> None:
    version = platform.register(gates="failed", failed="slices", staging=False)
    platform.fraud("promote", "--version", version, "--waive", "slices", *WAIVED)
    code, told = platform.fraud("expire-waivers", "--today", "2999-01-01")
    assert (code, platform.alias(PRODUCTION)) == (3, version)
    assert "no earlier version" in told["message"]


def test_who_approved_when_and_why_stands_on_the_version(platform: Platform) -> None:
    version = platform.register()
    platform.fraud("promote", "--reason", "it finds more, see the report")
    tags = platform.client.get_model_version(MODEL_NAME, version).tags
    entry = platform.fraud("history")[1]["changes"][0]
    assert (tags["approved_by"], tags["approval_reason"]) == ("ada", "it finds more, see the report")
    assert (tags["approved_at"], tags["waiver"]) == (entry["at"], "")


def test_a_rejected_candidate_is_none_any_more_and_says_who_said_no(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first)
    assert platform.stages()[second] != "Production"
    assert platform.fraud("reject", "--reason", "a campaign runs this week")[0] == 0
    assert (platform.alias(STAGING), platform.alias(PRODUCTION)) == (None, first)
    tags = platform.client.get_model_version(MODEL_NAME, second).tags
    assert (tags["rejected_by"], tags["rejection_reason"]) == ("ada", "a campaign runs this week")
    assert platform.fraud("promote")[1]["changed"] is False
    assert platform.fraud("reject", "--version", first)[0] == 3


def test_a_promotion_tags_the_commit_where_that_is_asked_for(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path / "project"), "-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "project")], check=True)
    shutil.copy(PROJECT / "params.yaml", tmp_path / "project")
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "first"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    for name, value in (("FRAUD_PROJECT", str(tmp_path / "project")), ("FRAUD_GIT_TAGS", "true"),
                        ("GIT_COMMITTER_NAME", "ada"), ("GIT_COMMITTER_EMAIL", "ada@example.org")):  # fmt: skip
        monkeypatch.setenv(name, value)
    version = platform.register()
    platform.client.set_model_version_tag(MODEL_NAME, version, "git_commit", commit)
    assert platform.fraud("promote")[1]["git_tag"] == f"model-v{version}"
    tagged = subprocess.run([*git, "rev-list", "-1", f"model-v{version}"], check=True, capture_output=True, text=True)
    assert tagged.stdout.strip() == commit


@pytest.mark.parametrize("job", ["promote", "rollback", "expire-waivers", "reject"])
def test_a_registry_that_is_away_is_said_and_nothing_changes(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first)
    with monkeypatch.context() as away:
        away.setenv("FRAUD_MLFLOW_URL", "http://127.0.0.1:9")
        away.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        code, told = platform.fraud(job)
    assert (code, told["error"]) == (75, "UnavailableError")
    assert [c["version"] for c in platform.fraud("history")[1]["changes"]] == [first]
    assert (platform.alias(PRODUCTION), platform.alias(STAGING)) == (first, second)


def _kill_before_alias(settings: Settings, version: str) -> None:
    """Promote, and die like kill -9 between the announcement and the alias's move."""
    with opened(settings) as promotion:
        chosen = promotion._client.get_model_version(MODEL_NAME, version)
        promotion._client.set_registered_model_alias = lambda *_: os._exit(9)
        promotion.change("promote", lambda _current, _history: chosen, actor="grace", reason="better")


def test_killed_before_the_alias_moved_nothing_has_happened_and_a_rerun_promotes(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first)
    process = multiprocessing.get_context("spawn").Process(target=_kill_before_alias, args=(platform.settings, second))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert [c["version"] for c in platform.fraud("history")[1]["changes"]] == [first]
    assert (platform.alias(PRODUCTION), platform.alias(PREVIOUS), platform.alias(STAGING)) == (first, None, second)
    assert platform.fraud("promote")[1]["replaced"] == first
    assert [c["actor"] for c in platform.fraud("history")[1]["changes"]] == ["ada", "ada"]


def _kill_after_alias(settings: Settings, version: str, expected_current: str | None) -> None:
    """Promote, and die like kill -9 between the alias's move and the history entry."""
    with opened(settings) as promotion:
        promotion._append = lambda *_: os._exit(9)  # type: ignore[method-assign]
        chosen = promotion._client.get_model_version(MODEL_NAME, version)
        promotion.change("promote", lambda _current, _history: chosen, actor="grace", reason="better")


def test_killed_after_the_alias_moved_the_next_one_completes_the_history(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first)
    process = multiprocessing.get_context("spawn").Process(
        target=_kill_after_alias, args=(platform.settings, second, first)
    )
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert platform.alias(PRODUCTION) == second
    code, told = platform.fraud("history")
    assert code == 0
    last = told["changes"][-1]
    assert (last["action"], last["version"], last["replaced"], last["actor"]) == ("promote", second, first, "grace")
    assert (platform.alias(PREVIOUS), platform.alias(STAGING)) == (first, None)
    assert platform.stages() == {first: "Archived", second: "Production"}


def test_an_alias_moved_by_hand_is_recorded_as_observed(platform: Platform) -> None:
    first = platform.register()
    platform.fraud("promote")
    second = platform.register(champion=first, staging=False)
    platform.client.set_registered_model_alias(MODEL_NAME, PRODUCTION, second)
    _, told = platform.fraud("history")
    assert [(c["action"], c["version"]) for c in told["changes"]] == [("promote", first), ("observed", second)]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The platform's control database: a file, or a server as where the platform is deployed."""
    if request.param == "sqlite":
        yield
        return
    programs = postgres.programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not on this machine: install the package postgresql")
    with postgres.running(programs) as url:
        monkeypatch.setenv("FRAUD_CONTROL_DB", url)
        platform.settings = platform.settings.model_copy(update={"control_db": SecretStr(url)})
        yield


def _open(settings: Settings) -> int:
    with opened(settings) as promotion:
        return len(promotion.history())


@pytest.mark.usefixtures("database")
def test_the_first_ones_at_once_make_one_set_of_tables(platform: Platform) -> None:
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(_open, [platform.settings] * 20)) == [0] * 20


def _move(settings: Settings, version: str | None) -> bool:
    with opened(settings) as promotion:
        try:
            if version is None:
                changed = promotion.change(
                    "rollback",
                    lambda _c, h: promotion._client.get_model_version(MODEL_NAME, h[-1].entry.replaced or "1"),
                    actor="ada", reason="back",
                )  # fmt: skip
            else:
                chosen = promotion._client.get_model_version(MODEL_NAME, version)
                changed = promotion.change("promote", lambda _c, _h: chosen, actor="ada", reason="up")
        except RefusedError:
            return False
        return changed is not None


def _move_all(settings: Settings, expected: list[str | None]) -> list[bool]:
    """All at once, each with connections of its own."""
    with ThreadPoolExecutor(len(expected)) as pool:
        return list(pool.map(lambda version: _move(settings, version), expected))


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(("count", "processes"), [(8, 2), pytest.param(20, 4, marks=pytest.mark.slow)])
def test_changes_at_once_leave_one_production_and_a_whole_history(
    platform: Platform, count: int, processes: int
) -> None:
    """20: four processes, each with five threads; 14 promotions and 6 rollbacks."""
    first = platform.register(staging=False)
    with opened(platform.settings) as promotion:
        chosen = promotion._client.get_model_version(MODEL_NAME, first)
        promotion.change("promote", lambda _c, _h: chosen, actor="ada", reason="first")
    expected: list[str | None] = [
        None if i % 10 in (3, 6, 9) else platform.register(staging=False) for i in range(count)
    ]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        parts = pool.starmap(
            _move_all, [(platform.settings, expected[i::processes]) for i in range(processes)], chunksize=1
        )
    changed = sum(itertools.chain(*parts))
    with opened(platform.settings) as promotion:
        recorded = promotion.verify()
    print(f"{count} at once: {changed} took effect, {count - changed} were refused; {len(recorded)} entries verify")
    assert len(recorded) == 1 + changed
    assert changed >= 1
    for before, after in itertools.pairwise(recorded):
        assert after.entry.replaced == before.entry.version
    assert platform.alias(PRODUCTION) == recorded[-1].entry.version
    assert platform.alias(PREVIOUS) == recorded[-1].entry.replaced
    assert list(platform.stages().values()).count("Production") == 1


def test_a_changed_byte_in_the_history_is_told(platform: Platform) -> None:
    platform.register()
    platform.fraud("promote")
    with sqlite3.connect(platform.home / "control.db") as database:
        database.execute("UPDATE promotion_history SET entry = replace(entry, 'ada', 'eve')")
    code, told = platform.fraud("history")
    assert (code, told["message"]) == (3, "the promotion history was changed at entry 1")
